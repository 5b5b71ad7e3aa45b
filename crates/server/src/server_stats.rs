//! `server.`: the process about itself.

use crate::{
    runtime::{DiskOutcome, RuntimeLayers},
    server::{Server, State},
};
use sota_plugin::{http::StatusCode, stat_group};
use std::{fs, sync::atomic::Ordering};

stat_group! {
    /// `server.`
    pub struct ServerStats {
        /// Workers.
        concurrency: gauge,
        /// 1 while serving.
        live: gauge,
        /// 0 live, 1 draining, 2 before initialisation, 3 initialising: Envoy's numbers.
        state: gauge,
        /// Seconds since the start.
        uptime: gauge,
        /// Downstream connections that are open.
        total_connections: gauge,
        /// Octets of memory that the process holds beyond files.
        memory_allocated: gauge,
        /// Octets of resident memory.
        memory_physical_size: gauge,
        /// Octets of memory that is mapped for the heap.
        memory_heap_size: gauge,
        /// From the start of the process until it served.
        initialization_time_ms: histogram(Milliseconds),
        /// Panics that ended a connection or task and nothing else.
        panics: gauge,
    }
}

stat_group! {
    /// `runtime.`
    pub struct RuntimeStats {
        /// Values of `/runtime_modify` that are in force.
        admin_overrides_active: gauge,
        /// Keys with a value.
        num_keys: gauge,
        /// Layers.
        num_layers: gauge,
        /// Snapshots made: one at the start and one for each change.
        load_success: counter,
        /// Those in which a folder could not be read.
        load_error: counter,
        /// Those with more than one folder, as Envoy counts it.
        override_dir_exists: counter,
        /// All others.
        override_dir_not_exists: counter,
    }
}

impl RuntimeStats {
    /// A snapshot was made.
    pub(crate) fn loaded(&self, runtime: &RuntimeLayers, disks: DiskOutcome) {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let layers = runtime.layers();
        let overrides = layers.iter().filter(|layer| layer.is_admin).map(|layer| layer.values.len()).sum();
        if disks.failed > 0 { &self.load_error } else { &self.load_success }.inc();
        if disks.found > 1 { &self.override_dir_exists } else { &self.override_dir_not_exists }.inc();
        self.admin_overrides_active.set(gauge(overrides));
        self.num_keys.set(gauge(runtime.runtime.snapshot().len()));
        self.num_layers.set(gauge(layers.len()));
    }
}

stat_group! {
    /// `http.admin.`: the connections of the admin interface.
    pub struct AdminStats {
        downstream_cx_total: counter,
        downstream_cx_active: gauge,
        downstream_rq_total: counter,
        downstream_rq_active: gauge,
        downstream_rq_completed: counter,
        downstream_rq_2xx: counter,
        downstream_rq_4xx: counter,
        downstream_rq_5xx: counter,
    }
}

impl AdminStats {
    /// Counts an answer; there are no others than these.
    pub(crate) fn count(&self, status: StatusCode) {
        self.downstream_rq_completed.inc();
        match status.class() {
            2 => self.downstream_rq_2xx.inc(),
            4 => self.downstream_rq_4xx.inc(),
            5 => self.downstream_rq_5xx.inc(),
            _ => {}
        }
    }
}

impl ServerStats {
    /// Sets the gauges to what is.
    pub(crate) fn refresh(&self, server: &Server) {
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let state = server.state();
        self.concurrency.set(i64::try_from(server.concurrency).unwrap_or(i64::MAX));
        self.live.set(i64::from(state == State::Live));
        self.state.set(match state {
            State::Live => 0,
            State::Draining => 1,
            State::PreInitializing => 2,
            State::Initializing => 3,
        });
        self.uptime.set(gauge(server.started.elapsed().as_secs()));
        self.total_connections.set(gauge(server.process.open_connections()));
        self.panics.set(gauge(server.process.panics.load(Ordering::Relaxed)));
        let memory = Memory::read();
        self.memory_allocated.set(gauge(memory.anonymous));
        self.memory_physical_size.set(gauge(memory.resident));
        self.memory_heap_size.set(gauge(memory.data));
    }
}

/// What the system says of the process's memory, in octets; zeros where it says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Resident and of no file.
    pub(crate) anonymous: u64,
    /// Resident.
    pub(crate) resident: u64,
    /// Mapped for data.
    pub(crate) data: u64,
}

impl Memory {
    pub(crate) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
        };
        Self {
            anonymous: value("RssAnon:").unwrap_or(0),
            resident: value("VmRSS:").unwrap_or(0),
            data: value("VmData:").unwrap_or(0),
        }
    }
}

stat_group! {
    /// `sds.`: Envoy counts the same for each secret.
    pub(crate) struct SecretStats {
        /// Contexts that took changed secrets over.
        update_success: counter,
        /// Changed secrets, and files of them, that could not be used.
        update_rejected: counter,
    }
}
