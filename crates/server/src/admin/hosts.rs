//! `/clusters` and `/listeners`.

use super::{Body, Reply, Request, TEXT, state::json_reply};
use crate::server::Server;
use regex::Regex;
use serde_json::{Value, json};
use sota_config::cluster::HealthStatus;
use sota_plugin::{http::StatusCode, info::PeerAddress};
use sota_proxy::{
    listener::BoundAddress,
    upstream::{ClusterConfig, Host, HostState},
};
use std::{fmt::Write, net::SocketAddr, sync::Arc};

pub(super) fn clusters(server: &Server, request: &Request<'_>) -> Reply {
    let Ok(filter) = request.parameter("filter").map(|filter| Regex::new(&filter)).transpose() else {
        return Reply::error(StatusCode::BAD_REQUEST, "Invalid re2 regex");
    };
    let mut shown = Vec::new();
    server.resources.each_cluster(|cluster| {
        if filter.as_ref().is_none_or(|filter| filter.is_match(cluster.config.name())) {
            shown.push(Arc::clone(&cluster.config));
        }
    });
    if request.parameter("format").as_deref() == Some("json") {
        let statuses: Vec<_> = shown.iter().map(|cluster| cluster_json(cluster)).collect();
        return json_reply(&json!({ "cluster_statuses": statuses }));
    }
    let pieces = shown.into_iter().map(|cluster| cluster_text(&cluster).into_bytes());
    Reply { status: StatusCode::OK, content_type: TEXT, body: Body::Pieces(Box::new(pieces)) }
}

fn cluster_text(cluster: &ClusterConfig) -> String {
    let (name, model) = (cluster.name(), cluster.model());
    let alias = if model.stat_name.is_empty() { &model.name } else { &model.stat_name };
    let mut out = format!("{name}::observability_name::{alias}\n");
    if model.outlier_detection.is_some() {
        for average in ["success_rate", "local_origin_success_rate"] {
            let _ = writeln!(out, "{name}::outlier::{average}_average::-1");
            let _ = writeln!(out, "{name}::outlier::{average}_ejection_threshold::-1");
        }
    }
    for (priority, limits) in ["default", "high"].iter().zip(&model.circuit_breakers) {
        for (what, limit) in [
            ("max_connections", limits.max_connections),
            ("max_pending_requests", limits.max_pending_requests),
            ("max_requests", limits.max_requests),
            ("max_retries", limits.max_retries),
        ] {
            let _ = writeln!(out, "{name}::{priority}_priority::{what}::{limit}");
        }
    }
    let _ = writeln!(out, "{name}::added_via_api::false");
    for host in cluster.hosts().hosts() {
        host_text(name, host, &mut out);
    }
    out
}

fn host_text(cluster: &str, host: &Host, out: &mut String) {
    let (address, spec, counts) = (host.address(), host.spec(), host.state().counts());
    let mut line = |what: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, "{cluster}::{address}::{what}::{value}");
    };
    line("cx_active", &counts.cx_active);
    line("cx_connect_fail", &counts.cx_connect_fail);
    line("cx_total", &counts.cx_total);
    line("rq_active", &counts.rq_active);
    line("rq_error", &counts.rq_error);
    line("rq_pending_active", &counts.rq_pending_active);
    line("rq_success", &counts.rq_success);
    line("rq_timeout", &counts.rq_timeout);
    line("rq_total", &counts.rq_total);
    line("hostname", &host.hostname());
    line("health_flags", &host.health_flags());
    line("weight", &host.weight());
    for (what, value) in ["region", "zone", "sub_zone"].iter().zip(spec.locality.iter()) {
        line(what, value);
    }
    line("canary", &false);
    line("priority", &spec.priority);
    let [answers, connections] = host.success_rates().map(|rate| rate.unwrap_or(-1.0));
    line("success_rate", &answers);
    line("local_origin_success_rate", &connections);
}

fn cluster_json(cluster: &ClusterConfig) -> Value {
    let model = cluster.model();
    let thresholds: Vec<_> = model
        .circuit_breakers
        .iter()
        .enumerate()
        .map(|(priority, limits)| {
            let mut value = serde_json::Map::new();
            if priority == 1 {
                value.insert("priority".into(), "HIGH".into());
            }
            value.insert("max_connections".into(), limits.max_connections.into());
            value.insert("max_pending_requests".into(), limits.max_pending_requests.into());
            value.insert("max_requests".into(), limits.max_requests.into());
            value.insert("max_retries".into(), limits.max_retries.into());
            Value::Object(value)
        })
        .collect();
    let hosts = cluster.hosts();
    let hosts: Vec<_> = hosts.hosts().iter().map(|host| host_json(host)).collect();
    let mut status = serde_json::Map::new();
    status.insert("name".into(), model.name.as_str().into());
    if !hosts.is_empty() {
        status.insert("host_statuses".into(), hosts.into());
    }
    status.insert("circuit_breakers".into(), json!({ "thresholds": thresholds }));
    let alias = if model.stat_name.is_empty() { &model.name } else { &model.stat_name };
    status.insert("observability_name".into(), alias.as_str().into());
    Value::Object(status)
}

fn host_json(host: &Host) -> Value {
    let (spec, counts) = (host.spec(), host.state().counts());
    let gauge = |n: i64| u64::try_from(n).unwrap_or(0);
    let stats: Vec<_> = [
        ("COUNTER", "cx_connect_fail", counts.cx_connect_fail),
        ("COUNTER", "cx_total", counts.cx_total),
        ("COUNTER", "rq_error", counts.rq_error),
        ("COUNTER", "rq_success", counts.rq_success),
        ("COUNTER", "rq_timeout", counts.rq_timeout),
        ("COUNTER", "rq_total", counts.rq_total),
        ("GAUGE", "cx_active", gauge(counts.cx_active)),
        ("GAUGE", "rq_active", gauge(counts.rq_active)),
        ("GAUGE", "rq_pending_active", gauge(counts.rq_pending_active)),
    ]
    .into_iter()
    .map(|(kind, name, value)| {
        // Defaults are left out, as protobuf's JSON does: a counter is no word, and 0 is none.
        let mut stat = serde_json::Map::new();
        if kind != "COUNTER" {
            stat.insert("type".into(), kind.into());
        }
        if value != 0 {
            stat.insert("value".into(), value.to_string().into());
        }
        stat.insert("name".into(), name.into());
        Value::Object(stat)
    })
    .collect();
    let mut locality = serde_json::Map::new();
    for (key, value) in ["region", "zone", "sub_zone"].iter().zip(spec.locality.iter()) {
        if !value.is_empty() {
            locality.insert((*key).into(), value.as_str().into());
        }
    }
    let mut status = json!({
        "address": address_json(host.address()),
        "stats": stats,
        "health_status": health_json(host),
        "weight": host.weight(),
        "locality": locality,
    });
    for (name, rate) in ["success_rate", "local_origin_success_rate"].iter().zip(host.success_rates()) {
        if let Some(rate) = rate {
            status[name] = json!({ "value": rate });
        }
    }
    if spec.priority != 0 {
        status["priority"] = spec.priority.into();
    }
    if !host.hostname().is_empty() {
        status["hostname"] = (&**host.hostname()).into();
    }
    status
}

/// Flags that are set, and what discovery says.
fn health_json(host: &Host) -> Value {
    let mut status = serde_json::Map::new();
    for (flag, name) in [
        (HostState::FAILED_CHECK, "failed_active_health_check"),
        (HostState::EJECTED, "failed_outlier_check"),
        (HostState::DEGRADED_CHECK, "failed_active_degraded_check"),
        (HostState::PENDING_REMOVAL, "pending_dynamic_removal"),
        (HostState::PENDING_CHECK, "pending_active_hc"),
        (HostState::EXCLUDED, "excluded_via_immediate_hc_fail"),
        (HostState::CHECK_TIMEOUT, "active_hc_timeout"),
    ] {
        if host.state().has(flag) {
            status.insert(name.into(), true.into());
        }
    }
    let of_discovery = match host.spec().health {
        HealthStatus::Unknown | HealthStatus::Healthy => "HEALTHY",
        HealthStatus::Degraded => "DEGRADED",
        HealthStatus::Draining => "DRAINING",
        HealthStatus::Unhealthy | HealthStatus::Timeout => "UNHEALTHY",
    };
    status.insert("eds_health_status".into(), of_discovery.into());
    Value::Object(status)
}

fn address_json(address: &PeerAddress) -> Value {
    match address {
        PeerAddress::Ip(address) => socket_json(*address),
        PeerAddress::Pipe(path) => json!({ "pipe": { "path": path.display().to_string() } }),
    }
}

fn socket_json(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

pub(super) fn listeners(server: &Server, request: &Request<'_>) -> Reply {
    let is_json = request.parameter("format").as_deref() == Some("json");
    let (mut text, mut statuses) = (String::new(), Vec::new());
    server.resources.each_listener(|listener| {
        let name = &listener.config.model.name;
        let mut status = serde_json::Map::new();
        status.insert("name".into(), name.as_str().into());
        for (at, socket) in listener.sockets.iter().enumerate() {
            let _ = writeln!(text, "{name}::{}", socket.bound);
            let address = match &socket.bound {
                BoundAddress::Ip(address) => socket_json(*address),
                BoundAddress::Pipe(path) => json!({ "pipe": { "path": path.display().to_string() } }),
            };
            if at == 0 {
                status.insert("local_address".into(), address);
            } else if let Some(more) = status.entry("additional_local_addresses").or_insert(json!([])).as_array_mut() {
                more.push(address);
            }
        }
        statuses.push(Value::Object(status));
    });
    if is_json { json_reply(&json!({ "listener_statuses": statuses })) } else { Reply::text(text) }
}
