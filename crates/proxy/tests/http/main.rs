//! The connection manager and the router over real sockets, with scripted peers on both sides.
#![allow(unreachable_pub, reason = "the fixture is shared with another test")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod exchanges;
mod faults;
mod filter_bodies;
mod filters;
mod fixture;
mod h2_origin;
mod http2;
mod http2_attacks;
mod http2_upstream;
mod retries;
mod routing;
mod timing;
mod tunnels;
