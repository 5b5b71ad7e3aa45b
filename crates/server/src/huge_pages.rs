//! Huge pages are not for us: the allocator would be given memory in steps of 2 MiB, of which a proxy with many small
//! buffers touches a part only. Without them the process starts in half the memory.
#![allow(unsafe_code, reason = "the wish is told to the system with prctl(2)")]

/// Tells the system to give this process ordinary pages. Where it refuses, the process is a little larger.
pub(crate) fn refuse() {
    const ON: libc::c_ulong = 1;
    const UNUSED: libc::c_ulong = 0;
    // SAFETY: this operation takes a switch and no pointer.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, ON, UNUSED, UNUSED, UNUSED) };
}
