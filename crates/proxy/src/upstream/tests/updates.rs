use super::*;
use sota_testkit::Origin;

#[test]
fn an_update_keeps_hosts_with_their_connections_and_drains_the_rest() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    on_worker(|worker| async move {
        let before = build(model(vec![at(one.address()), at(two.address())]));
        let cluster = worker.cluster(&before);
        let mut busy = None;
        for _ in 0..2 {
            let host = cluster.choose_host(&LbContext::default()).unwrap();
            let connection = own(&cluster, &host, 0).await.unwrap();
            let text = get(&connection).await;
            if text.ends_with("two") { busy = Some(connection) } else { connection.release() }
        }
        let mut next = model(vec![at(one.address())]);
        next.circuit_breakers[0].max_connections = 7;
        let after = build_next(next, &before);
        let changed = worker.cluster(&after);
        let host = changed.choose_host(&LbContext::default()).unwrap();
        let connection = own(&changed, &host, 0).await.unwrap();
        assert!(connection.reused, "the host that stays keeps its connection");
        assert_eq!((host.host().state().counts().rq_total, after.breaker(0).count(Resource::Connections)), (2, 2));
        let busy = busy.unwrap();
        assert!(get(&busy).await.ends_with("two"), "a request that runs goes on");
        busy.release();
        eventually("and its connection is closed then", || two.open_connections() == 0).await;
        assert_eq!(one.open_connections(), 1);
        assert_eq!(worker.stat("cluster.web.membership_total"), 1);
    });
}

#[test]
fn other_connection_options_mean_other_connections() {
    let one = Origin::named("one");
    on_worker(|worker| async move {
        let before = build(model(vec![at(one.address())]));
        let cluster = worker.cluster(&before);
        let host = cluster.choose_host(&LbContext::default()).unwrap();
        let connection = own(&cluster, &host, 0).await.unwrap();
        get(&connection).await;
        connection.release();
        let next = Model { connect_timeout: Duration::from_secs(1), ..model(vec![at(one.address())]) };
        let cluster = worker.cluster(&build_next(next, &before));
        let host = cluster.choose_host(&LbContext::default()).unwrap();
        assert!(!own(&cluster, &host, 0).await.unwrap().reused);
        eventually("the old one is closed", || one.open_connections() <= 1).await;
        assert_eq!(host.host().state().counts().cx_total, 2);
    });
}

#[test]
fn hosts_that_discovery_drops_are_drained() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    on_worker(|worker| async move {
        let config = build(model(vec![at(one.address()), at(two.address())]));
        let cluster = worker.cluster(&config);
        for _ in 0..2 {
            let host = cluster.choose_host(&LbContext::default()).unwrap();
            let connection = own(&cluster, &host, 0).await.unwrap();
            get(&connection).await;
            connection.release();
        }
        let set = config.hosts();
        let spec = |n: usize| set.hosts()[n].spec().clone();
        assert!(!config.set_hosts(vec![spec(0), spec(1)]), "the same hosts are no change");
        let heavier = HostSpec { weight: 3, ..spec(0) };
        assert!(config.set_hosts(vec![heavier]));
        cluster.refresh();
        eventually("the idle connection is closed", || two.open_connections() == 0).await;
        let host = cluster.choose_host(&LbContext::default()).unwrap();
        assert!(own(&cluster, &host, 0).await.unwrap().reused);
        assert_eq!(worker.stat("cluster.web.membership_change"), 2);
    });
}

#[test]
fn hosts_that_fail_their_check_lose_their_connections_when_that_is_wanted() {
    let one = Origin::named("one");
    on_worker(|worker| async move {
        for (close, reused) in [(false, true), (true, false)] {
            let close = Model { close_connections_on_host_health_failure: close, ..model(vec![at(one.address())]) };
            let config = build(close);
            let cluster = worker.cluster(&config);
            let host = cluster.choose_host(&LbContext::default()).unwrap();
            let connection = own(&cluster, &host, 0).await.unwrap();
            get(&connection).await;
            connection.release();
            host.host().state().set(HostState::FAILED_CHECK, true);
            config.refresh();
            // The only host: it is chosen in panic.
            let host = cluster.choose_host(&LbContext::default()).unwrap();
            assert_eq!(own(&cluster, &host, 0).await.unwrap().reused, reused);
        }
    });
}

#[test]
fn a_removed_cluster_serves_its_streams_and_keeps_nothing() {
    let one = Origin::named("one");
    on_worker(|worker| async move {
        let cluster = worker.cluster(&build(model(vec![at(one.address())])));
        worker.clusters.remove("web");
        assert!(worker.clusters.get("web").is_none());
        let host = cluster.choose_host(&LbContext::default()).unwrap();
        let connection = own(&cluster, &host, 0).await.unwrap();
        assert!(get(&connection).await.ends_with("one"));
        connection.release();
        eventually("it is closed at once", || one.open_connections() == 0).await;
    });
}

#[test]
fn wrong_clusters_are_refused_with_their_place() {
    let wrong = Model {
        lb_policy: LbPolicy::ClusterProvided,
        ..model(vec![endpoint(Address::Name { host: "example.org".into(), port: 80 })])
    };
    let errors = with_factory(|cx| ClusterConfig::build(&Arc::new(wrong), cx)).unwrap_err().to_string();
    assert!(errors.contains("static_resources.clusters[0].lb_policy: "), "{errors}");
    assert!(errors.contains("lb_endpoints[0].endpoint.address: example.org:80 is no IP address"), "{errors}");
}
