//! An explanation for programs.

use serde_json::{Value, json};
use sota_proxy::explain::{ClusterExplanation, Explanation, ForwardExplanation, HttpExplanation, Share, Tried};

pub(super) fn render(explanation: &Explanation) -> String {
    let value = json!({
        "listeners": tried(&explanation.listeners),
        "filter_chains": tried(&explanation.filter_chains),
        "network_filters": explanation.network_filters,
        "http": explanation.http.as_ref().map(http),
        "tcp": explanation.tcp.iter().map(|(of, cluster)| json!({"share": share(of), "cluster": self::cluster(cluster)})).collect::<Vec<_>>(),
        "notes": explanation.notes,
        "outcome": explanation.outcome,
    });
    let mut text = serde_json::to_string_pretty(&value).unwrap_or_default();
    text.push('\n');
    text
}

fn tried(all: &[Tried]) -> Value {
    all.iter().map(|one| json!({"name": one.name, "chosen": one.rejected.is_none(), "reason": one.rejected})).collect()
}

fn share(share: &Share) -> Value {
    json!({"name": share.name, "percent": share.per_mille as f64 / 10.0, "chosen": share.is_chosen})
}

fn pairs(pairs: &[(&'static str, String)]) -> Value {
    pairs.iter().map(|(name, text)| json!({"name": name, "value": text})).collect()
}

fn http(http: &HttpExplanation) -> Value {
    let filter = |of: &sota_proxy::explain::FilterExplanation| json!({"name": of.name, "runs": of.runs, "by": of.by});
    json!({
        "stat_prefix": http.stat_prefix,
        "changes": http.changes,
        "route_configuration": http.route_configuration,
        "virtual_hosts": tried(&http.virtual_hosts),
        "routes": tried(&http.routes),
        "filters": http.filters.iter().map(filter).collect::<Vec<_>>(),
        "forward": http.forward.as_ref().map(forward),
    })
}

fn forward(forward: &ForwardExplanation) -> Value {
    json!({
        "clusters": forward.clusters.iter().map(share).collect::<Vec<_>>(),
        "sent": forward.sent,
        "timeouts": pairs(&forward.timeouts),
        "retries": pairs(&forward.retries),
        "hash": forward.hash.map(|hash| format!("{hash:016x}")),
        "cluster": cluster(&forward.cluster),
    })
}

fn cluster(cluster: &ClusterExplanation) -> Value {
    let host = |host: &sota_proxy::explain::HostExplanation| {
        json!({
            "address": host.address,
            "hostname": host.hostname,
            "weight": host.weight,
            "priority": host.priority,
            "locality": host.locality,
            "health": host.health,
        })
    };
    json!({
        "name": cluster.name,
        "exists": cluster.exists,
        "facts": pairs(&cluster.facts),
        "hosts": cluster.hosts.iter().map(host).collect::<Vec<_>>(),
        "more_hosts": cluster.more_hosts,
        "chosen": cluster.chosen,
    })
}
