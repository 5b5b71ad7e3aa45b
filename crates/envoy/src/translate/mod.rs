//! A checked document to the model: one file for each kind of resource.
//!
//! What a message may hold was checked before, so the translators read by field name and fill in Envoy's defaults.
//! They find what the message table cannot know: references, sums, names given twice, expressions that do not
//! compile, what fits together and what does not. Nothing stops at the first finding, and a field that the check has
//! refused already reads as absent here without being told again.

mod access_log;
mod address;
mod bootstrap;
mod circuit_breakers;
mod cluster;
mod config_source;
mod context;
mod data_source;
mod early_mutations;
mod endpoint;
mod extension;
mod filter_chain;
mod filter_chain_overlap;
mod hash_policy;
mod header_mutations;
mod health_check;
mod http_connection_manager;
mod http_options;
mod listener;
mod listener_addresses;
mod load_balancer;
mod local_reply;
mod match_tree;
mod matcher;
mod mirror;
mod original_ip;
mod outlier_detection;
mod overload;
mod retry;
mod route;
mod route_action;
mod route_match;
mod runtime;
mod stats_config;
mod stats_sinks;
mod tcp_proxy;
mod tls;
mod tracing;
mod upgrade;
mod virtual_host;

pub(crate) use bootstrap::bootstrap;
pub(crate) use context::{Cx, PathMap};

use crate::check::{CheckOptions, check};
use sota_config::{
    ConfigError, ConfigErrors, Node,
    access_log::AccessLog,
    cluster::{Cluster, LoadAssignment},
    listener::Listener,
    route::RouteConfiguration,
    secret::Secret,
    tracing::Provider,
};
use std::sync::Arc;

/// What a translation needs to know beside the document.
#[derive(Clone, Copy, Default)]
pub struct TranslateOptions<'a> {
    /// Whether a cluster of this name exists. `None`: references to clusters are not checked.
    pub clusters: Option<&'a dyn Fn(&str) -> bool>,
    /// The tracer of connection managers that name none (the bootstrap's).
    pub tracer: Option<&'a Arc<Provider>>,
    /// The document is a file: every reference in it is checked. Otherwise routes alone are, where
    /// `validate_clusters` says so.
    pub static_config: bool,
    /// What would be a warning because something that is referred to is missing is an error.
    pub strict: bool,
    /// The configuration may be meant for another host: a file or environment variable that is missing on this one is a
    /// warning, and taken as empty.
    pub elsewhere: bool,
}

/// A checked `envoy.config.listener.v3.Listener` as a listener of the model, with the warnings about it.
pub fn translate_listener(
    node: &Node,
    options: &TranslateOptions<'_>,
) -> Result<(Listener, ConfigErrors), ConfigErrors> {
    finish(node, options, |cx| listener::listener(cx, node))
}

/// A checked `envoy.config.cluster.v3.Cluster` as a cluster of the model, with the warnings about it.
pub fn translate_cluster(node: &Node, options: &TranslateOptions<'_>) -> Result<(Cluster, ConfigErrors), ConfigErrors> {
    finish(node, options, |cx| cluster::cluster(cx, node))
}

/// A checked `envoy.config.route.v3.RouteConfiguration` as a route configuration of the model, with the warnings
/// about it. Unknown clusters are errors only if it says `validate_clusters`.
pub fn translate_route_configuration(
    node: &Node,
    options: &TranslateOptions<'_>,
) -> Result<(RouteConfiguration, ConfigErrors), ConfigErrors> {
    finish(node, options, |cx| Some(route::route_configuration(cx, node, cx.options.static_config)))
}

/// A checked `envoy.config.endpoint.v3.ClusterLoadAssignment` as the endpoints of the model, with the warnings about it.
pub fn translate_load_assignment(
    node: &Node,
    options: &TranslateOptions<'_>,
) -> Result<(LoadAssignment, ConfigErrors), ConfigErrors> {
    finish(node, options, |cx| Some(endpoint::load_assignment(cx, node, address::AddressUse::Host)))
}

/// A checked `envoy.extensions.transport_sockets.tls.v3.Secret` as a secret of the model.
pub fn translate_secret(node: &Node, options: &TranslateOptions<'_>) -> Result<(Secret, ConfigErrors), ConfigErrors> {
    finish(node, options, |cx| tls::secret(cx, node))
}

/// Runs one translation; what it made counts only without errors.
fn finish<T>(
    node: &Node,
    options: &TranslateOptions<'_>,
    translate: impl FnOnce(&mut Cx<'_>) -> Option<T>,
) -> Result<(T, ConfigErrors), ConfigErrors> {
    let findings = ConfigErrors::default();
    let mut cx = Cx::new(options, None, &findings);
    let made = translate(&mut cx);
    let errors = cx.into_errors();
    match made {
        Some(made) if !errors.is_fatal() => Ok((made, errors)),
        _ if errors.is_fatal() => Err(errors),
        // Only a document that did not pass the check leads here.
        _ => Err(ConfigError::new("", node.mark, "the resource is incomplete").into()),
    }
}

/// An entry of an `access_log` that stands in the message of an extension: checked, normalised and translated as all
/// others. `claims` says which type URLs belong to loggers that Envoy does not know.
pub fn read_access_log(node: &Node, claims: &dyn Fn(&str) -> bool) -> Result<AccessLog, ConfigErrors> {
    let options = CheckOptions {
        static_config: true,
        allow_unknown_fields: false,
        allow_unsupported: false,
        relaxed: false,
        claims,
    };
    let (node, findings) = check(node, "envoy.config.accesslog.v3.AccessLog", &options);
    let translating = TranslateOptions { static_config: true, strict: true, ..TranslateOptions::default() };
    let mut cx = Cx::new(&translating, None, &findings);
    let log = access_log::access_log(&mut cx, &node);
    let errors = cx.into_errors();
    match log {
        Some(log) if !findings.is_fatal() && !errors.is_fatal() => Ok(log),
        _ => Err(ConfigErrors([findings.0, errors.0].concat())),
    }
}
