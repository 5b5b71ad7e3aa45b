//! What is counted.

use crate::{
    filter::Connection,
    stat_group,
    stats::{Counter, Gauge, Group, Scope},
};

stat_group! {
    /// `<protocol>.<stat_prefix>.`
    pub(super) struct ProtocolStats {
        /// Connections.
        downstream_cx_total: counter,
        /// Connections that did not speak the protocol.
        downstream_cx_protocol_error: counter,
        /// Connections that were closed for draining.
        downstream_cx_drain_close: counter,
        /// Connections that were closed as nothing moved.
        idle_timeout: counter,
        /// Clients that asked whether we are there.
        downstream_heartbeat: counter,
        /// Requests.
        downstream_rq_total: counter,
        /// Requests that succeeded.
        rq_success: counter,
        /// Requests that the host found wrong.
        rq_rejected: counter,
        /// Requests at which the host failed.
        rq_failed: counter,
        /// Requests without an answer of a host: what follows, and connections that broke.
        rq_unanswered: counter,
        /// Requests that no route fits.
        rq_no_route: counter,
        /// Requests that were not answered in time.
        rq_timeout: counter,
        /// Requests that were sent once more.
        rq_retry: counter,
    }
}

/// The stats of a worker.
pub(super) struct Stats {
    pub(super) group: Group<ProtocolStats>,
    connections: Gauge,
    requests: Gauge,
    received: Counter,
    sent: Counter,
}

impl Stats {
    pub(super) fn new(scope: &Scope) -> Self {
        Self {
            group: scope.group(),
            connections: scope.gauge("downstream_cx_active"),
            requests: scope.gauge("downstream_rq_active"),
            received: scope.counter("downstream_cx_rx_bytes_total"),
            sent: scope.counter("downstream_cx_tx_bytes_total"),
        }
    }

    pub(super) fn begin_connection(&self, connection: &mut Connection) -> Active {
        self.group.downstream_cx_total.inc();
        connection.count_octets(&self.received, &self.sent);
        Active::new(&self.connections)
    }

    pub(super) fn begin_request(&self) -> Active {
        self.group.downstream_rq_total.inc();
        Active::new(&self.requests)
    }
}

/// Counts in a gauge while it lives.
pub(super) struct Active(Gauge);

impl Active {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}
