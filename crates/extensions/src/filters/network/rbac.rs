//! `envoy.filters.network.rbac`: decides by rules which connections get in, when their first bytes arrive.

use crate::rbac::{Engine, Level, Options, ResultKeys, Subject, with_dot};
use bytes::BytesMut;
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::WorkerCx,
    filter::{
        ConnectionCx, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory, NetworkFilterInstance, NetworkStatus,
    },
    info::ConnectionInfo,
    stat_group,
    stats::Group,
};
use std::{rc::Rc, sync::Arc, time::Duration};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "envoy.filters.network.rbac",
    short_name: "rbac",
    type_urls: &["envoy.extensions.filters.network.rbac.v3.RBAC"],
    build,
    build_route: None,
    route_type_urls: &[],
};

/// The namespace of the metadata.
const NAMESPACE: &str = EXTENSION.name;

stat_group! {
    /// `<stat_prefix>.rbac.`
    struct Stats {
        /// Connections that were let through.
        allowed: counter,
        /// Connections that were refused.
        denied: counter,
    }
}

stat_group! {
    /// `<stat_prefix>.rbac.<shadow_rules_stat_prefix>.`
    struct ShadowStats {
        /// Connections that the shadow rules would let through.
        shadow_allowed: counter,
        /// Connections that they would refuse.
        shadow_denied: counter,
    }
}

/// `envoy.extensions.filters.network.rbac.v3.RBAC`
struct Rbac {
    enforced: Option<Engine>,
    shadow: Option<Engine>,
    shadow_keys: ResultKeys,
    stat_prefix: String,
    shadow_stat_prefix: String,
    /// Decide anew whenever bytes arrive.
    is_continuous: bool,
    /// How long a refused connection is kept, unread, before it is closed.
    delay_deny: Option<Duration>,
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error("", cx.mark, "the RBAC filter needs a configuration with \"stat_prefix\""));
    };
    let engine = |fields, is_shadow| {
        Engine::read(node, fields, &Options { level: Level::Network, is_shadow, counts_policies: false }, cx)
    };
    let stat_prefix = format!("{}rbac.", with_dot(node.str("stat_prefix")));
    Ok(Arc::new(Shared(Arc::new(Rbac {
        enforced: engine(("rules", "matcher"), false)?,
        shadow: engine(("shadow_rules", "shadow_matcher"), true)?,
        shadow_keys: ResultKeys::shadow(node.str("shadow_rules_stat_prefix")),
        shadow_stat_prefix: format!("{stat_prefix}{}", with_dot(node.str("shadow_rules_stat_prefix"))),
        stat_prefix,
        is_continuous: node.str("enforcement_type") == "CONTINUOUS",
        delay_deny: node.duration("delay_deny").filter(|delay| !delay.is_zero()),
    }))))
}

struct Shared(Arc<Rbac>);

impl NetworkFilterConfig for Shared {
    fn is_terminal(&self) -> bool {
        false
    }

    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn NetworkFilterFactory> {
        Box::new(Factory {
            rbac: Arc::clone(&self.0),
            stats: cx.stats().child(&self.0.stat_prefix).group(),
            shadow_stats: cx.stats().child(&self.0.shadow_stat_prefix).group(),
        })
    }
}

#[derive(Clone)]
struct Factory {
    rbac: Arc<Rbac>,
    stats: Group<Stats>,
    shadow_stats: Group<ShadowStats>,
}

impl NetworkFilterFactory for Factory {
    fn new_filter(&self, _: &Rc<ConnectionInfo>) -> NetworkFilterInstance {
        NetworkFilterInstance::Filter(Box::new(Filter { shared: self.clone(), decided: None }))
    }
}

struct Filter {
    shared: Factory,
    /// What was decided with the first bytes.
    decided: Option<NetworkStatus>,
}

impl NetworkFilter for Filter {
    fn on_data(&mut self, _data: &mut BytesMut, _end_stream: bool, cx: &mut ConnectionCx<'_>) -> NetworkStatus {
        match self.decided {
            // A refusal is for ever.
            Some(status) if !self.shared.rbac.is_continuous || status != NetworkStatus::Continue => status,
            _ => *self.decided.insert(self.shared.decide(cx.info)),
        }
    }
}

impl Factory {
    fn decide(&self, connection: &ConnectionInfo) -> NetworkStatus {
        let subject = Subject { connection, request: None };
        if let Some(shadow) = &self.rbac.shadow {
            let verdict = shadow.decide(&subject);
            match verdict.is_allowed {
                true => self.shadow_stats.shadow_allowed.inc(),
                false => self.shadow_stats.shadow_denied.inc(),
            }
            self.rbac.shadow_keys.note(&verdict, NAMESPACE, &mut connection.metadata.borrow_mut());
        }
        let Some(enforced) = &self.rbac.enforced else { return NetworkStatus::Continue };
        let verdict = enforced.decide(&subject);
        verdict.note_log(&mut connection.metadata.borrow_mut());
        if verdict.is_allowed {
            self.stats.allowed.inc();
            return NetworkStatus::Continue;
        }
        self.stats.denied.inc();
        connection.termination_details.replace(Some(verdict.details().into()));
        self.rbac.delay_deny.map_or(NetworkStatus::Close, NetworkStatus::CloseAfter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, building, config, connection};

    const MESSAGE: &str = EXTENSION.type_urls[0];

    /// What becomes of so many pieces of data, what is counted, and the connection afterwards.
    fn send(yaml: &str, pieces: usize) -> (Vec<NetworkStatus>, Vec<(String, u64)>, Rc<ConnectionInfo>) {
        let worker = FakeWorker::default();
        let yaml = format!("stat_prefix: p\n{yaml}");
        let factory = building(|cx| build(&config(MESSAGE, &yaml), cx)).unwrap().for_worker(&worker.cx());
        let info = Rc::new(connection());
        let NetworkFilterInstance::Filter(mut filter) = factory.new_filter(&info) else { unreachable!() };
        let worker_cx = worker.cx();
        let mut cx = ConnectionCx { info: &info, worker: &worker_cx };
        assert_eq!(filter.on_new_connection(&mut cx), NetworkStatus::Continue);
        let statuses = (0..pieces).map(|_| filter.on_data(&mut BytesMut::from("x"), false, &mut cx)).collect();
        (statuses, worker.counters(), info)
    }

    fn counted(found: &[(String, u64)]) -> Vec<(&str, u64)> {
        found.iter().map(|(name, count)| (name.as_str(), *count)).collect()
    }

    const PORT: &str = "policies: {a policy: {permissions: [{destination_port: 2}], principals: [{any: true}]}}";

    #[test]
    fn the_first_bytes_decide() {
        let (statuses, counters, _) = send(&format!("rules: {{{PORT}}}"), 3);
        assert_eq!(statuses, [NetworkStatus::Continue; 3]);
        assert_eq!(counted(&counters), [("p.rbac.allowed", 1)]);

        let (statuses, counters, info) = send(&format!("rules: {{action: DENY, {PORT}}}"), 2);
        assert_eq!(statuses, [NetworkStatus::Close; 2]);
        assert_eq!(counted(&counters), [("p.rbac.denied", 1)]);
        let details = info.termination_details.borrow().clone();
        assert_eq!(details.as_deref(), Some("rbac_access_denied_matched_policy[a_policy]"));

        let (statuses, ..) = send(&format!("rules: {{action: DENY, {PORT}}}\ndelay_deny: 2s"), 1);
        assert_eq!(statuses, [NetworkStatus::CloseAfter(Duration::from_secs(2))]);
    }

    #[test]
    fn all_bytes_decide_if_that_is_wanted() {
        let (_, counters, _) = send(&format!("rules: {{{PORT}}}\nenforcement_type: CONTINUOUS"), 3);
        assert_eq!(counted(&counters), [("p.rbac.allowed", 3)]);
    }

    #[test]
    fn shadow_rules_only_tell() {
        let yaml = format!("shadow_rules: {{action: DENY, {PORT}}}\nshadow_rules_stat_prefix: dry_run_");
        let (statuses, counters, info) = send(&yaml, 2);
        assert_eq!(statuses, [NetworkStatus::Continue; 2]);
        assert_eq!(counted(&counters), [("p.rbac.dry_run_.shadow_denied", 1)]);
        let metadata = info.metadata.borrow();
        let value = |key| metadata.path(NAMESPACE, [key]).and_then(sota_config::Node::as_str);
        assert_eq!(value("dry_run_shadow_engine_result"), Some("denied"));
        assert_eq!(value("dry_run_shadow_effective_policy_id"), Some("a policy"));
    }

    #[test]
    fn a_connection_has_no_fields() {
        let yaml = "{stat_prefix: p, rules: {policies: {a: {permissions: [{not_rule: {header: {name: x-a}}}], \
                    principals: [{any: true}]}}}}";
        let error = building(|cx| build(&config(MESSAGE, yaml), cx)).err().unwrap();
        assert_eq!(
            error.to_string(),
            "here.rules.policies[\"a\"].permissions[0].not_rule.header: header(x-a) is no rule for connections, \
             which have no fields"
        );
    }
}
