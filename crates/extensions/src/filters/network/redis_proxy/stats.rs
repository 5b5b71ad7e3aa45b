//! What is counted, under Envoy's names.

use super::{commands::COMMANDS, commands::Command, config::Config};
use sota_plugin::{
    filter::Connection,
    stat_group,
    stats::{Counter, Gauge, Group, Histogram, Scope, Unit},
};
use std::{cell::OnceCell, time::Instant};

stat_group! {
    /// `redis.<stat_prefix>.`
    pub(super) struct ProxyStats {
        /// Connections.
        downstream_cx_total: counter,
        /// Connections that did not speak the protocol.
        downstream_cx_protocol_error: counter,
        /// Connections that were closed for draining.
        downstream_cx_drain_close: counter,
        /// Octets received and not yet understood; what is held is bounded, and not counted.
        downstream_cx_rx_bytes_buffered: gauge,
        /// Octets to be sent; as above.
        downstream_cx_tx_bytes_buffered: gauge,
        /// Commands.
        downstream_rq_total: counter,
        /// Values that were no command, or a command without what it needs.
        invalid_request = "splitter.invalid_request": counter,
        /// Commands that are not known.
        unsupported_command = "splitter.unsupported_command": counter,
    }
}

stat_group! {
    /// `redis.<stat_prefix>.command.<command>.`
    pub(super) struct CommandStats {
        /// How often it was asked.
        total: counter,
        /// Answers.
        success: counter,
        /// No answers, or such as cannot be put together.
        error: counter,
    }
}

/// The stats of a worker.
pub(super) struct Stats {
    pub(super) proxy: Group<ProxyStats>,
    connections: Gauge,
    requests: Gauge,
    received: Counter,
    sent: Counter,
    scope: Scope,
    unit: Unit,
    commands: Vec<OnceCell<(Group<CommandStats>, Histogram)>>,
}

impl Stats {
    pub(super) fn new(root: &Scope, config: &Config) -> Self {
        let scope = root.child(&format!("redis.{}.", config.stat_prefix));
        Self {
            proxy: scope.group(),
            connections: scope.gauge("downstream_cx_active"),
            requests: scope.gauge("downstream_rq_active"),
            received: scope.counter("downstream_cx_rx_bytes_total"),
            sent: scope.counter("downstream_cx_tx_bytes_total"),
            unit: if config.latency_in_micros { Unit::Microseconds } else { Unit::Milliseconds },
            scope,
            commands: COMMANDS.iter().map(|_| OnceCell::new()).collect(),
        }
    }

    pub(super) fn begin_connection(&self, connection: &mut Connection) -> Active {
        self.proxy.downstream_cx_total.inc();
        connection.count_octets(&self.received, &self.sent);
        Active::new(&self.connections)
    }

    pub(super) fn begin_request(&self) -> Active {
        self.proxy.downstream_rq_total.inc();
        Active::new(&self.requests)
    }

    /// Counts a command. Its stats exist from its first use on.
    pub(super) fn begin_command(&self, command: Command) -> Option<Measured> {
        let cell = self.commands.get(command.index)?;
        let (stats, latency) = cell.get_or_init(|| {
            let scope = self.scope.child(&format!("command.{}.", command.name));
            (scope.group(), scope.histogram("latency", self.unit))
        });
        stats.total.inc();
        let in_micros = matches!(self.unit, Unit::Microseconds);
        Some(Measured { stats: stats.clone(), latency: latency.clone(), in_micros, began: Instant::now() })
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

/// A command that is under way.
pub(super) struct Measured {
    stats: Group<CommandStats>,
    latency: Histogram,
    in_micros: bool,
    began: Instant,
}

impl Measured {
    /// It was sent, and this came of it.
    pub(super) fn finish(self, success: bool) {
        self.count(success);
        let took = self.began.elapsed();
        let took = if self.in_micros { took.as_micros() } else { took.as_millis() };
        self.latency.record(u64::try_from(took).unwrap_or(u64::MAX));
    }

    /// It was not sent.
    pub(super) fn count(&self, success: bool) {
        if success { &self.stats.success } else { &self.stats.error }.inc();
    }
}
