//! Localities, subsets, overrides, hashes: what narrows a choice.

use super::*;
use sota_config::{
    Node, Value,
    load_balancer::{ConsistentHashing, Maglev, RingHash, SubsetFallback, SubsetSelector, Subsets},
};
use sota_plugin::info::{HostOverride, PeerAddress};

fn last(host: &WorkerHost) -> u8 {
    match host.host().address().ip() {
        Some(IpAddr::V4(ip)) => ip.octets()[3],
        _ => 0,
    }
}

fn chosen(cluster: &Cluster, cx: &LbContext<'_>) -> Option<u8> {
    cluster.choose_host(cx).map(|host| last(&host))
}

fn map(pairs: &[(&str, Node)]) -> Node {
    Node::new(Value::Map(pairs.iter().map(|(key, value)| ((*key).into(), value.clone())).collect()))
}

fn with_metadata(last: u8, pairs: &[(&str, &str)]) -> Endpoint {
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| (*key, Node::string(*value))).collect();
    let metadata = map(&[("filter_metadata", map(&[("envoy.lb", map(&pairs))]))]);
    Endpoint { metadata: Some(Arc::new(metadata)), ..named(last, 1) }
}

fn wanted(pairs: &[(&str, &str)]) -> MetadataMatch {
    MetadataMatch::new(pairs.iter().map(|(key, value)| ((*key).into(), Node::string(*value))))
}

fn locality(zone: &str, weight: u32, endpoints: Vec<Endpoint>) -> LocalityEndpoints {
    LocalityEndpoints {
        locality: ["r".into(), zone.into(), String::new()],
        weight: Some(weight),
        endpoints,
        ..Default::default()
    }
}

#[test]
fn localities_take_turns_by_weight_and_health() {
    on_worker(|worker| async move {
        let mut weighted = model(Vec::new());
        weighted.lb_config.locality_weighted = true;
        weighted.load_assignment.localities = vec![
            locality("b", 3, vec![named(1, 1), named(2, 1)]),
            locality("a", 1, vec![named(3, 1)]),
            LocalityEndpoints { weight: None, ..locality("c", 1, vec![named(4, 1)]) },
        ];
        let config = build(weighted);
        let cluster = worker.cluster(&config);
        let count = |hosts: std::ops::RangeInclusive<u8>| {
            (0..400).filter(|_| hosts.contains(&chosen(&cluster, &LbContext::default()).unwrap())).count()
        };
        assert_eq!((count(1..=2), count(3..=3), count(4..=4)), (300, 100, 0));
        // Half of the locality is healthy; 140 % of that are 70 % of its weight: 2.1 of 3.1.
        config.hosts().hosts()[0].state().set(HostState::FAILED_CHECK, true);
        config.refresh();
        let first = count(1..=2);
        assert!((268..=274).contains(&first), "{first}");
        assert_eq!(count(1..=1), 0);
    });
}

#[test]
fn a_filter_may_ask_for_a_host() {
    on_worker(|worker| async move {
        let mut endpoints: Vec<_> = (1..=3).map(|n| named(n, 1)).collect();
        endpoints[2].health = HealthStatus::Unhealthy;
        let cluster = worker.cluster(&build(model(endpoints.clone())));
        let ask = |cluster: &Cluster, last: u8, strict| {
            let address = PeerAddress::from(SocketAddr::from(([10, 0, 0, last], 80)));
            let wanted = HostOverride { address, strict };
            chosen(cluster, &LbContext { host_override: Some(&wanted), ..Default::default() })
        };
        for _ in 0..3 {
            assert_eq!(ask(&cluster, 2, false), Some(2));
        }
        assert_ne!(ask(&cluster, 3, false), Some(3), "it is unhealthy");
        assert!(ask(&cluster, 9, false).is_some(), "there is none");
        assert_eq!((ask(&cluster, 3, true), ask(&cluster, 9, true)), (None, None));
        assert_eq!(worker.stat("cluster.web.upstream_cx_none_healthy"), 2);
        let mut lenient = Model { name: "lenient".into(), ..model(endpoints) };
        lenient.lb_config.override_host_statuses = vec![HealthStatus::Unhealthy];
        let cluster = worker.cluster(&build(lenient));
        assert_eq!((ask(&cluster, 3, true), ask(&cluster, 1, true)), (Some(3), None));
    });
}

fn subsets(fallback: SubsetFallback) -> Subsets {
    let selector = |keys: &[&str], fallback, fallback_keys: &[&str]| SubsetSelector {
        keys: keys.iter().map(|key| (*key).into()).collect(),
        single_host: false,
        fallback,
        fallback_keys: fallback_keys.iter().map(|key| (*key).into()).collect(),
    };
    Subsets {
        selectors: vec![
            selector(&["v"], None, &[]),
            selector(&["s", "v"], Some(SubsetFallback::KeysSubset), &["v"]),
            selector(&["none"], Some(SubsetFallback::NoFallback), &[]),
        ],
        fallback,
        default_subset: vec![("v".into(), Node::string("1"))],
        locality_weight_aware: false,
        scale_locality_weight: false,
        panic_mode_any: false,
        list_as_any: false,
        allow_redundant_keys: false,
    }
}

#[test]
fn subsets_and_what_is_done_without_one() {
    on_worker(|worker| async move {
        let endpoints =
            || vec![with_metadata(1, &[("v", "1"), ("s", "x")]), with_metadata(2, &[("v", "2")]), named(3, 1)];
        let cluster = |name: &str, subsets: Subsets| {
            let mut model = Model { name: name.into(), ..model(endpoints()) };
            model.lb_config.subsets = Some(Arc::new(subsets));
            worker.cluster(&build(model))
        };
        let ask = |cluster: &Cluster, pairs: &[(&str, &str)]| {
            chosen(cluster, &LbContext { metadata: Some(&wanted(pairs)), ..Default::default() })
        };
        let web = cluster("web", subsets(SubsetFallback::DefaultSubset));
        assert_eq!(ask(&web, &[("v", "2")]), Some(2));
        assert_eq!(ask(&web, &[("s", "x"), ("v", "1")]), Some(1));
        assert_eq!(ask(&web, &[("s", "y"), ("v", "2")]), Some(2), "fewer keys");
        assert_eq!(ask(&web, &[("none", "1")]), None);
        assert_eq!(ask(&web, &[("v", "9")]), Some(1), "the default subset");
        assert_eq!(chosen(&web, &LbContext::default()), Some(1));
        let stat = |name: &str| worker.stat(&format!("cluster.web.lb_subsets_{name}"));
        assert_eq!((stat("selected"), stat("fallback"), stat("active"), stat("created")), (3, 2, 3, 3));
        let none = cluster("none", subsets(SubsetFallback::NoFallback));
        assert_eq!((ask(&none, &[("v", "9")]), ask(&none, &[("v", "1")])), (None, Some(1)));
        let panic = Subsets {
            default_subset: vec![("v".into(), Node::string("nobody"))],
            panic_mode_any: true,
            ..subsets(SubsetFallback::DefaultSubset)
        };
        assert!(ask(&cluster("panic", panic), &[("v", "9")]).is_some());
        assert_eq!(worker.stat("cluster.panic.lb_subsets_fallback_panic"), 1);
        let redundant = Subsets { allow_redundant_keys: true, ..subsets(SubsetFallback::NoFallback) };
        assert_eq!(ask(&cluster("redundant", redundant), &[("v", "2"), ("z", "9")]), Some(2));
    });
}

fn hashing(factor: Option<u32>) -> ConsistentHashing {
    ConsistentHashing { balance_factor: factor, ..Default::default() }
}

#[test]
fn a_hash_keeps_its_host_until_that_is_gone_or_busy() {
    on_worker(|worker| async move {
        let policies = |factor| {
            [
                LbPolicy::RingHash(RingHash {
                    murmur_hash_2: false,
                    minimum_ring_size: 1024,
                    maximum_ring_size: 8 << 20,
                    hashing: hashing(factor),
                }),
                LbPolicy::Maglev(Maglev { table_size: 65_537, hashing: hashing(factor) }),
            ]
        };
        let endpoints = || (1..=8).map(|n| named(n, 1)).collect();
        for lb_policy in policies(None) {
            let config = build(Model { lb_policy, ..model(endpoints()) });
            let cluster = worker.cluster(&config);
            let pick = |hash: u64| chosen(&cluster, &LbContext { hash: Some(hash), ..Default::default() }).unwrap();
            let hashes: Vec<u64> = (0..500).map(|n: u64| sota_plugin::hash::xx_hash64(&n.to_le_bytes(), 0)).collect();
            let before: Vec<u8> = hashes.iter().map(|hash| pick(*hash)).collect();
            assert_eq!(before, hashes.iter().map(|hash| pick(*hash)).collect::<Vec<_>>());
            config.hosts().hosts()[0].state().set(HostState::FAILED_CHECK, true);
            config.refresh();
            let after: Vec<u8> = hashes.iter().map(|hash| pick(*hash)).collect();
            let moved = before.iter().zip(&after).filter(|(a, b)| **a != 1 && a != b).count();
            assert!(moved < 60, "{moved} of the others moved");
            assert!(!after.contains(&1));
        }
        for lb_policy in policies(Some(100)) {
            let config = build(Model { lb_policy, name: "bounded".into(), ..model(endpoints()) });
            let cluster = worker.cluster(&config);
            let cx = LbContext { hash: Some(77), ..Default::default() };
            let first = cluster.choose_host(&cx).unwrap();
            (0..9).for_each(|_| first.host().state().add_active());
            assert_ne!(chosen(&cluster, &cx), Some(last(&first)));
            (0..9).for_each(|_| first.host().state().sub_active());
            assert_eq!(chosen(&cluster, &cx), Some(last(&first)));
        }
    });
}

#[test]
fn a_retry_moves_along_the_ring() {
    on_worker(|worker| async move {
        let ring = RingHash {
            murmur_hash_2: false,
            minimum_ring_size: 1024,
            maximum_ring_size: 8 << 20,
            hashing: hashing(None),
        };
        let model = Model { lb_policy: LbPolicy::RingHash(ring), ..model((1..=3).map(|n| named(n, 1)).collect()) };
        let cluster = worker.cluster(&build(model));
        let first = cluster.choose_host(&LbContext { hash: Some(5), ..Default::default() }).unwrap();
        let avoids = |host: &Host| Arc::ptr_eq(host.state(), first.host().state());
        let cx = LbContext { hash: Some(5), avoids: Some(&avoids), attempts: 20, ..Default::default() };
        assert_ne!(chosen(&cluster, &cx), Some(last(&first)));
    });
}

#[test]
fn a_change_of_hosts_closes_connections_where_that_is_wanted() {
    let one = sota_testkit::Origin::named("one");
    on_worker(|worker| async move {
        for (close, reused) in [(false, true), (true, false)] {
            let mut model = model(vec![at(one.address())]);
            model.lb_config.close_connections_on_host_set_change = close;
            let config = build(model);
            let cluster = worker.cluster(&config);
            let host = cluster.choose_host(&LbContext::default()).unwrap();
            let connection = own(&cluster, &host, 0).await.unwrap();
            get(&connection).await;
            connection.release();
            let spec = config.hosts().hosts()[0].spec().clone();
            let other = HostSpec { address: SocketAddr::from(([10, 0, 0, 1], 1)).into(), priority: 1, ..spec.clone() };
            config.set_hosts(vec![spec, other]);
            let host = cluster.choose_host(&LbContext::default()).unwrap();
            assert_eq!(own(&cluster, &host, 0).await.unwrap().reused, reused);
        }
    });
}

#[test]
fn a_worker_leaves_tables_to_a_thread() {
    on_worker(|worker| async move {
        let maglev = LbPolicy::Maglev(Maglev { table_size: 65_537, hashing: hashing(None) });
        let mut model = Model { lb_policy: maglev, ..model((1..=4).map(|n| named(n, 1)).collect()) };
        let node = map(&[("consecutive_failures", Node::new(Value::Int(1)))]);
        model.overload = Some(sota_config::ExtensionConfig {
            name: "sota.clusters.overload".into(),
            config: sota_config::TypedConfig::Value { type_url: None, node: Arc::new(node) },
            path: String::new(),
            mark: Mark::NONE,
        });
        let config = build(model);
        let cluster = worker.cluster(&config);
        let cx = LbContext { hash: Some(9), ..Default::default() };
        let host = cluster.choose_host(&cx).unwrap();
        // One failure in a row is allowed.
        cluster.report(&host, Outcome::TransportFailure);
        cluster.report(&host, Outcome::TransportFailure);
        let gone = || chosen(&cluster, &cx).is_some_and(|other| other != last(&host));
        eventually("the ejected host is left out", gone).await;
    });
}

/// An update of 100,000 endpoints is made at once; the tables for it too.
#[test]
fn many_endpoints() {
    let endpoints: Vec<Endpoint> = (0..100_000_u32)
        .map(|n| {
            let [_, a, b, c] = n.to_be_bytes();
            Endpoint { weight: 1 + n % 3, ..at(SocketAddr::from(([10, a, b, c], 80))) }
        })
        .collect();
    let maglev = LbPolicy::Maglev(Maglev { table_size: 65_537, hashing: hashing(None) });
    for lb_policy in [LbPolicy::RoundRobin, maglev] {
        let config = build(Model { lb_policy, ..model(endpoints.clone()) });
        let started = Instant::now();
        config.refresh();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!(config.hosts().healthy(), 100_000);
    }
}
