//! A layer of runtime values that is a tree of files: the path of a file is the key, and its text the value.
//!
//! What is watched is the link at the root of the tree: whoever changes values writes another tree and moves a link to it
//! over the old one, so that nobody ever reads half of a change.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Error, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Folders within folders, as with Envoy.
const MOST_DEPTH: usize = 16;
/// Octets of a file.
const MOST_OCTETS: u64 = 64 * 1024;
/// Values of a layer.
const MOST_VALUES: usize = 100_000;

/// Where a layer is read from.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    /// What is watched.
    link: PathBuf,
    /// The folder with the values.
    folder: PathBuf,
    version: Option<Version>,
}

/// What the link is, and what it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    target: Option<PathBuf>,
    inode: (u64, u64),
    modified: Option<SystemTime>,
}

impl Disk {
    /// `cluster`: the service cluster, where the layer has a folder for each.
    pub(super) fn new(link: &str, subdirectory: &str, cluster: Option<&str>) -> Self {
        let folder = Path::new(link).join(subdirectory).join(cluster.unwrap_or_default());
        Self { link: link.into(), folder, version: None }
    }

    /// Whether the link leads elsewhere than at the last call.
    pub(super) fn has_moved(&mut self) -> bool {
        let version = version(&self.link);
        std::mem::replace(&mut self.version, version.clone()) != version
    }

    /// Whether there is a folder with values.
    pub(super) fn exists(&self) -> bool {
        self.folder.is_dir()
    }

    /// The values that stand there now.
    pub(super) fn read(&self) -> io::Result<BTreeMap<String, String>> {
        let mut values = BTreeMap::new();
        read_folder(&self.folder, &mut String::new(), 1, &mut values)?;
        Ok(values)
    }
}

fn version(link: &Path) -> Option<Version> {
    let metadata = fs::metadata(link).ok()?;
    Some(Version {
        target: fs::read_link(link).ok(),
        inode: (metadata.dev(), metadata.ino()),
        modified: metadata.modified().ok(),
    })
}

fn read_folder(
    folder: &Path,
    prefix: &mut String,
    depth: usize,
    values: &mut BTreeMap<String, String>,
) -> io::Result<()> {
    if depth > MOST_DEPTH {
        return Err(Error::other(format!("{}: more than {MOST_DEPTH} folders within each other", folder.display())));
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(Error::other(format!("{}: a name that is no text", path.display())));
        };
        // Envoy, too, takes files whose names begin with a point; only the folder itself and the one above are none.
        let length = prefix.len();
        if length > 0 {
            prefix.push('.');
        }
        prefix.push_str(name);
        // Links are followed: the files of a Kubernetes volume are links.
        if fs::metadata(&path)?.is_dir() {
            read_folder(&path, prefix, depth + 1, values)?;
        } else {
            values.insert(prefix.clone(), read_value(&path)?);
        }
        prefix.truncate(length);
        if values.len() > MOST_VALUES {
            return Err(Error::other(format!("more than {MOST_VALUES} values")));
        }
    }
    Ok(())
}

/// The text of a file without its comments (lines that begin with `#`) and without white space at its end.
fn read_value(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = fs::File::open(path)?;
    file.take(MOST_OCTETS + 1)
        .read_to_string(&mut text)
        .map_err(|error| Error::other(format!("{}: {error}", path.display())))?;
    if text.len() as u64 > MOST_OCTETS {
        return Err(Error::other(format!("{}: more than {MOST_OCTETS} octets", path.display())));
    }
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    Ok(lines.join("\n").trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn paths_are_keys_and_the_link_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("current");
        let tree = |name: &str, value: &str| {
            let folder = root.path().join(name);
            fs::create_dir_all(folder.join("envoy/health_check")).unwrap();
            fs::write(folder.join("envoy/health_check/min_interval"), value).unwrap();
            fs::write(folder.join("envoy/plain"), "# a comment\n7 \n\n").unwrap();
            folder
        };
        let swap = |to: &Path| {
            let new = root.path().join("new");
            symlink(to, &new).unwrap();
            fs::rename(new, &link).unwrap();
        };
        let mut disk = Disk::new(link.to_str().unwrap(), "envoy", None);
        assert!(!disk.exists() && !disk.has_moved());
        swap(&tree("one", "5"));
        assert!(disk.exists() && disk.has_moved() && !disk.has_moved());
        let values = disk.read().unwrap();
        assert_eq!(values["health_check.min_interval"], "5");
        assert_eq!((values["plain"].as_str(), values.len()), ("7", 2));
        swap(&tree("two", "6"));
        assert!(disk.has_moved());
        assert_eq!(disk.read().unwrap()["health_check.min_interval"], "6");
        let cluster = Disk::new(link.to_str().unwrap(), "", Some("envoy"));
        assert_eq!(cluster.read().unwrap()["plain"], "7");
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let disk = |name: &str| Disk::new(root.path().to_str().unwrap(), name, None);
        let deep = root.path().join("deep").join("x/".repeat(MOST_DEPTH));
        fs::create_dir_all(deep).unwrap();
        assert!(disk("deep").read().unwrap_err().to_string().contains("folders within"));
        fs::create_dir(root.path().join("large")).unwrap();
        fs::write(root.path().join("large/a"), vec![b'x'; 65 * 1024]).unwrap();
        assert!(disk("large").read().unwrap_err().to_string().contains("octets"));
        fs::write(root.path().join("large/a"), b"\xff").unwrap();
        assert!(disk("large").read().unwrap_err().to_string().contains("large/a"));
        symlink(root.path().join("round"), root.path().join("round")).unwrap();
        assert!(!disk("round").exists());
    }
}
