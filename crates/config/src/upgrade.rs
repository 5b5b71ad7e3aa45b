//! Upgrades and tunnels: which other protocols a connection may change to (`upgrade_configs`).

use crate::{http::HttpFilter, tls::UpstreamProxyProtocol};
use std::sync::Arc;

/// A protocol that the connection manager lets pass, or not (`HttpConnectionManager.UpgradeConfig`).
#[derive(Debug, Clone, PartialEq)]
pub struct UpgradeConfig {
    /// What `Upgrade` says, in any case; `CONNECT` for that method.
    pub upgrade_type: String,
    /// Whether it is let pass where a route does not say.
    pub enabled: bool,
    /// The filters of such streams, the router last; empty: those of the connection manager.
    pub filters: Vec<HttpFilter>,
}

/// The same for a route (`RouteAction.UpgradeConfig`).
#[derive(Debug, Clone, PartialEq)]
pub struct RouteUpgrade {
    /// What `Upgrade` says, in any case; `CONNECT` for that method.
    pub upgrade_type: String,
    /// Whether it is let pass.
    pub enabled: bool,
    /// End the tunnel of a CONNECT here: what it carries goes to the host as it is.
    pub connect: Option<ConnectConfig>,
}

/// How a tunnel ends here (`RouteAction.UpgradeConfig.ConnectConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectConfig {
    /// The body of a POST is treated like what a CONNECT carries.
    pub allow_post: bool,
    /// Tell the host who the client is, before what the tunnel carries.
    pub proxy_protocol: Option<Arc<UpstreamProxyProtocol>>,
}
