//! The kinds of filters, in the order in which a connection meets them.

mod connection;
mod http;
mod listener;
mod network;
mod reply;

pub use crate::stream::ConnectionIo;
pub use connection::Connection;
pub use http::{
    Bodies, DataStatus, Edit, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Resume, per_stream,
};
pub use listener::{ListenerCx, ListenerFilter, ListenerFilterConfig, Peek};
pub use network::{
    ConnectionCx, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory, NetworkFilterInstance, NetworkStatus,
    TerminalNetworkFilter, per_connection, terminal,
};
pub use reply::LocalReply;
