//! Bytes to messages and back. No I/O, no clock, no task: every function takes a slice that somebody else read and
//! says what it means, or that it needs more. Everything here meets bytes from strangers, so nothing panics, nothing
//! allocates for a length that has not arrived, and every buffer has a bound.
//!
//! - [`http1`]: heads, framing, bodies, trailers, both directions;
//! - [`http2`]: frames, HPACK and connections, both roles;
//! - [`h2_preface`]: what to say to a client that speaks HTTP/2;
//! - [`http_inspect`]: which HTTP a connection begins with;
//! - [`client_hello`]: server name and ALPN of a TLS connection;
//! - [`proxy_protocol`]: PROXY protocol v1 and v2, both directions;
//! - [`resp`]: Redis, both directions;
//! - [`zmtp`]: ZeroMQ, all versions, both sides.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod client_hello;
pub mod fuzzing;
pub mod h2_preface;
pub mod http1;
pub mod http2;
pub mod http_inspect;
pub mod proxy_protocol;
pub mod protobuf;
pub mod resp;
pub mod zmtp;
