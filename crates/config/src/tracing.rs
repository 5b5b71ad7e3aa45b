//! Tracing (`envoy.config.trace.v3`, and the field `tracing` of connection managers and routes).

use crate::matcher::FractionalPercent;
use std::{sync::Arc, time::Duration};

/// Tracing of a connection manager.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// Where spans go; `None`: requests are marked and nothing is reported.
    pub provider: Option<Arc<Provider>>,
    /// Of the requests with `x-client-trace-id` so many are traced (`tracing.client_enabled`); default all.
    pub client_sampling: FractionalPercent,
    /// Of all others (`tracing.random_sampling`); default all.
    pub random_sampling: FractionalPercent,
    /// And of what is left (`tracing.global_enabled`); default all.
    pub overall_sampling: FractionalPercent,
    /// Spans say when the first and the last octets came and went.
    pub verbose: bool,
    /// Longest path in the tag `http.url`, in octets; default 256.
    pub max_path_tag_length: u32,
    /// Further tags.
    pub custom_tags: Vec<CustomTag>,
    /// Each attempt at a host has a span of its own.
    pub spawn_upstream_span: bool,
    /// The name of spans, as a format; empty: `ingress`, or `egress HOST`.
    pub operation: String,
    /// The name of spans of attempts, as a format; empty: `router CLUSTER egress`.
    pub upstream_operation: String,
    /// The upstream is not told of the trace.
    pub no_context_propagation: bool,
}

/// `envoy.config.route.v3.Tracing`: what a route changes. `None` keeps the connection manager's.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RouteTracing {
    /// See [`Tracing::client_sampling`]; a route that has a `tracing` at all sets all three.
    pub client_sampling: Option<FractionalPercent>,
    /// See [`Tracing::random_sampling`].
    pub random_sampling: Option<FractionalPercent>,
    /// See [`Tracing::overall_sampling`].
    pub overall_sampling: Option<FractionalPercent>,
    /// Tags in addition to, or instead of those of the same name.
    pub custom_tags: Vec<CustomTag>,
    /// The name of spans; empty: as the connection manager has it.
    pub operation: String,
    /// The name of spans of attempts.
    pub upstream_operation: String,
    /// The route's `decorator`.
    pub decorator: Option<Decorator>,
}

/// `envoy.config.route.v3.Decorator`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decorator {
    /// The name of the span.
    pub operation: String,
    /// The other side is told (`x-envoy-decorator-operation`).
    pub propagate: bool,
}

/// `envoy.type.tracing.v3.CustomTag`.
#[derive(Debug, Clone, PartialEq)]
pub struct CustomTag {
    /// Its name.
    pub tag: String,
    /// Its value.
    pub value: TagValue,
}

/// Where a tag's value is from. What has none, and no default, gives no tag.
#[derive(Debug, Clone, PartialEq)]
pub enum TagValue {
    /// Always the same: a literal, or a variable of the environment.
    Constant(String),
    /// A field of the request, or else the default.
    RequestHeader(String, String),
    /// A format; the default where it prints nothing.
    Format(String, String),
}

/// A tracer.
#[derive(Debug, Clone, PartialEq)]
pub enum Provider {
    /// `envoy.config.trace.v3.OpenTelemetryConfig`
    OpenTelemetry(OpenTelemetry),
    /// `envoy.config.trace.v3.ZipkinConfig`
    Zipkin(Zipkin),
}

/// `envoy.config.trace.v3.OpenTelemetryConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenTelemetry {
    /// Where spans go; `None`: nowhere, the trace is only passed on.
    pub collector: Option<Collector>,
    /// `service.name`.
    pub service_name: String,
    /// What is known of this process, from detectors; without `service.name`.
    pub resource: Vec<(String, String)>,
    /// Decides for requests; `None`: the connection manager's sampling.
    pub sampler: Option<Sampler>,
    /// Spans that wait to be sent at most; more are dropped and counted. Default 1024.
    pub max_cache_size: u32,
}

/// Where telemetry is sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Collector {
    /// A gRPC service on a cluster.
    Grpc {
        /// The cluster.
        cluster: String,
        /// `:authority`; empty: the cluster's name.
        authority: String,
        /// Further fields.
        metadata: Vec<(String, String)>,
        /// For one call.
        timeout: Option<Duration>,
    },
    /// `POST`s to a URL on a cluster.
    Http {
        /// The cluster.
        cluster: String,
        /// `:authority`.
        authority: String,
        /// `:path`.
        path: String,
        /// Further fields.
        headers: Vec<(String, String)>,
        /// For one request.
        timeout: Duration,
    },
}

/// A sampler of OpenTelemetry.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampler {
    /// All requests.
    AlwaysOn,
    /// As the one before this process has decided, or else as this one decides.
    ParentBased(Box<Self>),
    /// By the trace's id, so that all who use the same share decide alike.
    TraceIdRatio(FractionalPercent),
}

/// `envoy.config.trace.v3.ZipkinConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct Zipkin {
    /// Where spans go.
    pub collector: Collector,
    /// Send protobuf, not JSON.
    pub is_proto: bool,
    /// Make trace ids of 128 bits, not of 64.
    pub trace_id_128bit: bool,
    /// The server's span has the id of the client's; default true.
    pub shared_span_context: bool,
    /// Each attempt at a host has a span of its own.
    pub split_spans_for_request: bool,
    /// W3C's fields are read where B3's are missing, and written too.
    pub with_w3c: bool,
}
