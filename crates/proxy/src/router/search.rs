//! The look-up of a route with all that was tried: for explanations.

use super::{
    matching::Mismatch,
    path_without_query,
    table::{Choice, RouteTable},
    virtual_hosts::DomainIndex,
};
use sota_config::route::{Route, RouteConfiguration, TlsRequirement, VirtualHost};
use sota_plugin::{http::RequestHead, info::StreamInfo};
use std::sync::Arc;

/// How a route was looked for.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// The virtual host, by its number.
    pub(crate) host: Option<usize>,
    /// The virtual host redirects requests that are not encrypted, before it looks at its routes.
    pub(crate) needs_tls: bool,
    /// The virtual host has a tree of matchers; its routes are those of a leaf.
    pub(crate) is_tree: bool,
    /// Routes of the virtual host by number and name, with the condition that failed, up to the first that takes the
    /// request.
    pub(crate) tried: Vec<(usize, String, Option<Mismatch>)>,
}

impl Search {
    /// The models of the virtual host and of the route that was found.
    pub(crate) fn models<'a>(&self, table: &'a RouteTable) -> (Option<&'a VirtualHost>, Option<&'a Arc<Route>>) {
        let host = self.host.and_then(|host| table.model().virtual_hosts.get(host));
        let found = self.tried.last().filter(|(_, _, mismatch)| mismatch.is_none() && !self.is_tree);
        (host, found.and_then(|(number, ..)| host?.routes.get(*number)))
    }
}

impl RouteTable {
    /// Whether a virtual host, by its number, would take requests for this authority if there were no other.
    pub(crate) fn host_takes(&self, number: usize, authority: &[u8]) -> bool {
        let Some(host) = self.model().virtual_hosts.get(number) else { return false };
        let alone = VirtualHost { domains: host.domains.clone(), ..VirtualHost::default() };
        let alone = RouteConfiguration {
            virtual_hosts: vec![alone],
            ignore_port_in_host_matching: self.model().ignore_port_in_host_matching,
            ..RouteConfiguration::default()
        };
        DomainIndex::build(&alone).is_ok_and(|index| index.find(authority).is_some())
    }

    /// Looks for the route of a request and notes what it tries. In contrast to the path of requests no route is left
    /// out that cannot match by its path, so that each has its reason.
    pub(crate) fn search(&self, head: &RequestHead, info: &StreamInfo, random: u64) -> Search {
        let mut search = Search { host: self.domains.find(head.authority()), ..Search::default() };
        let Some(host) = search.host.and_then(|host| self.hosts.get(host)) else { return search };
        if host.require_tls != TlsRequirement::None && host.lacks_tls(head, info) {
            search.needs_tls = true;
            return search;
        }
        let path = path_without_query(head.path());
        let mut look_at = |number: usize| {
            let Some(route) = host.routes.get(number) else { return false };
            let mismatch = route.matcher.mismatch(head, path, info, random);
            search.tried.push((number, route.name.to_string(), mismatch));
            mismatch.is_none()
        };
        match &host.choice {
            Choice::Paths(_) => {
                let _ = (0..host.routes.len()).find(|number| look_at(*number));
            }
            Choice::Matcher(tree) => {
                let _ = tree.find(head, info).into_iter().flatten().find(|number| look_at(**number));
                search.is_tree = true;
            }
        }
        search
    }
}
