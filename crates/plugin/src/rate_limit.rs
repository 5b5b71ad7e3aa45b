//! Descriptors of requests: what rate limits of routes and filters count by (`envoy.config.route.v3.RateLimit`).

use crate::{
    access_log::LogKind,
    format::{Format, FormatCx},
    http::{HeaderName, RequestHead},
    info::{PeerAddress, StreamInfo},
    matcher::{HeaderMatcher, QueryParameterMatcher, query_parameters, read},
};
use sota_config::{ConfigError, Mark, Node};
use std::{net::IpAddr, sync::Arc};

/// The rate limits of a route.
#[derive(Debug, Default)]
pub struct RouteRateLimits {
    /// The route's own.
    pub route: Arc<RateLimits>,
    /// Those of its virtual host.
    pub virtual_host: Arc<RateLimits>,
    /// The virtual host's count even where the route has some (`include_vh_rate_limits`).
    pub include_virtual_host: bool,
}

impl RouteRateLimits {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.route.is_empty() && self.virtual_host.is_empty()
    }
}

/// Compiled `envoy.config.route.v3.RateLimit`s.
#[derive(Debug, Clone, Default)]
pub struct RateLimits(Box<[RateLimit]>);

/// What a request is counted by: keys with values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// In the order of the actions.
    pub entries: Vec<(String, String)>,
    /// For how many requests this one counts; `None`: for one.
    pub hits: Option<u64>,
    /// The hits are given back.
    pub is_negative: bool,
    /// Whether the response says how much is left; `None`: as the filter is configured.
    pub x_ratelimit_headers: Option<bool>,
}

#[derive(Debug, Clone)]
struct RateLimit {
    stage: u32,
    disable_key: String,
    actions: Box<[Action]>,
    hits: Hits,
    is_negative: bool,
    x_ratelimit_headers: Option<bool>,
}

#[derive(Debug, Clone)]
enum Hits {
    Number(Option<u64>),
    Format(Format),
}

#[derive(Debug, Clone)]
enum Action {
    SourceCluster,
    DestinationCluster,
    RequestHeader { name: HeaderName, key: String, skip_if_absent: bool },
    QueryParameter { name: String, key: String, skip_if_absent: bool },
    RemoteAddress,
    MaskedRemoteAddress { v4: u8, v6: u8 },
    GenericKey { key: String, value: Value },
    HeaderMatch { key: String, value: Value, expected: bool, headers: Vec<HeaderMatcher> },
    QueryMatch { key: String, value: Value, expected: bool, parameters: Vec<QueryParameterMatcher> },
    Metadata { key: String, path: Vec<String>, of_route: bool, default: String, skip_if_absent: bool },
}

/// A value that may have operators, and what stands for an empty one.
#[derive(Debug, Clone)]
struct Value {
    format: Format,
    default: String,
}

impl RateLimits {
    /// From checked messages. The path of an error begins at the list.
    pub fn read(items: &[Node]) -> Result<Self, ConfigError> {
        let read = |(number, item)| {
            RateLimit::read(item).map_err(|error: ConfigError| error.at(&format!("[{number}]"), Mark::NONE))
        };
        items.iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The descriptors of a request at a stage (0 to 10). `local_cluster`: the name of our own cluster. A rate limit with
    /// an action that has nothing to say makes none, and so does one with a `disable_key` that is not `enabled`.
    pub fn descriptors(
        &self,
        (stage, enabled): (u32, &dyn Fn(&str) -> bool),
        local_cluster: &str,
        head: &RequestHead,
        info: &StreamInfo,
        out: &mut Vec<Descriptor>,
    ) {
        let is_on = |limit: &&RateLimit| limit.disable_key.is_empty() || enabled(&limit.disable_key);
        let limits = self.0.iter().filter(|limit| limit.stage == stage).filter(is_on);
        out.extend(limits.filter_map(|limit| limit.descriptor(local_cluster, head, info)));
    }
}

impl RateLimit {
    fn read(node: &Node) -> Result<Self, ConfigError> {
        let actions = node.list("actions").iter().enumerate().map(|(number, action)| {
            Action::read(action).map_err(|error| error.at(&format!("actions[{number}]"), action.mark))
        });
        let addend = node.field("hits_addend");
        let format = Some(addend.str("format")).filter(|format| !format.is_empty());
        let hits = match format {
            Some(format) => {
                Hits::Format(Format::text(format, true).map_err(|error| error.at("hits_addend.format", addend.mark))?)
            }
            None => Hits::Number(addend.uint("number")),
        };
        Ok(Self {
            stage: node.u32("stage").unwrap_or(0),
            disable_key: node.str("disable_key").to_owned(),
            actions: actions.collect::<Result<_, _>>()?,
            hits,
            is_negative: addend.bool("is_negative_hits"),
            x_ratelimit_headers: match node.str("x_ratelimit_option") {
                "OFF" => Some(false),
                "DRAFT_VERSION_03" => Some(true),
                _ => None,
            },
        })
    }

    fn descriptor(&self, local_cluster: &str, head: &RequestHead, info: &StreamInfo) -> Option<Descriptor> {
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            entries.extend(action.entry(local_cluster, head, info)?);
        }
        let hits = match &self.hits {
            Hits::Number(number) => *number,
            Hits::Format(format) => Some(write(format, head, info).parse().ok()?),
        };
        let x_ratelimit_headers = self.x_ratelimit_headers;
        Some(Descriptor { entries, hits, is_negative: self.is_negative, x_ratelimit_headers })
    }
}

impl Action {
    fn read(action: &Node) -> Result<Self, ConfigError> {
        let [(kind, node)] = action.pairs() else {
            return Err(ConfigError::new("", action.mark, "one kind of action is needed here"));
        };
        let key = |default: &'static str| match node.str("descriptor_key") {
            "" => default.to_owned(),
            key => key.to_owned(),
        };
        let own_key = || node.str("descriptor_key").to_owned();
        let skip_if_absent = node.bool("skip_if_absent");
        let within = |error: ConfigError| error.at(kind, node.mark);
        Ok(match &**kind {
            "source_cluster" => Self::SourceCluster,
            "destination_cluster" => Self::DestinationCluster,
            "request_headers" => Self::RequestHeader {
                name: HeaderName::parse_any(node.str("header_name").as_bytes()).map_err(|error| {
                    ConfigError::new("request_headers.header_name", node.field("header_name").mark, error.to_string())
                })?,
                key: own_key(),
                skip_if_absent,
            },
            "query_parameters" => Self::QueryParameter {
                name: node.str("query_parameter_name").to_owned(),
                key: own_key(),
                skip_if_absent,
            },
            "remote_address" => Self::RemoteAddress,
            "masked_remote_address" => {
                let bits = |key, all: u8| node.u32(key).map_or(all, |bits| u8::try_from(bits).unwrap_or(all).min(all));
                Self::MaskedRemoteAddress { v4: bits("v4_prefix_mask_len", 32), v6: bits("v6_prefix_mask_len", 128) }
            }
            "generic_key" => Self::GenericKey { key: key("generic_key"), value: Value::read(node).map_err(within)? },
            "header_value_match" => {
                let headers: Vec<_> = node.list("headers").iter().map(read::header_matcher).collect();
                Self::HeaderMatch {
                    key: key("header_match"),
                    value: Value::read(node).map_err(within)?,
                    expected: node.bool_or("expect_match", true),
                    headers: HeaderMatcher::build_all(&headers).map_err(within)?,
                }
            }
            "query_parameter_value_match" => {
                let parameters: Vec<_> =
                    node.list("query_parameters").iter().map(read::query_parameter_matcher).collect();
                Self::QueryMatch {
                    key: key("query_match"),
                    value: Value::read(node).map_err(within)?,
                    expected: node.bool_or("expect_match", true),
                    parameters: QueryParameterMatcher::build_all(&parameters).map_err(within)?,
                }
            }
            "metadata" | "dynamic_metadata" => {
                let place = node.field("metadata_key");
                let segments = place.list("path").iter().map(|segment| segment.str("key").to_owned());
                Self::Metadata {
                    key: own_key(),
                    path: std::iter::once(place.str("key").to_owned()).chain(segments).collect(),
                    of_route: node.str("source") == "ROUTE_ENTRY",
                    default: node.str("default_value").to_owned(),
                    skip_if_absent,
                }
            }
            other => return Err(ConfigError::new(other, node.mark, "this action is not there")),
        })
    }

    /// `None`: the action has nothing to say, so there is no descriptor. `Some(None)`: it adds nothing.
    fn entry(&self, local_cluster: &str, head: &RequestHead, info: &StreamInfo) -> Option<Option<(String, String)>> {
        let or_skip = |key: &str, value: Option<String>, skip: bool| match value {
            Some(value) => Some(Some((key.to_owned(), value))),
            None => skip.then_some(None),
        };
        let entry = |key: &str, value: String| Some(Some((key.to_owned(), value)));
        match self {
            Self::SourceCluster => entry("source_cluster", local_cluster.to_owned()),
            Self::DestinationCluster => {
                let route = info.route.as_ref().filter(|route| route.is_forwarding())?;
                entry("destination_cluster", route.cluster_name().to_owned())
            }
            Self::RequestHeader { name, key, skip_if_absent } => {
                or_skip(key, head.get(name).map(text), *skip_if_absent)
            }
            Self::QueryParameter { name, key, skip_if_absent } => {
                let mut all = query_parameters(head.query().unwrap_or_default());
                let found = all.find(|(found, _)| decoded(found) == name.as_bytes());
                or_skip(key, found.map(|(_, value)| text(&decoded(value))), *skip_if_absent)
            }
            Self::RemoteAddress => entry("remote_address", info.remote().ip()?.to_string()),
            Self::MaskedRemoteAddress { v4, v6 } => entry("masked_remote_address", masked(info.remote(), *v4, *v6)?),
            Self::GenericKey { key, value } => entry(key, value.write(head, info)?),
            Self::HeaderMatch { key, value, expected, headers } => {
                let matches = headers.iter().all(|matcher| matcher.matches(head));
                (matches == *expected).then(|| value.write(head, info)).flatten().and_then(|value| entry(key, value))
            }
            Self::QueryMatch { key, value, expected, parameters } => {
                let matches = parameters.iter().all(|matcher| matcher.matches(head));
                (matches == *expected).then(|| value.write(head, info)).flatten().and_then(|value| entry(key, value))
            }
            Self::Metadata { key, path, of_route, default, skip_if_absent } => {
                let (namespace, keys) = path.split_first()?;
                let keys = || keys.iter().map(String::as_str);
                let found = match of_route {
                    true => info
                        .route
                        .as_ref()
                        .and_then(|route| route.metadata())
                        .and_then(|metadata| metadata.field("filter_metadata").get(namespace))
                        .and_then(|node| keys().try_fold(node, Node::get)),
                    false => info.metadata.path(namespace, keys()),
                };
                let value = found.and_then(Node::as_str).filter(|value| !value.is_empty()).unwrap_or(default);
                or_skip(key, (!value.is_empty()).then(|| value.to_owned()), *skip_if_absent)
            }
        }
    }
}

impl Value {
    fn read(node: &Node) -> Result<Self, ConfigError> {
        let value = node.field("descriptor_value");
        let format = Format::text(node.str("descriptor_value"), true);
        Ok(Self {
            format: format.map_err(|error| error.at("descriptor_value", value.mark))?,
            default: node.str("default_value").to_owned(),
        })
    }

    fn write(&self, head: &RequestHead, info: &StreamInfo) -> Option<String> {
        let text = write(&self.format, head, info);
        let text = if text.is_empty() { self.default.clone() } else { text };
        (!text.is_empty()).then_some(text)
    }
}

fn write(format: &Format, head: &RequestHead, info: &StreamInfo) -> String {
    let mut out = Vec::new();
    format.write(&FormatCx { request: Some(head), ..FormatCx::new(info, LogKind::NotSet) }, &mut out);
    text(&out)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The network of an address, as `10.1.0.0/16`.
fn masked(address: &PeerAddress, v4: u8, v6: u8) -> Option<String> {
    let (network, bits): (IpAddr, u8) = match address.ip()? {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(v4)).unwrap_or(0);
            (std::net::Ipv4Addr::from(u32::from(ip) & mask).into(), v4)
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6)).unwrap_or(0);
            (std::net::Ipv6Addr::from(u128::from(ip) & mask).into(), v6)
        }
    };
    Some(format!("{network}/{bits}"))
}

/// Without percent-encoding.
fn decoded(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|c| char::from(*c).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(c) = text.get(at) {
        let pair = digit(at + 1).zip(digit(at + 2)).filter(|_| *c == b'%');
        let octet = pair.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        out.push(octet.unwrap_or(*c));
        at += if octet.is_some() { 3 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http::{Method, Protocol},
        info::ConnectionInfo,
    };
    use sota_config::Value as V;
    use std::{net::SocketAddr, rc::Rc};

    fn map(entries: &[(&str, Node)]) -> Node {
        Node::new(V::Map(entries.iter().map(|(key, node)| ((*key).into(), node.clone())).collect()))
    }

    fn s(text: &str) -> Node {
        Node::string(text)
    }

    fn yes() -> Node {
        Node::new(V::Bool(true))
    }

    fn limits(actions: Vec<Node>) -> Result<RateLimits, ConfigError> {
        RateLimits::read(&[map(&[("actions", Node::new(V::List(actions)))])])
    }

    fn entries(actions: Vec<Node>, path: &str) -> Option<Vec<(String, String)>> {
        let mut head = RequestHead::new(Method::Get, "h", path).unwrap();
        head.headers.append("x-user", "me").unwrap();
        let remote = PeerAddress::from(SocketAddr::from(([10, 1, 2, 3], 1)));
        let mut info =
            StreamInfo::new(Rc::new(ConnectionInfo::new(1, remote.clone(), remote)), 1, Some(Protocol::Http11));
        info.metadata.set("ns", "k", s("v"));
        let mut out = Vec::new();
        let limits = limits(actions).unwrap();
        limits.descriptors((1, &|_| false), "us", &head, &info, &mut out);
        assert!(out.is_empty(), "another stage");
        limits.descriptors((0, &|_| false), "us", &head, &info, &mut out);
        out.pop().map(|descriptor| descriptor.entries)
    }

    fn one(kind: &str, fields: &[(&str, Node)], path: &str) -> Option<String> {
        let entries = entries(vec![map(&[(kind, map(fields))])], path)?;
        Some(entries.into_iter().map(|(key, value)| format!("{key}={value};")).collect())
    }

    /// An action, its fields, and the entries that it makes.
    type Case = (&'static str, Vec<(&'static str, Node)>, Option<&'static str>);

    #[test]
    fn every_action() {
        let user = ("header_name", s("x-user"));
        let none = ("header_name", s("x-none"));
        let key = ("descriptor_key", s("k"));
        let value = ("descriptor_value", s("v"));
        let skip = ("skip_if_absent", yes());
        let query = |name| ("query_parameter_name", s(name));
        let place = |name| ("metadata_key", map(&[("key", s("ns")), ("path", path(name))]));
        fn path(name: &str) -> Node {
            Node::new(V::List(vec![map(&[("key", s(name))])]))
        }
        let header = |name| ("headers", Node::new(V::List(vec![map(&[("name", s(name))])])));
        let parameter = |name| ("query_parameters", Node::new(V::List(vec![map(&[("name", s(name))])])));
        let cases: Vec<Case> = vec![
            ("source_cluster", vec![], Some("source_cluster=us;")),
            ("destination_cluster", vec![], None),
            ("request_headers", vec![user.clone(), key.clone()], Some("k=me;")),
            ("request_headers", vec![none.clone(), key.clone()], None),
            ("request_headers", vec![none, key.clone(), skip.clone()], Some("")),
            ("query_parameters", vec![query("a b"), key.clone()], Some("k=1/2;")),
            ("query_parameters", vec![query("b"), key.clone()], None),
            ("query_parameters", vec![query("b"), key.clone(), skip.clone()], Some("")),
            ("remote_address", vec![], Some("remote_address=10.1.2.3;")),
            ("masked_remote_address", vec![], Some("masked_remote_address=10.1.2.3/32;")),
            (
                "masked_remote_address",
                vec![("v4_prefix_mask_len", Node::new(V::Int(16)))],
                Some("masked_remote_address=10.1.0.0/16;"),
            ),
            ("generic_key", vec![value.clone()], Some("generic_key=v;")),
            ("generic_key", vec![key.clone(), ("descriptor_value", s("%REQ(x-user)%!"))], Some("k=me!;")),
            (
                "generic_key",
                vec![("descriptor_value", s("%REQ(none)%")), ("default_value", s("d"))],
                Some("generic_key=d;"),
            ),
            ("header_value_match", vec![value.clone(), header("x-user")], Some("header_match=v;")),
            ("header_value_match", vec![value.clone(), header("x-none")], None),
            (
                "header_value_match",
                vec![value.clone(), header("x-none"), ("expect_match", Node::new(V::Bool(false)))],
                Some("header_match=v;"),
            ),
            ("query_parameter_value_match", vec![value.clone(), parameter("c")], Some("query_match=v;")),
            ("query_parameter_value_match", vec![value, parameter("d")], None),
            ("metadata", vec![key.clone(), place("k")], Some("k=v;")),
            ("metadata", vec![key.clone(), place("x")], None),
            ("metadata", vec![key.clone(), place("x"), ("default_value", s("d"))], Some("k=d;")),
            ("metadata", vec![key, place("x"), skip], Some("")),
        ];
        for (kind, fields, expected) in cases {
            assert_eq!(one(kind, &fields, "/?a%20b=1%2F2&c").as_deref(), expected, "{kind} {fields:?}");
        }
    }

    #[test]
    fn all_actions_must_have_something_to_say() {
        let generic = || map(&[("generic_key", map(&[("descriptor_value", s("v"))]))]);
        let header = map(&[("request_headers", map(&[("header_name", s("x-none")), ("descriptor_key", s("k"))]))]);
        assert_eq!(entries(vec![generic(), generic()], "/").unwrap().len(), 2);
        assert_eq!(entries(vec![generic(), header], "/"), None);
    }

    #[test]
    fn errors_have_a_place() {
        let bad = map(&[("generic_key", map(&[("descriptor_value", s("%NOPE%"))]))]);
        let error = limits(vec![bad]).unwrap_err();
        assert_eq!(error.path, "[0].actions[0].generic_key.descriptor_value");
    }
}
