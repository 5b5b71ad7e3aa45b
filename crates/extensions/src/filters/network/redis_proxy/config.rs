//! Reading the configuration.

use super::routes::{Route, Routes};
use crate::data_source;
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::FactoryContext;
use std::time::Duration;

/// A configuration.
pub(super) struct Config {
    pub(super) stat_prefix: String,
    pub(super) op_timeout: Duration,
    pub(super) hash_tags: bool,
    pub(super) latency_in_micros: bool,
    pub(super) routes: Routes,
    pub(super) username: Vec<u8>,
    pub(super) passwords: Vec<Vec<u8>>,
}

impl Config {
    pub(super) fn read(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let TypedConfig::Value { node, .. } = config else {
            return Err(cx.error("", cx.mark, "a configuration is needed: stat_prefix, settings, prefix_routes"));
        };
        let (settings, prefix_routes) = (node.field("settings"), node.field("prefix_routes"));
        let mut passwords = vec![password(node.field("downstream_auth_password"), "downstream_auth_password", cx)?];
        for source in node.list("downstream_auth_passwords") {
            passwords.push(password(source, "downstream_auth_passwords", cx)?);
        }
        passwords.retain(|password| !password.is_empty());
        Ok(Self {
            stat_prefix: node.str("stat_prefix").to_owned(),
            op_timeout: settings
                .duration("op_timeout")
                .ok_or_else(|| cx.error("settings.op_timeout", settings.mark, "a duration is needed"))?,
            hash_tags: settings.bool("enable_hashtagging"),
            latency_in_micros: node.bool("latency_in_micros"),
            routes: routes(prefix_routes, cx)?,
            username: password(node.field("downstream_auth_username"), "downstream_auth_username", cx)?,
            passwords,
        })
    }

    /// Whether clients have to say who they are.
    pub(super) fn needs_auth(&self) -> bool {
        !self.username.is_empty() || !self.passwords.is_empty()
    }

    /// Whether this is one of the passwords, in a time that does not tell how much of it is right.
    pub(super) fn accepts(&self, password: &[u8]) -> bool {
        let differs = |known: &Vec<u8>| {
            let differing = known.iter().zip(password).fold(0, |sum, (a, b)| sum | a ^ b);
            usize::from(differing) | (known.len() ^ password.len())
        };
        self.passwords.iter().fold(false, |found, known| found | (differs(known) == 0))
    }
}

fn password(source: &Node, field: &str, cx: &FactoryContext<'_>) -> Result<Vec<u8>, ConfigError> {
    data_source::read(source, field, cx)
}

fn routes(node: &Node, cx: &FactoryContext<'_>) -> Result<Routes, ConfigError> {
    let route = |node: &Node| Route {
        prefix: node.str("prefix").into(),
        remove_prefix: node.bool("remove_prefix"),
        cluster: node.str("cluster").into(),
    };
    let listed: Vec<_> = node.list("routes").iter().map(route).collect();
    let catch_all = node.get("catch_all_route").map(route);
    if listed.is_empty() && catch_all.is_none() {
        return Err(cx.error("prefix_routes", node.mark, "a route or a catch_all_route is needed"));
    }
    Routes::new(listed, catch_all, node.bool("case_insensitive"))
        .map_err(|prefix| cx.error("prefix_routes.routes", node.mark, format!("prefix \"{prefix}\" exists twice")))
}
