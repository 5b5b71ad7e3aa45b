//! The labels of Istio's standard metrics: where each is from, and what configuration changes of them.

use super::super::{
    peer_metadata::{DOWNSTREAM_PEER, UPSTREAM_PEER},
    workload::Workload,
};
use sota_config::{ConfigError, Node, listener::TrafficDirection};
use sota_plugin::{
    FactoryContext,
    http::{GrpcStatus, HeaderName, RequestHead, StatusCode},
    info::{ConnectionInfo, FilterState, TlsInfo, UpstreamInfo},
    stats::LABELS,
};
use std::fmt::Write;

/// How many metrics there are.
pub(super) const METRICS: usize = 10;

/// Istio's standard metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Metric {
    RequestsTotal,
    RequestDuration,
    RequestBytes,
    ResponseBytes,
    RequestMessages,
    ResponseMessages,
    ConnectionsOpened,
    ConnectionsClosed,
    SentBytes,
    ReceivedBytes,
}

impl Metric {
    const ALL: [Self; METRICS] = [
        Self::RequestsTotal,
        Self::RequestDuration,
        Self::RequestBytes,
        Self::ResponseBytes,
        Self::RequestMessages,
        Self::ResponseMessages,
        Self::ConnectionsOpened,
        Self::ConnectionsClosed,
        Self::SentBytes,
        Self::ReceivedBytes,
    ];

    /// Without `istio_`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RequestsTotal => "requests_total",
            Self::RequestDuration => "request_duration_milliseconds",
            Self::RequestBytes => "request_bytes",
            Self::ResponseBytes => "response_bytes",
            Self::RequestMessages => "request_messages_total",
            Self::ResponseMessages => "response_messages_total",
            Self::ConnectionsOpened => "tcp_connections_opened_total",
            Self::ConnectionsClosed => "tcp_connections_closed_total",
            Self::SentBytes => "tcp_sent_bytes_total",
            Self::ReceivedBytes => "tcp_received_bytes_total",
        }
    }

    pub(super) fn is_distribution(self) -> bool {
        matches!(self, Self::RequestDuration | Self::RequestBytes | Self::ResponseBytes)
    }
}

/// Which side reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reporter {
    /// The client's sidecar.
    Source,
    /// The server's sidecar.
    Destination,
    /// A gateway before a set of servers.
    Waypoint,
}

/// What is labelled.
pub(super) struct Subject<'a> {
    pub(super) connection: &'a ConnectionInfo,
    pub(super) upstream: &'a UpstreamInfo,
    /// Where the peers' metadata is.
    pub(super) peers: Option<&'a FilterState>,
    pub(super) request: Option<&'a RequestHead>,
    pub(super) route_name: &'a str,
    pub(super) protocol: &'static str,
    /// Of HTTP.
    pub(super) response: Option<(Option<StatusCode>, Option<GrpcStatus>)>,
    pub(super) flags: &'a str,
}

/// What a label is set to by configuration. There are no expressions (CEL) but these.
#[derive(Debug, Clone)]
enum Dimension {
    Text(Box<str>),
    /// `request.host` and its kin, and `request.headers['name']`.
    Header(HeaderName),
}

/// What configuration changes of one metric.
#[derive(Debug, Clone, Default)]
struct Change {
    is_dropped: bool,
    removed: Vec<Box<str>>,
    /// Labels, with which of the dimensions they have.
    set: Vec<(Box<str>, usize)>,
}

/// `stats.MetricConfig`, for all metrics.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    changes: [Change; METRICS],
    dimensions: Vec<Dimension>,
}

impl Overrides {
    pub(super) fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let mut overrides = Self::default();
        for (at, metric) in node.list("metrics").iter().enumerate() {
            let name = metric.str("name");
            let selected = |one: &Metric| name.is_empty() || one.name() == name;
            let selected: Vec<_> = Metric::ALL.into_iter().filter(selected).collect();
            let mut dimensions = metric.entries("dimensions").iter().collect::<Vec<_>>();
            dimensions.sort_by(|one, other| one.0.cmp(&other.0));
            for one in &selected {
                let change = &mut overrides.changes[*one as usize];
                change.is_dropped |= metric.bool("drop");
                change.removed.extend(metric.strings("tags_to_remove").into_iter().map(Box::from));
            }
            for (label, value) in dimensions {
                let path = format!("metrics[{at}].dimensions[{label:?}]");
                let text = value.as_str().unwrap_or_default();
                let dimension = Dimension::read(text).ok_or_else(|| {
                    cx.error(
                        &path,
                        value.mark,
                        format!("there are no expressions (CEL) such as \"{}\"", text.escape_debug()),
                    )
                })?;
                let number = overrides.dimensions.len();
                overrides.dimensions.push(dimension);
                for one in &selected {
                    overrides.changes[*one as usize].set.push((Box::from(&**label), number));
                }
            }
        }
        Ok(overrides)
    }

    pub(super) fn is_dropped(&self, metric: Metric) -> bool {
        self.changes[metric as usize].is_dropped
    }

    /// What becomes of a standard label of this metric.
    pub(super) fn of_label(&self, metric: Metric, label: &str) -> Fate {
        let change = &self.changes[metric as usize];
        if let Some((_, number)) = change.set.iter().rev().find(|(set, _)| **set == *label) {
            return Fate::Dimension(*number);
        }
        if change.removed.iter().any(|removed| **removed == *label) { Fate::Removed } else { Fate::Kept }
    }

    /// The labels that this metric has beside the standard ones, each with the number of its value.
    pub(super) fn added(&self, metric: Metric) -> impl Iterator<Item = (&str, usize)> {
        let set = self.changes[metric as usize].set.iter().map(|(label, number)| (&**label, *number));
        set.filter(|(label, _)| !LABELS.contains(label))
    }

    /// The values that configuration asks for.
    pub(super) fn values(&self, subject: &Subject<'_>) -> Vec<String> {
        self.dimensions.iter().map(|dimension| dimension.value(subject)).collect()
    }
}

/// What becomes of a label.
pub(super) enum Fate {
    Kept,
    Removed,
    /// It gets the value of this number.
    Dimension(usize),
}

impl Dimension {
    fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        for quote in ['\'', '"'] {
            let inner = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
            if let Some(inner) = inner {
                return (!inner.contains([quote, '\\'])).then(|| Self::Text(inner.into()));
            }
        }
        let name = match text {
            "request.host" => ":authority",
            "request.method" => ":method",
            "request.scheme" => ":scheme",
            "request.useragent" => "user-agent",
            "request.referer" => "referer",
            "request.id" => "x-request-id",
            _ => {
                let inner = text.strip_prefix("request.headers[")?.strip_suffix(']')?;
                ['\'', '"'].iter().find_map(|quote| inner.strip_prefix(*quote)?.strip_suffix(*quote))?
            }
        };
        HeaderName::parse_any(name.as_bytes()).ok().map(Self::Header)
    }
}

/// Where labels are from.
pub(super) struct Labels {
    /// `None`: by the direction of the listener.
    reporter: Option<Reporter>,
    /// Where no service is known, the host of the request counts.
    uses_host: bool,
    own: Workload,
}

/// Names of clusters that are their own service.
const OWN_SERVICES: [&str; 5] = [
    "BlackHoleCluster",
    "PassthroughCluster",
    "InboundPassthroughCluster",
    "InboundPassthroughClusterIpv4",
    "InboundPassthroughClusterIpv6",
];

impl Labels {
    pub(super) fn read(node: &Node, cx: &FactoryContext<'_>) -> Self {
        Self {
            reporter: (node.str("reporter") == "SERVER_GATEWAY").then_some(Reporter::Waypoint),
            uses_host: !node.bool("disable_host_header_fallback"),
            own: Workload::own(cx.node, &[]),
        }
    }

    /// Calls `label` with each standard label and its value, in the order of [`LABELS`].
    pub(super) fn each(&self, subject: &Subject<'_>, label: &mut dyn FnMut(&str, &str)) {
        let reporter = self.reporter.unwrap_or(match subject.connection.traffic_direction {
            TrafficDirection::Inbound => Reporter::Destination,
            TrafficDirection::Outbound | TrafficDirection::Unspecified => Reporter::Source,
        });
        let is_client = reporter == Reporter::Source;
        let state = |key: &str| subject.peers.and_then(|state| state.get::<Workload>(key));
        let of_endpoint = || {
            let metadata = subject.upstream.host_metadata.as_deref()?;
            let workload = metadata.get("filter_metadata").unwrap_or(metadata).field("istio").str("workload");
            Workload::of_endpoint(workload)
        };
        let told = state(if is_client { UPSTREAM_PEER } else { DOWNSTREAM_PEER });
        let guessed = if is_client && told.is_none() { of_endpoint() } else { None };
        let none = Workload::default();
        let peer = told.or(guessed.as_ref()).unwrap_or(&none);
        let tls = match is_client {
            true => subject.upstream.tls.as_deref(),
            false => subject.connection.tls.get().map(|tls| &**tls),
        };
        let (mut peer_san, own_san) = (san(tls, true), san(tls, false));
        if is_client && peer_san.is_empty() {
            peer_san = &peer.identity;
        }
        let peer_namespace = match namespace(peer_san) {
            "" => &*peer.namespace,
            namespace => namespace,
        };
        let security = match reporter {
            Reporter::Source => "unknown",
            _ if !peer_san.is_empty() && !own_san.is_empty() => "mutual_tls",
            _ => "none",
        };
        let service = self.service(subject);
        let own = Side { workload: &self.own, namespace: &self.own.namespace, principal: or_unknown(own_san) };
        let far = Side { workload: peer, namespace: peer_namespace, principal: or_unknown(peer_san) };

        label(
            "reporter",
            match reporter {
                Reporter::Source => "source",
                Reporter::Destination => "destination",
                Reporter::Waypoint => "waypoint",
            },
        );
        let behind = state(UPSTREAM_PEER).unwrap_or(&none);
        match reporter {
            Reporter::Source => {
                own.source(true, label);
                far.destination(Known::Peer, &service, label);
            }
            Reporter::Destination => {
                far.source(false, label);
                own.destination(Known::Own, &service, label);
            }
            Reporter::Waypoint => {
                far.source(false, label);
                let principal = or_unknown(&behind.identity);
                let behind = Side { workload: behind, namespace: &behind.namespace, principal };
                behind.destination(Known::Behind, &service, label);
            }
        }
        label("request_protocol", subject.protocol);
        if let Some((code, status)) = subject.response {
            label("response_code", code.as_ref().map_or("0", |code| code.as_str()));
            let mut text = String::new();
            if let Some(status) = status {
                // Writing into a string does not fail.
                let _ = write!(text, "{}", status.0);
            }
            label("grpc_response_status", &text);
        }
        label("response_flags", subject.flags);
        label("connection_security_policy", security);
    }

    fn service<'a>(&self, subject: &'a Subject<'_>) -> Service<'a> {
        let host = subject.request.map(RequestHead::authority).filter(|_| self.uses_host);
        let host = host.and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default();
        let mut service = Service { host, name: host, namespace: "" };
        let cluster = subject.upstream.cluster.as_deref().unwrap_or_default();
        match subject.route_name {
            "block_all" => service.name = "BlackHoleCluster",
            "allow_any" => service.name = "PassthroughCluster",
            _ if OWN_SERVICES.contains(&cluster) => service.name = cluster,
            _ => {
                let metadata = subject.upstream.cluster_metadata.as_deref();
                let services = metadata.map(|node| node.field("filter_metadata").field("istio").list("services"));
                if let Some(first) = services.and_then(<[Node]>::first) {
                    if first.has("host") {
                        service.host = first.str("host");
                    }
                    service.namespace = first.str("namespace");
                    service.name = match first.str("name") {
                        "" => service.host.split_once('.').map_or(service.host, |(name, _)| name),
                        name => name,
                    };
                }
            }
        }
        service
    }
}

impl Dimension {
    fn value(&self, subject: &Subject<'_>) -> String {
        match self {
            Self::Text(text) => text.to_string(),
            Self::Header(name) => {
                let value = subject.request.and_then(|head| head.get_joined(name));
                value.map_or_else(|| "unknown".to_owned(), |value| String::from_utf8_lossy(&value).into_owned())
            }
        }
    }
}

/// The service that is asked; what is not known is empty.
struct Service<'a> {
    host: &'a str,
    name: &'a str,
    namespace: &'a str,
}

/// One side of a connection.
struct Side<'a> {
    workload: &'a Workload,
    namespace: &'a str,
    principal: &'a str,
}

/// What is known of a destination.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Own,
    Peer,
    /// Behind a gateway.
    Behind,
}

impl Side<'_> {
    /// `own`: what is empty stays so.
    fn source(&self, own: bool, label: &mut dyn FnMut(&str, &str)) {
        let workload = self.workload;
        let or = |value, other| if own || !str::is_empty(value) { value } else { other };
        label("source_workload", or(&workload.workload, "unknown"));
        label("source_canonical_service", or(&workload.canonical_name, "unknown"));
        label("source_canonical_revision", or(&workload.canonical_revision, "latest"));
        label("source_workload_namespace", or(self.namespace, "unknown"));
        label("source_principal", self.principal);
        label("source_app", or(&workload.app, "unknown"));
        label("source_version", or(&workload.version, "unknown"));
        label("source_cluster", or(&workload.cluster, "unknown"));
    }

    fn destination(&self, known: Known, service: &Service<'_>, label: &mut dyn FnMut(&str, &str)) {
        let (workload, own) = (self.workload, known == Known::Own);
        let or = |value, other| if own || !str::is_empty(value) { value } else { other };
        let first = |all: [&'_ str; 2]| {
            let found = all.into_iter().find(|value| !value.is_empty());
            found.unwrap_or(if own { "" } else { "unknown" }).to_owned()
        };
        let fallback = if own { &*workload.canonical_name } else { "" };
        label("destination_workload", or(&workload.workload, "unknown"));
        label("destination_workload_namespace", or(self.namespace, "unknown"));
        label("destination_principal", self.principal);
        label("destination_app", or(&workload.app, "unknown"));
        label("destination_version", or(&workload.version, "unknown"));
        label("destination_service", &first([service.host, fallback]));
        label("destination_canonical_service", or(&workload.canonical_name, "unknown"));
        let revision = if known == Known::Behind { "unknown" } else { "latest" };
        label("destination_canonical_revision", or(&workload.canonical_revision, revision));
        label("destination_service_name", &first([service.name, fallback]));
        let namespace = match known {
            Known::Own => self.namespace.to_owned(),
            Known::Peer => first([service.namespace, self.namespace]),
            Known::Behind => first([service.namespace, ""]),
        };
        label("destination_service_namespace", &namespace);
        label("destination_cluster", or(&workload.cluster, "unknown"));
    }
}

fn or_unknown(value: &str) -> &str {
    if value.is_empty() { "unknown" } else { value }
}

/// The first URI of the peer's certificate, or of our own; empty when there is none.
fn san(tls: Option<&TlsInfo>, of_peer: bool) -> &str {
    let certificate = tls.and_then(|tls| if of_peer { tls.peer_certificate() } else { tls.local.as_deref() });
    certificate.and_then(|certificate| certificate.uri_sans.first()).map_or("", |uri| &**uri)
}

/// Of `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`; empty when it is none.
fn namespace(principal: &str) -> &str {
    let rest = principal.split_once("/ns/").map_or("", |(_, rest)| rest);
    rest.split_once('/').map_or(rest, |(namespace, _)| namespace)
}
