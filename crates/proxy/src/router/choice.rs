//! What the choice of a host depends on, of one request: its hash, the metadata that it wants, a host that a filter asks
//! for. Nothing of it is looked at unless route, cluster or filter say so.

use super::{route::ForwardAction, selected::SelectedRoute};
use crate::upstream::{Cluster, LbContext, MetadataMatch, RequestHash};
use sota_config::Node;
use sota_plugin::{
    http::{HeaderId, RequestHead, ResponseHead},
    info::{HostOverride, StreamInfo},
};
use std::sync::Arc;

/// The namespace of dynamic metadata that adds to a route's.
const NAMESPACE: &str = "envoy.lb";

/// What a request brings to the choice of its host.
#[derive(Debug, Default)]
pub(crate) struct RequestChoice {
    hash: RequestHash,
    /// The route's metadata with the stream's, where that has some.
    metadata: Option<Box<MetadataMatch>>,
    host_override: Option<HostOverride>,
}

impl RequestChoice {
    /// Of a request, before its first attempt.
    pub(crate) fn new(route: &SelectedRoute, cluster: &Cluster, head: &RequestHead, info: &StreamInfo) -> Self {
        let policies = cluster.hash_policies(|| route.forward().and_then(ForwardAction::hash_policies));
        let hash = policies.map(|policies| policies.hash(Some(head), info)).unwrap_or_default();
        let dynamic: Option<&[(Arc<str>, Node)]> =
            if cluster.has_subsets() { info.metadata.get(NAMESPACE).map(Node::pairs) } else { None };
        let metadata = dynamic.map(|dynamic| {
            Box::new(
                route
                    .metadata_match()
                    .map_or_else(|| MetadataMatch::new(dynamic.iter().cloned()), |own| own.merged(dynamic)),
            )
        });
        Self { hash, metadata, host_override: info.upstream.host_override.clone() }
    }

    /// What a balancer may look at. Only the first attempt goes where a filter asks for.
    pub(crate) fn context<'a>(&'a self, route: &'a SelectedRoute, is_first: bool) -> LbContext<'a> {
        LbContext {
            hash: self.hash.hash,
            metadata: self.metadata.as_deref().or_else(|| route.metadata_match()),
            host_override: self.host_override.as_ref().filter(|_| is_first),
            ..LbContext::default()
        }
    }

    /// Gives the client the cookies that were made for it.
    pub(crate) fn finish(&self, head: &mut ResponseHead) {
        for cookie in &self.hash.cookies {
            head.headers.append_sanitized(HeaderId::SetCookie, cookie);
        }
    }
}
