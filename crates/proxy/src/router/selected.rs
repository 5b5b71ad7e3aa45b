//! The route of a request.

use super::{
    cluster_specifier::WeightedCluster,
    filter_configs::FilterConfigs,
    internal_redirect::InternalRedirects,
    redirect,
    rewrite::{HostRewrite, set_authority},
    route::{Action, ForwardAction, RouteEntry},
    route_stats::RouteStats,
};
use crate::{trace::RouteTrace, upstream::MetadataMatch};
use sota_config::Node;
use sota_plugin::{
    filter::LocalReply,
    http::{RequestHead, ResponseHead},
    info::{RouteInfo, StreamInfo},
    rate_limit::RouteRateLimits,
    stats::Scope,
};
use std::{
    any::Any,
    cell::{OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
};

/// A route with the cluster that was chosen for a request. A worker keeps these, so choosing one allocates nothing; only
/// a cluster that a header names is made for each request.
#[derive(Debug)]
pub struct SelectedRoute {
    entry: Arc<RouteEntry>,
    cluster: Arc<str>,
    number: usize,
    stats: OnceCell<RouteStats>,
    /// By the number of the virtual cluster.
    virtual_clusters: RefCell<Vec<Option<Rc<RouteStats>>>>,
}

impl SelectedRoute {
    pub(super) fn new(entry: &Arc<RouteEntry>, number: usize, head: &RequestHead) -> Self {
        let cluster = entry.forward().map_or_else(|| "".into(), |forward| forward.cluster.name(number, head));
        Self { entry: Arc::clone(entry), cluster, number, stats: OnceCell::new(), virtual_clusters: RefCell::default() }
    }

    /// How it forwards; `None` for redirects and direct responses.
    pub fn forward(&self) -> Option<&ForwardAction> {
        self.entry.forward()
    }

    /// The name of the cluster; empty when nothing is forwarded, or when the header that names it is missing.
    pub fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    /// What the route changes of traces.
    pub fn trace(&self) -> Option<&RouteTrace> {
        self.entry.trace.as_deref()
    }

    /// The answer, when the route gives it itself (`rq_direct_response`). The path of a redirected request is rewritten
    /// as Envoy does it, which access logs show. `keep_original`: say what it was (not with `suppress_envoy_headers`).
    pub fn reply(&self, head: &mut RequestHead, info: &StreamInfo, keep_original: bool) -> Option<LocalReply> {
        match &self.entry.action {
            Action::Forward(_) => None,
            Action::Redirect(redirect) => Some(redirect.reply(head, &self.entry.matcher, info, keep_original)),
            Action::ToHttps => Some(redirect::to_https(head)),
            Action::DirectResponse(response) => Some(response.reply(head, info)),
        }
    }

    /// Changes the request for the upstream: fields of all levels, then host and path. `keep_original`: say in
    /// `x-envoy-original-*` what they were (not with `suppress_envoy_headers`). `Host` by the chosen endpoint follows
    /// in [`Self::rewrite_host`].
    pub fn finalize_request(&self, head: &mut RequestHead, info: &StreamInfo, keep_original: bool) {
        if let Some(cluster) = self.weighted() {
            cluster.level.request.apply_request(head, info);
            if let Some(rewrite) = &cluster.host_rewrite {
                rewrite.apply(head, info, false, false);
            }
        }
        self.entry.mutations.apply_request(head, info);
        let Some(forward) = self.forward() else { return };
        if let Some(rewrite) = &forward.host_rewrite {
            rewrite.apply(head, info, forward.append_x_forwarded_host, keep_original);
        }
        if let Some(rewrite) = &forward.path_rewrite {
            rewrite.apply(head, &self.entry.matcher, info, keep_original);
        }
    }

    /// `auto_host_rewrite`: gives the request the host name of the chosen endpoint, unless that has none.
    pub fn rewrite_host(&self, head: &mut RequestHead, hostname: &str, keep_original: bool) {
        let Some(forward) = self.forward() else { return };
        if matches!(forward.host_rewrite, Some(HostRewrite::Auto)) && !hostname.is_empty() {
            set_authority(head, hostname.as_bytes(), forward.append_x_forwarded_host, keep_original);
        }
    }

    /// Changes the fields of a response, from the upstream or our own.
    pub fn finalize_response(&self, head: &mut ResponseHead, request: Option<&RequestHead>, info: &StreamInfo) {
        if let Some(cluster) = self.weighted() {
            cluster.level.response.apply_response(head, request, info);
        }
        self.entry.mutations.apply_response(head, request, info);
    }

    /// The metadata that hosts must have, in clusters with subsets.
    pub fn metadata_match(&self) -> Option<&MetadataMatch> {
        match self.weighted() {
            Some(cluster) => cluster.metadata_match.as_ref(),
            None => self.forward()?.metadata_match.as_ref(),
        }
    }

    /// Whether the HTTP filter of this name is switched off (`true`) or on (`false`) here; `None`: as in the chain.
    pub fn filter_disabled(&self, filter: &str) -> Option<bool> {
        self.filters().disabled(filter)
    }

    /// Whether the upstream is told in `x-envoy-attempt-count` which attempt this is.
    pub fn include_request_attempt_count(&self) -> bool {
        self.entry.include_request_attempt_count
    }

    /// Whether the client is told in `x-envoy-attempt-count` how many attempts were made.
    pub fn include_attempt_count_in_response(&self) -> bool {
        self.entry.include_attempt_count_in_response
    }

    /// Octets of a request's body that are kept for another attempt; `None`: the connection's buffer limit.
    pub fn body_buffer_limit(&self) -> Option<usize> {
        self.entry.body_buffer_limit
    }

    /// Which redirects of the upstream are followed here.
    pub(crate) fn internal_redirects(&self) -> Option<&InternalRedirects> {
        self.forward()?.internal_redirects.as_ref()
    }

    /// The virtual cluster that counts this request, with the name that access logs print.
    pub(super) fn virtual_cluster(&self, head: &RequestHead) -> Option<(usize, Option<Arc<str>>)> {
        let clusters = self.entry.virtual_clusters.as_ref()?;
        let number = clusters.find(head);
        Some((number, clusters.logged_name(number)))
    }

    /// Counts for the route, if it has stats of its own, and for the request's virtual cluster. `root` is the worker's
    /// scope.
    pub(super) fn count(&self, root: &Scope, virtual_cluster: Option<usize>, count: impl Fn(&RouteStats)) {
        let prefix = &*self.entry.stat_prefix;
        if !prefix.is_empty() {
            count(self.stats.get_or_init(|| RouteStats::for_route(root, &self.entry.virtual_host, prefix)));
        }
        if let Some(number) = virtual_cluster
            && let Some(stats) = self.virtual_cluster_stats(root, number)
        {
            count(&stats);
        }
    }

    fn virtual_cluster_stats(&self, root: &Scope, number: usize) -> Option<Rc<RouteStats>> {
        let clusters = self.entry.virtual_clusters.as_ref()?;
        let mut all = self.virtual_clusters.borrow_mut();
        if all.len() <= number {
            all.resize(number + 1, None);
        }
        let new = || Rc::new(RouteStats::for_virtual_cluster(root, &self.entry.virtual_host, &clusters.name(number)));
        Some(Rc::clone(all.get_mut(number)?.get_or_insert_with(new)))
    }

    fn weighted(&self) -> Option<&WeightedCluster> {
        self.forward()?.cluster.weighted(self.number)
    }

    fn filters(&self) -> &FilterConfigs {
        self.weighted().map_or(&self.entry.filters, |cluster| &cluster.filters)
    }
}

impl RouteInfo for SelectedRoute {
    fn name(&self) -> &str {
        &self.entry.name
    }

    fn cluster_name(&self) -> &str {
        &self.cluster
    }

    fn rate_limits(&self) -> Option<&RouteRateLimits> {
        self.entry.rate_limits.as_deref()
    }

    fn virtual_host(&self) -> &str {
        &self.entry.virtual_host
    }

    fn route_configuration(&self) -> &str {
        &self.entry.table
    }

    fn is_forwarding(&self) -> bool {
        self.forward().is_some()
    }

    fn metadata(&self) -> Option<&Arc<Node>> {
        self.entry.metadata.as_ref()
    }

    fn virtual_host_metadata(&self) -> Option<&Arc<Node>> {
        self.entry.virtual_host_metadata.as_ref()
    }

    fn filter_configs<'a>(&'a self, filter: &'a str) -> Box<dyn Iterator<Item = &'a (dyn Any + Send + Sync)> + 'a> {
        Box::new(self.filters().configs(filter).iter().map(|config| &**config))
    }

    fn filter_config(&self, filter: &str) -> Option<&(dyn Any + Send + Sync)> {
        self.filters().configs(filter).last().map(|config| &**config)
    }
}
