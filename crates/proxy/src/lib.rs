//! The data plane. Modules stand in the order of a connection's path, and use only what stands below them.

pub mod worker;
pub mod explain;
pub mod listener;
pub mod connection;
pub mod tcp_proxy;
pub mod http;
pub mod router;
pub mod trace;
pub mod collector;
pub mod context;
pub mod grpc;
pub mod upstream;
pub mod wire;
pub mod access_log;
pub mod recorder;
pub mod cause;
pub mod deadline;
pub mod downstream;
pub mod local;
pub mod drain;
pub mod timer;
pub mod tls;
mod proxy_header;
pub mod socket;
mod socket_option;
pub mod buffer;

#[cfg(test)]
mod test_context;
