//! The allocator of the binary.
#![allow(unsafe_code, reason = "it is called for all memory, and an option of it is set before the first allocation")]

use mimalloc::MiMalloc;
use std::{
    alloc::{GlobalAlloc, Layout},
    ffi::{c_int, c_long, c_void},
};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// mimalloc, asked without an alignment where its usual one is enough: with one, it looks for memory above 1 KiB in the
/// slow way, and each HTTP stream has such a piece.
struct Allocator;

/// `MI_MAX_ALIGN_SIZE`: the alignment of all memory of that size and more; what is smaller is aligned to its size.
const USUAL_ALIGNMENT: usize = 16;

// SAFETY: all memory is of mimalloc, with the alignment that is asked for.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= USUAL_ALIGNMENT && layout.align() <= layout.size() {
            // SAFETY: any size may be asked for.
            return unsafe { mi_malloc(layout.size()) }.cast();
        }
        // SAFETY: as promised by the caller.
        unsafe { MiMalloc.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as promised by the caller.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller; both ways of asking end here.
        unsafe { MiMalloc.dealloc(memory, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as promised by the caller; both ways of asking end here.
        unsafe { MiMalloc.realloc(memory, layout, size) }
    }
}

/// `mi_option_arena_eager_commit` of mimalloc 3.
const ARENA_EAGER_COMMIT: c_int = 4;

unsafe extern "C" {
    fn mi_malloc(size: usize) -> *mut c_void;
    fn mi_option_set(option: c_int, value: c_long);
    fn mi_collect(force: bool);
}

/// Gives memory back to the system that this thread has freed.
pub(crate) fn collect() {
    // SAFETY: takes a switch; may be called by any thread at any time.
    unsafe { mi_collect(true) };
}

/// Runs when the binary is loaded: `main` would be too late, as the runtime has allocated by then.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = take_memory_as_it_is_needed;

/// The allocator reserves address space by the gigabyte. Told to commit it in small steps, the process starts in 6 MB less.
extern "C" fn take_memory_as_it_is_needed() {
    // SAFETY: stores a number in a table of the allocator; no other thread runs yet.
    unsafe { mi_option_set(ARENA_EAGER_COMMIT, 0) };
}
