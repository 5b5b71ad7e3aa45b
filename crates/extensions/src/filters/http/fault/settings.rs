//! What a fault filter, or a route for it, says.

use crate::matchers;
use sota_config::{ConfigError, Node};
use sota_plugin::{
    FactoryContext,
    cx::StreamCx,
    http::{HeaderId, HeaderName, RequestHead, StatusCode},
    matcher::{FractionalPercent, HeaderMatcher},
    runtime::Runtime,
};
use std::{sync::Arc, time::Duration};

const ABORT: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
const ABORT_GRPC: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
const ABORT_PERCENTAGE: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request-percentage");
const DELAY: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
const DELAY_PERCENTAGE: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request-percentage");
const THROUGHPUT: HeaderName = HeaderName::from_static("x-envoy-fault-throughput-response");
const THROUGHPUT_PERCENTAGE: HeaderName = HeaderName::from_static("x-envoy-fault-throughput-response-percentage");

/// `envoy.extensions.filters.http.fault.v3.HTTPFault`
#[derive(Debug)]
pub(super) struct Settings {
    delay: Option<(Source<u64>, FractionalPercent)>,
    abort: Option<(AbortSource, FractionalPercent)>,
    rate: Option<(Source<u64>, FractionalPercent)>,
    pub(super) abort_body: String,
    upstream_cluster: String,
    headers: Vec<HeaderMatcher>,
    downstream_nodes: Vec<String>,
    max_active_faults: Option<u64>,
    keys: Keys,
    pub(super) counts_downstream_clusters: bool,
    /// For dynamic metadata, when a fault is injected; may be empty.
    pub(super) metadata: Node,
    runtime: Arc<Runtime>,
}

/// Where a number comes from.
#[derive(Debug)]
enum Source<T> {
    Fixed(T),
    /// The request says it.
    Header,
}

#[derive(Debug)]
enum AbortSource {
    Http(u64),
    Grpc(u64),
    Header,
}

/// Runtime keys of numbers.
#[derive(Debug)]
struct Keys {
    delay_duration: String,
    abort_http_status: String,
    abort_grpc_status: String,
    max_active_faults: String,
}

/// How a request is aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abort {
    pub(super) status: StatusCode,
    pub(super) grpc_status: Option<u32>,
}

impl Settings {
    pub(super) fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let key = |field: &str, default: &str| match node.str(field) {
            "" => default.to_owned(),
            key => key.to_owned(),
        };
        let share = |part: &Node, field: &str, default: &str| {
            matchers::percent(part.field("percentage"), Some(&key(field, default)), cx)
        };
        let delay = node.get("delay").map(|delay| {
            let source = match delay.duration("fixed_delay") {
                Some(time) => Source::Fixed(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
                None => Source::Header,
            };
            (source, share(delay, "delay_percent_runtime", "fault.http.delay.fixed_delay_percent"))
        });
        let abort = node.get("abort").map(|abort| {
            let source = match (abort.uint("http_status"), abort.uint("grpc_status")) {
                (Some(status), _) => AbortSource::Http(status),
                (None, Some(status)) => AbortSource::Grpc(status),
                (None, None) => AbortSource::Header,
            };
            (source, share(abort, "abort_percent_runtime", "fault.http.abort.abort_percent"))
        });
        let rate = node.get("response_rate_limit").map(|rate| {
            let source = match rate.get("fixed_limit") {
                Some(limit) => Source::Fixed(limit.uint("limit_kbps").unwrap_or(1)),
                None => Source::Header,
            };
            (source, share(rate, "response_rate_limit_percent_runtime", "fault.http.rate_limit.response_percent"))
        });
        let body = node.field("abort").str("response_body");
        Ok(Self {
            delay,
            abort,
            rate,
            abort_body: if body.is_empty() { "fault filter abort" } else { body }.to_owned(),
            upstream_cluster: node.str("upstream_cluster").to_owned(),
            headers: matchers::headers(node, "headers", cx)?,
            downstream_nodes: node.strings("downstream_nodes"),
            max_active_faults: node.uint("max_active_faults"),
            keys: Keys {
                delay_duration: key("delay_duration_runtime", "fault.http.delay.fixed_duration_ms"),
                abort_http_status: key("abort_http_status_runtime", "fault.http.abort.http_status"),
                abort_grpc_status: key("abort_grpc_status_runtime", "fault.http.abort.grpc_status"),
                max_active_faults: key("max_active_faults_runtime", "fault.http.max_active_faults"),
            },
            counts_downstream_clusters: !node.bool("disable_downstream_cluster_stats"),
            metadata: node.get("filter_metadata").cloned().unwrap_or_else(Node::map),
            runtime: Arc::clone(cx.runtime),
        })
    }

    /// Whether the faults are meant for this request.
    pub(super) fn concerns(&self, head: &RequestHead, cx: &StreamCx<'_>) -> bool {
        let cluster = || cx.route().filter(|route| route.is_forwarding()).map(|route| route.cluster_name());
        let node = || head.headers.get_str(HeaderId::XEnvoyDownstreamServiceNode);
        (self.upstream_cluster.is_empty() || cluster() == Some(&self.upstream_cluster))
            && (self.downstream_nodes.is_empty()
                || node().is_some_and(|node| self.downstream_nodes.iter().any(|known| known == node)))
            && self.headers.iter().all(|matcher| matcher.matches(head))
    }

    /// How long the request is to be delayed. `cluster`: the service that it says it comes from.
    pub(super) fn delay(&self, head: &RequestHead, cluster: Option<&str>) -> Option<Duration> {
        let (source, share) = self.delay.as_ref()?;
        let key = cluster.map(|name| format!("fault.http.{name}.delay.fixed_delay_percent"));
        let configured = match source {
            Source::Fixed(millis) => share.sample_for(fastrand::u64(..), key.as_deref(), None).then_some(*millis)?,
            Source::Header => {
                let most = number(head, &DELAY_PERCENTAGE);
                share.sample_for(fastrand::u64(..), key.as_deref(), most).then(|| number(head, &DELAY))??
            }
        };
        let millis = self.runtime.integer(&self.keys.delay_duration, configured);
        let millis = cluster
            .map_or(millis, |name| self.runtime.integer(&format!("fault.http.{name}.delay.fixed_duration_ms"), millis));
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    /// How the request is to be aborted.
    pub(super) fn abort(&self, head: &RequestHead, cluster: Option<&str>) -> Option<Abort> {
        let (source, share) = self.abort.as_ref()?;
        let key = cluster.map(|name| format!("fault.http.{name}.abort.abort_percent"));
        let most = match source {
            AbortSource::Header => number(head, &ABORT_PERCENTAGE),
            _ => None,
        };
        if !share.sample_for(fastrand::u64(..), key.as_deref(), most) {
            return None;
        }
        let (http, grpc) = match source {
            AbortSource::Http(status) => (Some(*status), None),
            AbortSource::Grpc(status) => (None, Some(*status)),
            AbortSource::Header => {
                (number(head, &ABORT).filter(|status| (200..600).contains(status)), number(head, &ABORT_GRPC))
            }
        };
        let number = |key: &str, kind: &str, configured: u64| match cluster {
            Some(name) => self.runtime.integer(&format!("fault.http.{name}.abort.{kind}"), configured),
            None => self.runtime.integer(key, configured),
        };
        if let Some(http) = http {
            let status = number(&self.keys.abort_http_status, "http_status", http);
            let status = u16::try_from(status).ok().and_then(StatusCode::from_u16)?;
            return Some(Abort { status, grpc_status: None });
        }
        let status = number(&self.keys.abort_grpc_status, "grpc_status", grpc?);
        Some(Abort { status: StatusCode::OK, grpc_status: u32::try_from(status).ok() })
    }

    /// To how many KiB a second the response is to be slowed down.
    pub(super) fn response_rate(&self, head: &RequestHead) -> Option<u64> {
        let (source, share) = self.rate.as_ref()?;
        let most = match source {
            Source::Header => number(head, &THROUGHPUT_PERCENTAGE),
            Source::Fixed(_) => None,
        };
        if !share.sample_for(fastrand::u64(..), None, most) {
            return None;
        }
        match source {
            Source::Fixed(rate) => Some(*rate),
            Source::Header => number(head, &THROUGHPUT).filter(|rate| *rate > 0),
        }
    }

    /// Whether responses may be slowed down.
    pub(super) fn slows_responses(&self) -> bool {
        self.rate.is_some()
    }

    /// How many requests may have faults at a time.
    pub(super) fn max_active_faults(&self) -> u64 {
        self.runtime.integer(&self.keys.max_active_faults, self.max_active_faults.unwrap_or(u64::MAX))
    }
}

/// The first value of a field as a number.
fn number(head: &RequestHead, name: &HeaderName) -> Option<u64> {
    head.headers.get_str(name)?.trim().parse().ok()
}
