//! A cluster, its hosts, and the one that is chosen.

use super::{ClusterExplanation, HostExplanation, Served, words};
use crate::{
    local::Local,
    upstream::{Cluster, ClusterConfig, Host, LbContext},
};
use sota_config::cluster::Discovery;
use std::{rc::Rc, sync::Arc};

/// So many hosts are listed.
const MOST_HOSTS: usize = 32;

/// A worker's part of a cluster, whose counters nobody sees.
pub(super) fn detached(config: &Arc<ClusterConfig>) -> Rc<Cluster> {
    Cluster::detached(&Local::detached(), config)
}

/// `choose`: also choose a host, as a request would.
pub(super) fn explain(name: &str, served: &Served<'_>, cx: &LbContext<'_>, choose: bool) -> ClusterExplanation {
    let Some(config) = (served.clusters)(name) else {
        return ClusterExplanation { name: name.to_owned(), ..ClusterExplanation::default() };
    };
    describe(&config, choose.then(|| (detached(&config), cx)))
}

/// A cluster that exists.
pub(super) fn describe(
    config: &Arc<ClusterConfig>,
    choice: Option<(Rc<Cluster>, &LbContext<'_>)>,
) -> ClusterExplanation {
    let (model, set) = (config.model(), config.hosts());
    let mut facts = vec![("hosts", discovery(&model.discovery)), ("policy", words::policy(&model.lb_policy))];
    if model.lb_config.locality_weighted {
        facts.push(("localities", "one is drawn by weight before the host".to_owned()));
    }
    if let Some(subsets) = &model.lb_config.subsets {
        let keys = |keys: &[Arc<str>]| keys.join(" and ");
        let selectors: Vec<_> = subsets.selectors.iter().map(|selector| keys(&selector.keys)).collect();
        facts.push(("subsets", format!("by {}; otherwise {:?}", selectors.join(", or by "), subsets.fallback)));
    }
    for (number, (healthy, degraded, panic)) in set.priorities().iter().map(|of| of.share()).enumerate() {
        if set.priorities().len() > 1 || degraded > 0 || panic {
            let panic = if panic { "; so few are healthy that all are used (panic)" } else { "" };
            facts.push(("priority", format!("{number}: {healthy} % healthy, {degraded} % degraded{panic}")));
        }
    }
    let limits = &model.circuit_breakers[0];
    facts.push((
        "limits",
        format!(
            "{} connections, {} waiting, {} requests, {} retries",
            limits.max_connections, limits.max_pending_requests, limits.max_requests, limits.max_retries
        ),
    ));
    facts.push(("connect", words::time(Some(model.connect_timeout))));
    // Asking for the destination of a connection would make a host of it.
    let choice = choice.filter(|_| !matches!(model.discovery, Discovery::OriginalDst(_)));
    let chosen = choice.and_then(|(cluster, cx)| cluster.choose_host(cx)).map(|host| host.host().address().to_string());
    ClusterExplanation {
        name: config.name().to_string(),
        exists: true,
        facts,
        hosts: set.hosts().iter().take(MOST_HOSTS).map(|of| host(of)).collect(),
        more_hosts: set.hosts().len().saturating_sub(MOST_HOSTS),
        chosen,
    }
}

fn host(host: &Host) -> HostExplanation {
    let spec = host.spec();
    let locality: Vec<&str> = spec.locality.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    HostExplanation {
        address: host.address().to_string(),
        hostname: host.hostname().to_string(),
        weight: host.weight(),
        priority: spec.priority,
        locality: locality.join("/"),
        health: host.health_flags(),
    }
}

fn discovery(discovery: &Discovery) -> String {
    match discovery {
        Discovery::Static => "as configured".to_owned(),
        Discovery::StrictDns(_) => "every address of its names (STRICT_DNS)".to_owned(),
        Discovery::LogicalDns(_) => "the first address of its name (LOGICAL_DNS)".to_owned(),
        Discovery::Eds { service_name, .. } => format!("endpoint discovery of {service_name}"),
        Discovery::OriginalDst(_) => "where the client wanted to go (ORIGINAL_DST)".to_owned(),
    }
}

/// How it ends at a cluster.
pub(super) fn outcome(cluster: &ClusterExplanation, what: &str) -> String {
    let has = |text: &str| cluster.facts.iter().any(|(_, fact)| fact.contains(text));
    match &cluster.chosen {
        _ if !cluster.exists => format!("there is no cluster \"{}\" (NC)", cluster.name),
        Some(host) => format!("{what} {host} of cluster {}", cluster.name),
        None if has("_DNS)") && cluster.hosts.is_empty() => {
            format!("{what} a host of cluster {}, whose names are resolved when the proxy runs", cluster.name)
        }
        None if has("(ORIGINAL_DST)") => format!("{what} its own destination, through cluster {}", cluster.name),
        None => format!("cluster {} has no host that may be used (UH)", cluster.name),
    }
}
