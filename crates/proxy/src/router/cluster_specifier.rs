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
    uses_hash: bool,
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

    /// Which of several clusters a random number means; 0 where there is but one. `hash`: that of the route's policies.
    pub(super) fn pick(&self, head: &RequestHead, random: u64, hash: impl FnOnce() -> Option<u64>) -> usize {
        match self {
            Self::Weighted(weighted) if weighted.uses_hash => weighted.pick(head, hash().unwrap_or(random)),
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
            uses_hash: config.use_hash_policy,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_context::factory;
    use sota_config::route::HeaderMutations;
    use sota_plugin::{Registry, http::Method};

    fn cluster(name: &str, weight: u32) -> WeightedConfig {
        WeightedConfig {
            name: name.into(),
            cluster_header: None,
            weight,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            typed_per_filter_config: Vec::new(),
            host_rewrite: None,
            metadata_match: Vec::new(),
        }
    }

    fn build(config: &WeightedConfigs) -> (ClusterSpecifier, Arc<Runtime>) {
        let registry = Registry::default();
        let filters = FilterConfigs::default();
        factory(&registry, |cx| {
            let built = WeightedClusters::build(config, &[], &filters, cx, ("", &mut Vec::new())).unwrap();
            (ClusterSpecifier::Weighted(Box::new(built)), Arc::clone(cx.runtime))
        })
    }

    fn shares() -> WeightedConfigs {
        WeightedConfigs {
            clusters: vec![cluster("a", 10), cluster("none", 0), cluster("b", 30)],
            runtime_key_prefix: None,
            header_name: None,
            use_hash_policy: false,
        }
    }

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::new(Method::Get, "h", "/").unwrap();
        head.headers = fields.iter().copied().collect();
        head
    }

    #[test]
    fn a_number_in_a_field_chooses() {
        let (by_header, _) = build(&WeightedConfigs { header_name: Some("x-n".into()), ..shares() });
        let pick = |fields: &[(&str, &str)]| by_header.pick(&head(fields), 0, || None);
        assert_eq!((pick(&[("x-n", "9")]), pick(&[("x-n", "10")]), pick(&[("x-n", "50")])), (0, 2, 2));
        // What is no number, or two, leaves it to chance: here 0.
        assert_eq!((pick(&[]), pick(&[("x-n", "b")]), pick(&[("x-n", "10"), ("x-n", "11")])), (0, 0, 0));
    }

    #[test]
    fn a_hash_chooses() {
        let (by_hash, _) = build(&WeightedConfigs { use_hash_policy: true, ..shares() });
        assert_eq!((by_hash.pick(&head(&[]), 0, || Some(15)), by_hash.pick(&head(&[]), 0, || None)), (2, 0));
        assert_eq!(build(&shares()).0.pick(&head(&[]), 0, || Some(15)), 0);
    }

    #[test]
    fn runtime_values_override_weights() {
        let (weighted, runtime) = build(&WeightedConfigs { runtime_key_prefix: Some("k".into()), ..shares() });
        let pick = |random| weighted.pick(&head(&[]), random, || None);
        assert_eq!((pick(9), pick(10)), (0, 2));
        runtime.replace([("k.none".to_owned(), "5".to_owned()), ("k.a".to_owned(), "0".to_owned())].into());
        assert_eq!((pick(0), pick(4), pick(5), pick(35)), (1, 1, 2, 1));
        runtime.replace(["a", "none", "b"].map(|name| (format!("k.{name}"), "0".to_owned())).into());
        assert_eq!((pick(9), pick(10)), (0, 2), "without any share the configured ones count");
    }

    #[test]
    fn a_field_names_the_cluster() {
        let named = WeightedConfig { cluster_header: Some("x-c".into()), ..cluster("", 1) };
        let (weighted, _) = build(&WeightedConfigs { clusters: vec![cluster("a", 1), named], ..shares() });
        let head = head(&[("x-c", "other")]);
        assert_eq!((&*weighted.name(0, &head), &*weighted.name(1, &head)), ("a", "other"));
        assert!(weighted.header(0).is_none() && weighted.header(1).is_some());
        assert_eq!(weighted.names().collect::<Vec<_>>(), ["a"]);
    }
}
