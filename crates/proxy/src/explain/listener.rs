//! Listener and filter chain.

use super::{Explanation, Question, Served, Share, Tried, cluster, http};
use crate::{
    connection::TerminalConfig,
    listener::{Criterion, ListenerConfig, Rejection},
    upstream::LbContext,
};
use sota_config::{
    address::Address,
    listener::{FilterChainMatch, SourceType},
};
use sota_plugin::info::{ConnectionInfo, StreamInfo};
use std::{
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

pub(super) fn explain(question: &Question, served: &Served<'_>, out: &mut Explanation) {
    let Some((listener, addresses)) = choose(question, served, out) else {
        out.outcome = "no listener takes this connection".to_owned();
        return;
    };
    let connection = connection(question, listener, addresses, out);
    let mut reasons = vec![None; listener.chains().len()];
    let found = listener.index().find_telling(&connection, &mut |chain, rejection| {
        if let Some(reason) = reasons.get_mut(chain) {
            *reason = Some(rejection);
        }
    });
    for (number, (chain, rejection)) in listener.chains().iter().zip(&reasons).enumerate() {
        let name = if chain.model.name.is_empty() { format!("#{number}") } else { chain.model.name.clone() };
        let rejected = (found != Some(number)).then(|| {
            rejection.map_or_else(
                || "another chain came first".to_owned(),
                |rejection| rejected(rejection, &chain.model.filter_chain_match, &connection),
            )
        });
        out.filter_chains.push(Tried { name, rejected });
    }
    if let Some(default) = listener.default_chain() {
        let name = if default.model.name.is_empty() { "default" } else { &default.model.name };
        let rejected = found.map(|_| "it is for connections that no other chain takes".to_owned());
        out.filter_chains.push(Tried { name: name.to_owned(), rejected });
    }
    let chain = found.and_then(|found| listener.chains().get(found)).or_else(|| listener.default_chain());
    let Some(chain) = chain else {
        out.outcome = "no filter chain takes this connection: it is closed (no_filter_chain_match)".to_owned();
        return;
    };
    out.network_filters = chain.model.filters.iter().map(|filter| filter.name.clone()).collect();
    let is_encrypted = chain.model.transport_socket.is_some();
    if question.is_tls && !is_encrypted && matches!(chain.terminal(), TerminalConfig::Http(_)) {
        out.notes
            .push("the client speaks TLS and the chain has no TLS: its hello would be refused as no HTTP".to_owned());
    }
    if !question.is_tls && is_encrypted {
        out.notes.push("the chain waits for TLS and the client speaks plainly: the handshake would fail".to_owned());
    }
    let info = StreamInfo::new(Rc::new(connection), 0, None);
    match chain.terminal() {
        TerminalConfig::Http(manager) => http::explain(question, manager, info, served, out),
        TerminalConfig::TcpProxy(proxy) => {
            let shares = proxy.shares(question.random);
            for (name, per_mille, is_chosen) in shares {
                let hash = proxy.hash_policies().and_then(|policies| policies.hash(None, &info).hash);
                let cx = LbContext { hash, connection: Some(&info.connection), ..LbContext::default() };
                let cluster = cluster::explain(&name, served, &cx, is_chosen);
                if is_chosen {
                    out.outcome = cluster::outcome(&cluster, "the connection is proxied to");
                }
                out.tcp.push((Share { name, per_mille, is_chosen }, cluster));
            }
        }
        TerminalConfig::Extension(_) => {
            let name = out.network_filters.last().cloned().unwrap_or_default();
            out.outcome = format!("the network filter {name} serves the connection");
        }
        TerminalConfig::None => out.outcome = "the chain has no filters: the connection is closed".to_owned(),
    }
}

/// By name, or by the address that the connection goes to: the exact one before a wildcard before the port alone.
fn choose<'a>(
    question: &Question,
    served: &'a Served<'_>,
    out: &mut Explanation,
) -> Option<&'a (Arc<ListenerConfig>, Vec<Address>)> {
    let wanted = question.destination;
    let score = |listener: &ListenerConfig, addresses: &[Address]| {
        if let Some(name) = &question.listener {
            return (listener.model.name == *name).then_some(3);
        }
        let addresses = addresses.iter().filter_map(|address| match address {
            Address::Ip { ip, port, .. } => Some((*ip, *port)),
            _ => None,
        });
        addresses
            .filter(|(_, port)| *port == wanted.port())
            .map(|(ip, _)| match ip {
                ip if ip == wanted.ip() => 3,
                ip if ip.is_unspecified() => 2,
                // An unspecified destination means any of them.
                _ if wanted.ip().is_unspecified() => 1,
                _ => 0,
            })
            .filter(|score| *score > 0)
            .max()
    };
    let scores: Vec<_> = served.listeners.iter().map(|(listener, addresses)| score(listener, addresses)).collect();
    let best = scores.iter().flatten().max().copied();
    let chosen = scores.iter().position(|score| best.is_some() && *score == best);
    for (number, ((listener, addresses), score)) in served.listeners.iter().zip(&scores).enumerate() {
        let addresses = list(addresses);
        let rejected = match (chosen == Some(number), &question.listener) {
            (true, _) => None,
            (_, Some(name)) => Some(format!("\"{name}\" is asked for")),
            (_, None) if score.is_none() => Some(format!("it listens on {addresses}, not on {wanted}")),
            (_, None) => Some("another listener is more specific".to_owned()),
        };
        out.listeners.push(Tried { name: format!("{} ({addresses})", listener.model.name), rejected });
    }
    served.listeners.get(chosen?)
}

/// The connection as the listener filters would leave it.
fn connection(
    question: &Question,
    listener: &ListenerConfig,
    addresses: &[Address],
    out: &mut Explanation,
) -> ConnectionInfo {
    let mut local = question.destination;
    if local.ip().is_unspecified() {
        let own = addresses.iter().find_map(|address| match address {
            Address::Ip { ip, .. } if !ip.is_unspecified() => Some(*ip),
            _ => None,
        });
        local.set_ip(own.unwrap_or_else(|| Ipv4Addr::LOCALHOST.into()));
    }
    let mut connection = ConnectionInfo::new(0, question.source.into(), SocketAddr::into(local));
    connection.listener_name = listener.model.name.as_str().into();
    let has = |name: &str| listener.model.listener_filters.iter().any(|filter| filter.config.name.contains(name));
    if question.is_tls {
        if has("tls_inspector") {
            connection.transport_protocol = "tls";
            let name = question.server_name.to_ascii_lowercase();
            connection.server_name = (!name.is_empty()).then(|| name.into());
            connection.application_protocols =
                question.application_protocols.iter().map(|name| name.as_str().into()).collect();
        } else {
            out.notes.push(
                "the listener has no tls_inspector: nobody sees the server name before a chain is chosen".to_owned(),
            );
        }
    } else if has("http_inspector") {
        connection.transport_protocol = "raw_buffer";
        connection.application_protocols = Box::new(["http/1.1".into()]);
    }
    connection
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Why a chain is out.
fn rejected(rejection: Rejection, wanted: &FilterChainMatch, connection: &ConnectionInfo) -> String {
    let of = |name: &str, wants: String, is: String| {
        if rejection.was_outdone {
            return format!("{name}: another chain is more specific");
        }
        format!("{name}: it wants {wants}; the connection has {is}")
    };
    let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    match rejection.criterion {
        Criterion::DestinationPort => of(
            "destination port",
            wanted.destination_port.map_or_else(|| "any".to_owned(), |port| port.to_string()),
            connection.local.port().map_or_else(|| "none".to_owned(), |port| port.to_string()),
        ),
        Criterion::Destination => of("destination address", list(&wanted.prefix_ranges), connection.local.to_string()),
        Criterion::ServerName => of(
            "server name",
            list(&wanted.server_names),
            or_none(connection.server_name.as_deref().unwrap_or_default()),
        ),
        Criterion::Transport => of(
            "transport",
            wanted.transport_protocol.clone(),
            if connection.transport_protocol.is_empty() { "raw_buffer" } else { connection.transport_protocol }
                .to_owned(),
        ),
        Criterion::ApplicationProtocol => of(
            "application protocol",
            list(&wanted.application_protocols),
            or_none(&list(&connection.application_protocols)),
        ),
        Criterion::DirectSource => {
            of("direct source", list(&wanted.direct_source_prefix_ranges), connection.direct_remote().to_string())
        }
        Criterion::SourceType => {
            let (wants, is) = match wanted.source_type {
                SourceType::SameIpOrLoopback => ("a client on this host", "another client"),
                SourceType::External => ("a client outside of this host", "a client on this host"),
                SourceType::Any => ("any client", "a client that another chain asks for"),
            };
            of("source type", wants.to_owned(), is.to_owned())
        }
        Criterion::Source => of("source address", list(&wanted.source_prefix_ranges), connection.remote.to_string()),
        Criterion::SourcePort => of("source port", list(&wanted.source_ports), connection.remote.to_string()),
    }
}
