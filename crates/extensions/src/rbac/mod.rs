//! Role-based access control (`envoy.config.rbac.v3`): the engine that the HTTP filter and the network filter share.
//!
//! Rules are compiled once. To decide neither allocates nor looks anything up by name, unless a rule asks for filter
//! state or a matcher for the text of an address; to tell others what was decided (metadata) does.

mod condition;
mod input;

use crate::match_tree::{Tree, typed};
use condition::{Condition, Side};
use input::Input;
use sota_config::{ConfigError, Node, Value};
use sota_plugin::{
    FactoryContext,
    http::RequestHead,
    info::{ConnectionInfo, Metadata, StreamInfo},
    stat_group,
    stats::{Group, Scope},
};
use std::sync::{Arc, OnceLock};

/// Where a decision to log stands (`access_log_hint`), for access-log filters.
const LOG_NAMESPACE: &str = "envoy.common";
const LOG_KEY: &str = "access_log_hint";

/// Who wants what: a connection, and the request on it if there is one.
pub(crate) struct Subject<'a> {
    pub(crate) connection: &'a ConnectionInfo,
    /// `None` where the rules are those of a network filter.
    pub(crate) request: Option<(&'a RequestHead, &'a StreamInfo)>,
}

/// Whether rules are for requests or for connections, which have no fields and no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Http,
    Network,
}

/// `envoy.config.rbac.v3.RBAC.Action`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Deny,
    Log,
}

impl Action {
    fn read(node: &Node, cx: &FactoryContext<'_>, path: &str) -> Result<Self, ConfigError> {
        match node.str("action") {
            "" | "ALLOW" => Ok(Self::Allow),
            "DENY" => Ok(Self::Deny),
            "LOG" => Ok(Self::Log),
            other => Err(cx.error(path, node.mark, format!("\"{other}\" is no action"))),
        }
    }
}

/// Rules, or a matcher, compiled.
#[derive(Debug)]
pub(crate) struct Engine {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The first policy that matches counts; they are in the order of their names.
    Rules(Action, Box<[Policy]>),
    /// What no leaf is found for is denied. `logs`: a leaf says `LOG`.
    Matcher { tree: Tree<Input, Leaf>, logs: bool },
}

/// `envoy.config.rbac.v3.Policy`: one of the permissions and one of the principals have to match.
#[derive(Debug)]
struct Policy {
    id: PolicyId,
    permissions: Box<[Condition]>,
    principals: Box<[Condition]>,
}

/// `envoy.config.rbac.v3.Action`: what a matcher leads to.
#[derive(Debug)]
struct Leaf {
    id: PolicyId,
    action: Action,
}

/// A policy's name, with what it counts (`track_per_rule_stats`).
pub(crate) struct PolicyId {
    pub(crate) name: Arc<str>,
    stats: Option<PolicyStats>,
}

/// Of rules that are enforced, or of shadow rules. The worker that first needs them makes them.
enum PolicyStats {
    Enforced(OnceLock<Group<EnforcedStats>>),
    Shadow(OnceLock<Group<ShadowStats>>),
}

stat_group! {
    /// `http.<stat_prefix>.rbac.<rules_stat_prefix>.policy.<name>.`
    struct EnforcedStats {
        /// Requests that were let through.
        allowed: shared_counter,
        /// Requests that were refused.
        denied: shared_counter,
    }
}

stat_group! {
    /// `http.<stat_prefix>.rbac.<shadow_rules_stat_prefix>.policy.<name>.`
    struct ShadowStats {
        /// Requests that would have been let through.
        shadow_allowed: shared_counter,
        /// Requests that would have been refused.
        shadow_denied: shared_counter,
    }
}

impl PolicyId {
    fn new(name: &str, options: &Options) -> Self {
        let stats = options.counts_policies.then(|| match options.is_shadow {
            true => PolicyStats::Shadow(OnceLock::new()),
            false => PolicyStats::Enforced(OnceLock::new()),
        });
        Self { name: name.into(), stats }
    }

    /// Counts a decision of this policy below the stats of the filter, if that is wanted.
    pub(crate) fn count(&self, is_allowed: bool, filter: &Scope) {
        let scope = || filter.child(&format!("policy.{}.", self.name));
        match &self.stats {
            None => {}
            Some(PolicyStats::Enforced(stats)) => {
                let stats = stats.get_or_init(|| scope().group());
                if is_allowed { stats.allowed.inc() } else { stats.denied.inc() }
            }
            Some(PolicyStats::Shadow(stats)) => {
                let stats = stats.get_or_init(|| scope().group());
                if is_allowed { stats.shadow_allowed.inc() } else { stats.shadow_denied.inc() }
            }
        }
    }
}

impl std::fmt::Debug for PolicyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.name.fmt(f)
    }
}

/// How an engine is read.
pub(crate) struct Options {
    pub(crate) level: Level,
    /// Only counted: these rules change nothing.
    pub(crate) is_shadow: bool,
    /// Each policy counts for itself.
    pub(crate) counts_policies: bool,
}

/// What an engine says.
#[derive(Debug)]
pub(crate) struct Verdict<'a> {
    pub(crate) is_allowed: bool,
    /// The policy that matched.
    pub(crate) policy: Option<&'a PolicyId>,
    /// Whether the access log is to have the request, where the rules decide on that.
    log: Option<bool>,
}

impl Verdict<'_> {
    /// Leaves the decision to log for others.
    pub(crate) fn note_log(&self, metadata: &mut Metadata) {
        if let Some(log) = self.log {
            metadata.set(LOG_NAMESPACE, LOG_KEY, Node::new(Value::Bool(log)));
        }
    }

    /// Why a request or connection was refused, in Envoy's words: without white space, as access logs have it.
    pub(crate) fn details(&self) -> String {
        let name = self.policy.map_or("none", |policy| &policy.name);
        let name: String = name.chars().map(|c| if c.is_ascii_whitespace() { '_' } else { c }).collect();
        format!("rbac_access_denied_matched_policy[{name}]")
    }
}

impl Engine {
    /// Reads the rules in the field `rules` or the matcher in the field `matcher`, which counts if both are there;
    /// `None`: there is neither, and everything is let through.
    pub(crate) fn read(
        node: &Node,
        (rules, matcher): (&str, &str),
        options: &Options,
        cx: &FactoryContext<'_>,
    ) -> Result<Option<Self>, ConfigError> {
        if let Some(tree) = node.get(matcher) {
            return Self::read_matcher(tree, matcher, options, cx).map(Some);
        }
        node.get(rules).map(|rules_node| Self::read_rules(rules_node, rules, options, cx)).transpose()
    }

    fn read_rules(node: &Node, path: &str, options: &Options, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let action = Action::read(node, cx, path)?;
        let mut policies = node.entries("policies").iter().collect::<Vec<_>>();
        policies.sort_by(|one, other| one.0.cmp(&other.0));
        let policies = policies.into_iter().map(|(name, policy)| {
            let path = format!("{path}.policies[{name:?}]");
            // What decides who gets in is never left out in silence, whoever has checked the document.
            for key in ["condition", "checked_condition", "cel_config"] {
                if let Some(condition) = policy.get(key) {
                    let reason = "there are no expressions (CEL)";
                    return Err(cx.error(&format!("{path}.{key}"), condition.mark, reason));
                }
            }
            let read = |key: &str, side| Condition::read_list(policy, key, &path, (side, options.level), cx);
            Ok(Policy {
                id: PolicyId::new(name, options),
                permissions: read("permissions", Side::Permission)?,
                principals: read("principals", Side::Principal)?,
            })
        });
        Ok(Self { kind: Kind::Rules(action, policies.collect::<Result<_, _>>()?) })
    }

    fn read_matcher(node: &Node, path: &str, options: &Options, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let leaf = |node: &Node, path: &str, cx: &FactoryContext<'_>| {
            let (message, config) = typed(node);
            if message != "envoy.config.rbac.v3.Action" {
                return Err(cx.error(path, node.mark, "the action has to be an envoy.config.rbac.v3.Action"));
            }
            let action = Action::read(config, cx, path)?;
            Ok(Leaf { id: PolicyId::new(config.str("name"), options), action })
        };
        let tree = Tree::<Input, Leaf>::read(node, path, &leaf, cx)?;
        if options.level == Level::Network && tree.any_input(&Input::is_of_request) {
            return Err(cx.error(path, node.mark, "a connection has no request headers"));
        }
        let logs = tree.any_leaf(&|leaf| leaf.action == Action::Log);
        Ok(Self { kind: Kind::Matcher { tree, logs } })
    }

    /// Decides.
    pub(crate) fn decide(&self, subject: &Subject<'_>) -> Verdict<'_> {
        match &self.kind {
            Kind::Rules(action, policies) => {
                let policy = policies.iter().find(|policy| policy.matches(subject)).map(|policy| &policy.id);
                let (is_allowed, log) = match action {
                    Action::Allow => (policy.is_some(), None),
                    Action::Deny => (policy.is_none(), None),
                    Action::Log => (true, Some(policy.is_some())),
                };
                Verdict { is_allowed, policy, log }
            }
            Kind::Matcher { tree, logs } => match tree.find(subject) {
                Some(leaf) => Verdict {
                    is_allowed: leaf.action != Action::Deny,
                    policy: Some(&leaf.id),
                    log: logs.then_some(leaf.action == Action::Log),
                },
                None => Verdict { is_allowed: false, policy: None, log: None },
            },
        }
    }
}

impl Policy {
    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.permissions.iter().any(|condition| condition.holds(subject))
            && self.principals.iter().any(|condition| condition.holds(subject))
    }
}

/// How the metadata calls what an engine has said.
#[derive(Debug)]
pub(crate) struct ResultKeys {
    policy: Arc<str>,
    result: Arc<str>,
}

impl ResultKeys {
    /// Of rules that are enforced. The prefix is that of the stats, without a dot.
    pub(crate) fn enforced(prefix: &str) -> Self {
        Self::new(prefix, "enforced")
    }

    /// Of shadow rules.
    pub(crate) fn shadow(prefix: &str) -> Self {
        Self::new(prefix, "shadow")
    }

    fn new(prefix: &str, kind: &str) -> Self {
        Self {
            policy: format!("{prefix}{kind}_effective_policy_id").into(),
            result: format!("{prefix}{kind}_engine_result").into(),
        }
    }

    /// Leaves what an engine has said for others, below the filter's name.
    pub(crate) fn note(&self, verdict: &Verdict<'_>, namespace: &str, metadata: &mut Metadata) {
        let policy = verdict.policy.map(|policy| (Arc::clone(&self.policy), Node::string(Arc::clone(&policy.name))));
        let result = Node::string(if verdict.is_allowed { "allowed" } else { "denied" });
        let entries = policy.into_iter().chain([(Arc::clone(&self.result), result)]).collect();
        metadata.merge(namespace, Node::new(Value::Map(entries)));
    }
}

/// A prefix of stats with its dot; empty stays empty.
pub(crate) fn with_dot(prefix: &str) -> String {
    if prefix.is_empty() || prefix.ends_with('.') { prefix.to_owned() } else { format!("{prefix}.") }
}

#[cfg(test)]
mod tests;
