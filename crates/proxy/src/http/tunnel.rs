//! Streams that become tunnels: upgrades (RFC 9110 §7.8, RFC 8441) and CONNECT.
//!
//! Whether one may is decided with the route. Until the upstream has agreed, nothing behind the request's head is read:
//! what a client sends early stays where it is, and is never seen by an upstream that goes on speaking HTTP. Then both
//! directions are octets without a frame, each of which may end before the other.

use super::{
    FilterFactory, HttpConnectionManager,
    stream::{Stop, Stream},
};
use crate::{drain::DrainWatch, router::SelectedRoute, timer::Timer};
use sota_plugin::{
    filter::LocalReply,
    http::{HeaderId, Method, RequestHead, StatusCode},
    info::ResponseFlag,
};
use std::{
    task::{Context, Poll, ready},
    time::Instant,
};

/// How far a stream is on the way to a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tunnel {
    /// It is none.
    #[default]
    No,
    /// It will be one if the upstream agrees.
    Waiting,
    /// It is one.
    Open,
}

/// Ends tunnels that would outlive their connection's time.
pub(super) struct TunnelClock {
    drain: DrainWatch,
    is_draining: bool,
    timer: Timer,
    /// When the connection is too old.
    oldest: Option<Instant>,
}

impl HttpConnectionManager {
    /// The filters of an upgrade to this protocol, if it may be; a route has the last word.
    fn upgrade(&self, upgrade_type: &[u8], route: Option<&SelectedRoute>) -> Option<&[FilterFactory]> {
        let by_route = route.and_then(|route| route.forward()?.allows_upgrade(upgrade_type));
        let known = self.upgrades.iter().find(|known| known.upgrade_type.as_bytes().eq_ignore_ascii_case(upgrade_type));
        let is_allowed = by_route.or_else(|| known.map(|known| known.is_enabled)).unwrap_or(false);
        is_allowed.then(|| known.and_then(|known| known.filters.as_deref()).unwrap_or(&self.filters))
    }
}

impl<'c> Stream<'c> {
    /// Whether a request that asks for a tunnel may have one: then it has that tunnel's filters.
    pub(super) fn prepare_tunnel(&self, head: &mut RequestHead) -> bool {
        let is_connect = head.method == Method::Connect;
        let upgrade_type = match head.headers.get(HeaderId::Upgrade) {
            Some(upgrade_type) if !is_connect => upgrade_type,
            _ => b"CONNECT",
        };
        let manager: &'c HttpConnectionManager = self.manager();
        let Some(filters) = manager.upgrade(upgrade_type, self.route.borrow().as_deref()) else { return false };
        // Of a body that there is not; in HTTP/2 it would be the length of the tunnel.
        head.headers.remove(HeaderId::ContentLength);
        self.factories.set(filters);
        self.tunnel.set(Tunnel::Waiting);
        manager.stats.downstream_cx_upgrades_total.inc();
        manager.stats.downstream_cx_upgrades_active.inc();
        true
    }

    /// Whether nothing is to be read of the request: it is not known yet what that would be.
    pub(super) fn holds_tunnel(&self) -> bool {
        self.tunnel.get() == Tunnel::Waiting
    }

    /// Whether the stream is a tunnel.
    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.get() == Tunnel::Open
    }

    /// Whether a response with this status makes the stream a tunnel.
    pub(super) fn opens_tunnel(&self, status: StatusCode) -> bool {
        let is_connect = self.request.borrow().method == Method::Connect;
        self.holds_tunnel()
            && self.forward.borrow().is_some()
            && (status == StatusCode::SWITCHING_PROTOCOLS || is_connect && status.is_success())
    }

    /// An upgrade that an HTTP/1 upstream answers with success and no 101 has no form in HTTP/2, where success is consent.
    pub(super) fn check_consent(&self) -> Result<(), Stop> {
        let status = self.response.borrow().status;
        if !self.holds_tunnel() || self.opens_tunnel(status) || self.codec.http2().is_none() || !status.is_success() {
            return Ok(());
        }
        let reply = LocalReply::new(StatusCode::BAD_GATEWAY, "", "upgrade_not_accepted");
        Err(Stop::Reply(Box::new(reply.flag(ResponseFlag::UpstreamProtocolError))))
    }

    /// The response's head, which agrees, leaves.
    pub(super) fn open_tunnel(&self) {
        self.tunnel.set(Tunnel::Open);
        // What follows is for the filters, too.
        self.request_ended.set(false);
        let manager = self.manager();
        let (downstream, model) = (&self.connection.downstream, &manager.config.model);
        let age = model.common.max_connection_duration;
        let clock = TunnelClock {
            drain: downstream.drain.another(),
            is_draining: false,
            timer: manager.context.local.timer(),
            oldest: age.and_then(|age| downstream.info.start.checked_add(age)?.checked_add(model.drain_timeout)),
        };
        clock.timer.set(clock.oldest);
        self.tunnel_clock.replace(Some(clock));
    }

    /// A tunnel has no place where it could be ended politely: it may go on for the drain time, and until its connection
    /// is too old.
    pub(super) fn poll_tunnel_clock(&self, cx: &mut Context<'_>) -> Result<(), Stop> {
        let mut clock = self.tunnel_clock.borrow_mut();
        let Some(clock) = &mut *clock else { return Ok(()) };
        if !clock.is_draining && clock.drain.poll_draining(cx).is_ready() {
            clock.is_draining = true;
            let end = Instant::now().checked_add(self.manager().context.local.process.drain_time());
            clock.timer.set(end.into_iter().chain(clock.oldest).min());
        }
        if clock.timer.poll_expired(cx).is_pending() {
            return Ok(());
        }
        let details = if clock.is_draining { "tunnel_drained" } else { "max_connection_duration_reached" };
        let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "", details);
        Err(Stop::Reply(Box::new(reply.flag(ResponseFlag::DownstreamConnectionTermination))))
    }

    /// The upstream has sent its last: the client is told, and may go on until it has, too.
    pub(super) fn poll_finish_tunnel(&self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        ready!(self.codec.poll_end_tunnel(cx)).map_err(|_| Stop::ClientGone)?;
        if let Poll::Ready(Err(stop)) = self.poll_send_request(cx) {
            return Poll::Ready(Err(stop));
        }
        let mut forward = self.forward.borrow_mut();
        if let Some(forward) = &mut *forward {
            ready!(forward.poll_sent(cx));
            self.with_parts(|parts| forward.complete(parts));
        }
        Poll::Ready(Ok(()))
    }

    /// The stream is over.
    pub(super) fn leave_tunnel(&self) {
        if self.tunnel.replace(Tunnel::No) != Tunnel::No {
            self.manager().stats.downstream_cx_upgrades_active.dec();
        }
    }
}
