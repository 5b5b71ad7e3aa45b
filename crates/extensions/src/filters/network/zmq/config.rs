//! What a configuration may say, with its defaults; and what is made of it.

use super::{
    ask::AskerConfig,
    outbox::Watermark,
    pump::Patience,
    routes::{Route, Routes},
    security::{Admission, ClientSecurity, ServerSecurity},
};
use serde::Deserialize;
use sota_codec::zmtp::{HeartbeatOptions, Limits, Options, Security, SocketType, Version};
use sota_config::{ConfigError, Mark, TypedConfig};
use sota_plugin::{FactoryContext, de::read_config};
use std::{fmt, sync::Arc, time::Duration};

/// The document. Each field is described in `docs/zeromq.md`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    stat_prefix: String,
    socket_type: Option<Name<SocketType>>,
    routes: Vec<Route>,
    passthrough_cluster: Option<String>,
    min_version: Name<Version>,
    max_version: Name<Version>,
    lenient: bool,
    refuse_reserved_identity: bool,
    security: Option<ServerSecurity>,
    heartbeat: Heartbeat,
    limits: LimitsDocument,
    handshake_timeout: Time,
    face_wait: Time,
    write_timeout: Time,
    max_handshakes_per_address: u32,
    high_watermark: WatermarkDocument,
    max_in_flight: u32,
    reply_timeout: Option<Time>,
    worker_wait: Time,
    on_failure: OnFailure,
    upstream: Upstream,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            stat_prefix: String::new(),
            socket_type: None,
            routes: Vec::new(),
            passthrough_cluster: None,
            min_version: Name(Version::V2_0),
            max_version: Name(Version::V3_1),
            lenient: false,
            refuse_reserved_identity: false,
            security: None,
            heartbeat: Heartbeat::default(),
            limits: LimitsDocument::default(),
            handshake_timeout: Time(Duration::from_secs(10)),
            face_wait: Time(Duration::from_secs(1)),
            write_timeout: Time(Duration::from_secs(30)),
            max_handshakes_per_address: 1024,
            high_watermark: WatermarkDocument::default(),
            max_in_flight: 1000,
            reply_timeout: None,
            worker_wait: Time(Duration::from_secs(5)),
            on_failure: OnFailure::Close,
            upstream: Upstream::default(),
        }
    }
}

impl Document {
    /// What cannot be meant. Zero is refused wherever it would be a limit or a wait.
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        const ZERO: &str = "must be above 0";
        let (limits, upstream) = (&self.limits, &self.upstream);
        let times = [
            ("handshake_timeout", self.handshake_timeout),
            ("face_wait", self.face_wait),
            ("write_timeout", self.write_timeout),
            ("worker_wait", self.worker_wait),
            ("reply_timeout", self.reply_timeout.unwrap_or(self.worker_wait)),
            ("upstream.handshake_timeout", upstream.handshake_timeout),
            ("upstream.reconnect.base", upstream.reconnect.base),
        ];
        let check = upstream.health_check.map(|check| ("upstream.health_check.interval", check.interval));
        if let Some((field, _)) = times.into_iter().chain(check).find(|(_, time)| time.0.is_zero()) {
            return Err((field, ZERO));
        }
        let numbers = [
            ("max_in_flight", self.max_in_flight == 0),
            ("high_watermark.messages", self.high_watermark.messages == 0),
            ("high_watermark.bytes", self.high_watermark.bytes == 0),
            ("limits.max_frame_bytes", limits.max_frame_bytes == 0),
            ("limits.max_message_bytes", limits.max_message_bytes == 0),
            ("limits.max_frames_per_message", limits.max_frames_per_message == 0),
            ("limits.max_command_bytes", limits.max_command_bytes == 0),
            ("limits.max_metadata_bytes", limits.max_metadata_bytes == 0),
            ("limits.max_properties", limits.max_properties == 0),
            ("limits.max_topic_bytes", limits.max_topic_bytes == 0),
            ("limits.max_subscriptions", limits.max_subscriptions == 0),
            ("limits.max_pings_per_second", limits.max_pings_per_second == 0),
        ];
        if let Some((field, _)) = numbers.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err((field, ZERO));
        }
        let refused = [
            ("min_version", self.min_version.0 > self.max_version.0, "is above max_version"),
            ("upstream.min_version", upstream.min_version.0 > upstream.max_version.0, "is above upstream.max_version"),
            ("upstream.identity", upstream.identity.len() > 255, "has more than 255 octets"),
            ("upstream.reconnect.max", upstream.reconnect.max.0 < upstream.reconnect.base.0, "is below base"),
            ("heartbeat", self.heartbeat.is_idle(), NO_INTERVAL),
            ("upstream.heartbeat", upstream.heartbeat.is_idle(), NO_INTERVAL),
        ];
        refused.into_iter().find(|(_, is_wrong, _)| *is_wrong).map_or(Ok(()), |(field, _, reason)| Err((field, reason)))
    }
}

/// Fields that only a broker looks at.
const OF_BROKERS: [&str; 6] = ["face_wait", "max_in_flight", "reply_timeout", "worker_wait", "on_failure", "upstream"];
/// Fields that need somebody who reads the messages.
const OF_READERS: [&str; 9] = [
    "socket_type",
    "min_version",
    "max_version",
    "lenient",
    "refuse_reserved_identity",
    "heartbeat",
    "limits",
    "write_timeout",
    "high_watermark",
];

/// Refuses what would change nothing.
fn refuse_idle_fields(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<(), ConfigError> {
    let TypedConfig::Value { node, .. } = config else { return Ok(()) };
    let find = |fields: &[&'static str]| fields.iter().copied().find(|field| node.has(field));
    if node.has("passthrough_cluster")
        && let Some(field) = find(&OF_READERS).or_else(|| find(&OF_BROKERS))
    {
        return Err(cx.error_in(config, field, "changes nothing with passthrough_cluster: the bytes pass as they are"));
    }
    if node.list("routes").is_empty()
        && let Some(field) = find(&OF_BROKERS)
    {
        return Err(cx.error_in(config, field, "changes nothing without routes: messages are sent back"));
    }
    for (at, route) in node.list("routes").iter().enumerate() {
        let rule = route.field("match");
        let is_open = !rule.has("prefix") && !rule.has("exact");
        if is_open && rule.has("frame") {
            let reason = "changes nothing without prefix or exact";
            return Err(cx.error_in(config, &format!("routes[{at}].match.frame"), reason));
        }
        if is_open && rule.list("socket_types").is_empty() && at + 1 < node.list("routes").len() {
            let reason = format!("is never reached: routes[{at}] takes everything");
            return Err(cx.error_in(config, &format!("routes[{}]", at + 1), reason));
        }
    }
    Ok(())
}

/// What is done for a client whose request gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnFailure {
    /// Its connection is closed: the application notices, and may begin anew.
    Close,
    /// It gets an answer of one frame: `ERR` and the reason.
    Reply,
}

/// How hosts of clusters are talked to.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Upstream {
    identity: String,
    min_version: Name<Version>,
    max_version: Name<Version>,
    security: Option<ClientSecurity>,
    heartbeat: Heartbeat,
    handshake_timeout: Time,
    reconnect: Reconnect,
    health_check: Option<HealthCheck>,
}

/// Hosts are connected to before anybody asks for them: a handshake says that one is well.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthCheck {
    /// How long at most a host that has failed is left alone.
    pub(super) interval: Time,
    /// What we are for the hosts.
    #[serde(default = "dealer")]
    pub(super) socket_type: Name<SocketType>,
}

fn dealer() -> Name<SocketType> {
    Name(SocketType::Dealer)
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            identity: String::new(),
            min_version: Name(Version::V2_0),
            max_version: Name(Version::V3_1),
            security: None,
            heartbeat: Heartbeat::default(),
            handshake_timeout: Time(Duration::from_secs(10)),
            reconnect: Reconnect::default(),
            health_check: None,
        }
    }
}

/// The wait before a host is tried again; it doubles each time, and is made longer by up to a half at random.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Reconnect {
    pub(super) base: Time,
    pub(super) max: Time,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { base: Time(Duration::from_millis(100)), max: Time(Duration::from_secs(5)) }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Heartbeat {
    interval: Time,
    timeout: Time,
    ttl: Time,
}

const NO_INTERVAL: &str = "timeout and ttl change nothing without an interval";

impl Heartbeat {
    fn is_idle(&self) -> bool {
        self.interval.0.is_zero() && !(self.timeout.0.is_zero() && self.ttl.0.is_zero())
    }

    fn options(&self) -> HeartbeatOptions {
        HeartbeatOptions { interval: self.interval.0, timeout: self.timeout.0, ttl: self.ttl.0 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WatermarkDocument {
    messages: usize,
    bytes: usize,
}

impl Default for WatermarkDocument {
    fn default() -> Self {
        Self { messages: 1000, bytes: 16 << 20 }
    }
}

/// The codec's limits under the same names and with the same defaults.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsDocument {
    max_frame_bytes: u64,
    max_message_bytes: u64,
    max_frames_per_message: u32,
    max_command_bytes: usize,
    max_metadata_bytes: usize,
    max_properties: usize,
    max_topic_bytes: usize,
    max_subscriptions: usize,
    max_pings_per_second: u16,
}

impl Default for LimitsDocument {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            max_frame_bytes: limits.max_frame_bytes,
            max_message_bytes: limits.max_message_bytes,
            max_frames_per_message: limits.max_frames_per_message,
            max_command_bytes: limits.max_command_bytes,
            max_metadata_bytes: limits.max_metadata_bytes,
            max_properties: limits.max_properties,
            max_topic_bytes: limits.max_topic_bytes,
            max_subscriptions: limits.max_subscriptions,
            max_pings_per_second: limits.max_pings_per_second,
        }
    }
}

impl LimitsDocument {
    fn limits(&self) -> Limits {
        Limits {
            max_frame_bytes: self.max_frame_bytes,
            max_message_bytes: self.max_message_bytes,
            max_frames_per_message: self.max_frames_per_message,
            max_command_bytes: self.max_command_bytes,
            max_metadata_bytes: self.max_metadata_bytes,
            max_properties: self.max_properties,
            max_topic_bytes: self.max_topic_bytes,
            max_subscriptions: self.max_subscriptions,
            max_pings_per_second: self.max_pings_per_second,
        }
    }
}

/// What is made of the document, once for all threads.
pub(super) struct Settings {
    /// `zmq.` or `zmq.<stat_prefix>.`
    pub(super) stat_prefix: String,
    /// Of connections of clients.
    pub(super) options: Arc<Options>,
    /// Who may come in.
    pub(super) admission: Admission,
    pub(super) patience: Patience,
    /// Zero: any number.
    pub(super) max_handshakes_per_address: u32,
    pub(super) watermark: Watermark,
    /// Requests of one client that wait for their answer.
    pub(super) max_in_flight: usize,
    pub(super) reply_timeout: Option<Duration>,
    /// How long a request waits for a worker that can be reached.
    pub(super) worker_wait: Duration,
    pub(super) on_failure: OnFailure,
    /// Without routes messages are sent back.
    pub(super) routes: Option<Routes>,
    /// Bytes go to this cluster as they are.
    pub(super) passthrough_cluster: Option<Arc<str>>,
    /// Of connections to hosts; the socket type is chosen for each.
    pub(super) upstream: Options,
    pub(super) reconnect: Reconnect,
    pub(super) health_check: Option<HealthCheck>,
}

impl Settings {
    /// Reads a configuration; nothing but the name gives the defaults.
    pub(super) fn read(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let document = read_config(config, cx)?;
        refuse_idle_fields(config, cx)?;
        Self::build(document, &|field, reason| cx.error_in(config, field, reason), cx)
    }

    /// For requests that are made without ZeroMQ clients.
    pub(super) fn to_ask(config: AskerConfig, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        if config.timeout.0.is_zero() {
            return Err(cx.error("workers.timeout", Mark::NONE, "must be above 0"));
        }
        let document = Document {
            stat_prefix: config.stat_prefix,
            routes: vec![Route::to(config.cluster)],
            reply_timeout: Some(config.timeout),
            worker_wait: config.worker_wait,
            upstream: config.upstream,
            ..Document::default()
        };
        Self::build(document, &|field, reason| cx.error(field, Mark::NONE, reason), cx)
    }

    fn build(
        document: Document,
        fail: &dyn Fn(&str, String) -> ConfigError,
        cx: &FactoryContext<'_>,
    ) -> Result<Self, ConfigError> {
        document.check().map_err(|(field, reason)| fail(field, reason.to_owned()))?;
        let (security, admission) = match &document.security {
            None => (Security::Null, Admission::Anybody),
            Some(security) => security.build().map_err(|reason| fail("security", reason))?,
        };
        let upstream_security = match &document.upstream.security {
            None => Security::Null,
            Some(security) => security.build().map_err(|reason| fail("upstream.security", reason))?,
        };
        if document.passthrough_cluster.is_some() && (!document.routes.is_empty() || document.security.is_some()) {
            let reason = "goes with neither routes nor security: the bytes pass as they are";
            return Err(fail("passthrough_cluster", reason.to_owned()));
        }
        if let Some(check) = &document.upstream.health_check
            && !matches!(check.socket_type.0, SocketType::Dealer | SocketType::Push)
        {
            let reason = format!("{} does not choose among hosts: DEALER or PUSH", check.socket_type.0);
            return Err(fail("upstream.health_check.socket_type", reason));
        }
        let passthrough_cluster: Option<Arc<str>> = document.passthrough_cluster.map(Arc::from);
        let routes = Routes::new(document.routes);
        let mut to = routes.iter().flat_map(Routes::clusters).chain(&passthrough_cluster);
        if let Some(unknown) = to.find(|name| cx.clusters.is_some_and(|exists| !exists(name))) {
            let at = if passthrough_cluster.is_some() { "passthrough_cluster" } else { "routes" };
            return Err(fail(at, format!("there is no cluster \"{unknown}\"")));
        }
        if let Some(Name(face)) = document.socket_type
            && !is_face(face, routes.is_some())
        {
            let what = if routes.is_some() { "a broker with routes" } else { "a socket that sends messages back" };
            return Err(fail("socket_type", format!("{what} can't be a {face}")));
        }
        let limits = document.limits.limits();
        Ok(Self {
            stat_prefix: match &*document.stat_prefix {
                "" => "zmq.".to_owned(),
                prefix => format!("zmq.{prefix}."),
            },
            options: Arc::new(Options {
                socket_type: document.socket_type.as_ref().map_or(SocketType::Router, |name| name.0),
                // A broker meets sockets of every type; what echoes is a ROUTER.
                auto_face: document.socket_type.is_none() && routes.is_some(),
                security,
                min_version: document.min_version.0,
                max_version: document.max_version.0,
                lenient: document.lenient,
                refuse_reserved_identity: document.refuse_reserved_identity,
                handshake_timeout: document.handshake_timeout.0,
                heartbeat: document.heartbeat.options(),
                limits: limits.clone(),
                ..Options::default()
            }),
            admission,
            patience: Patience { face: document.face_wait.0, write: document.write_timeout.0 },
            max_handshakes_per_address: document.max_handshakes_per_address,
            watermark: Watermark { messages: document.high_watermark.messages, bytes: document.high_watermark.bytes },
            max_in_flight: usize::try_from(document.max_in_flight).unwrap_or(usize::MAX),
            reply_timeout: document.reply_timeout.map(|time| time.0),
            worker_wait: document.worker_wait.0,
            on_failure: document.on_failure,
            routes,
            passthrough_cluster,
            upstream: Options {
                security: upstream_security,
                identity: document.upstream.identity.as_bytes().into(),
                min_version: document.upstream.min_version.0,
                max_version: document.upstream.max_version.0,
                lenient: document.lenient,
                handshake_timeout: document.upstream.handshake_timeout.0,
                heartbeat: document.upstream.heartbeat.options(),
                limits,
                ..Options::default()
            },
            reconnect: document.upstream.reconnect,
            health_check: document.upstream.health_check,
        })
    }
}

/// Whether a filter may show its clients this socket type and no other.
fn is_face(face: SocketType, has_routes: bool) -> bool {
    use SocketType::{Dealer, Pair, Rep, Req, Router};
    match face {
        Dealer | Pair | Router => true,
        Rep => !has_routes,
        Req => false,
        _ => has_routes,
    }
}

/// A duration as in Envoy's JSON (`0.25s`), or with another unit: `250ms`, `5m`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let parsed = units.into_iter().find_map(|(unit, seconds)| {
            let number = text.strip_suffix(unit)?.parse::<f64>().ok()?;
            Duration::try_from_secs_f64(number * seconds).ok()
        });
        // A year: times are added to the clock.
        parsed.filter(|time| time.as_secs() <= 31_536_000).map(Self).ok_or_else(|| {
            serde::de::Error::custom(format!("{text:?} is no duration such as \"0.25s\", \"250ms\" or \"5m\""))
        })
    }
}

/// A value that is written as its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name<T>(pub(super) T);

impl<'de, T: Named> Deserialize<'de> for Name<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let found = T::VALUES.iter().copied().find(|value| value.to_string().eq_ignore_ascii_case(&text));
        found.map(Self).ok_or_else(|| {
            let known: Vec<String> = T::VALUES.iter().map(ToString::to_string).collect();
            serde::de::Error::custom(format!("unknown value {text:?}; there are: {}", known.join(", ")))
        })
    }
}

/// What [`Name`] can hold: its `Display` is its name.
pub(super) trait Named: Copy + fmt::Display + 'static {
    /// All there are.
    const VALUES: &'static [Self];
}

impl Named for SocketType {
    const VALUES: &'static [Self] = &Self::ALL;
}

impl Named for Version {
    const VALUES: &'static [Self] = &[Self::V1_0, Self::V2_0, Self::V3_0, Self::V3_1];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{building, unchecked};

    fn refused(yaml: &str) -> String {
        let read = building(|cx| Settings::read(&unchecked(yaml), cx).map(|_| ()));
        read.expect_err(yaml).to_string()
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let routed = |fields: &str| format!("{{routes: [{{cluster: a}}], {fields}}}");
        for (fields, told) in [
            ("upstream: {reconnect: {base: 0s}}", "upstream.reconnect.base"),
            ("upstream: {reconnect: {base: 2s, max: 1s}}", "upstream.reconnect.max"),
            ("upstream: {min_version: '3.1', max_version: '3.0'}", "upstream.min_version"),
            ("upstream: {handshake_timeout: 0s}", "upstream.handshake_timeout"),
            ("handshake_timeout: 0s", "handshake_timeout"),
            ("reply_timeout: 0s", "reply_timeout"),
            ("worker_wait: 0s", "worker_wait"),
            ("limits: {max_frame_bytes: 0}", "limits.max_frame_bytes"),
            ("limits: {max_subscriptions: 0}", "limits.max_subscriptions"),
            ("heartbeat: {timeout: 1s}", "heartbeat"),
        ] {
            let error = refused(&routed(fields));
            assert!(error.contains(&format!("here.{told}: ")), "{fields}: {error}");
        }
    }

    #[test]
    fn what_would_change_nothing_is_refused_by_name() {
        for (yaml, told) in [
            ("{reply_timeout: 1s}", "reply_timeout"),
            ("{on_failure: reply}", "on_failure"),
            ("{max_in_flight: 5}", "max_in_flight"),
            ("{upstream: {health_check: {interval: 1s}}}", "upstream"),
            ("{passthrough_cluster: a, limits: {max_frame_bytes: 5}}", "limits"),
            ("{passthrough_cluster: a, heartbeat: {interval: 5s}}", "heartbeat"),
            ("{passthrough_cluster: a, socket_type: PAIR}", "socket_type"),
            ("{passthrough_cluster: a, reply_timeout: 1s}", "reply_timeout"),
            ("{routes: [{match: {frame: 3}, cluster: a}]}", "routes[0].match.frame"),
            ("{routes: [{cluster: a}, {match: {prefix: x}, cluster: b}]}", "routes[1]"),
        ] {
            let error = refused(yaml);
            assert!(error.contains(&format!("here.{told}: ")), "{yaml}: {error}");
        }
    }
}
