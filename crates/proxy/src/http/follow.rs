//! A redirect of the upstream that the proxy follows itself: the request begins anew, with filters and a route of its own.

use super::{forwarded::ORIGINAL_URL, stream::Stream};
use crate::{
    deadline::Deadline,
    router::{Forward, NotFollowed},
};
use bytes::Bytes;
use sota_plugin::{
    http::{Headers, Method, RequestHead, Scheme},
    info::{RouteInfo, StreamInfo},
};
use std::{mem, rc::Rc, task::Context, time::Instant};

/// What follows the head of a request that begins anew.
pub(super) struct Again {
    data: Bytes,
    trailers: Option<Box<Headers>>,
}

impl Stream<'_> {
    /// The upstream redirects the request: whether that is followed. If so, the request is about to pass its filters.
    pub(super) fn follow(&self, cx: &mut Context<'_>) -> bool {
        let Some(mut forward) = self.forward.borrow_mut().take() else { return false };
        match self.next_head(&mut forward, cx) {
            Ok((head, again)) => {
                self.begin_again(head, again);
                true
            }
            Err(reason) => {
                self.count_not_followed(reason);
                self.forward.replace(Some(forward));
                false
            }
        }
    }

    /// The client gets the redirect itself. Says whether nothing follows its head.
    pub(super) fn pass_on(&self, end_stream: bool) -> bool {
        if let Some(forward) = &mut *self.forward.borrow_mut() {
            self.with_parts(|parts| forward.pass_on(end_stream, parts));
        }
        end_stream
    }

    /// The request that the redirect asks for. The response is done with then.
    fn next_head(
        &self,
        forward: &mut Forward,
        cx: &mut Context<'_>,
    ) -> Result<(RequestHead, Option<Again>), NotFollowed> {
        let route = self.route.borrow().clone().ok_or(NotFollowed::Impossible)?;
        let policy = route.internal_redirects().ok_or(NotFollowed::Impossible)?;
        if !forward.has_whole_body() {
            return Err(NotFollowed::Impossible);
        }
        let request = self.request.borrow();
        // Compat: of `https` is what came over TLS, whatever a proxy before this one says of its own connection.
        let is_tls = self.info.borrow().connection.tls.get().is_some();
        let scheme = if is_tls { request.scheme } else { Scheme::Http };
        let mut followed = self.followed.borrow_mut();
        let mut next = policy.next(&request, &self.response.borrow(), scheme, &followed)?;
        let info = self.info.borrow();
        let port = info.connection.local.port();
        self.manager().config.normalization.apply(&mut next, port).map_err(|_| NotFollowed::BadLocation)?;
        let to = self.routes.as_ref().and_then(|routes| routes.route(&next, &info, self.random));
        let to = to.ok_or(NotFollowed::NoRoute)?;
        policy.take(&mut followed, (route.name(), to.name()), (scheme, next.scheme))?;
        let original = [scheme.as_str().as_bytes(), b"://", request.authority(), request.path()].concat();
        next.headers.set_sanitized(&ORIGINAL_URL, original);
        let is_bodyless = next.method != request.method && next.method == Method::Get;
        drop((request, followed, info));
        let body = self.with_parts(|parts| forward.leave(cx, parts));
        let (data, trailers) = body.filter(|_| !is_bodyless).unwrap_or_default();
        let again = (!data.is_empty() || trailers.is_some()).then_some(Again { data, trailers });
        Ok((next, again))
    }

    /// Ends the request as it was, and begins the next one.
    fn begin_again(&self, head: RequestHead, again: Option<Again>) {
        let manager = self.manager();
        let now = self.deadlines.now();
        if let Some(cluster) = &*self.cluster.borrow() {
            cluster.stats().upstream_internal_redirect_succeeded_total.inc();
        }
        self.note_octets(&mut self.info.borrow_mut(), now);
        self.conclude(now, true);
        self.connection.count_request();
        self.chain.take();
        self.has_filters.set(false);
        **self.request.borrow_mut() = head;
        let mut info = self.info.borrow_mut();
        begin_info(&mut info, now, manager.context.local.process.next_stream_id());
        self.idle_timeout.set(manager.config.model.stream_idle_timeout);
        Self::arm(self.connection, self.deadlines, now);
        for over in [Deadline::RequestHeaders, Deadline::Request] {
            self.deadlines.set(over, None);
        }
        self.choose_route(&self.request.borrow(), &mut info);
        drop(info);
        self.make_filters();
        self.enter_filters(again.is_none());
        self.again.replace(again);
    }

    /// Gives the filters what follows the head of a request that began anew. Says whether there was something.
    pub(super) fn push_again(&self) -> bool {
        let Some(Again { data, trailers }) = self.again.take() else { return false };
        let passage = &mut self.chain.borrow_mut().request;
        match trailers {
            None => passage.push_data(data, true),
            Some(trailers) if data.is_empty() => passage.push_trailers(trailers),
            Some(trailers) => {
                passage.push_data(data, false);
                self.again.replace(Some(Again { data: Bytes::new(), trailers: Some(trailers) }));
            }
        }
        true
    }

    fn count_not_followed(&self, reason: NotFollowed) {
        if let Some(cluster) = &*self.cluster.borrow() {
            cluster.stats().upstream_internal_redirect_failed_total.inc();
        }
        let stats = &self.manager().stats;
        match reason {
            NotFollowed::Impossible => {}
            NotFollowed::BadLocation => stats.passthrough_internal_redirect_bad_location.inc(),
            NotFollowed::UnsafeScheme => stats.passthrough_internal_redirect_unsafe_scheme.inc(),
            NotFollowed::TooMany => stats.passthrough_internal_redirect_too_many_redirects.inc(),
            NotFollowed::NoRoute => stats.passthrough_internal_redirect_no_route.inc(),
            NotFollowed::Predicate => stats.passthrough_internal_redirect_predicate.inc(),
        }
    }
}

/// Facts of the next request: those of the client stay, and so does the state that filters keep.
fn begin_info(info: &mut StreamInfo, now: Instant, id: u64) {
    let next = StreamInfo::begun_at(now, Rc::clone(&info.connection), id, info.protocol);
    let last = mem::replace(info, next);
    info.timing.request_end = Some(now);
    info.remote = last.remote;
    info.filter_state = last.filter_state;
    info.request_id = last.request_id;
    info.is_internal = last.is_internal;
    info.is_traced = last.is_traced;
    info.is_grpc = last.is_grpc;
    info.downstream_header_bytes_received = last.downstream_header_bytes_received;
    info.bytes_received = last.bytes_received;
}
