//! The handshake of a connection whose filter chain has TLS.

use super::FilterChainConfig;
use crate::{
    context::WorkerContext,
    downstream::Downstream,
    socket::Socket,
    tls::{self, ServerContext, TlsStats},
};
use sota_plugin::stats::{Counter, Scope};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// One worker's part of a chain's TLS.
pub(super) struct WorkerTls {
    context: Arc<ServerContext>,
    timeout: Option<Duration>,
    stats: TlsStats,
    timeouts: Counter,
}

impl WorkerTls {
    pub(super) fn new(context: &Arc<ServerContext>, chain: &FilterChainConfig, listener: &Scope) -> Self {
        Self {
            context: Arc::clone(context),
            timeout: chain.model.transport_socket_connect_timeout,
            stats: TlsStats::new(listener),
            timeouts: listener.counter("downstream_cx_transport_socket_connect_timeout"),
        }
    }

    /// Does the handshake. `None`: it has failed, which is counted.
    pub(super) async fn accept(&self, downstream: Downstream, worker: &WorkerContext) -> Option<Downstream> {
        let Downstream { socket, info, drain, buffer_limit } = downstream;
        let timer = worker.local.timer();
        timer.set(self.timeout.and_then(|timeout| Instant::now().checked_add(timeout)));
        let result = tokio::select! {
            biased;
            result = tls::accept(socket, &self.context) => result,
            () = timer.expired() => {
                self.timeouts.inc();
                return None;
            }
        };
        match result {
            Ok(secured) => {
                self.stats.succeeded(&secured.info, true);
                info.peer_certificate.set(secured.peer);
                // There is one handshake.
                let _ = info.tls.set(Box::new(secured.info));
                Some(Downstream { socket: Socket::new(secured.io), info, drain, buffer_limit })
            }
            Err(failure) => {
                self.stats.failed(&failure);
                let _ = info.transport_failure_reason.set(failure.to_string().into());
                tracing::debug!(target: "connection", "handshake with {} failed: {failure}", info.direct_remote());
                None
            }
        }
    }
}
