//! Picks the filter chain of a connection: the most specific match wins, criterion by criterion in Envoy's order.
//!
//! At each of the nine steps those chains stay that match most specifically; the next step looks at them alone, and
//! there is no way back to a less specific one. The one exception is the first step, as in Envoy: when the chains of
//! the exact destination port come to nothing, those without a port are tried.

use sota_config::{
    address::CidrRange,
    listener::{FilterChainMatch, SourceType},
};
use sota_plugin::info::{ConnectionInfo, PeerAddress};
use std::{collections::HashMap, net::IpAddr};

/// The matches of a listener's chains, ready to be searched.
pub struct FilterChainIndex {
    matches: Vec<FilterChainMatch>,
    /// Chains by destination port; those without one.
    by_port: HashMap<u16, Vec<usize>>,
    any_port: Vec<usize>,
}

impl FilterChainIndex {
    /// An index over chains; results are positions in this order.
    pub fn new(matches: impl IntoIterator<Item = FilterChainMatch>) -> Self {
        let mut index = Self {
            matches: matches.into_iter().map(lower_case_names).collect(),
            by_port: HashMap::new(),
            any_port: Vec::new(),
        };
        for (at, chain) in index.matches.iter().enumerate() {
            match chain.destination_port {
                Some(port) => index.by_port.entry(port).or_default().push(at),
                None => index.any_port.push(at),
            }
        }
        index
    }

    /// The position of the chain for this connection.
    pub fn find(&self, connection: &ConnectionInfo) -> Option<usize> {
        self.find_telling(connection, &mut |_, _| {})
    }

    /// The same; `told` is called for every chain that comes to be left out.
    pub(crate) fn find_telling(
        &self,
        connection: &ConnectionInfo,
        told: &mut impl FnMut(usize, Rejection),
    ) -> Option<usize> {
        let port = connection.local.port();
        let exact = port.and_then(|port| self.by_port.get(&port));
        let found = exact.and_then(|chains| self.search(chains, connection, told));
        let found = found.or_else(|| self.search(&self.any_port, connection, told));
        for (_, chains) in self.by_port.iter().filter(|(other, _)| Some(**other) != port) {
            chains.iter().for_each(|chain| told(*chain, Criterion::DestinationPort.unmet()));
        }
        found
    }

    fn search(
        &self,
        chains: &[usize],
        connection: &ConnectionInfo,
        told: &mut impl FnMut(usize, Rejection),
    ) -> Option<usize> {
        let mut search = Search { matches: &self.matches, left: chains.to_vec(), told };
        search.by_range(Criterion::Destination, ip_of(&connection.local), |chain| &chain.prefix_ranges);
        search.by_server_name(connection.server_name.as_deref().unwrap_or(""));
        search.by_transport(connection.transport_protocol);
        search.by_application_protocol(&connection.application_protocols);
        search.by_range(Criterion::DirectSource, ip_of(connection.direct_remote()), |chain| {
            &chain.direct_source_prefix_ranges
        });
        search.by_source_type(connection);
        search.by_range(Criterion::Source, ip_of(&connection.remote), |chain| &chain.source_prefix_ranges);
        search.by_source_port(connection.remote.port());
        search.left.first().copied()
    }
}

fn lower_case_names(mut chain: FilterChainMatch) -> FilterChainMatch {
    for name in &mut chain.server_names {
        name.make_ascii_lowercase();
    }
    chain
}

/// What chains are chosen by, in the order of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Criterion {
    DestinationPort,
    Destination,
    ServerName,
    Transport,
    ApplicationProtocol,
    DirectSource,
    SourceType,
    Source,
    SourcePort,
}

impl Criterion {
    fn unmet(self) -> Rejection {
        Rejection { criterion: self, was_outdone: false }
    }
}

/// Why a chain is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// The step.
    pub(crate) criterion: Criterion,
    /// It would take the connection, but another one matches it more specifically.
    pub(crate) was_outdone: bool,
}

/// The chains that are left.
struct Search<'a, F> {
    matches: &'a [FilterChainMatch],
    left: Vec<usize>,
    told: &'a mut F,
}

impl<F: FnMut(usize, Rejection)> Search<'_, F> {
    /// Keeps the chains with the highest score; `None` is no match.
    fn keep_best(&mut self, criterion: Criterion, score: impl Fn(&FilterChainMatch) -> Option<u32>) {
        // One chain that asks for nothing is the usual case, but what it asks for must hold.
        let scores: Vec<_> = self.left.iter().map(|at| self.matches.get(*at).and_then(&score)).collect();
        let best = scores.iter().flatten().max().copied();
        let mut scores = scores.into_iter();
        self.left.retain(|chain| {
            let score = scores.next().flatten();
            let stays = score.is_some() && score == best;
            if !stays {
                (self.told)(*chain, Rejection { criterion, was_outdone: score.is_some() });
            }
            stays
        });
    }

    fn by_range(
        &mut self,
        criterion: Criterion,
        ip: Option<IpAddr>,
        ranges: impl Fn(&FilterChainMatch) -> &[CidrRange],
    ) {
        self.keep_best(criterion, |chain| match ranges(chain) {
            [] => Some(0),
            // Longer prefixes are more specific; a range of length 0 is not worse than none.
            ranges => ranges
                .iter()
                .filter(|range| ip.is_some_and(|ip| range.contains(&ip)))
                .map(|range| u32::from(range.prefix_len()))
                .max(),
        });
    }

    /// Exact names before longer wildcards before shorter ones before none.
    fn by_server_name(&mut self, name: &str) {
        self.keep_best(Criterion::ServerName, |chain| match &chain.server_names[..] {
            [] => Some(0),
            names => names.iter().filter_map(|pattern| server_name_score(pattern, name)).max(),
        });
    }

    fn by_transport(&mut self, transport: &str) {
        // Unless somebody looked, a connection is plain.
        let transport = if transport.is_empty() { "raw_buffer" } else { transport };
        self.keep_best(Criterion::Transport, |chain| match &*chain.transport_protocol {
            "" => Some(0),
            wanted => (wanted == transport).then_some(1),
        });
    }

    /// The client's first protocol that some chain names decides.
    fn by_application_protocol(&mut self, offered: &[Box<str>]) {
        self.keep_best(Criterion::ApplicationProtocol, |chain| match &chain.application_protocols[..] {
            [] => Some(0),
            names => {
                let place = offered.iter().position(|name| names.iter().any(|wanted| **wanted == **name))?;
                Some(u32::MAX - u32::try_from(place).unwrap_or(u32::MAX - 1))
            }
        });
    }

    fn by_source_type(&mut self, connection: &ConnectionInfo) {
        let asks = |at: &usize| self.matches.get(*at).is_some_and(|chain| chain.source_type != SourceType::Any);
        let local = self.left.iter().any(asks) && is_same_ip_or_loopback(connection);
        self.keep_best(Criterion::SourceType, |chain| match chain.source_type {
            SourceType::Any => Some(0),
            SourceType::SameIpOrLoopback => local.then_some(1),
            SourceType::External => (!local).then_some(1),
        });
    }

    fn by_source_port(&mut self, port: Option<u16>) {
        self.keep_best(Criterion::SourcePort, |chain| match &chain.source_ports[..] {
            [] => Some(0),
            ports => port.is_some_and(|port| ports.contains(&port)).then_some(1),
        });
    }
}

fn server_name_score(pattern: &str, name: &str) -> Option<u32> {
    match pattern.strip_prefix('*') {
        // `*` alone takes every name, none too.
        Some("") => Some(0),
        Some(suffix) => {
            let matches = name.len() > suffix.len() && name.ends_with(suffix);
            matches.then(|| u32::try_from(suffix.len()).unwrap_or(u32::MAX - 1))
        }
        None => (pattern == name).then_some(u32::MAX),
    }
}

fn ip_of(address: &PeerAddress) -> Option<IpAddr> {
    address.ip().map(|ip| ip.to_canonical())
}

/// Whether the client is on this host: on a Unix socket, on loopback, or at the address that it connects to.
fn is_same_ip_or_loopback(connection: &ConnectionInfo) -> bool {
    match (ip_of(&connection.remote), ip_of(&connection.local)) {
        (Some(remote), local) => remote.is_loopback() || Some(remote) == local,
        (None, _) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn connection(remote: &str, local: &str) -> ConnectionInfo {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap().into();
        ConnectionInfo::new(1, address(remote), address(local))
    }

    fn index<const N: usize>(matches: [FilterChainMatch; N]) -> FilterChainIndex {
        FilterChainIndex::new(matches)
    }

    fn names(names: &[&str]) -> FilterChainMatch {
        FilterChainMatch { server_names: names.iter().map(|name| (*name).to_owned()).collect(), ..Default::default() }
    }

    #[test]
    fn ports_fall_back_and_ranges_do_not() {
        let port = |port| FilterChainMatch { destination_port: Some(port), ..Default::default() };
        let tls = FilterChainMatch { transport_protocol: "tls".into(), ..port(443) };
        let chains = index([tls, port(80), FilterChainMatch::default()]);
        assert_eq!(chains.find(&connection("1.1.1.1:1", "2.2.2.2:80")), Some(1));
        assert_eq!(chains.find(&connection("1.1.1.1:1", "2.2.2.2:443")), Some(2));
        assert_eq!(chains.find(&connection("1.1.1.1:1", "2.2.2.2:81")), Some(2));

        let range =
            |range: &str| FilterChainMatch { prefix_ranges: vec![range.parse().unwrap()], ..Default::default() };
        let narrow = FilterChainMatch { transport_protocol: "tls".into(), ..range("10.0.0.0/16") };
        let chains = index([range("10.0.0.0/8"), narrow]);
        assert_eq!(chains.find(&connection("1.1.1.1:1", "10.1.0.1:1")), Some(0));
        assert_eq!(chains.find(&connection("1.1.1.1:1", "10.0.0.1:1")), None);
        assert_eq!(chains.find(&connection("1.1.1.1:1", "11.0.0.1:1")), None);
        assert_eq!(index([]).find(&connection("1.1.1.1:1", "11.0.0.1:1")), None);
    }

    #[test]
    fn the_most_specific_server_name() {
        let chains = index([names(&["*.com"]), names(&["*.Example.com"]), names(&["a.example.com"]), names(&[])]);
        for (name, expected) in
            [("a.example.com", 2), ("b.example.com", 1), ("example.com", 0), ("x.org", 3), ("", 3), ("com", 3)]
        {
            let mut connection = connection("1.1.1.1:1", "2.2.2.2:443");
            connection.server_name = Some(name.into());
            assert_eq!(chains.find(&connection), Some(expected), "{name}");
        }
    }

    #[test]
    fn the_clients_order_of_protocols_decides() {
        let alpn = |name: &str| FilterChainMatch { application_protocols: vec![name.into()], ..Default::default() };
        let chains = index([alpn("http/1.1"), alpn("h2"), FilterChainMatch::default()]);
        let mut connection = connection("1.1.1.1:1", "2.2.2.2:443");
        assert_eq!(chains.find(&connection), Some(2));
        connection.application_protocols = Box::new(["x".into(), "h2".into(), "http/1.1".into()]);
        assert_eq!(chains.find(&connection), Some(1));
    }

    #[test]
    fn sources() {
        let kind = |source_type| FilterChainMatch { source_type, ..Default::default() };
        let port = FilterChainMatch { source_ports: vec![7], ..kind(SourceType::External) };
        let chains = index([kind(SourceType::SameIpOrLoopback), kind(SourceType::External), port]);
        assert_eq!(chains.find(&connection("127.0.0.1:1", "2.2.2.2:1")), Some(0));
        assert_eq!(chains.find(&connection("2.2.2.2:1", "2.2.2.2:1")), Some(0));
        assert_eq!(chains.find(&connection("3.2.2.2:1", "2.2.2.2:1")), Some(1));
        assert_eq!(chains.find(&connection("3.2.2.2:7", "2.2.2.2:1")), Some(2));

        let direct =
            FilterChainMatch { direct_source_prefix_ranges: vec!["9.0.0.0/8".parse().unwrap()], ..Default::default() };
        let source = FilterChainMatch { source_prefix_ranges: vec!["::/0".parse().unwrap()], ..Default::default() };
        let chains = index([direct, source]);
        let mut proxied = connection("9.1.1.1:1", "2.2.2.2:1");
        assert_eq!(chains.find(&connection("[fe80::1]:1", "2.2.2.2:1")), Some(1));
        proxied.restore_remote("[fe80::1]:1".parse::<SocketAddr>().unwrap().into());
        assert_eq!(chains.find(&proxied), Some(0));
    }

    #[test]
    fn transports() {
        let transport = |name: &str| FilterChainMatch { transport_protocol: name.into(), ..Default::default() };
        let chains = index([transport("tls"), transport("raw_buffer")]);
        let mut connection = connection("1.1.1.1:1", "2.2.2.2:1");
        assert_eq!(chains.find(&connection), Some(1));
        connection.transport_protocol = "tls";
        assert_eq!(chains.find(&connection), Some(0));
    }
}
