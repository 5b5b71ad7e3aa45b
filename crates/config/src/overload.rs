//! The overload manager: what is measured, and what is done when it is too much.

use std::time::Duration;

/// `envoy.config.overload.v3.OverloadManager`, without the limit of downstream connections, which acts by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct OverloadManager {
    /// How often is measured; default 1 s.
    pub refresh_interval: Duration,
    /// What is measured, by name.
    pub monitors: Vec<(String, ResourceMonitor)>,
    /// What is done.
    pub actions: Vec<OverloadAction>,
}

/// What is measured: a pressure, where 1 is as much as may be.
#[derive(Debug, Clone, PartialEq)]
pub enum ResourceMonitor {
    /// Memory of the process beyond files, in octets, against this.
    FixedHeap {
        /// `max_heap_size_bytes`.
        max: u64,
    },
    /// Memory of the control group against its limit, or against this if it is less.
    CgroupMemory {
        /// `max_memory_bytes`.
        max: Option<u64>,
    },
    /// Processor time of the machine.
    CpuUtilization,
    /// A number that stands in a file.
    Injected {
        /// Its name.
        file: String,
    },
}

/// What is done, when the first of its triggers says so.
#[derive(Debug, Clone, PartialEq)]
pub struct OverloadAction {
    /// What.
    pub kind: ActionKind,
    /// Any of them; the strongest counts.
    pub triggers: Vec<OverloadTrigger>,
}

/// The actions that are there; the discriminant is their place in tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionKind {
    /// Requests are answered with 503.
    StopAcceptingRequests,
    /// Connections of HTTP end with their response.
    DisableHttpKeepalive,
    /// Nothing is accepted.
    StopAcceptingConnections,
    /// What is accepted is closed.
    RejectIncomingConnections,
    /// The allocator gives back what it keeps.
    ShrinkHeap,
}

impl ActionKind {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 5] = [
        Self::StopAcceptingRequests,
        Self::DisableHttpKeepalive,
        Self::StopAcceptingConnections,
        Self::RejectIncomingConnections,
        Self::ShrinkHeap,
    ];

    /// Its name in Envoy's configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StopAcceptingRequests => "envoy.overload_actions.stop_accepting_requests",
            Self::DisableHttpKeepalive => "envoy.overload_actions.disable_http_keepalive",
            Self::StopAcceptingConnections => "envoy.overload_actions.stop_accepting_connections",
            Self::RejectIncomingConnections => "envoy.overload_actions.reject_incoming_connections",
            Self::ShrinkHeap => "envoy.overload_actions.shrink_heap",
        }
    }
}

/// When an action is taken, and how far.
#[derive(Debug, Clone, PartialEq)]
pub struct OverloadTrigger {
    /// The place of its monitor.
    pub monitor: usize,
    /// The pressure from which on the action is taken at all. With [`Self::saturation`] the part grows from 0 there.
    pub from: f64,
    /// The pressure from which on it is taken wholly; equal to `from` for a threshold.
    pub saturation: f64,
}

impl OverloadTrigger {
    /// How far the action is taken under this pressure: 0 to 1.
    pub fn value(&self, pressure: f64) -> f64 {
        if pressure >= self.saturation {
            1.0
        } else if pressure <= self.from {
            0.0
        } else {
            (pressure - self.from) / (self.saturation - self.from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers() {
        let threshold = OverloadTrigger { monitor: 0, from: 0.9, saturation: 0.9 };
        assert_eq!([0.0, 0.89, 0.9, 1.5].map(|pressure| threshold.value(pressure)), [0.0, 0.0, 1.0, 1.0]);
        let scaled = OverloadTrigger { monitor: 0, from: 0.5, saturation: 1.0 };
        assert_eq!([0.5, 0.75, 1.0].map(|pressure| scaled.value(pressure)), [0.0, 0.5, 1.0]);
    }

    #[test]
    fn places_in_tables() {
        assert!(ActionKind::ALL.iter().enumerate().all(|(at, kind)| *kind as usize == at));
    }
}
