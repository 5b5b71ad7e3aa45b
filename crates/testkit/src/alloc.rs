//! An allocator that counts, for tests that bound what a request may allocate.
//!
//! A test binary opts in:
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: sota_testkit::alloc::Counting = sota_testkit::alloc::Counting;
//!
//! let (_, taken) = sota_testkit::alloc::count(|| vec![0_u8; 64]);
//! assert_eq!((taken.allocations, taken.bytes), (1, 64));
//! let (_kept, bytes) = sota_testkit::alloc::held(|| vec![vec![0_u8; 64], vec![0_u8; 32]].pop());
//! assert_eq!(bytes, 32);
//! ```
#![allow(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, counting on the side: per thread for [`count`], for the whole process for [`total`].
#[derive(Debug)]
pub struct Counting;

/// What was allocated. A reallocation counts as one allocation of the bytes it added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Number of allocations.
    pub allocations: u64,
    /// Bytes asked for, frees not subtracted.
    pub bytes: u64,
}

/// Runs `f` and tells how many bytes more than before this thread holds afterwards.
pub fn held<R>(f: impl FnOnce() -> R) -> (R, u64) {
    let ((result, taken), freed) = {
        let before = FREED.get();
        let counted = count(f);
        (counted, FREED.get() - before)
    };
    (result, taken.bytes.saturating_sub(freed))
}

thread_local! {
    static FREED: Cell<u64> = const { Cell::new(0) };
    static TAKEN: Cell<Taken> = const { Cell::new(Taken { allocations: 0, bytes: 0 }) };
}
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// Runs `f` and tells what this thread allocated meanwhile.
pub fn count<R>(f: impl FnOnce() -> R) -> (R, Taken) {
    let before = TAKEN.get();
    let result = f();
    let after = TAKEN.get();
    let taken = Taken { allocations: after.allocations - before.allocations, bytes: after.bytes - before.bytes };
    (result, taken)
}

/// What all threads have allocated since the start. Zero for ever if [`Counting`] is not the allocator.
pub fn total() -> Taken {
    Taken { allocations: ALLOCATIONS.load(Ordering::Relaxed), bytes: BYTES.load(Ordering::Relaxed) }
}

fn note_freed(bytes: usize) {
    let _ = FREED.try_with(|freed| freed.set(freed.get() + bytes as u64));
}

fn note(bytes: usize) {
    // While a thread ends its counter may be gone already; nobody counts then.
    let _ = TAKEN.try_with(|taken| {
        let Taken { allocations, bytes: sum } = taken.get();
        taken.set(Taken { allocations: allocations + 1, bytes: sum + bytes as u64 });
    });
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

// SAFETY: every call is passed to the system's allocator with the caller's own arguments; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size.saturating_sub(layout.size()));
        note_freed(layout.size().saturating_sub(size));
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note_freed(layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}
