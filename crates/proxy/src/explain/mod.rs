//! What would become of a request, step by step and with reasons.
//!
//! It calls the functions of the request path: the choice of a filter chain, the preparation of the head, the look-up of
//! the route, the choice of a host. Where the path only needs a yes or no, the same function can tell why.

mod cluster;
mod http;
mod listener;
mod words;

use crate::{listener::ListenerConfig, upstream::ClusterConfig};
use sota_config::address::Address;
use sota_plugin::http::RequestHead;
use std::{net::SocketAddr, sync::Arc};

/// A request to be explained.
#[derive(Debug, Clone)]
pub struct Question {
    /// Its head, as a client would send it.
    pub head: RequestHead,
    /// Whether it comes over TLS.
    pub is_tls: bool,
    /// The server name of the client hello; empty: none.
    pub server_name: String,
    /// The application protocols that the client offers over TLS.
    pub application_protocols: Vec<String>,
    /// The client.
    pub source: SocketAddr,
    /// Where it connects to; an unspecified address is that of the listener.
    pub destination: SocketAddr,
    /// The listener by its name; `None`: by the destination.
    pub listener: Option<String>,
    /// Decides on fractions of requests and among weighted clusters.
    pub random: u64,
}

/// What is served, to be asked.
pub struct Served<'a> {
    /// The listeners, with the addresses at which they listen.
    pub listeners: Vec<(Arc<ListenerConfig>, Vec<Address>)>,
    /// A cluster by its name.
    pub clusters: &'a dyn Fn(&str) -> Option<Arc<ClusterConfig>>,
}

/// One of several that were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// What it is called.
    pub name: String,
    /// Why it was not taken; `None`: it was.
    pub rejected: Option<String>,
}

/// The whole decision.
#[derive(Debug, Default)]
pub struct Explanation {
    /// Listeners in the order of their names.
    pub listeners: Vec<Tried>,
    /// Things to know that are no decisions.
    pub notes: Vec<String>,
    /// The chosen listener's filter chains.
    pub filter_chains: Vec<Tried>,
    /// Network filters of the chosen chain, the terminal one last.
    pub network_filters: Vec<String>,
    /// What the connection manager does, if the chain ends with one.
    pub http: Option<HttpExplanation>,
    /// Where a TCP proxy sends the connection, if the chain ends with one.
    pub tcp: Vec<(Share, ClusterExplanation)>,
    /// How it ends, in a sentence.
    pub outcome: String,
}

/// A name with its part of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The name.
    pub name: String,
    /// In tenths of a percent.
    pub per_mille: u64,
    /// The one that the random number means.
    pub is_chosen: bool,
}

/// What the connection manager does.
#[derive(Debug, Default)]
pub struct HttpExplanation {
    /// The prefix of its stats.
    pub stat_prefix: String,
    /// What it changed before the route was looked up.
    pub changes: Vec<String>,
    /// The name of the route configuration.
    pub route_configuration: String,
    /// Virtual hosts, as far as they were looked at.
    pub virtual_hosts: Vec<Tried>,
    /// Routes of the virtual host up to the chosen one.
    pub routes: Vec<Tried>,
    /// HTTP filters in their order.
    pub filters: Vec<FilterExplanation>,
    /// What is sent upstream, if it is forwarded.
    pub forward: Option<ForwardExplanation>,
}

/// An HTTP filter for this request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterExplanation {
    /// Its name in the chain.
    pub name: String,
    /// Whether it runs.
    pub runs: bool,
    /// Whose word that is, or whose configuration is in force.
    pub by: String,
}

/// How a request is forwarded.
#[derive(Debug, Default)]
pub struct ForwardExplanation {
    /// The clusters among which the route chooses; one is chosen.
    pub clusters: Vec<Share>,
    /// The request line and the host that go upstream.
    pub sent: Vec<String>,
    /// Timeouts that apply, with their names.
    pub timeouts: Vec<(&'static str, String)>,
    /// Retries; empty: there are none.
    pub retries: Vec<(&'static str, String)>,
    /// The hash by which a host is chosen.
    pub hash: Option<u64>,
    /// The chosen cluster.
    pub cluster: ClusterExplanation,
}

/// A cluster and its hosts.
#[derive(Debug, Default)]
pub struct ClusterExplanation {
    /// Its name.
    pub name: String,
    /// Whether it exists.
    pub exists: bool,
    /// Where its hosts are from, how one is chosen, limits: name and words.
    pub facts: Vec<(&'static str, String)>,
    /// Its hosts, the first ones.
    pub hosts: Vec<HostExplanation>,
    /// Hosts that are not listed.
    pub more_hosts: usize,
    /// The host of this choice.
    pub chosen: Option<String>,
}

/// A host of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostExplanation {
    /// Its address.
    pub address: String,
    /// Its host name; may be empty.
    pub hostname: String,
    /// Its weight.
    pub weight: u32,
    /// Its priority.
    pub priority: u32,
    /// Region, zone and sub-zone, as far as it has them.
    pub locality: String,
    /// Its health as `/clusters` says it.
    pub health: String,
}

/// Explains a request.
pub fn explain(question: &Question, served: &Served<'_>) -> Explanation {
    let mut explanation = Explanation::default();
    listener::explain(question, served, &mut explanation);
    explanation
}
