//! `envoy.filters.http.stateful_session`: sends the requests of a session to one host, which the client names.

mod session;

use session::SessionState;
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory},
    http::{RequestHead, ResponseHead},
    info::{HostOverride, PeerAddress, ResponseFlag, StreamInfo},
    stat_group,
    stats::Group,
};
use std::{any::Any, net::SocketAddr, sync::Arc, time::SystemTime};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.stateful_session",
    short_name: "stateful_session",
    type_urls: &["envoy.extensions.filters.http.stateful_session.v3.StatefulSession"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute"],
};

stat_group! {
    /// `http.<stat_prefix>.stateful_session.<stat_prefix>.`, only with a `stat_prefix`.
    struct Stats {
        /// Requests that went to the host of their session.
        routed: counter,
        /// Requests that went to another one, as theirs could not be used.
        failed_open: counter,
        /// Requests that went nowhere, as theirs could not be used.
        failed_closed: counter,
        /// Requests that cannot have a session.
        no_session: counter,
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let none = Node::map();
    let node = match config {
        TypedConfig::Value { node, .. } => node,
        _ => &none,
    };
    let prefix = Some(node.str("stat_prefix")).filter(|prefix| !prefix.is_empty());
    Ok(Arc::new(Config {
        settings: Arc::new(Settings::read(node, cx)?),
        stat_prefix: prefix.map(|prefix| format!("{}stateful_session.{prefix}.", cx.stat_prefix)),
    }))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    match config {
        TypedConfig::Value { node, .. } if node.bool("disabled") => Ok(Arc::new(RouteSettings(None))),
        TypedConfig::Value { node, .. } if node.has("stateful_session") => {
            let settings = Settings::read(node.field("stateful_session"), cx)?;
            Ok(Arc::new(RouteSettings(Some(Arc::new(settings)))))
        }
        _ => Err(cx.error("", cx.mark, "either \"disabled: true\" or \"stateful_session\" is needed here")),
    }
}

struct Config {
    settings: Arc<Settings>,
    stat_prefix: Option<String>,
}

/// What a level of the route says; `None`: there are no sessions.
struct RouteSettings(Option<Arc<Settings>>);

/// `envoy.extensions.filters.http.stateful_session.v3.StatefulSession`
struct Settings {
    /// `None`: there are no sessions.
    state: Option<SessionState>,
    /// No other host will do.
    strict: bool,
}

impl Settings {
    fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        Ok(Self { state: SessionState::read(node, "session_state", cx)?, strict: node.bool("strict") })
    }
}

impl HttpFilterConfig for Config {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        let stats = self.stat_prefix.as_ref().map(|prefix| cx.stats().child(prefix).group());
        Box::new(Factory { settings: Arc::clone(&self.settings), stats })
    }
}

struct Factory {
    settings: Arc<Settings>,
    stats: Option<Group<Stats>>,
}

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        let (settings, stats) = (Arc::clone(&self.settings), self.stats.clone());
        Some(Box::new(Filter { settings, stats, session: Session::Off }))
    }
}

struct Filter {
    settings: Arc<Settings>,
    stats: Option<Group<Stats>>,
    session: Session,
}

/// What is known of the request's session.
enum Session {
    /// There are none here.
    Off,
    /// The request cannot have one.
    None,
    /// It has one, or will; the host that it belongs to.
    Some(Option<String>),
}

impl Filter {
    fn count(&self, counter: fn(&Stats) -> &sota_plugin::stats::CounterCell) {
        if let Some(stats) = &self.stats {
            counter(stats).inc();
        }
    }
}

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        match cx.route_config() {
            Some(RouteSettings(None)) => return FilterStatus::Continue,
            Some(RouteSettings(Some(settings))) => {
                self.settings = Arc::clone(settings);
                // Compat: only what the filter itself configures is counted.
                self.stats = None;
            }
            None => {}
        }
        let state = self.settings.state.as_ref().filter(|state| state.concerns(head));
        let Some(state) = state else {
            self.session = Session::None;
            return FilterStatus::Continue;
        };
        let host = state.host(head, SystemTime::now());
        if let Some(address) = host.as_deref().and_then(address) {
            cx.info.upstream.host_override = Some(HostOverride { address, strict: self.settings.strict });
        }
        self.session = Session::Some(host);
        FilterStatus::Continue
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        let now = cx.info.upstream.address.as_ref().map(PeerAddress::to_string);
        match (&self.session, &self.settings.state, now) {
            (Session::None, _, Some(_)) => self.count(|stats| &stats.no_session),
            (Session::Some(Some(host)), _, Some(now)) if *host == now => self.count(|stats| &stats.routed),
            (Session::Some(_), Some(state), Some(now)) => {
                state.tell(&now, &mut head.headers, SystemTime::now());
                if !self.settings.strict {
                    self.count(|stats| &stats.failed_open);
                }
            }
            (Session::Some(_), _, None)
                if self.settings.strict && cx.info.response_flags.has(ResponseFlag::NoHealthyUpstream) =>
            {
                self.count(|stats| &stats.failed_closed);
            }
            _ => {}
        }
        FilterStatus::Continue
    }
}

/// An address as hosts have it: `10.0.0.1:80`, `[::1]:80` or a path.
fn address(text: &str) -> Option<PeerAddress> {
    match text.parse::<SocketAddr>() {
        Ok(address) => Some(address.into()),
        Err(_) => text.starts_with('/').then(|| PeerAddress::Pipe(text.into())),
    }
}

/// For [`crate::fuzzing`]: what a cookie holds is read again as it was written.
pub(crate) fn fuzz_session(data: &[u8]) {
    if let Some((host, expires)) = session::decode(data) {
        assert_eq!(session::decode(&session::encode(&host, expires)), Some((host, expires)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Route, Stream, building, config, lines, request};
    use sota_plugin::http::Method;

    const MESSAGE: &str = EXTENSION.type_urls[0];
    const COOKIE: &str = "session_state: {name: c, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.http.\
                          stateful_session.cookie.v3.CookieBasedSessionState, cookie: {name: s, path: /p, attributes: \
                          [{name: SameSite, value: Lax}, {name: Secure}]}}}";
    const HEADER: &str = "session_state: {name: h, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.http.\
                          stateful_session.header.v3.HeaderBasedSessionState, name: x-session}}";
    const HOST: &str = "10.0.0.1:80";

    struct Harness {
        worker: FakeWorker,
        factory: Box<dyn HttpFilterFactory>,
    }

    impl Harness {
        fn new(yaml: &str) -> Self {
            let worker = FakeWorker::default();
            let yaml = format!("stat_prefix: x\n{yaml}");
            let factory = building(|cx| build(&config(MESSAGE, &yaml), cx)).unwrap().for_worker(&worker.cx());
            Self { worker, factory }
        }

        /// The host that a request asks for, and the fields of the response of this host.
        fn send(
            &self,
            path: &str,
            fields: &[(&str, &str)],
            host: Option<&str>,
            route: Option<Route>,
        ) -> (Option<String>, Vec<String>) {
            let mut stream = Stream::new(&self.worker, request(Method::Get, path, fields), route);
            let mut filter = self.factory.new_filter(&stream.info).unwrap();
            stream.on_request(|head, cx| filter.on_request_headers(head, true, cx));
            let asked = stream.info.upstream.host_override.as_ref().map(|wanted| wanted.address.to_string());
            stream.info.upstream.address = host.and_then(address);
            let mut head = ResponseHead::default();
            if host.is_none() {
                stream.info.response_flags.set(ResponseFlag::NoHealthyUpstream);
            }
            stream.on_response(|cx| filter.on_response_headers(&mut head, true, cx));
            (asked, lines(&head.headers).into_iter().map(|line| line.replace('\\', "")).collect())
        }

        fn counters(&self) -> Vec<String> {
            let counters = self.worker.counters().into_iter();
            counters.map(|(name, value)| format!("{} {value}", name.rsplit('.').next().unwrap())).collect()
        }
    }

    #[test]
    fn a_cookie_names_the_host() {
        let harness = Harness::new(COOKIE);
        let (asked, fields) = harness.send("/p", &[], Some(HOST), None);
        assert_eq!(asked, None);
        let expected = "set-cookie: s=\"CgsxMC4wLjAuMTo4MA==\"; Path=/p; SameSite=Lax; Secure; HttpOnly";
        assert_eq!(fields, [expected]);
        let cookie = [("cookie", "a=b; s=\"CgsxMC4wLjAuMTo4MA==\"")];
        assert_eq!(harness.send("/p", &cookie, Some(HOST), None), (Some(HOST.to_owned()), vec![]));
        let (asked, fields) = harness.send("/p", &cookie, Some("10.0.0.2:80"), None);
        assert_eq!((asked.as_deref(), fields.len()), (Some(HOST), 1), "the session has moved");
        assert_eq!(harness.send("/q", &cookie, Some(HOST), None), (None, vec![]), "another path");
        for bad in ["s=", "s=!!", "s=AAAA", "s=CgR4"] {
            assert_eq!(harness.send("/p", &[("cookie", bad)], Some(HOST), None).0, None, "{bad}");
        }
        assert_eq!(harness.counters(), ["failed_open 6", "no_session 1", "routed 1"]);
    }

    #[test]
    fn cookies_expire() {
        let harness = Harness::new(&COOKIE.replace("path: /p", "ttl: 60s"));
        let (_, fields) = harness.send("/", &[], Some(HOST), None);
        assert!(fields[0].contains("; Max-Age=60; SameSite=Lax"), "{fields:?}");
        let value = fields[0].strip_prefix("set-cookie: ").unwrap().split(';').next().unwrap();
        assert_eq!(harness.send("/", &[("cookie", value)], Some(HOST), None).0.as_deref(), Some(HOST));
        // Of the year 1970.
        let old = "s=CgsxMC4wLjAuMTo4MBAB";
        assert_eq!(harness.send("/", &[("cookie", old)], Some(HOST), None).0, None);
    }

    #[test]
    fn a_field_names_the_host() {
        let harness = Harness::new(&format!("{HEADER}\nstrict: true"));
        let field = [("x-session", "MTAuMC4wLjE6ODA=")];
        assert_eq!(harness.send("/", &[], Some(HOST), None).1, ["x-session: MTAuMC4wLjE6ODA="]);
        assert_eq!(harness.send("/", &field, Some(HOST), None), (Some(HOST.to_owned()), vec![]));
        assert_eq!(harness.send("/", &field, None, None).1, [""; 0]);
        assert_eq!(harness.counters(), ["failed_closed 1", "routed 1"]);
    }

    #[test]
    fn routes_have_sessions_of_their_own() {
        let route = |yaml: &str| {
            let config = config(EXTENSION.route_type_urls[0], yaml);
            let own = building(|cx| build_route(&config, cx)).unwrap();
            Some(Route { configs: vec![own], ..Route::default() })
        };
        let harness = Harness::new(COOKIE);
        let own = format!("stateful_session: {{{HEADER}}}");
        assert_eq!(harness.send("/", &[], Some(HOST), route(&own)).1, ["x-session: MTAuMC4wLjE6ODA="]);
        assert_eq!(harness.send("/p", &[], Some(HOST), route("disabled: true")), (None, vec![]));
        assert_eq!(Harness::new("").send("/", &[], Some(HOST), None), (None, vec![]), "none at all");
    }
}
