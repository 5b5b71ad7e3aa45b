//! The allocator of the binary.
#![allow(unsafe_code, reason = "an option of the allocator is set before the first allocation")]

use std::ffi::{c_int, c_long};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_arena_eager_commit` of mimalloc 3.
const ARENA_EAGER_COMMIT: c_int = 4;

unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
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
