//! TLS on both sides: contexts and handshakes. Every call of the TLS library is in here and in `socket/tls.rs`.
//!
//! A [`ServerContext`] or [`ClientContext`] is built from configuration and secrets and shared by all threads; it builds
//! itself anew when a secret changes, so connections that come later see the new one and those that exist go on. A
//! handshake makes a [`TlsStream`](crate::socket::TlsStream) of a socket, which from then on is one of the transports of
//! [`Io`](crate::socket::Io).

mod certificate;
mod client;
mod context;
mod handshake;
mod names;
mod params;
mod resolver;
mod server;
mod stats;
mod tickets;
mod validator;
mod verifier;

pub(crate) use client::ClientContext;
pub(crate) use handshake::{TransportOptions, accept, connect};
pub(crate) use server::ServerContext;
pub(crate) use stats::TlsStats;

/// Istio's protocol between sidecars, in which both sides say who they are before the first octet of TCP. It is not spoken
/// here, so it is neither offered nor agreed on: the peers go on with what they have beside it.
const PEER_EXCHANGE: &str = "istio-peer-exchange";

/// Application protocols as the library has them.
fn application_protocols(names: &[String]) -> Vec<Vec<u8>> {
    names.iter().filter(|name| *name != PEER_EXCHANGE).map(|name| name.as_bytes().to_vec()).collect()
}
