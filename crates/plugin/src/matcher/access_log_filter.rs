//! Which entries an access log writes.

use super::{FractionalPercent, HeaderMatcher, MetadataMatcher, error};
use crate::{
    access_log::LogEntry,
    http::{GrpcStatus, RequestHead},
    info::{ResponseFlag, StreamInfo},
    runtime::Runtime,
};
use sota_config::{
    ConfigError,
    access_log::{AccessLogFilter as Config, Comparison as ComparisonConfig, ComparisonOp},
};
use std::sync::Arc;

/// A compiled [`sota_config::access_log::AccessLogFilter`].
#[derive(Debug, Clone)]
pub struct AccessLogFilter(Kind);

#[derive(Debug, Clone)]
enum Kind {
    StatusCode(Comparison),
    Duration(Comparison),
    NotHealthCheck,
    Traceable,
    Runtime(FractionalPercent),
    And(Vec<AccessLogFilter>),
    Or(Vec<AccessLogFilter>),
    Header(HeaderMatcher),
    ResponseFlag(Vec<ResponseFlag>),
    GrpcStatus {
        statuses: Vec<i64>,
        exclude: bool,
    },
    Metadata {
        matcher: Option<MetadataMatcher>,
        match_if_absent: bool,
    },
    /// By the names of the moments: those that never come are among them.
    LogType {
        types: Vec<String>,
        exclude: bool,
    },
}

#[derive(Debug, Clone)]
struct Comparison {
    op: ComparisonOp,
    value: u64,
    runtime: Option<(Box<str>, Arc<Runtime>)>,
}

impl AccessLogFilter {
    /// Fails for a response flag that does not exist and for an invalid header matcher.
    pub fn build(config: &Config, runtime: &Arc<Runtime>) -> Result<Self, ConfigError> {
        let all = |configs: &[Config]| {
            configs.iter().map(|config| Self::build(config, runtime)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self(match config {
            Config::StatusCode(comparison) => Kind::StatusCode(Comparison::build(comparison, runtime)),
            Config::Duration(comparison) => Kind::Duration(Comparison::build(comparison, runtime)),
            Config::NotHealthCheck => Kind::NotHealthCheck,
            Config::Traceable => Kind::Traceable,
            Config::Runtime(fraction) => Kind::Runtime(FractionalPercent::build(fraction, runtime)),
            Config::And(filters) => Kind::And(all(filters)?),
            Config::Or(filters) => Kind::Or(all(filters)?),
            Config::Header(matcher) => Kind::Header(HeaderMatcher::build(matcher)?),
            Config::ResponseFlag(codes) => {
                let flag = |code: &String| {
                    ResponseFlag::from_short(code).ok_or_else(|| error(format!("no response flag is called {code:?}")))
                };
                Kind::ResponseFlag(codes.iter().map(flag).collect::<Result<_, _>>()?)
            }
            Config::GrpcStatus { statuses, exclude } => {
                Kind::GrpcStatus { statuses: statuses.iter().map(|n| i64::from(*n)).collect(), exclude: *exclude }
            }
            Config::Metadata { matcher, match_if_absent } => Kind::Metadata {
                matcher: matcher.as_ref().map(MetadataMatcher::build).transpose()?,
                match_if_absent: *match_if_absent,
            },
            Config::LogType { types, exclude } => Kind::LogType { types: types.clone(), exclude: *exclude },
        }))
    }

    /// Whether the entry is written.
    pub fn matches(&self, entry: &LogEntry<'_>) -> bool {
        let info = entry.info;
        match &self.0 {
            Kind::StatusCode(comparison) => {
                comparison.holds(info.response_code.map_or(0, |status| status.as_u16().into()))
            }
            Kind::Duration(comparison) => {
                comparison.holds(u64::try_from(info.duration().as_millis()).unwrap_or(u64::MAX))
            }
            Kind::NotHealthCheck => !info.is_health_check,
            Kind::Traceable => info.is_traced,
            Kind::Runtime(fraction) => fraction.sample_parts(random_of(info)),
            Kind::And(filters) => filters.iter().all(|filter| filter.matches(entry)),
            Kind::Or(filters) => filters.iter().any(|filter| filter.matches(entry)),
            Kind::Header(matcher) => match entry.request {
                Some(head) => matcher.matches(head),
                None => matcher.matches_with(|_| None),
            },
            Kind::ResponseFlag(flags) if flags.is_empty() => !info.response_flags.is_empty(),
            Kind::ResponseFlag(flags) => flags.iter().any(|flag| info.response_flags.has(*flag)),
            Kind::GrpcStatus { statuses, exclude } => {
                let status = GrpcStatus::of(entry.response_trailers, entry.response, info.response_code);
                statuses.contains(&status.unwrap_or(GrpcStatus::UNKNOWN).0) != *exclude
            }
            Kind::Metadata { matcher, match_if_absent } => {
                let found = matcher
                    .as_ref()
                    .and_then(|matcher| Some((matcher, matcher.find(|namespace| info.metadata.get(namespace))?)));
                found.map_or(*match_if_absent, |(matcher, value)| matcher.matches_value(value))
            }
            Kind::LogType { types, exclude } => types.iter().any(|name| name == entry.kind.as_str()) != *exclude,
        }
    }

    /// Whether a local reply that is about to leave is meant: the same filter, asked before there is a response.
    pub fn matches_local_reply(&self, info: &StreamInfo, request: Option<&RequestHead>) -> bool {
        self.matches(&LogEntry { request, ..LogEntry::new(info, crate::access_log::LogKind::NotSet) })
    }
}

impl Comparison {
    fn build(config: &ComparisonConfig, runtime: &Arc<Runtime>) -> Self {
        let key = config.runtime_key.as_deref().filter(|key| !key.is_empty());
        Self { op: config.op, value: config.value.into(), runtime: key.map(|key| (key.into(), Arc::clone(runtime))) }
    }

    fn holds(&self, actual: u64) -> bool {
        let value = match &self.runtime {
            Some((key, runtime)) => runtime.integer(key, self.value),
            None => self.value,
        };
        match self.op {
            ComparisonOp::Eq => actual == value,
            ComparisonOp::Ge => actual >= value,
            ComparisonOp::Le => actual <= value,
            ComparisonOp::Ne => actual != value,
        }
    }
}

/// The number that decides on sampling: from the request id where that is a UUID, so that every hop and every log
/// decides alike; otherwise random.
fn random_of(info: &StreamInfo) -> u64 {
    const UUID_LEN: usize = 36;
    let id = info.request_id.as_deref().filter(|id| id.len() == UUID_LEN);
    let number = id.and_then(|id| u64::from_str_radix(id.get(..8)?, 16).ok());
    number.unwrap_or_else(|| fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access_log::LogKind,
        http::{Headers, Method, ResponseHead, StatusCode},
        info::{ConnectionInfo, PeerAddress},
    };
    use sota_config::matcher::{FractionalPercent as FractionConfig, HeaderCondition, HeaderMatcher as HeaderConfig};
    use std::{net::SocketAddr, rc::Rc, time::Duration};

    fn info() -> StreamInfo {
        let address = PeerAddress::from(SocketAddr::from(([127, 0, 0, 1], 1)));
        StreamInfo::new(Rc::new(ConnectionInfo::new(1, address.clone(), address)), 1, None)
    }

    fn filter(config: Config) -> AccessLogFilter {
        AccessLogFilter::build(&config, &Arc::default()).unwrap()
    }

    fn compare(op: ComparisonOp, value: u32) -> ComparisonConfig {
        ComparisonConfig { op, value, runtime_key: None }
    }

    #[test]
    fn status_duration_and_their_comparisons() {
        let mut info = info();
        let matches = |info: &StreamInfo, config| filter(config).matches(&LogEntry::new(info, LogKind::DownstreamEnd));
        // A stream without a response counts as status 0.
        assert!(matches(&info, Config::StatusCode(compare(ComparisonOp::Le, 0))));
        info.response_code = Some(StatusCode::NOT_FOUND);
        for (op, value, expected) in [
            (ComparisonOp::Eq, 404, true),
            (ComparisonOp::Eq, 400, false),
            (ComparisonOp::Ge, 404, true),
            (ComparisonOp::Ge, 405, false),
            (ComparisonOp::Le, 404, true),
            (ComparisonOp::Le, 403, false),
            (ComparisonOp::Ne, 404, false),
            (ComparisonOp::Ne, 1, true),
        ] {
            assert_eq!(matches(&info, Config::StatusCode(compare(op, value))), expected, "{op:?} {value}");
        }
        info.timing.end = Some(info.timing.start + Duration::from_millis(1500));
        assert!(matches(&info, Config::Duration(compare(ComparisonOp::Eq, 1500))));
        let nested = Config::And(vec![
            Config::Or(vec![
                Config::StatusCode(compare(ComparisonOp::Ge, 500)),
                Config::Duration(compare(ComparisonOp::Ge, 1000)),
            ]),
            Config::NotHealthCheck,
        ]);
        assert!(matches(&info, nested.clone()));
        info.is_health_check = true;
        assert!(!matches(&info, nested));
        assert!(!matches(&info, Config::Traceable));
        info.is_traced = true;
        assert!(matches(&info, Config::Traceable));
    }

    #[test]
    fn runtime_values_override() {
        let runtime = Arc::new(Runtime::new([("limit".to_owned(), "300".to_owned())].into()));
        let config = Config::StatusCode(ComparisonConfig {
            op: ComparisonOp::Ge,
            value: 500,
            runtime_key: Some("limit".to_owned()),
        });
        let filter = AccessLogFilter::build(&config, &runtime).unwrap();
        let mut info = info();
        info.response_code = Some(StatusCode::NOT_FOUND);
        assert!(filter.matches(&LogEntry::new(&info, LogKind::DownstreamEnd)));
        runtime.replace([].into());
        assert!(!filter.matches(&LogEntry::new(&info, LogKind::DownstreamEnd)));
    }

    #[test]
    fn sampling_follows_the_request_id() {
        let sampled = filter(Config::Runtime(FractionConfig { numerator: 50, denominator: 100, runtime_key: None }));
        let mut info = info();
        for (id, expected) in
            [("00000031-0000-4000-8000-000000000000", true), ("00000032-0000-4000-8000-000000000000", false)]
        {
            info.request_id = Some(id.into());
            assert_eq!(sampled.matches(&LogEntry::new(&info, LogKind::DownstreamEnd)), expected);
        }
        info.request_id = Some("no uuid".into());
        let some = (0..1000).filter(|_| sampled.matches(&LogEntry::new(&info, LogKind::DownstreamEnd))).count();
        assert!((300..700).contains(&some), "{some}");
    }

    #[test]
    fn flags_headers_and_grpc() {
        let mut info = info();
        let flags = |codes: &[&str]| filter(Config::ResponseFlag(codes.iter().map(|c| (*c).to_owned()).collect()));
        assert!(!flags(&[]).matches(&LogEntry::new(&info, LogKind::DownstreamEnd)));
        info.response_flags.set(ResponseFlag::NoRouteFound);
        assert!(flags(&[]).matches(&LogEntry::new(&info, LogKind::DownstreamEnd)));
        assert!(flags(&["UF", "NR"]).matches(&LogEntry::new(&info, LogKind::DownstreamEnd)));
        assert!(!flags(&["UF"]).matches(&LogEntry::new(&info, LogKind::DownstreamEnd)));
        let error = AccessLogFilter::build(&Config::ResponseFlag(vec!["XX".into()]), &Arc::default()).unwrap_err();
        assert_eq!(error.reason, "no response flag is called \"XX\"");

        let header = filter(Config::Header(HeaderConfig {
            name: "x-a".into(),
            condition: HeaderCondition::Present(true),
            invert: false,
            treat_missing_as_empty: false,
        }));
        let mut head = RequestHead::new(Method::Get, "h", "/").unwrap();
        assert!(!header.matches(&LogEntry::new(&info, LogKind::TcpConnectionEnd)));
        assert!(!header.matches_local_reply(&info, Some(&head)));
        head.headers.append("x-a", "").unwrap();
        assert!(header.matches_local_reply(&info, Some(&head)));

        let grpc = |statuses: &[u32], exclude| filter(Config::GrpcStatus { statuses: statuses.into(), exclude });
        let response = ResponseHead::new(StatusCode::OK);
        let trailers: Headers = [("grpc-status", "5")].into_iter().collect();
        let entry = LogEntry {
            response: Some(&response),
            response_trailers: Some(&trailers),
            ..LogEntry::new(&info, LogKind::DownstreamEnd)
        };
        assert!(grpc(&[5], false).matches(&entry) && !grpc(&[5], true).matches(&entry));
        assert!(!grpc(&[0, 2], false).matches(&entry) && grpc(&[0], true).matches(&entry));
        assert!(grpc(&[2], false).matches(&LogEntry::new(&info, LogKind::DownstreamEnd)));
    }

    #[test]
    fn metadata_and_moments() {
        use sota_config::{
            Node,
            matcher::{MetadataMatcher as MetadataConfig, ValueMatcher},
        };
        let mut info = info();
        let metadata = |match_if_absent| {
            let matcher = MetadataConfig {
                namespace: "a".into(),
                path: vec!["b".into()],
                value: ValueMatcher::Bool(true),
                invert: false,
            };
            filter(Config::Metadata { matcher: Some(matcher), match_if_absent })
        };
        assert!(
            metadata(true).matches(&LogEntry::new(&info, LogKind::DownstreamEnd))
                && !metadata(false).matches(&LogEntry::new(&info, LogKind::DownstreamEnd))
        );
        assert!(
            filter(Config::Metadata { matcher: None, match_if_absent: true })
                .matches(&LogEntry::new(&info, LogKind::DownstreamEnd))
        );
        for value in [true, false] {
            info.metadata.set("a", "b", Node::new(sota_config::Value::Bool(value)));
            assert_eq!(metadata(!value).matches(&LogEntry::new(&info, LogKind::DownstreamEnd)), value);
        }
        let types = |types: &[&str], exclude| {
            filter(Config::LogType { types: types.iter().map(|name| (*name).to_owned()).collect(), exclude })
        };
        assert!(
            types(&["DownstreamStart", "DownstreamEnd"], false).matches(&LogEntry::new(&info, LogKind::DownstreamEnd))
        );
        assert!(!types(&["DownstreamEnd"], true).matches(&LogEntry::new(&info, LogKind::DownstreamEnd)));
        assert!(
            !types(&["UdpPeriodic"], false).matches(&LogEntry::new(&info, LogKind::DownstreamEnd))
                && types(&[], true).matches(&LogEntry::new(&info, LogKind::DownstreamEnd))
        );
    }
}
