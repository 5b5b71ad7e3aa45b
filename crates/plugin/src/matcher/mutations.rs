//! Changes to fields of requests and responses.

use super::error;
use crate::{
    format::{Format, FormatCx},
    http::{HeaderId, HeaderName, Headers, RequestHead, ResponseHead},
    info::StreamInfo,
};
use smallvec::SmallVec;
use sota_config::{
    ConfigError,
    route::{AppendAction, HeaderMutations as Config, HeaderValueOption},
};
use std::{cell::Cell, ops::Range};

/// Compiled [`sota_config::route::HeaderMutations`]: names that are removed, then fields that are added. All values
/// are made before the first field changes, so they show the head without these additions.
#[derive(Debug, Clone, Default)]
pub struct HeaderMutations {
    remove: Box<[HeaderName]>,
    add: Box<[Addition]>,
}

#[derive(Debug, Clone)]
struct Addition {
    name: HeaderName,
    value: Format,
    append_action: AppendAction,
    keep_empty_value: bool,
}

/// Values that a head needs before it changes: additions with where their values stand.
type Planned = SmallVec<[(usize, Range<usize>); 8]>;

thread_local! {
    /// Room for values, so that adding fields allocates nothing in the steady state.
    static VALUES: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// More than this is given back.
const LARGE_VALUES: usize = 4096;

impl HeaderMutations {
    /// Fails for pseudo-header fields and `host`, which routes rewrite by other means, for names that are no names,
    /// and for values whose format is wrong.
    pub fn build(config: &Config) -> Result<Self, ConfigError> {
        let remove = config.remove.iter().map(|name| header_name(name, "removed")).collect::<Result<_, _>>()?;
        let add = config.add.iter().map(Addition::build).collect::<Result<_, _>>()?;
        Ok(Self { remove, add })
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Changes the fields of a request; values see this request.
    pub fn apply_request(&self, head: &mut RequestHead, info: &StreamInfo) {
        if self.is_empty() {
            return;
        }
        self.remove_from(&mut head.headers);
        let mut values = VALUES.take();
        let cx = FormatCx { request: Some(&*head), ..FormatCx::new(info, crate::access_log::LogKind::NotSet) };
        let planned = self.plan(&head.headers, &cx, &mut values);
        self.carry_out(&planned, &values, &mut head.headers);
        give_back(values);
    }

    /// Changes the fields of a response; values see it and its request.
    pub fn apply_response(&self, head: &mut ResponseHead, request: Option<&RequestHead>, info: &StreamInfo) {
        if self.is_empty() {
            return;
        }
        self.remove_from(&mut head.headers);
        let mut values = VALUES.take();
        let cx =
            FormatCx { request, response: Some(&*head), ..FormatCx::new(info, crate::access_log::LogKind::NotSet) };
        let planned = self.plan(&head.headers, &cx, &mut values);
        self.carry_out(&planned, &values, &mut head.headers);
        give_back(values);
    }

    /// Changes any list of fields, such as those of a local reply or trailers; what values see is in `cx`.
    pub fn apply(&self, headers: &mut Headers, cx: &FormatCx<'_>) {
        if self.is_empty() {
            return;
        }
        self.remove_from(headers);
        let mut values = VALUES.take();
        let planned = self.plan(headers, cx, &mut values);
        self.carry_out(&planned, &values, headers);
        give_back(values);
    }

    fn remove_from(&self, headers: &mut Headers) {
        for name in &self.remove {
            headers.remove(name);
        }
    }

    fn plan(&self, headers: &Headers, cx: &FormatCx<'_>, values: &mut Vec<u8>) -> Planned {
        let mut planned = Planned::new();
        for (index, addition) in self.add.iter().enumerate() {
            let wanted = match addition.append_action {
                AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => true,
                AppendAction::AddIfAbsent => !headers.contains(&addition.name),
                AppendAction::OverwriteIfExists => headers.contains(&addition.name),
            };
            if !wanted {
                continue;
            }
            let start = values.len();
            addition.value.write(cx, values);
            if values.len() > start || addition.keep_empty_value {
                planned.push((index, start..values.len()));
            }
        }
        planned
    }

    fn carry_out(&self, planned: &Planned, values: &[u8], headers: &mut Headers) {
        let additions = || {
            planned.iter().filter_map(|(index, value)| {
                let addition = self.add.get(*index)?;
                Some((addition, values.get(value.clone()).unwrap_or_default()))
            })
        };
        for (addition, value) in additions().filter(|(addition, _)| addition.overwrites()) {
            if !is_inline(&addition.name) {
                // Compat: the field moves to the end.
                headers.remove(&addition.name);
            }
            headers.set_sanitized(&addition.name, value);
        }
        for (addition, value) in additions().filter(|(addition, _)| !addition.overwrites()) {
            let is_joined = is_inline(&addition.name)
                && headers.contains(&addition.name)
                && headers.append_to(&addition.name, ",", value).is_ok();
            if !is_joined {
                headers.append_sanitized(&addition.name, value);
            }
        }
    }
}

impl Addition {
    fn build(config: &HeaderValueOption) -> Result<Self, ConfigError> {
        let value = Format::header_value(&config.value)
            .map_err(|e| error(format!("value of header {}: {}", config.name, e.reason)))?;
        Ok(Self {
            name: header_name(&config.name, "modified")?,
            value,
            append_action: config.append_action,
            keep_empty_value: config.keep_empty_value,
        })
    }

    fn overwrites(&self) -> bool {
        matches!(self.append_action, AppendAction::OverwriteIfExists | AppendAction::OverwriteIfExistsOrAdd)
    }
}

fn header_name(name: &str, what: &str) -> Result<HeaderName, ConfigError> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(error(format!("{name:?}: :-prefixed or host headers may not be {what}")));
    }
    HeaderName::parse(name.as_bytes()).map_err(|reason| error(format!("header name {name:?}: {reason}")))
}

fn give_back(mut values: Vec<u8>) {
    values.clear();
    values.shrink_to(LARGE_VALUES);
    VALUES.set(values);
}

/// Fields of which Envoy keeps one entry: another value joins the first, and a new value stays in its place.
fn is_inline(name: &HeaderName) -> bool {
    use HeaderId as H;
    matches!(
        name.id(),
        Some(
            H::Connection
                | H::ContentLength
                | H::ContentType
                | H::Date
                | H::Expect
                | H::GrpcMessage
                | H::GrpcStatus
                | H::GrpcTimeout
                | H::KeepAlive
                | H::ProxyConnection
                | H::ProxyStatus
                | H::Server
                | H::Te
                | H::TransferEncoding
                | H::Upgrade
                | H::UserAgent
                | H::Via
                | H::XClientTraceId
                | H::XEnvoyAttemptCount
                | H::XEnvoyDecoratorOperation
                | H::XEnvoyDegraded
                | H::XEnvoyDownstreamServiceCluster
                | H::XEnvoyDownstreamServiceNode
                | H::XEnvoyExpectedRqTimeoutMs
                | H::XEnvoyExternalAddress
                | H::XEnvoyForceTrace
                | H::XEnvoyHedgeOnPerTryTimeout
                | H::XEnvoyImmediateHealthCheckFail
                | H::XEnvoyInternal
                | H::XEnvoyIpTags
                | H::XEnvoyIsTimeoutRetry
                | H::XEnvoyMaxRetries
                | H::XEnvoyOriginalPath
                | H::XEnvoyRatelimited
                | H::XEnvoyRetriableHeaderNames
                | H::XEnvoyRetriableStatusCodes
                | H::XEnvoyRetryGrpcOn
                | H::XEnvoyRetryOn
                | H::XEnvoyUpstreamAltStatName
                | H::XEnvoyUpstreamCanary
                | H::XEnvoyUpstreamHealthcheckedCluster
                | H::XEnvoyUpstreamRqPerTryTimeoutMs
                | H::XEnvoyUpstreamRqTimeoutAltResponse
                | H::XEnvoyUpstreamRqTimeoutMs
                | H::XEnvoyUpstreamServiceTime
                | H::XForwardedClientCert
                | H::XForwardedFor
                | H::XForwardedHost
                | H::XForwardedPort
                | H::XForwardedProto
                | H::XRequestId
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http::{Method, Protocol, StatusCode},
        info::{ConnectionInfo, PeerAddress},
    };
    use std::{net::SocketAddr, rc::Rc};

    fn info() -> StreamInfo {
        let address = PeerAddress::from(SocketAddr::from(([127, 0, 0, 1], 80)));
        StreamInfo::new(Rc::new(ConnectionInfo::new(1, address.clone(), address)), 1, Some(Protocol::Http11))
    }

    fn option(name: &str, value: &str, append_action: AppendAction) -> HeaderValueOption {
        HeaderValueOption { name: name.into(), value: value.into(), append_action, keep_empty_value: false }
    }

    fn lines(headers: &Headers) -> Vec<String> {
        headers.iter().map(|(n, v)| format!("{}: {}", n.escape_ascii(), v.escape_ascii())).collect()
    }

    /// The same mutations on the same request gave this with Envoy 1.40, in this order.
    #[test]
    fn requests_as_envoy_changes_them() {
        use AppendAction::{
            AddIfAbsent as Absent, AppendIfExistsOrAdd as Append, OverwriteIfExists as Existing,
            OverwriteIfExistsOrAdd as Overwrite,
        };
        let mut config = Config {
            remove: vec!["x-rm".into()],
            add: vec![
                option("x-app", "2", Append),
                option("x-new", "%REQ(x-ex)%-%PROTOCOL%-%%-%REQ(no)%", Existing),
                option("x-ex", "new %REQ(x-ex)%", Existing),
                option("x-ex2", "two", Overwrite),
                option("x-abs", "no", Absent),
                option("x-abs2", "yes-%REQ(no)%", Absent),
                option("x-empty", "%REQ(no)%", Append),
                option("x-kept", "%REQ(no)%", Append),
                option("x-two", "3", Overwrite),
                option("x-a1", "1", Absent),
                option("x-a1", "2", Absent),
                option("x-rm", "back", Append),
                option("x-ovr", "1", Overwrite),
                option("x-ovr", "2", Overwrite),
                option("content-type", "a", Append),
                option("content-type", "b", Append),
            ],
        };
        config.add[7].keep_empty_value = true;
        let mut head = RequestHead::new(Method::Get, "h", "/q").unwrap();
        for (name, value) in [
            ("x-rm", "1"),
            ("x-ex", "old"),
            ("x-ex2", "old"),
            ("x-app", "1"),
            ("x-abs", "here"),
            ("x-two", "1"),
            ("x-two", "2"),
        ] {
            head.headers.append(name, value).unwrap();
        }
        let mutations = HeaderMutations::build(&config).unwrap();
        mutations.apply_request(&mut head, &info());
        let expected = [
            "x-app: 1",
            "x-abs: here",
            "x-ex: new old",
            "x-ex2: two",
            "x-two: 3",
            "x-ovr: 2",
            "x-app: 2",
            "x-abs2: yes-",
            "x-kept: ",
            "x-a1: 1",
            "x-a1: 2",
            "x-rm: back",
            "content-type: a,b",
        ];
        assert_eq!(lines(&head.headers), expected);
    }

    #[test]
    fn responses_see_their_request() {
        let config = Config {
            remove: vec!["x-gone".into()],
            add: vec![
                option("x-up", "2", AppendAction::AppendIfExistsOrAdd),
                option("x-seen", "%RESPONSE_CODE% %RESP(x-up)% %REQ(:path)%", AppendAction::AppendIfExistsOrAdd),
                option("server", "me", AppendAction::OverwriteIfExistsOrAdd),
            ],
        };
        let request = RequestHead::new(Method::Get, "h", "/q?x").unwrap();
        let mut head = ResponseHead::new(StatusCode::OK).with("server", "them").with("x-up", "1").with("x-gone", "1");
        let mut info = info();
        info.response_code = Some(StatusCode::OK);
        HeaderMutations::build(&config).unwrap().apply_response(&mut head, Some(&request), &info);
        assert_eq!(lines(&head.headers), ["server: me", "x-up: 1", "x-up: 2", "x-seen: 200 1 /q?x"]);
    }

    #[test]
    fn values_cannot_split_a_head() {
        let mut info = info();
        info.metadata.set("ns", "k", sota_config::Node::string("a\r\nb: c"));
        let config = Config {
            remove: Vec::new(),
            add: vec![option("x-a", "%DYNAMIC_METADATA([\"ns\", \"k\"])%", AppendAction::AppendIfExistsOrAdd)],
        };
        let mut headers = Headers::new();
        let cx = FormatCx::new(&info, crate::access_log::LogKind::NotSet);
        HeaderMutations::build(&config).unwrap().apply(&mut headers, &cx);
        assert_eq!(lines(&headers), ["x-a: a  b: c"]);
    }

    #[test]
    fn what_envoy_refuses() {
        let reason = |name: &str, value: &str| {
            let add = vec![option(name, value, AppendAction::AppendIfExistsOrAdd)];
            HeaderMutations::build(&Config { remove: Vec::new(), add }).unwrap_err().reason
        };
        assert_eq!(reason(":path", "x"), "\":path\": :-prefixed or host headers may not be modified");
        assert_eq!(reason("Host", "x"), "\"Host\": :-prefixed or host headers may not be modified");
        assert_eq!(reason("a b", "x"), "header name \"a b\": not a valid field name");
        assert_eq!(reason("x", "%FOO_BAR_BAZ%"), "value of header x: unknown operator FOO_BAR_BAZ");
        assert!(reason("x", "%").starts_with("value of header x: \"%\": no valid operator at position 0"));
        for name in ["host", ":status"] {
            let error = HeaderMutations::build(&Config { remove: vec![name.into()], add: Vec::new() }).unwrap_err();
            assert_eq!(error.reason, format!("{name:?}: :-prefixed or host headers may not be removed"));
        }
    }
}
