//! The request on its first steps: its head is made ready, its route and its filters are found.

use super::{
    HttpConnectionManagerConfig,
    connection::Connection,
    filter_chain::ActiveFilter,
    normalize::Refusal,
    stream::{Progress, Stop, Stream},
};
use crate::{
    deadline::{Deadline, Deadlines},
    router::{Forward, ForwardCx, SelectedRoute, not_found, timeouts::stream_duration},
    wire::http1::{LINE_EXTRA, field_bytes},
};
use sota_codec::http1::{RequestInfo, remove_hop_by_hop};
use sota_config::overload::ActionKind;
use sota_plugin::{
    access_log::LogKind,
    filter::LocalReply,
    http::{HeaderId, HeaderName, Method, Protocol, RequestHead, Scheme, StatusCode},
    info::{ResponseFlag, RouteInfo, StreamInfo},
};
use std::{rc::Rc, sync::Arc, time::Instant};

/// Told by the overload manager.
const OVERLOADED: &str = "the process is overloaded; see the overload_manager's action stop_accepting_requests and the \
                          pressures of overload.*";

/// Why a head cannot be made ready.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unready {
    /// Its path.
    Path(Refusal),
    /// The client's address is not where it has to be; the status of the answer.
    Client(StatusCode),
}

impl Unready {
    /// The answer.
    pub(crate) fn reply(self, head: &RequestHead) -> LocalReply {
        match self {
            Self::Path(refusal) => refusal.reply(head),
            Self::Client(status) => LocalReply::new(status, bytes::Bytes::new(), "rejecting_because_detection_failed"),
        }
    }
}

impl HttpConnectionManagerConfig {
    /// Makes a head ready for the look-up of its route: its path, early changes, what others before us have said of it.
    /// `internal_only`: the route table's fields of that kind.
    pub(crate) fn make_ready(
        &self,
        head: &mut RequestHead,
        info: &mut StreamInfo,
        is_tls: bool,
        internal_only: &[HeaderName],
    ) -> Result<(), Unready> {
        self.normalization.apply(head, info.connection.local.port()).map_err(Unready::Path)?;
        self.early_mutations.apply(head, info);
        self.forwarded.apply(head, info, is_tls, internal_only).map_err(Unready::Client)
    }
}

impl<'c> Stream<'c> {
    /// Starts the clocks of a stream.
    pub(super) fn arm(connection: &Connection, deadlines: &Deadlines, start: Instant) {
        let model = &connection.manager.config.model;
        deadlines.set_after(Deadline::RequestHeaders, start, model.request_headers_timeout);
        deadlines.set_after(Deadline::Request, start, model.request_timeout);
        deadlines.set_after(Deadline::StreamIdle, start, model.stream_idle_timeout);
        deadlines.set_after(Deadline::StreamDuration, start, model.common.max_stream_duration);
        deadlines.set_after(Deadline::LogFlush, start, model.access_log_flush_interval);
    }

    /// The head has arrived.
    pub(super) fn note_head(&self, head: &RequestInfo) {
        let manager = self.manager();
        self.progress.set(Progress::Request);
        self.head.set(Some(*head));
        self.has_request.set(true);
        let mut info = self.info.borrow_mut();
        let request = self.request.borrow();
        info.protocol = Some(request.protocol);
        info.is_grpc = request.is_grpc();
        let host = if head.host_missing { 0 } else { "host".len() + request.authority().len() + LINE_EXTRA };
        info.downstream_header_bytes_received = match self.codec.http2() {
            Some(stream) => stream.stream().octets_received().0,
            None => (field_bytes(&request.headers) + host) as u64,
        };
        manager.codec_stats.dropped_headers_with_underscores.add(head.dropped_fields as u64);
        drop((info, request));
        if !self.codec.has_body() {
            self.note_request_end();
        }
    }

    /// The last octet of the request has arrived.
    pub(super) fn note_request_end(&self) {
        self.request_ended.set(true);
        let info = &mut *self.info.borrow_mut();
        // For what formats print before the stream has ended.
        info.bytes_received = self.codec.body_received();
        let timing = &mut info.timing;
        if timing.request_end.is_none() {
            timing.request_end = Some(self.deadlines.now());
            self.deadlines.set(Deadline::Request, None);
        }
    }

    /// Checks the head and makes it ready, in Envoy's order; then the route, and with it the filters, are chosen.
    pub(super) fn prepare(&self) -> Result<(), Stop> {
        let Some(parsed) = self.head.get() else { return Ok(()) };
        let manager = self.manager();
        let config = &manager.config;
        let mut request = self.request.borrow_mut();
        let mut info = self.info.borrow_mut();
        let head = &mut *request;
        if manager.context.local.process.is_overloaded(ActionKind::StopAcceptingRequests) {
            manager.stats.downstream_rq_overload_close.inc();
            let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "envoy overloaded", "overload");
            return Err(Stop::Reply(Box::new(reply.cause(OVERLOADED))));
        }
        if parsed.expects_continue && !config.model.proxy_100_continue {
            manager.count_response(StatusCode::CONTINUE);
            self.codec.send_continue();
            head.headers.remove(HeaderId::Expect);
        }
        if head.protocol == Protocol::Http10 {
            // RFC 9110 §10.1.1: it means nothing there, and would mean something upstream.
            head.headers.remove(HeaderId::Expect);
        }
        if head.protocol == Protocol::Http10 && !config.model.http1.accept_http_10 {
            return Err(reply(StatusCode::UPGRADE_REQUIRED, "low_version"));
        }
        if parsed.host_missing {
            let host = config.model.http1.default_host_for_http_10.as_bytes();
            if host.is_empty() || head.set_authority(host).is_err() {
                return Err(reply(StatusCode::BAD_REQUEST, "missing_host_header"));
            }
        }
        if let Err(error) = remove_hop_by_hop(&mut head.headers, parsed.wants_upgrade) {
            drop((request, info));
            return Err(self.refuse(error));
        }
        let wants_tunnel = parsed.wants_upgrade || head.method == Method::Connect;
        if wants_tunnel {
            // Bytes for the other end of a tunnel may follow already: nothing behind this is read as a request.
            self.close_after();
        }
        let internal_only = self.routes.as_ref().map(|routes| routes.table().internal_only_headers());
        let is_tls = info.connection.tls.get().is_some();
        if let Err(unready) = config.make_ready(head, &mut info, is_tls, internal_only.unwrap_or_default()) {
            match unready {
                Unready::Path(Refusal::NoPath) => &manager.stats.downstream_rq_non_relative_path,
                Unready::Path(Refusal::InvalidPath) => &manager.stats.downstream_rq_failed_path_normalization,
                Unready::Path(Refusal::Redirect) => &manager.stats.downstream_rq_redirected_with_normalized_path,
                Unready::Client(_) => &manager.stats.downstream_rq_rejected_via_ip_detection,
            }
            .inc();
            return Err(Stop::Reply(Box::new(unready.reply(head))));
        }
        self.choose_route(head, &mut info);
        if let Some(tracer) = &manager.tracer {
            tracer.begin(head, &mut info, self.route.borrow().as_ref().and_then(|route| route.trace()));
        }
        let is_refused = wants_tunnel && !self.prepare_tunnel(head);
        drop((request, info));
        self.make_filters();
        if is_refused && self.route.borrow().is_some() {
            manager.stats.downstream_rq_ws_on_non_ws_route.inc();
            return Err(reply(StatusCode::FORBIDDEN, "upgrade_failed"));
        }
        self.enter_filters(self.request_ended.get() && !self.holds_tunnel());
        Ok(())
    }

    /// The request is about to pass the filters. `end_stream`: it has no body.
    pub(super) fn enter_filters(&self, end_stream: bool) {
        self.chain.borrow_mut().request.begin(end_stream);
        if self.manager().config.model.flush_access_log_on_new_request {
            self.log(LogKind::DownstreamStart);
        }
    }

    /// Looks the route up, again if a filter has asked for that.
    pub(super) fn choose_route(&self, head: &RequestHead, info: &mut StreamInfo) {
        let route = self.routes.as_ref().and_then(|routes| routes.route(head, info, self.random));
        let cluster = route.as_ref().filter(|route| route.forward().is_some());
        let cluster = cluster.and_then(|route| self.manager().context.clusters.get(route.cluster()));
        let upstream = &mut info.upstream;
        upstream.cluster = cluster.as_ref().map(|cluster| Arc::clone(cluster.name()));
        upstream.cluster_alias = cluster.as_ref().and_then(|cluster| cluster.config().alias().cloned());
        upstream.cluster_metadata = cluster.as_ref().and_then(|cluster| cluster.config().model().metadata.clone());
        self.cluster.replace(cluster);
        if let Some(action) = route.as_ref().and_then(|route| route.forward()) {
            let deadlines = self.deadlines;
            if let Some(idle) = action.idle_timeout {
                self.idle_timeout.set(idle);
                deadlines.set_after(Deadline::StreamIdle, deadlines.now(), idle);
            }
            if action.max_stream_duration.is_some() || action.grpc_timeout.header_max.is_some() {
                let longest = stream_duration(action, head, self.manager().config.model.common.max_stream_duration);
                deadlines.set_after(Deadline::StreamDuration, info.timing.start, longest);
            }
        }
        info.route = route.clone().map(|route| route as Rc<dyn RouteInfo>);
        self.route.replace(route);
    }

    /// Makes the stream's filters, once.
    pub(super) fn make_filters(&self) {
        let factories = self.factories.get();
        if factories.is_empty() || self.has_filters.replace(true) {
            return;
        }
        let route = self.route.borrow();
        let info = self.info.borrow();
        let filters = &mut self.chain.borrow_mut().filters;
        for slot in factories {
            let is_disabled = route.as_ref().and_then(|route| route.filter_disabled(&slot.name));
            if !is_disabled.unwrap_or(slot.is_disabled)
                && let Some(filter) = slot.factory.new_filter(&info)
            {
                filters.push(ActiveFilter::new(&slot.name, filter));
            }
        }
    }

    /// The request has passed the filters: the route answers, or the router takes over. `end_stream`: it has no body.
    pub(super) fn start_router(&self, end_stream: bool) -> Result<(), Stop> {
        let manager = self.manager();
        let stats = &manager.stats;
        stats.rq_total.inc();
        let Some(route) = self.route.borrow().clone() else {
            stats.no_route.inc();
            return Err(Stop::Reply(Box::new(self.no_route())));
        };
        let keep_original = !manager.router.suppress_envoy_headers;
        let mut request = self.request.borrow_mut();
        if let Some(reply) = route.reply(&mut request, &self.info.borrow(), keep_original) {
            stats.rq_direct_response.inc();
            return Err(Stop::Reply(Box::new(reply)));
        }
        let mut response = self.response.borrow_mut();
        let mut info = self.info.borrow_mut();
        let mut stream =
            ForwardCx { request: &mut request, response: &mut response, info: &mut info, deadlines: self.deadlines };
        let limit = self.connection.downstream.buffer_limit;
        let cluster = self.cluster.borrow().clone();
        let place = &mut *self.forward.borrow_mut();
        let forward = cluster.and_then(|cluster| {
            let follows = (end_stream, self.holds_tunnel());
            Forward::begin(place, &manager.router, cluster, Rc::clone(&route), &mut stream, follows, limit)
        });
        let Some(forward) = forward else {
            stats.no_cluster.inc();
            return Err(Stop::Reply(Box::new(no_cluster(&route))));
        };
        if let Some(longest) = forward.max_stream_duration() {
            self.deadlines.set_after(Deadline::StreamDuration, self.deadlines.now(), Some(longest));
        }
        if manager.config.model.scheme_matches_upstream && manager.config.model.scheme_override.is_none() {
            // No connection upstream is encrypted yet.
            request.scheme = Scheme::Http;
        }
        Ok(())
    }
}

impl Stream<'_> {
    /// Nothing matches: says how far the search came.
    fn no_route(&self) -> LocalReply {
        let request = self.request.borrow();
        let shown = |text: &[u8]| String::from_utf8_lossy(text.get(..100).unwrap_or(text)).into_owned();
        let (host, path) = (shown(request.authority()), shown(request.path_only()));
        let cause = match &self.routes {
            None => "the route configuration has not come from the control plane yet; see /config_dump".to_owned(),
            Some(routes) => format!(
                "no route of route configuration {} matches host {host:?} and path {path:?}; `sota-mesh explain` shows the search",
                routes.table().name()
            ),
        };
        not_found().cause(cause)
    }
}

fn reply(status: StatusCode, details: &'static str) -> Stop {
    Stop::Reply(Box::new(LocalReply::new(status, "", details)))
}

fn no_cluster(route: &SelectedRoute) -> LocalReply {
    let status =
        route.forward().map_or(StatusCode::SERVICE_UNAVAILABLE, |action| action.cluster_not_found_response_code);
    let cause = match &**route.cluster() {
        "" => "the request names no cluster where the route's cluster_header or metadata is to".to_owned(),
        name => format!(
            "the route names cluster {name:?}, which does not exist; add it, or see why the control plane does not bring it"
        ),
    };
    LocalReply::new(status, "", "cluster_not_found").flag(ResponseFlag::NoClusterFound).cause(cause)
}
