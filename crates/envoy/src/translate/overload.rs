//! The overload manager.

use super::{context::Cx, extension::message_name};
use sota_config::{
    Node,
    overload::{ActionKind, OverloadAction, OverloadManager, OverloadTrigger, ResourceMonitor},
};
use std::time::Duration;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// The limit of downstream connections, which acts by itself, and everything else.
pub(super) fn overload_manager(cx: &mut Cx<'_>, node: &Node) -> (Option<u64>, Option<OverloadManager>) {
    let (mut max_connections, mut monitors) = (None, Vec::<(String, ResourceMonitor)>::new());
    cx.each(node, "resource_monitors", |cx, monitor| {
        let name = monitor.str("name");
        let found = match kind(cx, monitor)? {
            Kind::Connections(_) if max_connections.is_some() => {
                cx.field_error(monitor, "name", "there is a monitor of downstream connections already");
                return None;
            }
            Kind::Connections(max) => {
                max_connections = Some(max);
                return None;
            }
            Kind::Measured(found) => found,
        };
        if monitors.iter().any(|(known, _)| known == name) {
            cx.field_error(monitor, "name", format!("there are two monitors \"{}\"", name.escape_debug()));
        }
        monitors.push((name.to_owned(), found));
        Some(())
    });
    let actions = cx.each(node, "actions", |cx, node| action(cx, node, &monitors));
    let refresh_interval = cx.duration(node, "refresh_interval").unwrap_or(DEFAULT_INTERVAL);
    if refresh_interval.is_zero() {
        cx.field_error(node, "refresh_interval", "must be above 0");
    }
    let is_there = !monitors.is_empty() || !actions.is_empty();
    (max_connections, is_there.then_some(OverloadManager { refresh_interval, monitors, actions }))
}

enum Kind {
    Connections(u64),
    Measured(ResourceMonitor),
}

fn kind(cx: &mut Cx<'_>, monitor: &Node) -> Option<Kind> {
    let config = monitor.field("typed_config");
    Some(Kind::Measured(match message_name(monitor)?.strip_prefix("envoy.extensions.resource_monitors.") {
        Some("downstream_connections.v3.DownstreamConnectionsConfig") => {
            return Some(Kind::Connections(config.uint("max_active_downstream_connections").unwrap_or(0)));
        }
        Some("fixed_heap.v3.FixedHeapConfig") => {
            let max = config.uint("max_heap_size_bytes").unwrap_or(0);
            if max == 0 {
                cx.field_error(config, "max_heap_size_bytes", "must be above 0");
            }
            ResourceMonitor::FixedHeap { max }
        }
        Some("cgroup_memory.v3.CgroupMemoryConfig") => {
            ResourceMonitor::CgroupMemory { max: config.uint("max_memory_bytes").filter(|max| *max > 0) }
        }
        Some("cpu_utilization.v3.CpuUtilizationConfig") => ResourceMonitor::CpuUtilization,
        Some("injected_resource.v3.InjectedResourceConfig") => {
            ResourceMonitor::Injected { file: config.str("filename").to_owned() }
        }
        _ if cx.is_refused() => return None,
        _ => {
            let name = monitor.str("name").escape_debug();
            cx.field_error(monitor, "name", format!("the monitor \"{name}\" is not supported"));
            return None;
        }
    }))
}

fn action(cx: &mut Cx<'_>, node: &Node, monitors: &[(String, ResourceMonitor)]) -> Option<OverloadAction> {
    let name = node.str("name");
    let Some(kind) = ActionKind::ALL.into_iter().find(|kind| kind.name() == name) else {
        let known: Vec<_> = ActionKind::ALL.iter().map(|kind| kind.name()).collect();
        let reason =
            format!("the action \"{}\" is not supported; there are: {}", name.escape_debug(), known.join(", "));
        cx.field_error(node, "name", reason);
        return None;
    };
    if node.has("typed_config") {
        cx.field_error(node, "typed_config", "this action has no configuration");
    }
    let triggers = cx.each(node, "triggers", |cx, trigger| {
        let name = trigger.str("name");
        let Some(monitor) = monitors.iter().position(|(known, _)| known == name) else {
            cx.field_error(trigger, "name", format!("there is no monitor \"{}\"", name.escape_debug()));
            return None;
        };
        let (from, saturation) = match trigger.get("scaled") {
            Some(scaled) => {
                let value = |field| scaled.f64(field).unwrap_or(0.0);
                (value("scaling_threshold"), value("saturation_threshold"))
            }
            None => {
                let value = trigger.field("threshold").f64("value").unwrap_or(0.0);
                (value, value)
            }
        };
        if trigger.has("scaled") && from >= saturation {
            cx.field_error(trigger, "scaled", "the scaling threshold must be below the saturation threshold");
        }
        Some(OverloadTrigger { monitor, from, saturation })
    });
    Some(OverloadAction { kind, triggers })
}
