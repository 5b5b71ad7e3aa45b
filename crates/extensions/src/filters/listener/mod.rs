//! Listener filters.

pub(crate) mod http_inspector;
pub(crate) mod original_dst;
pub(crate) mod proxy_protocol;
pub(crate) mod tls_inspector;
pub(crate) mod zmq_inspector;
