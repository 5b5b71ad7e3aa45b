use super::super::{
    ClusterConfig,
    tests::{Worker, build, build_next, discover, endpoint, eventually, model, on_worker},
};
use super::*;
use sota_config::{
    ExtensionConfig, Mark, Node, TypedConfig, Value,
    cluster::{Cluster as Model, DnsLookupFamily},
};
use sota_testkit::{DnsAnswer, DnsServer};
use std::{net::Ipv4Addr, time::Instant};

fn map(fields: Vec<(&str, Node)>) -> Node {
    Node::new(Value::Map(fields.into_iter().map(|(name, node)| (name.into(), node)).collect()))
}

/// `typed_dns_resolver_config` that asks this server only, once and for a second.
fn asking(server: &DnsServer) -> ExtensionConfig {
    let address = map(vec![
        ("address", Node::string(server.address().ip().to_string())),
        ("port_value", Node::new(Value::Int(server.address().port().into()))),
    ]);
    let node = map(vec![
        ("resolvers", Node::new(Value::List(vec![map(vec![("socket_address", address)])]))),
        ("dns_resolver_options", map(vec![("no_default_search_domain", Node::new(Value::Bool(true)))])),
        ("query_timeout_seconds", Node::new(Value::Int(1))),
        ("query_tries", Node::new(Value::Int(1))),
    ]);
    ExtensionConfig {
        name: "envoy.network.dns_resolver.cares".to_owned(),
        config: TypedConfig::Value {
            type_url: Some(
                "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig".to_owned(),
            ),
            node: Arc::new(node),
        },
        path: "clusters[0].typed_dns_resolver_config".to_owned(),
        mark: Mark::NONE,
    }
}

fn every(ms: u64) -> DnsConfig {
    DnsConfig {
        refresh_rate: Duration::from_millis(ms),
        respect_dns_ttl: false,
        jitter: Duration::ZERO,
        failure_refresh_rate: None,
        lookup_family: DnsLookupFamily::V4Only,
    }
}

fn names(kind: Kind, server: &DnsServer, host: &str) -> Model {
    let name = endpoint(Address::Name { host: host.into(), port: 80 });
    Model { discovery: kind, dns_resolver: Some(asking(server)), ..model(vec![name]) }
}

fn start(worker: &Worker, model: Model) -> (Arc<ClusterConfig>, Discovery) {
    let config = build(model);
    let discovery = discover(worker, &config);
    (config, discovery)
}

fn addresses(config: &ClusterConfig) -> Vec<String> {
    config.hosts().hosts().iter().map(|host| host.address().to_string()).collect()
}

const ONE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

#[test]
fn the_last_good_answer_stays_through_every_failure() {
    let server = DnsServer::start(DnsAnswer::v4(&[TWO, ONE], 0));
    on_worker(|worker| async move {
        let (config, discovery) = start(&worker, names(Kind::StrictDns(every(20)), &server, "app.test"));
        assert!(!discovery.is_initialized());
        discovery.initialized().await;
        let both = ["10.0.0.1:80", "10.0.0.2:80"];
        assert_eq!(addresses(&config), both);
        assert_eq!(&*config.hosts().hosts()[0].hostname().clone(), "app.test");
        eventually("the same again", || worker.stat("cluster.web.update_no_rebuild") > 0).await;
        assert_eq!(worker.stat("cluster.web.max_host_weight"), 1);
        let first = Arc::clone(config.hosts().hosts()[0].state());
        for answer in [DnsAnswer::NxDomain, DnsAnswer::ServFail, DnsAnswer::Empty, DnsAnswer::Silence] {
            let failures = worker.stat("cluster.web.update_failure");
            server.set(answer.clone());
            eventually(&format!("{answer:?} is counted"), || worker.stat("cluster.web.update_failure") > failures)
                .await;
            assert_eq!(addresses(&config), both, "{answer:?}");
        }
        server.set(DnsAnswer::v4(&[TWO], 0));
        eventually("it recovers", || addresses(&config) == ["10.0.0.2:80"]).await;
        server.set(DnsAnswer::v4(&[ONE, TWO], 0));
        eventually("it grows", || addresses(&config) == both).await;
        assert!(!Arc::ptr_eq(&first, config.hosts().hosts()[0].state()), "a host that comes back is new");
        assert_eq!(worker.stat("cluster.web.membership_change"), 3);
        assert!(worker.stat("cluster.web.update_empty") >= 2);
        drop(discovery);
        tokio::time::sleep(Duration::from_millis(30)).await;
        let queries = server.queries();
        tokio::time::sleep(Duration::from_millis(80)).await;
        assert_eq!(server.queries(), queries, "nothing is asked after the end");
    });
}

#[test]
fn a_start_without_answers_is_a_start_with_no_hosts() {
    let server = DnsServer::start(DnsAnswer::ServFail);
    on_worker(|worker| async move {
        let (config, discovery) = start(&worker, names(Kind::StrictDns(every(30)), &server, "app.test"));
        discovery.initialized().await;
        assert!(config.hosts().hosts().is_empty());
        server.set(DnsAnswer::v4(&[ONE], 60));
        eventually("hosts come", || addresses(&config) == ["10.0.0.1:80"]).await;
    });
}

#[test]
fn the_time_to_live_decides_when_it_is_asked_for() {
    let server = DnsServer::start(DnsAnswer::v4(&[ONE], 1));
    on_worker(|worker| async move {
        let dns = DnsConfig { respect_dns_ttl: true, ..every(10) };
        let (_config, discovery) = start(&worker, names(Kind::StrictDns(dns), &server, "app.test"));
        discovery.initialized().await;
        let (begin, queries) = (Instant::now(), server.queries());
        eventually("it is asked again", || server.queries() > queries).await;
        assert!(begin.elapsed() > Duration::from_millis(800), "{:?}", begin.elapsed());
        // A time to live of 0 falls back to the refresh rate: no storm.
        server.set(DnsAnswer::v4(&[ONE], 0));
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let queries = server.queries();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!((5..=22).contains(&(server.queries() - queries)), "{}", server.queries() - queries);
    });
}

#[test]
fn failures_are_waited_out_with_growing_pauses() {
    let dns =
        DnsConfig { failure_refresh_rate: Some((Duration::from_millis(100), Duration::from_millis(300))), ..every(5) };
    let mut backoff = Backoff::new(&dns);
    let waits: Vec<u128> = (0..4).map(|_| backoff.next().as_millis()).collect();
    for (wait, most) in waits.iter().zip([100, 200, 300, 300]) {
        assert!((most / 2..=most).contains(wait), "{waits:?}");
    }
    backoff.reset();
    assert!(backoff.next().as_millis() <= 100);
    let mut fixed = Backoff::new(&every(5));
    assert_eq!([fixed.next(), fixed.next()], [Duration::from_millis(5); 2]);
}

#[test]
fn one_logical_host_keeps_its_state_and_changes_its_address() {
    let server = DnsServer::start(DnsAnswer::v4(&[TWO, ONE], 0));
    on_worker(|worker| async move {
        let (config, discovery) = start(&worker, names(Kind::LogicalDns(every(10)), &server, "app.test"));
        discovery.initialized().await;
        assert_eq!(config.hosts().hosts().len(), 1);
        server.set(DnsAnswer::v4(&[ONE], 0));
        eventually("the address is there", || addresses(&config) == ["10.0.0.1:80"]).await;
        let state = Arc::clone(config.hosts().hosts()[0].state());
        server.set(DnsAnswer::v4(&[TWO], 0));
        eventually("the address changes", || addresses(&config) == ["10.0.0.2:80"]).await;
        assert!(Arc::ptr_eq(&state, config.hosts().hosts()[0].state()));
        assert_eq!(worker.stat("cluster.web.membership_change"), 1);
    });
}

#[test]
fn families() {
    let v6 = std::net::Ipv6Addr::LOCALHOST;
    let server = DnsServer::start(DnsAnswer::Addresses { v4: vec![ONE], v6: vec![v6], ttl: 9 });
    on_worker(|worker| async move {
        for (family, expected) in [
            (DnsLookupFamily::Auto, vec!["[::1]:80"]),
            (DnsLookupFamily::V4Only, vec!["10.0.0.1:80"]),
            (DnsLookupFamily::V6Only, vec!["[::1]:80"]),
            (DnsLookupFamily::V4Preferred, vec!["10.0.0.1:80"]),
            (DnsLookupFamily::All, vec!["10.0.0.1:80", "[::1]:80"]),
        ] {
            let dns = DnsConfig { lookup_family: family, ..every(1000) };
            let (config, discovery) = start(&worker, names(Kind::StrictDns(dns), &server, "app.test"));
            discovery.initialized().await;
            assert_eq!(addresses(&config), expected, "{family:?}");
        }
        server.set(DnsAnswer::v4(&[ONE], 9));
        let dns = DnsConfig { lookup_family: DnsLookupFamily::Auto, ..every(1000) };
        let (config, discovery) = start(&worker, names(Kind::StrictDns(dns), &server, "app.test"));
        discovery.initialized().await;
        assert_eq!(addresses(&config), ["10.0.0.1:80"], "IPv4 when there is no IPv6");
    });
}

#[test]
fn literal_addresses_and_localhost_ask_nobody() {
    let server = DnsServer::start(DnsAnswer::NxDomain);
    on_worker(|worker| async move {
        let (config, discovery) = start(&worker, names(Kind::StrictDns(every(10)), &server, "127.0.0.9"));
        assert!(discovery.is_initialized());
        assert_eq!(addresses(&config), ["127.0.0.9:80"]);
        let (config, discovery) = start(&worker, names(Kind::StrictDns(every(1000)), &server, "localhost"));
        discovery.initialized().await;
        assert_eq!(addresses(&config), ["127.0.0.1:80"]);
        let mut system = names(Kind::StrictDns(every(1000)), &server, "localhost");
        system.dns_resolver = Some(ExtensionConfig {
            name: "envoy.network.dns_resolver.getaddrinfo".to_owned(),
            config: TypedConfig::Empty,
            path: String::new(),
            mark: Mark::NONE,
        });
        let (config, discovery) = start(&worker, system);
        discovery.initialized().await;
        assert_eq!(addresses(&config), ["127.0.0.1:80"]);
        assert_eq!(server.queries(), 0);
    });
}

#[test]
fn an_update_serves_the_hosts_it_had_until_the_names_are_resolved_anew() {
    let server = DnsServer::start(DnsAnswer::v4(&[ONE], 0));
    on_worker(|worker| async move {
        let (before, discovery) = start(&worker, names(Kind::StrictDns(every(1000)), &server, "app.test"));
        discovery.initialized().await;
        server.set(DnsAnswer::v4(&[TWO], 0));
        let mut next = names(Kind::StrictDns(every(10)), &server, "app.test");
        next.connect_timeout = Duration::from_secs(1);
        let after = build_next(next, &before);
        let discovery = discover(&worker, &after);
        assert_eq!(addresses(&after), ["10.0.0.1:80"]);
        discovery.initialized().await;
        assert_eq!(addresses(&after), ["10.0.0.2:80"]);
    });
}
