//! Network filters.

pub(crate) mod connection_limit;
pub(crate) mod direct_response;
pub(crate) mod echo;
pub(crate) mod local_ratelimit;
pub(crate) mod rbac;
pub(crate) mod redis_proxy;
pub(crate) mod set_filter_state;
pub(crate) mod simple_line;
pub(crate) mod sni_cluster;
pub(crate) mod zmq;
