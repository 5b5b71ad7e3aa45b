//! What `/config_dump` shows: the messages of the dump, their lists, and where the resources of each list are.

use crate::{resources::ActiveListener, server::Server};
use sota_config::{
    Node, Source, Value,
    cluster::Discovery,
    http::RouteSource,
    listener::{FilterChain, NetworkFilterKind},
    route::RouteConfiguration,
};
use sota_plugin::info::PeerAddress;
use sota_proxy::{
    router::Brought,
    upstream::{ClusterConfig, Host, HostHealth},
};
use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

/// Whether a resource of this name is asked for.
pub(super) type Wanted<'a> = dyn Fn(&str) -> bool + 'a;
/// The entries whose resource has a name that is wanted.
type Entries = fn(&Server, &Wanted<'_>) -> Vec<Entry>;

/// A message of the dump (`envoy.admin.v3`).
pub(super) struct Section {
    pub(super) message: &'static str,
    /// Its fields that are no lists.
    pub(super) fields: &'static [&'static str],
    /// Its lists.
    pub(super) lists: &'static [List],
}

/// A list of resources.
pub(super) struct List {
    pub(super) name: &'static str,
    /// The message of its entries, inside of the section's.
    pub(super) element: &'static str,
    /// The field of an entry that has the resource.
    pub(super) key: &'static str,
    /// The resource's own message.
    pub(super) message: &'static str,
    /// What it has.
    pub(super) entries: Entries,
}

/// An entry of a list.
pub(super) struct Entry {
    /// Of an entry whose fields stand in one of its own.
    pub(super) name: Option<String>,
    /// The version that a control plane gave it.
    pub(super) version: Option<String>,
    pub(super) resource: Option<Arc<Source>>,
    pub(super) last_updated: Option<SystemTime>,
}

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";
const SCOPED_ROUTES: &str = "envoy.config.route.v3.ScopedRouteConfiguration";
const SECRET: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";

/// The messages in Envoy's order.
pub(super) static SECTIONS: &[Section] = &[
    Section { message: "BootstrapConfigDump", fields: &["bootstrap", "last_updated"], lists: &[] },
    Section {
        message: "ClustersConfigDump",
        fields: &["version_info"],
        lists: &[
            list("static_clusters", "StaticCluster", "cluster", CLUSTER, clusters),
            list("dynamic_active_clusters", "DynamicCluster", "cluster", CLUSTER, dynamic_clusters),
            list("dynamic_warming_clusters", "DynamicCluster", "cluster", CLUSTER, none),
        ],
    },
    Section {
        message: "EndpointsConfigDump",
        fields: &[],
        lists: &[
            list("static_endpoint_configs", "StaticEndpointConfig", "endpoint_config", ENDPOINTS, endpoints),
            list("dynamic_endpoint_configs", "DynamicEndpointConfig", "endpoint_config", ENDPOINTS, dynamic_endpoints),
        ],
    },
    Section {
        message: "ListenersConfigDump",
        fields: &["version_info"],
        lists: &[
            list("static_listeners", "StaticListener", "listener", LISTENER, listeners),
            list("dynamic_listeners", "DynamicListener", "listener", LISTENER, dynamic_listeners),
        ],
    },
    Section {
        message: "ScopedRoutesConfigDump",
        fields: &[],
        lists: &[
            list(
                "inline_scoped_route_configs",
                "InlineScopedRouteConfigs",
                "scoped_route_configs",
                SCOPED_ROUTES,
                none,
            ),
            list(
                "dynamic_scoped_route_configs",
                "DynamicScopedRouteConfigs",
                "scoped_route_configs",
                SCOPED_ROUTES,
                none,
            ),
        ],
    },
    Section {
        message: "RoutesConfigDump",
        fields: &[],
        lists: &[
            list("static_route_configs", "StaticRouteConfig", "route_config", ROUTES, routes),
            list("dynamic_route_configs", "DynamicRouteConfig", "route_config", ROUTES, dynamic_routes),
        ],
    },
    Section {
        message: "SecretsConfigDump",
        fields: &[],
        lists: &[
            list("static_secrets", "StaticSecret", "secret", SECRET, none),
            list("dynamic_active_secrets", "DynamicSecret", "secret", SECRET, none),
            list("dynamic_warming_secrets", "DynamicSecret", "secret", SECRET, none),
        ],
    },
];

const fn list(
    name: &'static str,
    element: &'static str,
    key: &'static str,
    message: &'static str,
    entries: Entries,
) -> List {
    List { name, element, key, message, entries }
}

/// Nothing of this kind exists yet.
fn none(_: &Server, _: &Wanted<'_>) -> Vec<Entry> {
    Vec::new()
}

fn clusters(server: &Server, wanted: &Wanted<'_>) -> Vec<Entry> {
    clusters_of(server, wanted, false)
}

fn dynamic_clusters(server: &Server, wanted: &Wanted<'_>) -> Vec<Entry> {
    clusters_of(server, wanted, true)
}

fn clusters_of(server: &Server, wanted: &Wanted<'_>, is_dynamic: bool) -> Vec<Entry> {
    let mut found = Vec::new();
    server.resources.each_cluster(|cluster| {
        let model = cluster.config.model();
        if cluster.version.is_some() == is_dynamic && wanted(&model.name) {
            found.push(Entry {
                name: None,
                version: cluster.version.clone(),
                resource: model.source.clone(),
                last_updated: Some(cluster.last_updated),
            });
        }
    });
    found
}

fn listeners(server: &Server, wanted: &Wanted<'_>) -> Vec<Entry> {
    listeners_of(server, wanted, false)
}

fn dynamic_listeners(server: &Server, wanted: &Wanted<'_>) -> Vec<Entry> {
    listeners_of(server, wanted, true)
}

fn listeners_of(server: &Server, wanted: &Wanted<'_>, is_dynamic: bool) -> Vec<Entry> {
    let mut found = Vec::new();
    server.resources.each_listener(|listener| {
        let model = &listener.config.model;
        if listener.version.is_some() == is_dynamic && wanted(&model.name) {
            found.push(Entry {
                name: is_dynamic.then(|| model.name.clone()),
                version: listener.version.clone(),
                resource: model.source.clone(),
                last_updated: Some(listener.last_updated),
            });
        }
    });
    found
}

/// Each table once, though several connection managers may use it.
fn dynamic_routes(server: &Server, wanted: &Wanted<'_>) -> Vec<Entry> {
    let mut tables: BTreeMap<String, Brought> = BTreeMap::new();
    server.resources.each_listener(|listener| {
        for routes in listener.config.dynamic_routes().filter(|routes| wanted(routes.name())) {
            tables.extend(routes.brought().map(|brought| (routes.name().to_owned(), brought)));
        }
    });
    let entry = |brought: Brought| Entry {
        name: None,
        version: Some(brought.version.to_string()),
        resource: brought.table.model().source.clone(),
        last_updated: Some(brought.last_updated),
    };
    tables.into_values().map(entry).collect()
}

fn routes(server: &Server, wanted: &Wanted<'_>) -> Vec<Entry> {
    let mut found = Vec::new();
    server.resources.each_listener(|listener| {
        for routes in inline_routes(listener).filter(|routes| wanted(&routes.name)) {
            found.push(Entry {
                name: None,
                version: None,
                resource: routes.source.clone(),
                last_updated: Some(listener.last_updated),
            });
        }
    });
    found
}

/// The route configurations that stand in the connection managers of a listener.
fn inline_routes(listener: &ActiveListener) -> impl Iterator<Item = &RouteConfiguration> {
    let model = &listener.config.model;
    let chains = model.filter_chains.iter().chain(&model.default_filter_chain);
    let filters = chains.flat_map(|chain: &Arc<FilterChain>| &chain.filters);
    filters.filter_map(|filter| match &filter.kind {
        NetworkFilterKind::HttpConnectionManager(manager) => match &manager.routes {
            RouteSource::Inline(routes) => Some(&**routes),
            RouteSource::Rds { .. } => None,
        },
        _ => None,
    })
}

fn endpoints(server: &Server, wanted: &Wanted<'_>) -> Vec<Entry> {
    endpoints_of(server, wanted, false)
}

fn dynamic_endpoints(server: &Server, wanted: &Wanted<'_>) -> Vec<Entry> {
    endpoints_of(server, wanted, true)
}

fn endpoints_of(server: &Server, wanted: &Wanted<'_>, is_dynamic: bool) -> Vec<Entry> {
    let mut found = Vec::new();
    server.resources.each_cluster(|cluster| {
        let is_eds = matches!(cluster.config.model().discovery, Discovery::Eds { .. });
        if is_eds == is_dynamic && wanted(cluster.config.name()) {
            let resource = Some(Arc::new(Source::new(&load_assignment(&cluster.config))));
            found.push(Entry { name: None, version: None, resource, last_updated: None });
        }
    });
    found
}

/// The hosts that a cluster has now, by priority and locality.
fn load_assignment(cluster: &ClusterConfig) -> Node {
    let hosts = cluster.hosts();
    let mut groups: Vec<Vec<&Arc<Host>>> = Vec::new();
    for host in hosts.hosts() {
        let place = |host: &Host| (host.spec().priority, Arc::clone(&host.spec().locality));
        match groups.iter_mut().find(|group| group.first().is_some_and(|first| place(first) == place(host))) {
            Some(group) => group.push(host),
            None => groups.push(vec![host]),
        }
    }
    let factor = match cluster.model().load_assignment.overprovisioning_factor {
        0 => 140,
        factor => factor,
    };
    map(vec![
        ("cluster_name", Node::string(&**cluster.name())),
        ("endpoints", list_of(groups.iter().map(|group| locality_endpoints(group)))),
        ("policy", map(vec![("overprovisioning_factor", number(factor))])),
    ])
}

fn locality_endpoints(hosts: &[&Arc<Host>]) -> Node {
    let Some(first) = hosts.first() else { return Node::map() };
    let locality = ["region", "zone", "sub_zone"].into_iter().zip(first.spec().locality.iter());
    map(vec![
        ("locality", map(locality.map(|(key, value)| (key, Node::string(value.as_str()))).collect())),
        ("lb_endpoints", list_of(hosts.iter().map(|host| lb_endpoint(host)))),
        ("load_balancing_weight", number(0)),
        ("priority", number(first.spec().priority)),
    ])
}

fn lb_endpoint(host: &Host) -> Node {
    let address = match host.address() {
        PeerAddress::Ip(address) => {
            let parts = vec![
                ("address", Node::string(address.ip().to_string())),
                ("port_value", number(u32::from(address.port()))),
            ];
            ("socket_address", map(parts))
        }
        PeerAddress::Pipe(path) => ("pipe", map(vec![("path", Node::string(path.display().to_string()))])),
    };
    let health = match host.health() {
        HostHealth::Healthy => "HEALTHY",
        HostHealth::Degraded => "DEGRADED",
        HostHealth::Unhealthy => "UNHEALTHY",
    };
    map(vec![
        (
            "endpoint",
            map(vec![
                ("address", map(vec![address])),
                ("health_check_config", Node::map()),
                ("hostname", Node::string(&**host.hostname())),
            ]),
        ),
        ("health_status", Node::string(health)),
        ("load_balancing_weight", number(host.weight())),
    ])
}

fn map(fields: Vec<(&str, Node)>) -> Node {
    Node::new(Value::Map(fields.into_iter().map(|(key, value)| (key.into(), value)).collect()))
}

fn list_of(items: impl Iterator<Item = Node>) -> Node {
    Node::new(Value::List(items.collect()))
}

fn number(n: u32) -> Node {
    Node::new(Value::Int(n.into()))
}
