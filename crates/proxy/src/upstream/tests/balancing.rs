use super::*;
use sota_plugin::info::{ConnectionInfo, PeerAddress};

fn choices(cluster: &Cluster, count: usize) -> Vec<u8> {
    (0..count).map(|_| choice(cluster).unwrap()).collect()
}

/// The last number of the chosen address.
fn choice(cluster: &Cluster) -> Option<u8> {
    let host = cluster.choose_host(&LbContext::default())?;
    match host.host().address().ip() {
        Some(IpAddr::V4(ip)) => Some(ip.octets()[3]),
        _ => None,
    }
}

#[test]
fn round_robin_in_the_exact_order_of_weights() {
    on_worker(|worker| async move {
        let cluster = worker.cluster(&build(model(vec![named(1, 5), named(2, 1), named(3, 1)])));
        assert_eq!(choices(&cluster, 14), [1, 1, 2, 1, 3, 1, 1, 1, 1, 2, 1, 3, 1, 1]);
        let cluster = worker.cluster(&build(Model { name: "b".into(), ..model(vec![named(1, 3), named(2, 3)]) }));
        assert_eq!(choices(&cluster, 4), [1, 2, 1, 2]);
        assert_eq!(worker.stat("cluster.web.membership_total"), 3);
    });
}

#[test]
fn two_hosts_alternate_over_all_workers() {
    let config = build(model(vec![named(1, 1), named(2, 1)]));
    let all: Vec<Vec<u8>> = std::thread::scope(|threads| {
        let run = || {
            let mut chosen = Vec::new();
            on_worker(|worker| {
                let cluster = worker.cluster(&config);
                chosen = choices(&cluster, 1000);
                async {}
            });
            chosen
        };
        let threads: Vec<_> = (0..4).map(|_| threads.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let first = all.iter().flatten().filter(|host| **host == 1).count();
    assert_eq!(first, 2000, "every other choice of all workers together");
}

#[test]
fn random_and_least_request_spread_and_prefer_the_idle() {
    on_worker(|worker| async move {
        let endpoints = || vec![named(1, 1), named(2, 1), named(3, 1)];
        let random = Model { lb_policy: LbPolicy::Random, ..model(endpoints()) };
        let cluster = worker.cluster(&build(random));
        let chosen = choices(&cluster, 3000);
        for host in 1..=3 {
            let count = chosen.iter().filter(|other| **other == host).count();
            assert!((800..1200).contains(&count), "{count}");
        }
        let least = Model {
            lb_policy: LbPolicy::LeastRequest(LeastRequest { choice_count: 30, ..Default::default() }),
            ..model(endpoints())
        };
        let cluster = worker.cluster(&build(least));
        let config = cluster.config().hosts();
        config.hosts()[0].state().add_active();
        config.hosts()[1].state().add_active();
        assert!(choices(&cluster, 100).iter().filter(|host| **host == 3).count() > 95);
        // With weights the busier host's weight shrinks: 4/(1+1) against 1/1.
        let weighted = Model {
            lb_policy: LbPolicy::LeastRequest(LeastRequest::default()),
            ..model(vec![named(1, 4), named(2, 1)])
        };
        let cluster = worker.cluster(&build(weighted));
        cluster.config().hosts().hosts()[0].state().add_active();
        let first = choices(&cluster, 300).iter().filter(|host| **host == 1).count();
        assert!((195..=205).contains(&first), "{first}");
    });
}

#[test]
fn failed_hosts_are_left_out_until_panic() {
    on_worker(|worker| async move {
        let config = build(model((1..=4).map(|n| named(n, 1)).collect()));
        let cluster = worker.cluster(&config);
        let fail = |n: usize, on| {
            config.hosts().hosts()[n].state().set(HostState::FAILED_CHECK, on);
            config.refresh();
        };
        fail(0, true);
        fail(1, true);
        assert_eq!(choices(&cluster, 4).iter().filter(|host| **host < 3).count(), 0);
        assert_eq!(
            (worker.stat("cluster.web.membership_healthy"), worker.stat("cluster.web.lb_healthy_panic")),
            (2, 0)
        );
        fail(2, true);
        let mut all = choices(&cluster, 4);
        all.sort_unstable();
        assert_eq!((all, worker.stat("cluster.web.lb_healthy_panic")), (vec![1, 2, 3, 4], 4));
        assert_eq!(config.hosts().hosts()[2].health_flags(), "/failed_active_hc");
        fail(2, false);
        assert_eq!(choices(&cluster, 2).iter().filter(|host| **host < 3).count(), 0);
    });
}

#[test]
fn without_panic_nobody_is_chosen() {
    on_worker(|worker| async move {
        let down = Endpoint { health: HealthStatus::Unhealthy, ..named(1, 1) };
        let no_panic =
            Model { lb_config: LbConfig { healthy_panic_threshold: 0.0, ..Default::default() }, ..model(vec![down]) };
        let cluster = worker.cluster(&build(no_panic));
        assert_eq!(choice(&cluster), None);
        let empty = worker.cluster(&build(Model { name: "empty".into(), ..model(Vec::new()) }));
        assert_eq!(choice(&empty), None);
        assert_eq!(worker.stat("cluster.empty.upstream_cx_none_healthy"), 1);
    });
}

#[test]
fn lower_priorities_take_over() {
    on_worker(|worker| async move {
        let mut model = model(vec![named(1, 1), Endpoint { health: HealthStatus::Unhealthy, ..named(2, 1) }]);
        model.load_assignment.localities.push(LocalityEndpoints {
            priority: 1,
            endpoints: vec![named(9, 1)],
            ..Default::default()
        });
        let cluster = worker.cluster(&build(model));
        // 50 % healthy times 1.4: 70 % of the load stay.
        let kept = choices(&cluster, 4000).iter().filter(|host| **host == 1).count();
        assert!((2650..2950).contains(&kept), "{kept}");
    });
}

#[test]
fn a_retry_goes_elsewhere() {
    on_worker(|worker| async move {
        let cluster = worker.cluster(&build(model(vec![named(1, 1), named(2, 1)])));
        let failed = cluster.choose_host(&LbContext::default()).unwrap();
        let was_tried = |host: &Host| host.address() == failed.host().address();
        cluster.choose_host(&LbContext::default()).unwrap();
        let cx = LbContext { avoids: Some(&was_tried), attempts: 1, ..Default::default() };
        let other = cluster.choose_host(&cx).unwrap();
        assert!(!Rc::ptr_eq(&other, &failed));
    });
}

#[test]
fn a_retry_goes_to_another_priority() {
    on_worker(|worker| async move {
        let mut model = model(vec![named(1, 1)]);
        for (priority, host) in [(1, 2), (2, 3)] {
            let endpoints = vec![named(host, 1)];
            model.load_assignment.localities.push(LocalityEndpoints { priority, endpoints, ..Default::default() });
        }
        let cluster = worker.cluster(&build(model));
        let without = |avoided_priorities| {
            let cx = LbContext { avoided_priorities, ..Default::default() };
            cluster.choose_host(&cx).map(|host| host.host().address().to_string())
        };
        let first = without(0);
        assert_eq!([without(0b100), without(0b110)], [first.clone(), first.clone()]);
        let second = without(1);
        assert!(second != first && without(0b11) != first && without(0b11) != second);
        assert_eq!(without(0b111), first, "with nothing left all count again");
    });
}

#[test]
fn original_destinations() {
    on_worker(|worker| async move {
        let options = sota_config::cluster::OriginalDstConfig {
            http_header: Some(String::new()),
            upstream_port_override: Some(7),
            cleanup_interval: Duration::from_millis(20),
        };
        let original = Model {
            discovery: Source::OriginalDst(options),
            lb_policy: LbPolicy::ClusterProvided,
            ..model(Vec::new())
        };
        let config = build(original);
        let cluster = worker.cluster(&config);
        let local = PeerAddress::from(SocketAddr::from(([10, 1, 1, 1], 80)));
        let mut connection = ConnectionInfo::new(1, local.clone(), local);
        let chosen = |connection: &ConnectionInfo, request: Option<&sota_plugin::http::RequestHead>| {
            let cx = LbContext { connection: Some(connection), request, ..Default::default() };
            cluster.choose_host(&cx).map(|host| host.host().address().to_string())
        };
        assert_eq!(chosen(&connection, None), None);
        connection.local_restored = true;
        assert_eq!(chosen(&connection, None).as_deref(), Some("10.1.1.1:7"));
        let mut request = sota_plugin::http::RequestHead::default();
        request.headers.append("x-envoy-original-dst-host", "[::1]:99").unwrap();
        assert_eq!(chosen(&connection, Some(&request)).as_deref(), Some("[::1]:7"));
        let mut invalid = sota_plugin::http::RequestHead::default();
        invalid.headers.append("x-envoy-original-dst-host", "nobody").unwrap();
        assert_eq!(chosen(&connection, Some(&invalid)).as_deref(), Some("10.1.1.1:7"));
        assert_eq!(worker.stat("cluster.web.original_dst_host_invalid"), 1);
        assert_eq!((config.hosts().hosts().len(), worker.stat("cluster.web.membership_total")), (2, 2));
        let discovery = discover(&worker, &config);
        assert!(discovery.is_initialized());
        eventually("unused hosts go", || config.hosts().hosts().is_empty()).await;
        assert_eq!(chosen(&connection, None).as_deref(), Some("10.1.1.1:7"));
    });
}
