//! The process itself: readiness, draining, logs, runtime values, memory.

use super::{JSON, Reply, Request};
use crate::{
    logging::{COMPONENTS, level_name, parse_level},
    server::{Server, State},
    server_stats::Memory,
    xds::Report,
};
use serde_json::json;
use sota_config::listener::TrafficDirection;
use sota_plugin::http::StatusCode;
use sota_proxy::{listener::ListenerConfig, worker::WorkerCommand};
use std::{fmt::Write, rc::Rc, time::Duration};

/// With `verbose` it says what is awaited, and what is only remembered of a control plane.
pub(super) fn ready(server: &Server, request: &Request<'_>) -> Reply {
    let mut text = format!("{}\n", state_name(server.state()));
    if request.parameter("verbose").is_some() {
        let Report { awaited, remembered } = server.discovery_report();
        text.extend(awaited.iter().map(|what| format!("awaited: {what}\n")));
        text.extend(remembered.iter().map(|what| format!("remembered: {what}\n")));
    }
    match server.state() {
        State::Live => Reply::text(text),
        _ => Reply::error(StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

/// What is awaited, as Envoy's `UnreadyTargetsDumps`.
pub(super) fn init_dump(server: &Server) -> Reply {
    let awaited = server.discovery_report().awaited;
    let dumps = match awaited.is_empty() {
        true => json!([]),
        false => json!([{"name": "init manager Server", "target_names": awaited}]),
    };
    json_reply(&json!({"unready_targets_dumps": dumps}))
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Live => "LIVE",
        State::Draining => "DRAINING",
        State::PreInitializing => "PRE_INITIALIZING",
        State::Initializing => "INITIALIZING",
    }
}

pub(super) fn set_failing(server: &Server, failing: bool) -> Reply {
    server.process.set_health_check_failing(failing);
    Reply::text("OK\n")
}

/// Asks connections to end and stops listeners: at once, after the drain time (`graceful`), or never (`skip_exit`).
pub(super) async fn drain_listeners(server: &Rc<Server>, request: &Request<'_>) -> Reply {
    let which: fn(&ListenerConfig) -> bool = if request.parameter("inboundonly").is_some() {
        |listener| listener.model.traffic_direction == TrafficDirection::Inbound
    } else {
        |_| true
    };
    server.workers.publish(|| WorkerCommand::Drain(which));
    if request.parameter("skip_exit").is_none() {
        if request.parameter("graceful").is_some() {
            let server = Rc::clone(server);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(server.options.drain_time).await;
                server.resources.stop_accepting(which);
            });
        } else {
            server.resources.stop_accepting(which);
        }
    }
    server.workers.ask(Duration::from_secs(1), |_| ()).await;
    Reply::text("OK\n")
}

pub(super) fn logging(server: &Server, request: &Request<'_>) -> Reply {
    let result = change_levels(server, request);
    let mut out = String::new();
    if let Err(error) = &result {
        let _ = write!(
            out,
            "error: {error}\n\n\
             usage: /logging?<name>=<level> (change single level)\n\
             usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
             usage: /logging?level=<level> (change all levels)\n\
             usage: /logging?group=<group_name>:<level> (change group of loggers)\n\
             levels: trace debug info warning error critical off \n"
        );
    }
    out.push_str("active loggers:\n");
    for (name, level) in server.logging.levels() {
        let _ = writeln!(out, "  {name}: {}", level_name(level));
    }
    out.push('\n');
    if result.is_ok() { Reply::text(out) } else { Reply::error(StatusCode::BAD_REQUEST, out) }
}

/// Changes what the one parameter says, all of it or nothing.
fn change_levels(server: &Server, request: &Request<'_>) -> Result<(), String> {
    let mut parameters = request.parameters();
    let Some((name, value)) = parameters.next() else { return Ok(()) };
    if parameters.next().is_some() {
        return Err("invalid number of parameters".to_owned());
    }
    let level = |name: &str| parse_level(name).ok_or_else(|| "unknown logger level".to_owned());
    let changes = match name.as_str() {
        "level" => {
            server.logging.set_all(level(&value)?);
            return Ok(());
        }
        // Envoy has groups of source files in its fine-grained log only, which is not there.
        "group" => return Err("group parameter requires fine-grain logging to be enabled".to_owned()),
        "paths" => {
            let pairs = value.split(',').filter(|pair| !pair.is_empty()).map(|pair| match pair.split_once(':') {
                Some((component, wanted)) if !component.is_empty() && !wanted.is_empty() => {
                    Ok((component.to_owned(), level(wanted)?))
                }
                _ => Err("empty logger name or empty logger level".to_owned()),
            });
            pairs.collect::<Result<Vec<_>, String>>()?
        }
        _ => vec![(name, level(&value)?)],
    };
    if !changes.iter().all(|(component, _)| COMPONENTS.contains(&component.as_str())) {
        return Err("unknown logger name".to_owned());
    }
    for (component, level) in changes {
        server.logging.set_component(&component, level);
    }
    Ok(())
}

/// Octets, by Envoy's names. What its allocator alone knows is 0 here.
pub(super) fn memory() -> Reply {
    let memory = Memory::read();
    json_reply(&json!({
        "allocated": memory.anonymous.to_string(),
        "heap_size": memory.data.to_string(),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": memory.resident.to_string(),
    }))
}

pub(super) fn runtime(server: &Server) -> Reply {
    let layers = server.runtime.layers();
    let mut entries = serde_json::Map::new();
    for (key, value) in server.runtime.runtime.snapshot().iter() {
        let by_layer: Vec<_> = layers.iter().map(|layer| layer.values.get(key).cloned().unwrap_or_default()).collect();
        entries.insert(key.clone(), json!({ "layer_values": by_layer, "final_value": value }));
    }
    let names: Vec<_> = layers.iter().map(|layer| layer.name.as_str()).collect();
    json_reply(&json!({ "entries": entries, "layers": names }))
}

pub(super) fn runtime_modify(server: &Server, request: &Request<'_>) -> Reply {
    let values: Vec<_> = request.parameters().collect();
    if values.is_empty() {
        let usage = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       \
                     or send the parameters as form values\nuse an empty value to remove a previously added override";
        return Reply::error(StatusCode::BAD_REQUEST, usage);
    }
    match server.runtime.modify(values) {
        Ok(()) => {
            server.apply_runtime();
            Reply::text("OK\n")
        }
        Err(_) => Reply::error(StatusCode::SERVICE_UNAVAILABLE, "No admin layer specified"),
    }
}

pub(super) fn server_info(server: &Server) -> Reply {
    let options = &server.options;
    let uptime = format!("{}s", server.started.elapsed().as_secs());
    let bootstrap = server.bootstrap.borrow();
    let mut info = json!({
        "version": format!("sota-mesh/{}", env!("CARGO_PKG_VERSION")),
        "state": state_name(server.state()),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": {
            "concurrency": server.concurrency,
            "config_path": options.config.path.display().to_string(),
            "allow_unknown_static_fields": options.config.allow_unknown_static_fields,
            "admin_address_path": options.admin_address_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            "log_level": level_name(options.log_level),
            "log_path": options.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            "service_cluster": options.service_cluster.clone().unwrap_or_default(),
            "service_node": options.service_node.clone().unwrap_or_default(),
            "drain_time": format!("{}s", options.drain_time.as_secs()),
            "mode": "Serve",
        },
        "node": { "id": bootstrap.node.id, "cluster": bootstrap.node.cluster },
    });
    let needs_restart = server.needs_restart.borrow();
    if !needs_restart.is_empty() {
        info["needs_restart"] = json!(*needs_restart);
    }
    json_reply(&info)
}

/// JSON as Envoy indents it.
pub(super) fn json_reply(value: &serde_json::Value) -> Reply {
    Reply { content_type: JSON, ..Reply::text(format!("{}\n", pretty(value))) }
}

pub(super) fn pretty(value: &serde_json::Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // A value that is in memory can always be written.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    String::from_utf8(out).unwrap_or_default()
}
