//! Where a resource comes from when it does not stand in the document (`envoy.config.core.v3.ConfigSource`).

use std::{path::PathBuf, sync::Arc, time::Duration};

/// A source of resources.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConfigSource {
    /// Who is asked.
    pub kind: SourceKind,
    /// What waits for a resource goes on without it after this time; default 15 s, `None`: never.
    pub initial_fetch_timeout: Option<Duration>,
}

/// Who is asked for resources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// The one stream for resources of all types.
    Ads,
    /// A stream for resources of one type.
    Grpc(Arc<GrpcSource>),
    /// A file with a discovery response.
    File(FileSource),
}

/// A control plane that is asked over gRPC (`ApiConfigSource`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrpcSource {
    /// Changes only (`DELTA_GRPC`), not the state of the world.
    pub is_delta: bool,
    /// The cluster of the control plane.
    pub cluster: String,
    /// `:authority` of the calls; the cluster's name when it is empty.
    pub authority: String,
    /// Further fields of the calls.
    pub metadata: Vec<(String, String)>,
    /// The node is sent with the first request of a stream only.
    pub is_node_sent_once: bool,
}

/// A file with resources (`PathConfigSource`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileSource {
    /// The file.
    pub path: PathBuf,
    /// The folder in which a rename says that the file is new; without it the file itself is watched.
    pub watched_directory: Option<PathBuf>,
}

/// What a control plane brings beside the document (`Bootstrap.DynamicResources`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DynamicResources {
    /// Where listeners come from.
    pub listeners: Option<ConfigSource>,
    /// Where clusters come from.
    pub clusters: Option<ConfigSource>,
    /// Who answers for all sources that say `ads`.
    pub ads: Option<Arc<GrpcSource>>,
}

impl DynamicResources {
    /// Whether there is nothing to ask for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
