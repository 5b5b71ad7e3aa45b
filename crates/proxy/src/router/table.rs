//! A route configuration, compiled: which route takes a request.

use super::{
    filter_configs::FilterConfigs,
    match_tree::MatchTree,
    mutations::Level,
    path_tree::PathTree,
    path_without_query,
    retry_policy::RetryPolicy,
    route::{HostContext, RouteEntry, rate_limits},
    selected::SelectedRoute,
    virtual_clusters::VirtualClusters,
    virtual_hosts::DomainIndex,
};
use sota_config::{
    ConfigError, ConfigErrors,
    route::{Route, RouteConfiguration, TlsRequirement, VirtualHost as HostConfig},
};
use sota_plugin::{
    FactoryContext,
    http::{HeaderId, HeaderName, RequestHead, StatusCode},
    info::{ResponseFlag, StreamInfo},
};
use std::{cell::RefCell, rc::Rc, sync::Arc};

/// A compiled route configuration; all threads share it. Workers look routes up in their [`Routes`].
#[derive(Debug)]
pub struct RouteTable {
    model: Arc<RouteConfiguration>,
    pub(super) domains: DomainIndex,
    pub(super) hosts: Vec<VirtualHost>,
    internal_only_headers: Box<[HeaderName]>,
}

#[derive(Debug)]
pub(super) struct VirtualHost {
    /// Number of its first route among all routes of the table.
    first: usize,
    /// Those that requests are matched with, and behind them the one that answers requests without TLS.
    pub(super) routes: Vec<Arc<RouteEntry>>,
    pub(super) choice: Choice,
    pub(super) require_tls: TlsRequirement,
}

/// How a virtual host finds the routes that may take a request.
#[derive(Debug)]
pub(super) enum Choice {
    /// The first that matches; found by the path.
    Paths(PathTree),
    /// The first of those at a leaf.
    Matcher(MatchTree<Box<[usize]>>),
}

/// A cluster that a route names, for checking that it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterReference<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// The virtual host's name.
    pub virtual_host: &'a str,
    /// The route's name; may be empty.
    pub route: &'a str,
}

impl RouteTable {
    /// Compiles a route configuration; `cx` says where that stands. Fails with everything that is wrong: domains that
    /// stand twice, patterns, formats, bodies of direct responses that are missing or too large, filter configuration.
    pub fn build(model: &Arc<RouteConfiguration>, cx: &FactoryContext<'_>) -> Result<Arc<Self>, ConfigErrors> {
        let mut errors = Vec::new();
        let domains = DomainIndex::build(model).unwrap_or_else(|(host, reason)| {
            errors.push(cx.error(&format!("virtual_hosts[{host}].domains"), sota_config::Mark::NONE, reason));
            DomainIndex::default()
        });
        let internal_only_headers = model.internal_only_headers.iter().filter_map(|name| {
            let parsed = HeaderName::parse(name.as_bytes());
            parsed.map_err(|reason| errors.push(header_error(cx, name, reason))).ok()
        });
        let internal_only_headers = internal_only_headers.collect();
        let hosts = build_hosts(model, cx, &mut errors);
        if errors.is_empty() {
            Ok(Arc::new(Self { model: Arc::clone(model), domains, hosts, internal_only_headers }))
        } else {
            Err(ConfigErrors(errors))
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.model.name
    }

    /// What it was built from.
    pub fn model(&self) -> &Arc<RouteConfiguration> {
        &self.model
    }

    /// Fields that only internal clients may set.
    pub fn internal_only_headers(&self) -> &[HeaderName] {
        &self.internal_only_headers
    }

    /// Every cluster that a route names.
    pub fn clusters(&self) -> impl Iterator<Item = ClusterReference<'_>> {
        let routes = self.hosts.iter().flat_map(|host| &host.routes);
        routes.filter_map(|route| Some((route, route.forward()?))).flat_map(|(route, forward)| {
            forward.cluster.names().map(|cluster| ClusterReference {
                cluster,
                virtual_host: &route.virtual_host,
                route: &route.name,
            })
        })
    }

    /// The route of a request, and its number in the table.
    fn find(&self, head: &RequestHead, info: &StreamInfo, random: u64) -> Option<(usize, &Arc<RouteEntry>)> {
        let host = self.hosts.get(self.domains.find(head.authority())?)?;
        host.find(head, info, random).map(|(number, route)| (host.first + number, route))
    }
}

impl VirtualHost {
    fn find(&self, head: &RequestHead, info: &StreamInfo, random: u64) -> Option<(usize, &Arc<RouteEntry>)> {
        if self.require_tls != TlsRequirement::None && self.lacks_tls(head, info) {
            return self.routes.last().map(|route| (self.routes.len() - 1, route));
        }
        let path = path_without_query(head.path());
        let matching = |number: usize| {
            let route = self.routes.get(number)?;
            route.matcher.matches(head, path, info, random).then_some((number, route))
        };
        match &self.choice {
            Choice::Paths(paths) => paths.candidates(path).find_map(matching),
            Choice::Matcher(tree) => tree.find(head, info)?.iter().copied().find_map(matching),
        }
    }

    pub(super) fn lacks_tls(&self, head: &RequestHead, info: &StreamInfo) -> bool {
        head.headers.get(HeaderId::XForwardedProto) != Some(b"https")
            && (self.require_tls == TlsRequirement::All || !info.is_internal)
    }
}

fn header_error(cx: &FactoryContext<'_>, name: &str, reason: impl std::fmt::Display) -> ConfigError {
    cx.error("internal_only_headers", sota_config::Mark::NONE, format!("header name {name:?}: {reason}"))
}

fn build_hosts(model: &RouteConfiguration, cx: &FactoryContext<'_>, errors: &mut Vec<ConfigError>) -> Vec<VirtualHost> {
    let level = Level::build(&model.request_headers, &model.response_headers, cx.path, errors);
    let filters = FilterConfigs::default().inherit(&model.typed_per_filter_config, cx, cx.path, errors);
    let name: Arc<str> = model.name.as_str().into();
    let dot = if cx.path.is_empty() { "" } else { "." };
    let mut first = 0;
    let mut hosts = Vec::with_capacity(model.virtual_hosts.len());
    for (number, host) in model.virtual_hosts.iter().enumerate() {
        let path = format!("{}{dot}virtual_hosts[{number}]", cx.path);
        let context = HostContext {
            table: model,
            table_name: &name,
            table_level: &level,
            host,
            host_name: host.name.as_str().into(),
            host_level: Level::build(&host.request_headers, &host.response_headers, &path, errors),
            filters: filters.inherit(&host.typed_per_filter_config, cx, &path, errors),
            retry_policy: retry_policy(host, &path, cx, errors),
            rate_limits: rate_limits(&host.rate_limits, &path, cx, errors),
            virtual_clusters: build_virtual_clusters(host, &path, cx, errors),
            path,
        };
        let mut routes = Vec::with_capacity(host.routes.len());
        let choice = build_choice(&context, &mut routes, cx, errors);
        if host.require_tls != TlsRequirement::None {
            routes.push(Arc::new(RouteEntry::to_https(&context)));
        }
        let count = routes.len();
        hosts.push(VirtualHost { first, routes, choice, require_tls: host.require_tls });
        first += count;
    }
    hosts
}

fn build_virtual_clusters(
    host: &HostConfig,
    path: &str,
    cx: &FactoryContext<'_>,
    errors: &mut Vec<ConfigError>,
) -> Option<Arc<VirtualClusters>> {
    let built = VirtualClusters::build(&host.virtual_clusters);
    let built = built.map_err(|error| errors.push(error.at(&format!("{path}.virtual_clusters"), cx.mark)));
    built.ok().flatten().map(Arc::new)
}

/// Builds the routes of a virtual host, and how they are found.
fn build_choice(
    context: &HostContext<'_>,
    routes: &mut Vec<Arc<RouteEntry>>,
    cx: &FactoryContext<'_>,
    errors: &mut Vec<ConfigError>,
) -> Choice {
    let mut number = 0;
    let mut add = |route: &Route| {
        let built = RouteEntry::build(route, number, context, cx, errors);
        number += 1;
        built.map(|built| {
            routes.push(Arc::new(built));
            routes.len() - 1
        })
    };
    let Some(config) = &context.host.matcher else {
        for route in &context.host.routes {
            add(route);
        }
        let mut paths = PathTree::default();
        for (number, route) in routes.iter().enumerate() {
            route.matcher.add_to(&mut paths, number);
        }
        return Choice::Paths(paths);
    };
    let mut leaf = |leaf: &Vec<Arc<Route>>| leaf.iter().filter_map(|route| add(route)).collect();
    match MatchTree::build(config, &mut leaf) {
        Ok(tree) => Choice::Matcher(tree),
        Err(error) => {
            errors.push(error.at(&format!("{}.matcher", context.path), cx.mark));
            Choice::Paths(PathTree::default())
        }
    }
}

fn retry_policy(
    host: &sota_config::route::VirtualHost,
    path: &str,
    cx: &FactoryContext<'_>,
    errors: &mut Vec<ConfigError>,
) -> Option<Arc<RetryPolicy>> {
    let policy = RetryPolicy::build(host.retry_policy.as_ref()?);
    policy.map_err(|error| errors.push(error.at(&format!("{path}.retry_policy"), cx.mark))).ok().map(Arc::new)
}

/// A worker's view of a table. It keeps the routes that were selected, so that streams share them.
#[derive(Debug)]
pub struct Routes {
    table: Arc<RouteTable>,
    /// For each route: what was selected, by the number of the cluster.
    selected: RefCell<Vec<Vec<Option<Rc<SelectedRoute>>>>>,
}

impl Routes {
    /// The worker's part of a table.
    pub fn for_worker(table: &Arc<RouteTable>) -> Rc<Self> {
        Rc::new(Self { table: Arc::clone(table), selected: RefCell::default() })
    }

    /// The table.
    pub fn table(&self) -> &Arc<RouteTable> {
        &self.table
    }

    /// The route of a request. `random` decides on runtime fractions and weighted clusters: even over all of `u64`, and
    /// the same for the whole stream. `None`: answer with [`not_found`].
    pub fn route(&self, head: &RequestHead, info: &StreamInfo, random: u64) -> Option<Rc<SelectedRoute>> {
        let (number, entry) = self.table.find(head, info, random)?;
        let cluster = match entry.forward() {
            Some(forward) => {
                let cluster = forward.cluster.pick(head, random, || forward.hash_policies()?.known_hash(head, info));
                if forward.cluster.header(cluster).is_some() {
                    return Some(Rc::new(SelectedRoute::new(entry, cluster, head)));
                }
                cluster
            }
            None => 0,
        };
        let mut selected = self.selected.borrow_mut();
        if selected.len() <= number {
            selected.resize_with(number + 1, Vec::new);
        }
        let clusters = selected.get_mut(number)?;
        if clusters.len() <= cluster {
            clusters.resize(cluster + 1, None);
        }
        let slot = clusters.get_mut(cluster)?;
        Some(Rc::clone(slot.get_or_insert_with(|| Rc::new(SelectedRoute::new(entry, cluster, head)))))
    }
}

/// The answer to a request that no route takes (`no_route`).
pub fn not_found() -> sota_plugin::filter::LocalReply {
    sota_plugin::filter::LocalReply::new(StatusCode::NOT_FOUND, bytes::Bytes::new(), "route_not_found")
        .flag(ResponseFlag::NoRouteFound)
}
