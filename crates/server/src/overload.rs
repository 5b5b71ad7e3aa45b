//! The overload manager: measures, and says what is to be done about it. What is said is looked at where it matters: by
//! the listeners, and with each request.

use crate::{memory, server_stats::Memory};
use sota_config::overload::{ActionKind, OverloadAction, OverloadManager, ResourceMonitor};
use sota_plugin::{
    stat_group,
    stats::{Group, Scope, SharedCounter},
};
use sota_proxy::local::Process;
use std::{fs, io, sync::Arc};

stat_group! {
    /// `overload.<monitor>.`
    struct MonitorStats {
        /// In percent.
        pressure: gauge,
        /// Measurements that failed; what was measured before holds.
        failed_updates: counter,
        /// Measurements that were left out: none.
        skipped_updates: counter,
    }
}

stat_group! {
    /// `overload.<action>.`
    struct ActionStats {
        /// 1 while it is taken wholly.
        active: gauge,
        /// How far it is taken, in percent.
        scale_percent: gauge,
    }
}

/// What runs at each interval.
pub(crate) struct Overload {
    monitors: Vec<Monitor>,
    actions: Vec<(OverloadAction, Group<ActionStats>)>,
    process: Arc<Process>,
    shrink_count: Option<SharedCounter>,
}

struct Monitor {
    name: String,
    resource: ResourceMonitor,
    stats: Group<MonitorStats>,
    pressure: f64,
    /// Of the processors: idle and all time at the last measurement.
    processors: Option<(u64, u64)>,
    is_failing: bool,
}

/// What a new measurement of the processors counts beside those before it, as with Envoy.
const DAMPENING: f64 = 0.05;

impl Overload {
    pub(crate) fn new(model: &OverloadManager, process: &Arc<Process>, root: &Scope) -> Self {
        let scope = |name: &str| root.child(&format!("overload.{name}."));
        let monitor = |(name, resource): &(String, ResourceMonitor)| Monitor {
            name: name.clone(),
            resource: resource.clone(),
            stats: scope(name).group(),
            pressure: 0.0,
            processors: None,
            is_failing: false,
        };
        let shrinks = model.actions.iter().any(|action| action.kind == ActionKind::ShrinkHeap);
        Self {
            monitors: model.monitors.iter().map(monitor).collect(),
            actions: model.actions.iter().map(|action| (action.clone(), scope(action.kind.name()).group())).collect(),
            process: Arc::clone(process),
            shrink_count: shrinks.then(|| scope(ActionKind::ShrinkHeap.name()).shared_counter("shrink_count")),
        }
    }

    /// Measures, and says how far each action is taken from now on.
    pub(crate) fn refresh(&mut self) {
        self.monitors.iter_mut().for_each(Monitor::refresh);
        for (action, stats) in &self.actions {
            let value = |trigger: &sota_config::overload::OverloadTrigger| {
                self.monitors.get(trigger.monitor).map_or(0.0, |monitor| trigger.value(monitor.pressure))
            };
            let value = action.triggers.iter().map(value).fold(0.0, f64::max);
            let is_active = value >= 1.0;
            if is_active != (stats.active.value() == 1) {
                let what = if is_active { "begins" } else { "is over" };
                tracing::warn!(target: "main", "overload: {} {what}", action.kind.name());
            }
            stats.active.set(is_active.into());
            stats.scale_percent.set((value * 100.0) as i64);
            self.process.set_overload(action.kind, value);
            if action.kind == ActionKind::ShrinkHeap && is_active {
                memory::release_memory();
                if let Some(count) = &self.shrink_count {
                    count.inc();
                }
            }
        }
    }
}

impl Monitor {
    fn refresh(&mut self) {
        match self.measure() {
            Ok(pressure) => {
                self.pressure = pressure;
                self.is_failing = false;
                self.stats.pressure.set((pressure * 100.0) as i64);
            }
            Err(error) => {
                self.stats.failed_updates.inc();
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(target: "main", "overload: cannot measure {}: {error}", self.name);
                }
            }
        }
    }

    fn measure(&mut self) -> io::Result<f64> {
        match &self.resource {
            ResourceMonitor::FixedHeap { max } => Ok(Memory::read().anonymous as f64 / *max as f64),
            ResourceMonitor::CgroupMemory { max } => cgroup_pressure(*max),
            ResourceMonitor::CpuUtilization => {
                let (idle, all) = processor_times()?;
                let (old_idle, old_all) = self.processors.replace((idle, all)).unwrap_or((idle, all));
                let passed = all.saturating_sub(old_all);
                if passed == 0 {
                    return Ok(self.pressure);
                }
                let busy = 1.0 - idle.saturating_sub(old_idle) as f64 / passed as f64;
                Ok(busy * DAMPENING + self.pressure * (1.0 - DAMPENING))
            }
            ResourceMonitor::Injected { file } => {
                let text = fs::read_to_string(file)?;
                let invalid = || io::Error::other("a number from 0 to 1 is expected in the file");
                text.trim().parse().ok().filter(|value| (0.0..=1.0).contains(value)).ok_or_else(invalid)
            }
        }
    }
}

/// Version 2 of control groups, or else version 1.
fn cgroup_pressure(max: Option<u64>) -> io::Result<f64> {
    const FILES: [[&str; 2]; 2] = [
        ["/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.max"],
        ["/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"],
    ];
    for [usage, limit] in FILES {
        let Ok(usage) = fs::read_to_string(usage) else { continue };
        // The text `max` is no limit.
        let limit = fs::read_to_string(limit)?.trim().parse::<u64>().ok();
        let used: u64 = usage.trim().parse().map_err(io::Error::other)?;
        return Ok(match limit.into_iter().chain(max).min() {
            Some(limit) => used as f64 / limit.max(1) as f64,
            None => 0.0,
        });
    }
    Err(io::Error::other("there is no memory controller of control groups"))
}

/// Idle time and all time of the processors, in ticks.
fn processor_times() -> io::Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
    let times: Vec<u64> =
        line.unwrap_or_default().split_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
    match times.get(3) {
        Some(idle) => Ok((*idle, times.iter().sum())),
        None => Err(io::Error::other("/proc/stat has another form")),
    }
}
