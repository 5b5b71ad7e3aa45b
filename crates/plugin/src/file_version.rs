//! What a file looks like from outside.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::SystemTime};

/// What a file looked like when it was read. A look costs a microsecond and sees every way a file can change: writing,
/// renaming over it, a symbolic link that points elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileVersion {
    modified: Option<SystemTime>,
    file: (u64, u64),
    length: u64,
}

impl FileVersion {
    /// What it looks like now; `None` when there is no such file.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            file: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
        })
    }
}
