//! `typed_dns_resolver_config`: which resolver, and how it asks.

use crate::upstream::config::node_address;
use sota_config::{ConfigError, ExtensionConfig, Node, TypedConfig};
use std::{net::SocketAddr, time::Duration};

/// How names are resolved. Equal settings share a resolver.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::upstream) enum ResolverSettings {
    /// The system's library, on a thread of its own.
    System,
    /// Our own queries.
    Queries(QuerySettings),
}

/// How name servers are asked.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::upstream) struct QuerySettings {
    /// Name servers; empty: those of `/etc/resolv.conf`.
    pub(super) servers: Vec<SocketAddr>,
    /// Ask them only when the system names none.
    pub(super) as_fallback: bool,
    pub(super) tcp: bool,
    pub(super) no_search: bool,
    pub(super) rotate: bool,
    /// For one try; `None`: the system's, or 5 s.
    pub(super) timeout: Option<Duration>,
    /// How often a question is sent to each server; `None`: the system's, or 4.
    pub(super) tries: Option<usize>,
}

impl Default for ResolverSettings {
    fn default() -> Self {
        Self::Queries(QuerySettings {
            servers: Vec::new(),
            as_fallback: false,
            tcp: false,
            no_search: false,
            rotate: false,
            timeout: None,
            tries: None,
        })
    }
}

impl ResolverSettings {
    /// From `envoy.network.dns_resolver.cares` or `.getaddrinfo`.
    pub(in crate::upstream) fn read(config: &ExtensionConfig) -> Result<Self, ConfigError> {
        let error = |reason: String| ConfigError::new(config.path.as_str(), config.mark, reason);
        let key = config.config.type_url().unwrap_or(&config.name);
        let empty = Node::map();
        let node = match &config.config {
            TypedConfig::Value { node, .. } => &**node,
            TypedConfig::Empty => &empty,
            TypedConfig::Proto { .. } => return Err(error(format!("no DNS resolver has the type URL \"{key}\""))),
        };
        if key.ends_with("GetAddrInfoDnsResolverConfig") || key == "envoy.network.dns_resolver.getaddrinfo" {
            return Ok(Self::System);
        }
        if !key.ends_with("CaresDnsResolverConfig") && key != "envoy.network.dns_resolver.cares" {
            return Err(error(format!(
                "no DNS resolver is called \"{key}\"; there are: envoy.network.dns_resolver.cares, \
                 envoy.network.dns_resolver.getaddrinfo"
            )));
        }
        let mut servers = Vec::new();
        for (i, server) in node.list("resolvers").iter().enumerate() {
            match node_address(server) {
                Some(address) => servers.push(address),
                None => return Err(error(format!("resolvers[{i}]: a name server is an IP address and port"))),
            }
        }
        let options = node.field("dns_resolver_options");
        Ok(Self::Queries(QuerySettings {
            servers,
            as_fallback: node.bool("use_resolvers_as_fallback"),
            tcp: options.bool("use_tcp_for_dns_lookups"),
            no_search: options.bool("no_default_search_domain"),
            rotate: node.bool("rotate_nameservers"),
            timeout: node.uint("query_timeout_seconds").map(Duration::from_secs),
            tries: node.u32("query_tries").map(|tries| tries as usize),
        }))
    }
}
