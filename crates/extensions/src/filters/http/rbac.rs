//! `envoy.filters.http.rbac`: decides by rules which requests get in.

use crate::rbac::{Engine, Level, Options, ResultKeys, Subject, with_dot};
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, LocalReply},
    http::{RequestHead, StatusCode},
    info::StreamInfo,
    stat_group,
    stats::{Group, Scope},
};
use std::{any::Any, rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.rbac",
    short_name: "rbac",
    type_urls: &["envoy.extensions.filters.http.rbac.v3.RBAC"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.rbac.v3.RBACPerRoute"],
};

/// The namespace of the metadata.
const NAMESPACE: &str = EXTENSION.name;

stat_group! {
    /// `http.<stat_prefix>.rbac.<rules_stat_prefix>.`
    struct Stats {
        /// Requests that were let through.
        allowed: counter,
        /// Requests that were refused.
        denied: counter,
    }
}

stat_group! {
    /// `http.<stat_prefix>.rbac.<shadow_rules_stat_prefix>.`
    struct ShadowStats {
        /// Requests that the shadow rules would let through.
        shadow_allowed: counter,
        /// Requests that they would refuse.
        shadow_denied: counter,
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let none = Node::map();
    let node = match config {
        TypedConfig::Value { node, .. } => node,
        _ => &none,
    };
    let prefix = |key: &str| format!("{}rbac.{}", cx.stat_prefix, with_dot(node.str(key)));
    Ok(Arc::new(Rbac {
        rules: Arc::new(Rules::read(node, cx)?),
        stat_prefix: prefix("rules_stat_prefix"),
        shadow_stat_prefix: prefix("shadow_rules_stat_prefix"),
    }))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    let none = Node::map();
    let node = match config {
        TypedConfig::Value { node, .. } => node,
        _ => &none,
    };
    // Without rules of its own the route lets everything through.
    let path = format!("{}.rbac", cx.path);
    let rules = Rules::read(node.field("rbac"), &FactoryContext { path: &path, ..*cx })?;
    Ok(Arc::new(rules))
}

/// `envoy.extensions.filters.http.rbac.v3.RBAC`
struct Rules {
    enforced: Option<Engine>,
    shadow: Option<Engine>,
    enforced_keys: ResultKeys,
    shadow_keys: ResultKeys,
}

impl Rules {
    fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let engine = |fields, is_shadow| {
            let counts_policies = node.bool("track_per_rule_stats");
            Engine::read(node, fields, &Options { level: Level::Http, is_shadow, counts_policies }, cx)
        };
        Ok(Self {
            enforced: engine(("rules", "matcher"), false)?,
            shadow: engine(("shadow_rules", "shadow_matcher"), true)?,
            enforced_keys: ResultKeys::enforced(node.str("rules_stat_prefix")),
            shadow_keys: ResultKeys::shadow(node.str("shadow_rules_stat_prefix")),
        })
    }
}

struct Rbac {
    rules: Arc<Rules>,
    stat_prefix: String,
    shadow_stat_prefix: String,
}

impl HttpFilterConfig for Rbac {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        let (scope, shadow_scope) = (cx.stats().child(&self.stat_prefix), cx.stats().child(&self.shadow_stat_prefix));
        let shared = Shared { stats: scope.group(), shadow_stats: shadow_scope.group(), scope, shadow_scope };
        Box::new(Factory { rules: Arc::clone(&self.rules), shared: Rc::new(shared) })
    }
}

struct Factory {
    rules: Arc<Rules>,
    shared: Rc<Shared>,
}

/// What the filters of a worker count.
struct Shared {
    stats: Group<Stats>,
    shadow_stats: Group<ShadowStats>,
    scope: Scope,
    shadow_scope: Scope,
}

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        // Always: a filter before this one may choose another route, with rules of its own.
        Some(Box::new(Filter { rules: Arc::clone(&self.rules), shared: Rc::clone(&self.shared) }))
    }
}

/// A request on its connection.
fn subject<'a>(head: &'a RequestHead, info: &'a StreamInfo) -> Subject<'a> {
    Subject { connection: &info.connection, request: Some((head, info)) }
}

struct Filter {
    rules: Arc<Rules>,
    shared: Rc<Shared>,
}

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        let route = cx.info.route.clone();
        let own = route.as_ref().and_then(|route| route.filter_config(cx.filter_name)?.downcast_ref::<Rules>());
        let rules = own.unwrap_or(&self.rules);
        if let Some(shadow) = &rules.shadow {
            let verdict = shadow.decide(&subject(head, cx.info));
            match verdict.is_allowed {
                true => self.shared.shadow_stats.shadow_allowed.inc(),
                false => self.shared.shadow_stats.shadow_denied.inc(),
            }
            if let Some(policy) = verdict.policy {
                policy.count(verdict.is_allowed, &self.shared.shadow_scope);
            }
            rules.shadow_keys.note(&verdict, NAMESPACE, &mut cx.info.metadata);
        }
        let Some(enforced) = &rules.enforced else { return FilterStatus::Continue };
        let verdict = enforced.decide(&subject(head, cx.info));
        rules.enforced_keys.note(&verdict, NAMESPACE, &mut cx.info.metadata);
        verdict.note_log(&mut cx.info.metadata);
        if let Some(policy) = verdict.policy {
            policy.count(verdict.is_allowed, &self.shared.scope);
        }
        if verdict.is_allowed {
            self.shared.stats.allowed.inc();
            return FilterStatus::Continue;
        }
        self.shared.stats.denied.inc();
        FilterStatus::reply(LocalReply::new(StatusCode::FORBIDDEN, "RBAC: access denied", verdict.details()))
    }
}
