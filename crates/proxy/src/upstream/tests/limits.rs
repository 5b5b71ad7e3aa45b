use super::*;
use sota_config::{ExtensionConfig, TypedConfig, Value, cluster::CircuitBreakerThresholds};
use sota_testkit::{Origin, free_port};

fn limited(address: SocketAddr, limits: CircuitBreakerThresholds) -> Model {
    Model { circuit_breakers: [limits, Default::default()], ..model(vec![at(address)]) }
}

#[test]
fn requests_wait_for_a_connection_in_the_order_of_arrival() {
    let origin = Origin::named("one");
    on_worker(|worker| async move {
        let limits = CircuitBreakerThresholds { max_connections: 1, max_pending_requests: 2, ..Default::default() };
        let config = build(limited(origin.address(), limits));
        let cluster = worker.cluster(&config);
        let host = cluster.choose_host(&LbContext::default()).unwrap();
        let first = own(&cluster, &host, 0).await.unwrap();
        get(&first).await;
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..2)
            .map(|n| {
                let (cluster, host, order) = (Rc::clone(&cluster), Rc::clone(&host), Rc::clone(&order));
                tokio::task::spawn_local(async move {
                    let connection = own(&cluster, &host, 0).await.unwrap();
                    assert!(connection.reused);
                    order.borrow_mut().push(n);
                    get(&connection).await;
                    connection.release();
                })
            })
            .collect();
        eventually("both wait", || worker.stat("cluster.web.upstream_rq_pending_active") == 2).await;
        assert_eq!(worker.stat("cluster.web.circuit_breakers.default.rq_pending_open"), 1);
        assert_eq!(worker.stat("cluster.web.circuit_breakers.default.cx_open"), 1);
        assert_eq!(worker.stat("cluster.web.upstream_cx_overflow"), 2);
        let failure = own(&cluster, &host, 0).await.err().unwrap();
        assert_eq!(failure.details(), "upstream_reset_before_response_started{overflow}");
        assert_eq!(worker.stat("cluster.web.upstream_rq_pending_overflow"), 1);
        // The high priority has limits of its own.
        own(&cluster, &host, 1).await.unwrap();
        first.release();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!((&*order.borrow(), worker.stat("cluster.web.upstream_cx_total")), (&vec![0, 1], 2));
        assert_eq!(config.breaker(0).count(Resource::Pending), 0);
        assert_eq!(worker.stat("cluster.web.circuit_breakers.default.rq_pending_open"), 0);
    });
}

#[test]
fn who_gives_up_leaves_the_queue() {
    let origin = Origin::named("one");
    on_worker(|worker| async move {
        let limits = CircuitBreakerThresholds { max_connections: 1, ..Default::default() };
        let config = build(limited(origin.address(), limits));
        let cluster = worker.cluster(&config);
        let host = cluster.choose_host(&LbContext::default()).unwrap();
        let first = own(&cluster, &host, 0).await.unwrap();
        let waiting = own(&cluster, &host, 0);
        assert!(tokio::time::timeout(Duration::from_millis(10), waiting).await.is_err());
        assert_eq!(worker.stat("cluster.web.upstream_rq_cancelled"), 1);
        assert_eq!(
            (worker.stat("cluster.web.upstream_rq_pending_active"), config.breaker(0).count(Resource::Pending)),
            (0, 0)
        );
        // A connection that is closed makes room for the next.
        let second = own(&cluster, &host, 0);
        let close = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(second, close);
        assert!(!second.unwrap().reused);
        assert_eq!(worker.stat("cluster.web.upstream_cx_destroy_local_with_active_rq"), 2);
    });
}

#[test]
fn a_refused_connection_fails_all_that_wait_and_no_more_are_made() {
    on_worker(|worker| async move {
        let limits = CircuitBreakerThresholds { max_connections: 1, ..Default::default() };
        let cluster = worker.cluster(&build(limited(([127, 0, 0, 1], free_port()).into(), limits)));
        let host = cluster.choose_host(&LbContext::default()).unwrap();
        let all = (0..3).map(|_| {
            let (cluster, host) = (Rc::clone(&cluster), Rc::clone(&host));
            tokio::task::spawn_local(async move { own(&cluster, &host, 0).await.err() })
        });
        for task in all.collect::<Vec<_>>() {
            assert_eq!(task.await.unwrap().unwrap().kind, PoolFailureKind::RemoteConnectionFailure);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(worker.stat("cluster.web.upstream_cx_total"), 1);
        assert_eq!(worker.stat("cluster.web.upstream_rq_pending_failure_eject"), 3);
        assert_eq!(worker.stat("cluster.web.upstream_cx_active"), 0);
    });
}

#[test]
fn requests_beyond_the_limit_are_refused() {
    let origin = Origin::named("one");
    on_worker(|worker| async move {
        let limits = CircuitBreakerThresholds { max_requests: 1, max_retries: 1, ..Default::default() };
        let cluster = worker.cluster(&build(limited(origin.address(), limits)));
        let host = cluster.choose_host(&LbContext::default()).unwrap();
        let first = own(&cluster, &host, 0).await.unwrap();
        let failure = own(&cluster, &host, 0).await.err().unwrap();
        assert_eq!(failure.kind, PoolFailureKind::Overflow);
        assert_eq!(worker.stat("cluster.web.upstream_rq_active_overflow"), 1);
        assert_eq!(worker.stat("cluster.web.upstream_rq_pending_overflow"), 0);
        assert_eq!(worker.stat("cluster.web.upstream_rq_pending_total"), 2);
        assert_eq!(worker.stat("cluster.web.upstream_cx_total"), 2);
        assert_eq!(worker.stat("cluster.web.circuit_breakers.default.rq_open"), 1);
        get(&first).await;
        first.release();
        assert!(own(&cluster, &host, 0).await.is_ok());
        let retry = cluster.try_retry(0).unwrap();
        assert!(cluster.try_retry(0).is_none());
        drop(retry);
        assert!(cluster.try_retry(0).is_some());
        assert_eq!(worker.stat("cluster.web.upstream_rq_retry_overflow"), 1);
    });
}

#[test]
fn responses_are_counted_by_status() {
    on_worker(|worker| async move {
        let cluster = worker.cluster(&build(model(vec![named(1, 1)])));
        let host = cluster.choose_host(&LbContext::default()).unwrap();
        let status = |code| sota_plugin::http::StatusCode::from_u16(code).unwrap();
        cluster.count_response(status(200), false, Some(&host));
        cluster.count_response(status(503), true, Some(&host));
        cluster.record_response_time(Duration::from_millis(3), false);
        for (name, count) in [
            ("upstream_rq_200", 1),
            ("upstream_rq_2xx", 1),
            ("upstream_rq_completed", 2),
            ("external.upstream_rq_200", 1),
            ("internal.upstream_rq_5xx", 1),
            ("internal.upstream_rq_completed", 1),
            ("upstream_rq_time", 1),
            ("external.upstream_rq_time", 1),
        ] {
            assert_eq!(worker.stat(&format!("cluster.web.{name}")), count, "{name}");
        }
        assert_eq!((host.counters().rq_success.value(), host.counters().rq_error.value()), (1, 1));
    });
}

fn overload(fields: &[(&str, Value)]) -> ExtensionConfig {
    let fields = fields.iter().map(|(name, value)| ((*name).into(), sota_config::Node::new(value.clone()))).collect();
    let node = Arc::new(sota_config::Node::new(Value::Map(fields)));
    ExtensionConfig {
        name: "sota.clusters.overload".to_owned(),
        config: TypedConfig::Value { type_url: None, node },
        path: "clusters[0].overload".to_owned(),
        mark: Mark::NONE,
    }
}

#[test]
fn a_failing_host_is_ejected_probed_tried_and_taken_back() {
    let port = free_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    on_worker(|worker| async move {
        let options = overload(&[
            ("ejection_time", Value::String("0.05s".into())),
            ("probe_interval", Value::String("0.02s".into())),
            ("consecutive_failures", Value::Int(1)),
            ("minimum_requests", Value::Int(100)),
        ]);
        let config = build(Model { overload: Some(options), ..model(vec![at(address), named(2, 1), named(3, 1)]) });
        let cluster = worker.cluster(&config);
        let _discovery = discover(&worker, &config);
        let bad = cluster.choose_host(&LbContext::default()).unwrap();
        assert_eq!(bad.host().address().port(), Some(port));
        cluster.report(&bad, Outcome::TransportFailure);
        cluster.report(&bad, Outcome::Answered);
        cluster.report(&bad, Outcome::TransportFailure);
        assert_eq!(config.hosts().healthy(), 3, "one failure in a row is allowed");
        cluster.report(&bad, Outcome::TransportFailure);
        assert_eq!((config.hosts().healthy(), worker.stat("cluster.web.overload.ejections_active")), (2, 1));
        assert_eq!(bad.host().health_flags(), "/failed_outlier_check");
        let is_bad = |host: &Rc<WorkerHost>| host.host().address().port() == Some(port);
        assert!((0..10).all(|_| !is_bad(&cluster.choose_host(&LbContext::default()).unwrap())));
        eventually("probes fail", || worker.stat("cluster.web.overload.probe_failures") > 0).await;
        assert!((0..10).all(|_| !is_bad(&cluster.choose_host(&LbContext::default()).unwrap())));

        let _origin = Origin::http_on(address, |_| sota_testkit::Reply::ok("back"));
        eventually("a trial is due", || config.overload().unwrap().has_trials()).await;
        let tried = cluster.choose_host(&LbContext::default()).unwrap();
        assert!(is_bad(&tried), "the next request is the trial");
        assert!((0..10).all(|_| !is_bad(&cluster.choose_host(&LbContext::default()).unwrap())), "and only one");
        cluster.report(&tried, Outcome::Answered);
        assert_eq!((config.hosts().healthy(), worker.stat("cluster.web.overload.ejections_active")), (3, 0));
    });
}

#[test]
fn overload_is_read_strictly() {
    let refused = |fields: &[(&str, Value)]| {
        let model = Arc::new(Model { overload: Some(overload(fields)), ..model(vec![named(1, 1)]) });
        with_factory(|cx| ClusterConfig::build(&model, cx)).unwrap_err().to_string()
    };
    assert!(refused(&[("windw", Value::Int(1))]).contains("clusters[0].overload.windw: unknown field"));
    assert!(refused(&[("failure_ratio", Value::Float(1.5))]).contains("up to 1"));
    assert!(refused(&[("window", Value::String("-1s".into()))]).contains("duration"));
    assert!(refused(&[("max_concurrency", Value::Int(0))]).contains("from 1"));
}
