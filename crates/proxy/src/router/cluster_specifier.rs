//! Which cluster a route forwards to.

use super::{filter_configs::FilterConfigs, mutations::Level, rewrite::HostRewrite, route::metadata_match};
use crate::upstream::MetadataMatch;
use smallvec::SmallVec;
use sota_config::{
    ConfigError, Node,
    route::{
        ClusterSpecifier as Config, RouteAction, WeightedCluster as WeightedConfig, WeightedClusters as WeightedConfigs,
    },
};
use sota_plugin::{
    FactoryContext,
    http::{HeaderName, RequestHead},
    runtime::Runtime,
};
use std::sync::Arc;

/// Where a route forwards to.
#[derive(Debug)]
pub(super) enum ClusterSpecifier {
    Cluster(Arc<str>),
    Header(HeaderName),
    Weighted(Box<WeightedClusters>),
}

/// Several clusters with their shares.
#[derive(Debug)]
pub(super) struct WeightedClusters {
    clusters: Box<[WeightedCluster]>,
    total: u64,
    /// Where weights may be overridden.
    runtime: Option<Arc<Runtime>>,
    /// The request header whose number chooses.
    header: Option<HeaderName>,
}

/// One of several clusters.
#[derive(Debug)]
pub(super) struct WeightedCluster {
    name: Arc<str>,
    header: Option<HeaderName>,
    weight: u64,
    /// The key that overrides the weight; empty without one.
    runtime_key: Box<str>,
    pub(super) level: Level,
    pub(super) host_rewrite: Option<HostRewrite>,
    pub(super) filters: FilterConfigs,
    /// The route's with its own.
    pub(super) metadata_match: Option<MetadataMatch>,
}

impl ClusterSpecifier {
    /// Fails for names that are no header's and weights without a sum; findings inside go into `errors`.
    pub(super) fn build(
        action: &RouteAction,
        filters: &FilterConfigs,
        cx: &FactoryContext<'_>,
        (path, errors): (&str, &mut Vec<ConfigError>),
    ) -> Result<Self, ConfigError> {
        Ok(match &action.cluster {
            Config::Cluster(name) => Self::Cluster(name.as_str().into()),
            Config::ClusterHeader(name) => Self::Header(header(name, "cluster_header")?),
            Config::Weighted(config) => Self::Weighted(Box::new(WeightedClusters::build(
                config,
                &action.metadata_match,
                filters,
                cx,
                (path, errors),
            )?)),
        })
    }

    /// Every cluster that is named.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let (one, several) = match self {
            Self::Cluster(name) => (Some(&**name), &[][..]),
            Self::Header(_) => (None, &[][..]),
            Self::Weighted(weighted) => (None, &*weighted.clusters),
        };
        let several = several.iter().filter(|cluster| cluster.header.is_none()).map(|cluster| &*cluster.name);
        one.into_iter().chain(several)
    }

    /// Which of several clusters a random number means; 0 where there is but one.
    pub(super) fn pick(&self, head: &RequestHead, random: u64) -> usize {
        match self {
            Self::Weighted(weighted) => weighted.pick(head, random),
            _ => 0,
        }
    }

    /// One of several clusters.
    pub(super) fn weighted(&self, number: usize) -> Option<&WeightedCluster> {
        match self {
            Self::Weighted(weighted) => weighted.clusters.get(number),
            _ => None,
        }
    }

    /// The header that names the cluster of this number, request by request.
    pub(super) fn header(&self, number: usize) -> Option<&HeaderName> {
        match self {
            Self::Cluster(_) => None,
            Self::Header(header) => Some(header),
            Self::Weighted(_) => self.weighted(number)?.header.as_ref(),
        }
    }

    /// The cluster of this number; with a header, the one that it names.
    pub(super) fn name(&self, number: usize, head: &RequestHead) -> Arc<str> {
        if let Some(header) = self.header(number) {
            return String::from_utf8_lossy(head.get(header).unwrap_or_default()).into();
        }
        match self {
            Self::Cluster(name) => Arc::clone(name),
            _ => self.weighted(number).map_or_else(|| "".into(), |cluster| Arc::clone(&cluster.name)),
        }
    }
}

impl WeightedClusters {
    fn build(
        config: &WeightedConfigs,
        of_route: &[(Arc<str>, Node)],
        filters: &FilterConfigs,
        cx: &FactoryContext<'_>,
        (path, errors): (&str, &mut Vec<ConfigError>),
    ) -> Result<Self, ConfigError> {
        let total = config.clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
        if total == 0 || total > u64::from(u32::MAX) {
            let reason = format!("the sum of the weights is {total}; it must be from 1 to {}", u32::MAX);
            return Err(ConfigError::new("weighted_clusters", sota_config::Mark::NONE, reason));
        }
        let prefix = config.runtime_key_prefix.as_deref();
        let build = |(number, cluster): (usize, &WeightedConfig)| {
            let path = format!("{path}.weighted_clusters.clusters[{number}]");
            let rewrite = cluster.host_rewrite.as_ref().filter(|host| !host.is_empty());
            let rewrite = rewrite.cloned().map(sota_config::route::HostRewrite::Literal);
            Ok(WeightedCluster {
                name: cluster.name.as_str().into(),
                header: cluster.cluster_header.as_deref().map(|name| header(name, "cluster_header")).transpose()?,
                weight: cluster.weight.into(),
                runtime_key: prefix.map_or_else(|| "".into(), |prefix| format!("{prefix}.{}", cluster.name).into()),
                level: Level::build(&cluster.request_headers, &cluster.response_headers, &path, errors),
                host_rewrite: rewrite.as_ref().map(HostRewrite::build).transpose()?,
                filters: filters.inherit(&cluster.typed_per_filter_config, cx, &path, errors),
                metadata_match: metadata_match(&[of_route, &cluster.metadata_match].concat()),
            })
        };
        Ok(Self {
            clusters: config.clusters.iter().enumerate().map(build).collect::<Result<_, ConfigError>>()?,
            total,
            runtime: prefix.is_some().then(|| Arc::clone(cx.runtime)),
            header: config.header_name.as_deref().map(|name| header(name, "header_name")).transpose()?,
        })
    }

    fn pick(&self, head: &RequestHead, random: u64) -> usize {
        let random = self.header.as_ref().and_then(|name| number(head, name)).unwrap_or(random);
        if self.runtime.is_none() {
            return at(self.clusters.iter().map(|cluster| cluster.weight), random % self.total);
        }
        // One look at each weight: it may change meanwhile.
        let weights: SmallVec<[u64; 8]> = self.clusters.iter().map(|cluster| self.weight(cluster)).collect();
        let total: u64 = weights.iter().sum();
        // Without a share for anybody the weights of the configuration count.
        match random.checked_rem(total) {
            Some(left) => at(weights.iter().copied(), left),
            None => at(self.clusters.iter().map(|cluster| cluster.weight), random % self.total),
        }
    }

    fn weight(&self, cluster: &WeightedCluster) -> u64 {
        let runtime = self.runtime.as_ref();
        let weight = runtime.map_or(cluster.weight, |runtime| runtime.integer(&cluster.runtime_key, cluster.weight));
        // So that sums stay within 64 bits.
        weight.min(u64::from(u32::MAX))
    }
}

/// The number of the share into which `left` falls.
fn at(weights: impl Iterator<Item = u64>, mut left: u64) -> usize {
    for (number, weight) in weights.enumerate() {
        match left.checked_sub(weight) {
            Some(rest) => left = rest,
            None => return number,
        }
    }
    0
}

/// The number in a field that stands there once.
fn number(head: &RequestHead, name: &HeaderName) -> Option<u64> {
    let mut values = head.headers.get_all(name);
    let value = values.next().filter(|_| values.next().is_none())?;
    std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

fn header(name: &str, field: &str) -> Result<HeaderName, ConfigError> {
    HeaderName::parse_any(name.as_bytes())
        .map_err(|reason| ConfigError::new(field, sota_config::Mark::NONE, format!("header name {name:?}: {reason}")))
}
