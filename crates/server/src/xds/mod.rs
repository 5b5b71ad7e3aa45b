//! Resources that a control plane or a file brings while the process runs.
//!
//! A *source* is a stream to a control plane ([`stream`]) or a file ([`file`]). It knows what is wanted of it
//! ([`subscription`]), and sends what it gets to the one [`manager`], which has it built on a thread of its own
//! ([`build`]), serves it in the order in which nothing is missed, and answers. A source has one update under way: while
//! that is built, the next is not read.

mod build;
mod cache;
mod file;
mod manager;
mod stats;
mod stream;
mod subscription;

pub(crate) use cache::Cache;
pub(crate) use manager::{Report, Xds, node_bytes};
pub(crate) use stats::SubscriptionStats;

use sota_envoy::discovery::Response;
use std::collections::BTreeSet;

/// What can be asked for, in the order in which it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Runtimes,
    Clusters,
    Endpoints,
    Secrets,
    Listeners,
    Routes,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Runtimes, Self::Clusters, Self::Endpoints, Self::Secrets, Self::Listeners, Self::Routes];

    /// The resources' message.
    fn message(self) -> &'static str {
        match self {
            Self::Runtimes => "envoy.service.runtime.v3.Runtime",
            Self::Clusters => "envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secrets => "envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listeners => "envoy.config.listener.v3.Listener",
            Self::Routes => "envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// In words, for people.
    fn label(self) -> &'static str {
        match self {
            Self::Runtimes => "runtime layers",
            Self::Clusters => "clusters",
            Self::Endpoints => "endpoints",
            Self::Secrets => "secrets",
            Self::Listeners => "listeners",
            Self::Routes => "routes",
        }
    }

    fn of_message(message: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.message() == message)
    }

    /// The path of the call that brings this kind alone.
    fn method(self, is_delta: bool) -> &'static str {
        match (self, is_delta) {
            (Self::Runtimes, false) => "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
            (Self::Runtimes, true) => "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
            (Self::Clusters, false) => "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
            (Self::Clusters, true) => "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
            (Self::Endpoints, false) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
            (Self::Endpoints, true) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
            (Self::Secrets, false) => "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
            (Self::Secrets, true) => "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
            (Self::Listeners, false) => "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
            (Self::Listeners, true) => "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
            (Self::Routes, false) => "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
            (Self::Routes, true) => "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
        }
    }
}

/// The path of the call that brings all kinds.
fn aggregated_method(is_delta: bool) -> &'static str {
    match is_delta {
        false => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        true => "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
    }
}

/// The stream of updates that were not sent by anybody, but remembered. Real ones are numbered from 1.
const REMEMBERED: u64 = 0;

/// What a source is told.
enum Command {
    /// These names of a kind are wanted; `None`: all there are.
    Watch(Kind, Option<BTreeSet<String>>),
    /// What became of an update.
    Answer(Answer),
}

/// What became of an update.
#[derive(Debug, Clone)]
struct Answer {
    kind: Kind,
    /// The stream on which it came.
    stream: u64,
    nonce: String,
    version: String,
    /// Resources that are in force, with their versions.
    accepted: Vec<(String, String)>,
    /// Resources that are no more.
    removed: Vec<String>,
    /// Why the others are not.
    error: Option<String>,
}

/// What a source has got.
struct Update {
    source: usize,
    kind: Kind,
    stream: u64,
    /// What is not in it does not exist.
    is_whole: bool,
    response: Response,
}

/// What happens to the manager.
enum Event {
    Update(Update),
    /// The stream to a control plane could not be had, or was lost.
    Lost(usize),
    /// A cluster has its first hosts; the second is its generation.
    Warm(String, u64),
    /// What was asked for did not come in time.
    Late(Kind, usize, String),
    /// The file of the process was read again.
    Reloaded,
}
