//! `--xds-cache DIR`: what was accepted last stays on disk, so that a process that starts without its control plane serves at
//! once. Secrets are never written.
//!
//! There is a file for each kind of each source: a line that says what it is, a checksum, and a `DeltaDiscoveryResponse` with
//! the resources as they came. A file is replaced as a whole. One that is damaged, too large, or of another node is left
//! alone, with a line in the log; it never keeps the process from starting.

use super::Kind;
use bytes::Bytes;
use sota_config::bootstrap::NodeInfo;
use sota_envoy::discovery::{Resource, Response};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use xxhash_rust::xxh64::xxh64;

const MAGIC: &[u8] = b"sota-mesh xds cache 1\n";
const CHECKSUM: usize = size_of::<u64>();
/// A larger file is not read.
const MOST_BYTES: u64 = 512 << 20;
/// Changes are gathered for so long before they are written.
const DELAY: Duration = Duration::from_secs(1);
const FILE_EXTENSION: &str = "xds";

/// What is remembered of all sources.
pub(crate) struct Cache {
    folder: PathBuf,
    /// Whose resources these are.
    node: String,
    kept: BTreeMap<Place, Kept>,
    /// What a start has found and nobody has asked for yet.
    found: BTreeMap<Place, Response>,
    /// When what has changed is written.
    due: Option<Instant>,
}

/// A source by what it is, and a kind.
type Place = (String, Kind);

#[derive(Default)]
struct Kept {
    version: String,
    resources: BTreeMap<String, Resource>,
    is_changed: bool,
}

impl Cache {
    /// Reads what is there, and makes the folder if it is not. Fails where files cannot be written.
    pub(crate) fn open(folder: &Path, node: &NodeInfo) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let node = format!("{}\n{}", node.id, node.cluster);
        let mut cache =
            Self { folder: folder.to_owned(), node, kept: BTreeMap::new(), found: BTreeMap::new(), due: None };
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == FILE_EXTENSION) {
                match read(&path, &cache.node) {
                    Ok((place, response)) => {
                        cache.found.insert(place, response);
                    }
                    Err(reason) => {
                        tracing::warn!(target: "config", "{}: {reason}; the file is left alone", path.display());
                    }
                }
            }
        }
        // Better now than when there is something to write.
        let probe = folder.join("probe.tmp");
        File::create(&probe)?;
        fs::remove_file(&probe)?;
        Ok(cache)
    }

    /// What was found of a kind: everything, or the resources of these names.
    pub(super) fn recall(&mut self, source: &str, kind: Kind, names: Option<&BTreeSet<String>>) -> Option<Response> {
        let place = (source.to_owned(), kind);
        let Some(names) = names else { return self.found.remove(&place) };
        let found = self.found.get_mut(&place)?;
        let all = std::mem::take(&mut found.resources);
        let (wanted, rest) = all.into_iter().partition::<Vec<_>, _>(|resource| names.contains(&resource.name));
        found.resources = rest;
        let response = Response { resources: wanted, message: found.message.clone(), ..Response::default() };
        (!response.resources.is_empty()).then_some(response)
    }

    /// The source itself has answered: what was found of this kind is old.
    pub(super) fn forget(&mut self, source: &str, kind: Kind) {
        self.found.remove(&(source.to_owned(), kind));
    }

    /// Notes what is in force: `resources` as they came, with the names of those that were `accepted`. `is_whole`: there
    /// are no others.
    pub(super) fn keep(
        &mut self,
        source: &str,
        kind: Kind,
        version: &str,
        resources: Vec<(String, Resource)>,
        accepted: &[(String, String)],
        (is_whole, removed): (bool, &[String]),
    ) {
        if kind == Kind::Secrets {
            return;
        }
        let kept = self.kept.entry((source.to_owned(), kind)).or_default();
        kept.version = version.to_owned();
        if is_whole {
            let named: BTreeSet<&str> = resources.iter().map(|(name, _)| name.as_str()).collect();
            kept.resources.retain(|name, _| named.contains(name.as_str()));
        }
        for name in removed {
            kept.resources.remove(name);
        }
        let accepted: BTreeSet<&str> = accepted.iter().map(|(name, _)| name.as_str()).collect();
        for (name, mut resource) in resources {
            if accepted.contains(name.as_str()) && !resource.is_heartbeat() {
                resource.name.clone_from(&name);
                kept.resources.insert(name, resource);
            }
        }
        kept.is_changed = true;
        self.due.get_or_insert_with(|| Instant::now() + DELAY);
    }

    /// Forgets the resources of other names than these.
    pub(super) fn want(&mut self, source: &str, kind: Kind, names: &BTreeSet<String>) {
        let Some(kept) = self.kept.get_mut(&(source.to_owned(), kind)) else { return };
        let before = kept.resources.len();
        kept.resources.retain(|name, _| names.contains(name));
        if kept.resources.len() != before {
            kept.is_changed = true;
            self.due.get_or_insert_with(|| Instant::now() + DELAY);
        }
    }

    /// When [`Self::save`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Writes what has changed, on a thread of its own.
    pub(super) fn save(&mut self) {
        self.due = None;
        for ((source, kind), kept) in &mut self.kept {
            if !std::mem::take(&mut kept.is_changed) {
                continue;
            }
            let response = Response {
                message: kind.message().to_owned(),
                version: kept.version.clone(),
                nonce: source.clone(),
                control_plane: self.node.clone(),
                resources: kept.resources.values().cloned().collect(),
                removed: Vec::new(),
            };
            let name = format!("{}-{:016x}", kind.label(), xxh64(source.as_bytes(), 0));
            let path = self.folder.join(name).with_extension(FILE_EXTENSION);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = write(&path, &response.encode_delta()) {
                    tracing::warn!(target: "config", "{} cannot be written: {error}", path.display());
                }
            });
        }
    }
}

fn read(path: &Path, node: &str) -> Result<(Place, Response), String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err("it is larger than 512 MiB".to_owned());
    }
    let rest = bytes.strip_prefix(MAGIC).ok_or("it is no cache of this version")?;
    let (checksum, content) = rest.split_first_chunk::<CHECKSUM>().ok_or("it is damaged")?;
    if u64::from_le_bytes(*checksum) != xxh64(content, 0) {
        return Err("it is damaged".to_owned());
    }
    let response = Response::decode_delta(&Bytes::copy_from_slice(content)).map_err(|error| error.reason)?;
    if response.control_plane != node {
        return Err("it is of another node".to_owned());
    }
    let kind = Kind::of_message(&response.message).ok_or("its resources are of no kind that is known")?;
    Ok(((response.nonce.clone(), kind), response))
}

/// Whoever reads sees the old content or the new one, whenever the machine stops.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(MAGIC)?;
    file.write_all(&xxh64(content, 0).to_le_bytes())?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> NodeInfo {
        NodeInfo { id: id.to_owned(), cluster: "c".to_owned(), node: None }
    }

    /// A `DeltaDiscoveryResponse` with clusters that have nothing but names.
    fn response(names: &[&str]) -> Response {
        let resources: String = names
            .iter()
            .map(|name| format!("- {{\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: {name}}}\n"))
            .collect();
        let text = format!("version_info: v1\nresources:\n{resources}");
        // Through bytes, as it comes from a control plane.
        let read = Response::read_file(text.as_bytes(), "x.yaml").unwrap();
        Response::decode_delta(&read.encode_delta().into()).unwrap()
    }

    fn kept(folder: &Path, names: &[&str]) {
        let mut cache = Cache::open(folder, &node("n")).unwrap();
        let response = response(names);
        let accepted: Vec<_> = names.iter().map(|name| ((*name).to_owned(), "v1".to_owned())).collect();
        let named = response.resources.into_iter().zip(names).map(|(resource, name)| ((*name).to_owned(), resource));
        cache.keep("ads", Kind::Clusters, "v1", named.collect(), &accepted, (true, &[]));
        assert!(cache.due().is_some());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { cache.save() });
        // Waits for what runs on other threads.
        drop(runtime);
    }

    fn found(folder: &Path, id: &str) -> Option<Vec<String>> {
        let mut cache = Cache::open(folder, &node(id)).unwrap();
        let response = cache.recall("ads", Kind::Clusters, None)?;
        assert!(cache.recall("ads", Kind::Clusters, None).is_none(), "once");
        Some(response.resources.into_iter().map(|resource| resource.name).collect())
    }

    #[test]
    fn what_was_kept_is_found_again_by_the_same_node() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(found(folder.path(), "n"), None);
        kept(folder.path(), &["a", "b"]);
        assert_eq!(found(folder.path(), "n").unwrap(), ["a", "b"]);
        assert_eq!(found(folder.path(), "another"), None);
        kept(folder.path(), &["b"]);
        assert_eq!(found(folder.path(), "n").unwrap(), ["b"]);
        let mut cache = Cache::open(folder.path(), &node("n")).unwrap();
        assert!(cache.recall("grpc other", Kind::Clusters, None).is_none());
        assert!(cache.recall("ads", Kind::Clusters, Some(&BTreeSet::from(["z".to_owned()]))).is_none());
        let some = cache.recall("ads", Kind::Clusters, Some(&BTreeSet::from(["b".to_owned()]))).unwrap();
        assert_eq!(some.resources.len(), 1);
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        kept(folder.path(), &["a"]);
        let path = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(found(folder.path(), "n"), None, "{length} octets");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(found(folder.path(), "n"), None, "octet {at}");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(found(folder.path(), "n").unwrap(), ["a"]);
    }

    #[test]
    fn secrets_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(folder.path(), &node("n")).unwrap();
        cache.keep("ads", Kind::Secrets, "1", Vec::new(), &[], (true, &[]));
        assert!(cache.due().is_none());
    }
}
