//! The bootstrap: what a process starts from (`envoy.config.bootstrap.v3.Bootstrap`).

use crate::{
    access_log::AccessLog, address::Address, cluster::Cluster, config_source::DynamicResources,
    extension::ExtensionConfig, listener::Listener, matcher::StringMatcher, node::Node, route::RouteConfiguration,
    secret::Secret, source::Source, stats_sink::StatsSink, tracing::Provider,
};
use std::{sync::Arc, time::Duration};

/// Everything that a process is started with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bootstrap {
    /// Who this proxy is, as sent to control planes and shown in admin.
    pub node: NodeInfo,
    /// The admin interface; none without it.
    pub admin: Option<Admin>,
    /// Listeners of the file.
    pub listeners: Vec<Arc<Listener>>,
    /// Clusters of the file.
    pub clusters: Vec<Arc<Cluster>>,
    /// Secrets of the file.
    pub secrets: Vec<Arc<Secret>>,
    /// Route configurations of the file outside listeners (none in Envoy's bootstrap; tests and dialects).
    pub routes: Vec<Arc<RouteConfiguration>>,
    /// What a control plane brings beside the file.
    pub dynamic: DynamicResources,
    /// Tags, matchers and buckets of stats.
    pub stats_config: StatsConfig,
    /// How often stats are flushed to sinks; default 5 s.
    pub stats_flush_interval: Option<Duration>,
    /// Stats are flushed when `/stats` is asked for, and not by themselves.
    pub stats_flush_on_admin: bool,
    /// Where stats are sent.
    pub stats_sinks: Vec<StatsSink>,
    /// `tracing.http`: the tracer of connection managers whose `tracing` names none.
    pub tracer: Option<Arc<Provider>>,
    /// Runtime layers, lowest first.
    pub layered_runtime: Vec<RuntimeLayer>,
    /// The resolver for clusters that name none (`typed_dns_resolver_config`).
    pub dns_resolver: Option<ExtensionConfig>,
    /// `cluster_manager.outlier_detection.event_log_path`: a line for each ejection and each return.
    pub outlier_event_log: Option<String>,
    /// `cluster_manager.local_cluster_name`.
    pub local_cluster_name: Option<String>,
    /// `cluster_manager.upstream_bind_config`.
    pub upstream_bind_config: Option<crate::address::BindConfig>,
    /// Downstream connections that there may be at once, of the monitor
    /// `envoy.resource_monitors.global_downstream_max_connections` of the overload manager.
    pub max_downstream_connections: Option<u64>,
    /// What else is measured, and what is done about it.
    pub overload: Option<crate::overload::OverloadManager>,
    /// How lines of the process's log look (`application_log_config.log_format`): a pattern with spdlog's flags. Of the
    /// JSON form, the JSON text whose values are such patterns.
    pub log_pattern: Option<String>,
    /// The document as read and normalised, for `/config_dump`.
    pub source: Option<Arc<Source>>,
}

/// `envoy.config.core.v3.Node`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeInfo {
    /// `node.id`.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// The whole message, sent verbatim.
    pub node: Option<Arc<Node>>,
}

impl NodeInfo {
    /// `node.locality`: region, zone, sub-zone.
    pub fn locality(&self) -> [String; 3] {
        let part = |name| self.node.as_ref().map_or("", |node| node.field("locality").str(name)).to_owned();
        ["region", "zone", "sub_zone"].map(part)
    }
}

/// The admin interface (`envoy.config.bootstrap.v3.Admin`).
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub address: Address,
    /// Its access logs.
    pub access_log: Vec<AccessLog>,
}

/// `envoy.config.metrics.v3.StatsConfig`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StatsConfig {
    /// Tags taken out of names, in order.
    pub tags: Vec<TagSpecifier>,
    /// Whether Envoy's own tags apply too (default true).
    pub use_all_default_tags: Option<bool>,
    /// Which stats exist.
    pub matcher: StatsMatcher,
    /// Buckets by stat name; the first match counts.
    pub histogram_buckets: Vec<HistogramBuckets>,
}

/// A tag of stats.
#[derive(Debug, Clone, PartialEq)]
pub struct TagSpecifier {
    /// The tag's name.
    pub name: String,
    /// Where its value is from.
    pub value: TagValue,
}

/// Where the value of a tag is from.
#[derive(Debug, Clone, PartialEq)]
pub enum TagValue {
    /// The same for every stat.
    Fixed(String),
    /// The second (or else first) group of this expression, taken out of the name.
    Regex(String),
    /// Envoy's own expression for a tag of this name.
    Default,
}

/// Which stats exist (`StatsMatcher`).
#[derive(Debug, Clone, Default, PartialEq)]
pub enum StatsMatcher {
    /// All.
    #[default]
    All,
    /// None.
    None,
    /// Those that match.
    Include(Vec<StringMatcher>),
    /// Those that do not match.
    Exclude(Vec<StringMatcher>),
}

/// Bucket bounds for the histograms that match.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramBuckets {
    /// Which histograms.
    pub matcher: StringMatcher,
    /// Upper bounds, ascending.
    pub buckets: Vec<f64>,
}

/// One layer of runtime values.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeLayer {
    /// Its name.
    pub name: String,
    /// Where its values are from.
    pub source: RuntimeSource,
}

/// Where a runtime layer's values are from.
#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeSource {
    /// The document.
    Static(Arc<Node>),
    /// `/runtime_modify`.
    Admin,
    /// A control plane (`rtds_layer`).
    Rtds {
        /// The name of the resource.
        name: String,
        /// Where it comes from.
        source: Arc<crate::config_source::ConfigSource>,
    },
    /// A tree of files (`disk_layer`).
    Disk {
        /// The link that is watched.
        symlink_root: String,
        /// The folder below it.
        subdirectory: String,
        /// In it, the one that is called like the service cluster.
        append_service_cluster: bool,
    },
}
