//! Peers and measuring tools for tests: origins that misbehave on request, clients that see exact bytes, the proxy and
//! Envoy as child processes, a name server, network namespaces, a counting allocator.
//!
//! Everything here is blocking: threads and sockets of the standard library, no asynchronous runtime, so that a fault in
//! the proxy's own machinery can't hide in its tests. All waits are bounded; all servers listen on loopback, on a port
//! that the system or [`free_port`] picks; all processes are ended by their id when their handle goes out of scope.
//!
//! Helpers panic when the surroundings of a test fail (a socket that can't be bound): that fails the test with a message.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod alloc;
mod client;
mod corpus;
mod dns;
mod envoy;
mod future_size;
mod load;
mod message;
mod net;
pub mod netns;
mod origin;
mod process;
mod proxy;
pub mod skip;
mod tls;

pub use client::{Client, End, Response, get, request};
pub use corpus::replay_corpus;
pub use dns::{DnsAnswer, DnsServer};
pub use envoy::EnvoyProcess;
pub use future_size::assert_future_size;
pub use load::{Load, Outcomes};
pub use message::{Fields, Head};
pub use net::{SynBlackHole, allow_open_files, free_port, is_listening, wait_until};
pub use origin::{Origin, Peer, Reply, Request};
pub use process::Process;
pub use proxy::ProxyProcess;
pub use tempfile::TempDir;
pub use tls::{Authority, Certificate, Subject, TlsClient, TlsConnection, exchange};

/// A fresh folder that goes away with the value.
pub fn temp_dir() -> TempDir {
    tempfile::Builder::new().prefix("sota-test-").tempdir().unwrap()
}
