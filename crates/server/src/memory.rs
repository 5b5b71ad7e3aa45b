//! Memory of the process that it does not need: huge pages, and pages of its files that only the start has used.
#![allow(unsafe_code, reason = "the system is told with prctl(2) and madvise(2)")]

use std::{fs, ops::Range, sync::OnceLock};

/// How the allocator is told to give back what it keeps for later; there is one allocator in a process.
static COLLECT: OnceLock<fn()> = OnceLock::new();

/// Names the function that has the allocator give memory back that it keeps for later. A binary that has no such
/// function does without.
pub fn set_allocator_collect(collect: fn()) {
    // A second one would be for the same allocator.
    let _ = COLLECT.set(collect);
}

/// Gives memory of this thread back that was needed to read a configuration. An allocator does so by itself only where
/// memory is asked for again, which a process that has all it wants does not.
pub(crate) fn release_memory() {
    if let Some(collect) = COLLECT.get() {
        collect();
    }
}

/// Tells the system to give this process ordinary pages; where it refuses, the process is a little larger. The
/// allocator would be given memory in steps of 2 MiB, of which a proxy with many small buffers touches a part only.
pub(crate) fn refuse_huge_pages() {
    const ON: libc::c_ulong = 1;
    const UNUSED: libc::c_ulong = 0;
    // SAFETY: this operation takes a switch and no pointer.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, ON, UNUSED, UNUSED, UNUSED) };
}

/// Unmaps the pages of code and constants: most of them have read the configuration and are not needed again. Those
/// that are come back from the page cache when they are touched.
pub(crate) fn release_files() {
    let Ok(smaps) = fs::read_to_string("/proc/self/smaps") else { return };
    for range in unwritten_files(&smaps) {
        // SAFETY: the range is a mapping of a file that nobody can write and in which no page differs from the file (what
        // the loader has relocated is anonymous), so each page can be had again from the file.
        unsafe { libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED) };
    }
}

/// The private, read-only mappings of files without a page of their own, from the text of `/proc/self/smaps`.
fn unwritten_files(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some(mapping) = file_mapping(line) {
            current = mapping;
        } else if line.split_whitespace().eq(["Anonymous:", "0", "kB"]) {
            found.extend(current.take());
        }
    }
    found
}

/// What the first line of a mapping says; `None` for other lines, `Some(None)` for mappings of another kind.
fn file_mapping(line: &str) -> Option<Option<Range<usize>>> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)) else { return None };
    let is_read_only = matches!(words.next(), Some("r--p" | "r-xp"));
    let is_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
    Some((is_read_only && is_file && start < end).then_some(start..end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server_stats::Memory;

    const SMAPS: &str = "\
1000-3000 r--p 00000000 08:01 42  /usr/bin/x
Rss:  8 kB
Anonymous:             0 kB
3000-5000 r-xp 00002000 08:01 42  /usr/bin/x
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
5000-6000 r--p 00004000 08:01 42  /usr/bin/x
Anonymous:             4 kB
6000-7000 rw-p 00005000 08:01 42  /usr/bin/x
Anonymous:             0 kB
7000-8000 r-xp 00000000 00:00 0   [vdso]
Anonymous:             0 kB
8000-9000 r--p 00000000 00:00 0
Anonymous:             0 kB
9000-a000 r--s 00000000 08:01 43  /shared
Anonymous:             0 kB
";

    #[test]
    fn only_what_is_as_in_its_file_is_released() {
        assert_eq!(unwritten_files(SMAPS), [0x1000..0x3000, 0x3000..0x5000]);
        assert!(unwritten_files("Anonymous: 0 kB\nx-y r-xp\n").is_empty());
    }

    #[test]
    fn released_pages_come_back() {
        let of_files = || {
            let memory = Memory::read();
            memory.resident - memory.anonymous
        };
        let before = of_files();
        release_files();
        assert!(of_files() < before, "{} {before}", of_files());
        assert!(!unwritten_files(&fs::read_to_string("/proc/self/smaps").unwrap()).is_empty());
    }
}
