//! A load balancer of an extension: written as an author would, found in the registry, and used.

use super::*;
use sota_config::{ExtensionConfig, TypedConfig};
use sota_plugin::{
    Extension, Registry as Extensions,
    http::{Method, RequestHead},
    load_balancer::{BalancedHost, ChoiceCx, LoadBalancer, LoadBalancerConfig},
};

/// Sends a request to the host whose name it gives in `x-host`, and all others to the heaviest.
struct ByName;

struct ByNameAmong {
    names: Vec<String>,
    heaviest: Option<usize>,
}

impl LoadBalancerConfig for ByName {
    fn prepare(&self, hosts: &[Arc<dyn BalancedHost>]) -> Arc<dyn LoadBalancer> {
        let heaviest = hosts.iter().enumerate().max_by_key(|(_, host)| host.weight()).map(|(place, _)| place);
        Arc::new(ByNameAmong { names: hosts.iter().map(|host| host.hostname().to_owned()).collect(), heaviest })
    }
}

impl LoadBalancer for ByNameAmong {
    fn choose(&self, cx: &ChoiceCx<'_>) -> Option<usize> {
        match cx.request.and_then(|request| request.headers.get_str("x-host")) {
            Some(wanted) => self.names.iter().position(|name| name == wanted),
            None => self.heaviest,
        }
    }
}

static EXTENSION: Extension<dyn LoadBalancerConfig> = Extension {
    name: "test.load_balancers.by_name",
    short_name: "by_name",
    type_urls: &["test.ByName"],
    build: |_, _| Ok(Arc::new(ByName)),
    build_route: None,
    route_type_urls: &[],
};

fn by(name: &str) -> LbPolicy {
    LbPolicy::Extension(ExtensionConfig {
        name: name.to_owned(),
        config: TypedConfig::Empty,
        path: "load_balancing_policy.policies[0]".to_owned(),
        mark: Mark::NONE,
    })
}

#[test]
fn an_extension_chooses() {
    on_worker(|worker| async move {
        let mut extensions = Extensions::default();
        extensions.load_balancers.add(&EXTENSION).unwrap();
        let host = |n: u8| Endpoint { hostname: format!("host-{n}"), ..named(n, n.into()) };
        let build = |policy| {
            let model = Arc::new(Model { lb_policy: policy, ..model((1..=3).map(host).collect()) });
            with_factory(|cx| ClusterConfig::build(&model, &FactoryContext { registry: &extensions, ..*cx }))
        };
        let config = build(by("by_name")).unwrap();
        let cluster = worker.cluster(&config);
        let choose = |host: Option<&str>| {
            let mut request = RequestHead::new(Method::Get, "a", "/").unwrap();
            if let Some(host) = host {
                request.headers.append("x-host", host).unwrap();
            }
            let chosen = cluster.choose_host(&LbContext { request: Some(&request), ..Default::default() });
            chosen.map(|host| host.host().hostname().to_string())
        };
        assert_eq!(choose(Some("host-2")).as_deref(), Some("host-2"));
        assert_eq!(choose(None).as_deref(), Some("host-3"));
        assert_eq!(choose(Some("nobody")), None);
        config.hosts().hosts()[2].state().set(HostState::FAILED_CHECK, true);
        config.refresh();
        assert_eq!(choose(None).as_deref(), Some("host-2"), "it was prepared anew");
        let error = build(by("unknown")).unwrap_err().to_string();
        assert!(
            error.contains("no load balancer has the name \"unknown\"; there are: test.load_balancers.by_name"),
            "{error}"
        );
    });
}
