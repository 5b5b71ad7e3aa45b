//! Access logs as configured (`envoy.config.accesslog.v3`).

use crate::{
    extension::ExtensionConfig,
    matcher::{FractionalPercent, HeaderMatcher, MetadataMatcher},
    node::Node,
};
use std::sync::Arc;

/// One access log: where to write and which requests.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// Which entries are written; all without one.
    pub filter: Option<AccessLogFilter>,
    /// The logger.
    pub logger: ExtensionConfig,
}

/// `envoy.config.accesslog.v3.AccessLogFilter`.
#[derive(Debug, Clone, PartialEq)]
pub enum AccessLogFilter {
    /// Compares the response code.
    StatusCode(Comparison),
    /// Compares the duration in milliseconds.
    Duration(Comparison),
    /// Not for requests answered as health checks.
    NotHealthCheck,
    /// Only requests that are traced.
    Traceable,
    /// A sampled part of the requests.
    Runtime(FractionalPercent),
    /// All must agree.
    And(Vec<Self>),
    /// One must agree.
    Or(Vec<Self>),
    /// A request header.
    Header(HeaderMatcher),
    /// One of these response flags is set; any flag when empty.
    ResponseFlag(Vec<String>),
    /// The gRPC status is one of these (numbers 0–16); `exclude` inverts.
    GrpcStatus {
        /// The statuses.
        statuses: Vec<u32>,
        /// Whether these are left out instead.
        exclude: bool,
    },
    /// Dynamic metadata.
    Metadata {
        /// What it must be; `None`: whatever it is counts as absent. Its `invert` does not count here, as in Envoy.
        matcher: Option<MetadataMatcher>,
        /// What counts where the value is absent.
        match_if_absent: bool,
    },
    /// The moment of the entry is one of these, such as `DownstreamEnd`; `exclude` inverts.
    LogType {
        /// The moments.
        types: Vec<String>,
        /// Whether these are left out instead.
        exclude: bool,
    },
}

/// `envoy.config.accesslog.v3.ComparisonFilter`.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// How to compare.
    pub op: ComparisonOp,
    /// The configured value.
    pub value: u32,
    /// The runtime key that overrides it.
    pub runtime_key: Option<String>,
}

/// How to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComparisonOp {
    /// Equal.
    Eq,
    /// Greater or equal.
    Ge,
    /// Less or equal.
    Le,
    /// Not equal.
    Ne,
}

/// `envoy.config.core.v3.SubstitutionFormatString`.
#[derive(Debug, Clone, PartialEq)]
pub struct FormatString {
    /// The text or the JSON.
    pub format: Format,
    /// Leave out what has no value, instead of writing `-` or `null`.
    pub omit_empty_values: bool,
    /// The content type of a body made with it.
    pub content_type: Option<String>,
}

/// Text or JSON.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// Text with operators such as `%RESPONSE_CODE%`.
    Text(String),
    /// A JSON document whose strings have operators.
    Json(Arc<Node>),
}
