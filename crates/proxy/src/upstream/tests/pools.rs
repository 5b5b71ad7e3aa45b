use super::*;
use sota_config::address::BindConfig;
use sota_testkit::{Origin, Reply, SynBlackHole, free_port};

async fn connect(cluster: &Cluster) -> Result<OwnConnection, PoolFailure> {
    let host = cluster.choose_host(&LbContext::default()).unwrap();
    own(cluster, &host, 0).await
}

#[test]
fn a_released_connection_is_used_again() {
    let origin = Origin::named("one");
    on_worker(|worker| async move {
        let config = build(model(vec![at(origin.address())]));
        let cluster = worker.cluster(&config);
        for n in 0..3 {
            let connection = connect(&cluster).await.unwrap();
            assert_eq!((connection.reused, connection.requests()), (n > 0, n + 1));
            assert!(get(&connection).await.ends_with("one"));
            assert_eq!(worker.stat("cluster.web.upstream_rq_active"), 1);
            connection.release();
        }
        assert_eq!(origin.connections(), 1);
        let counts = config.hosts().hosts()[0].state().counts();
        assert_eq!((counts.cx_total, counts.cx_active, counts.rq_total, counts.rq_active), (1, 1, 3, 0));
        assert_eq!(worker.stat("cluster.web.upstream_rq_pending_total"), 1);
        assert!(worker.stat("cluster.web.upstream_cx_rx_bytes_total") > 100);
        assert_eq!(config.breaker(0).count(Resource::Connections), 1);
        worker.clusters.remove("web");
        drop(cluster);
        eventually("the connection is closed", || origin.open_connections() == 0).await;
        assert_eq!(config.breaker(0).count(Resource::Connections), 0);
    });
}

#[test]
fn the_one_that_was_used_last_comes_first() {
    let origin = Origin::named("one");
    on_worker(|worker| async move {
        let cluster = worker.cluster(&build(model(vec![at(origin.address())])));
        let (a, b) = (connect(&cluster).await.unwrap(), connect(&cluster).await.unwrap());
        get(&a).await;
        get(&b).await;
        let last = b.id;
        a.release();
        b.release();
        assert_eq!(connect(&cluster).await.unwrap().id, last);
    });
}

#[test]
fn what_the_host_closed_or_wrote_on_is_not_handed_out() {
    let closing = Origin::http(|_| Reply::ok("x").close());
    let chatty = Origin::http(|_| Reply::ok("x").wait(Duration::from_millis(30)).send("HTTP/1.1 408 Late\r\n\r\n"));
    on_worker(|worker| async move {
        for (name, origin) in [("a", &closing), ("b", &chatty)] {
            let cluster = worker.cluster(&build(Model { name: name.into(), ..model(vec![at(origin.address())]) }));
            let connection = connect(&cluster).await.unwrap();
            get(&connection).await;
            connection.release();
            let active = format!("cluster.{name}.upstream_cx_active");
            eventually("the idle connection goes by itself", || worker.stat(&active) == 0).await;
            assert_eq!(worker.stat(&format!("cluster.{name}.upstream_cx_destroy_remote")), 1);
            let connection = connect(&cluster).await.unwrap();
            assert!(!connection.reused);
            get(&connection).await;
            assert_eq!(worker.stat(&format!("cluster.{name}.upstream_cx_total")), 2);
        }
    });
}

#[test]
fn a_connection_that_ended_is_not_taken_back() {
    let origin = Origin::http(|_| Reply::ok("x").close());
    on_worker(|worker| async move {
        let cluster = worker.cluster(&build(model(vec![at(origin.address())])));
        let connection = connect(&cluster).await.unwrap();
        get(&connection).await;
        // The end has arrived before the release, without anybody having read it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        connection.release();
        assert_eq!(worker.stat("cluster.web.upstream_cx_active"), 0);
        assert!(!connect(&cluster).await.unwrap().reused);
    });
}

#[test]
fn idle_timeout_and_largest_age_and_number() {
    let origin = Origin::named("one");
    on_worker(|worker| async move {
        let limited = |name: &str, http| Model { name: name.into(), http, ..model(vec![at(origin.address())]) };
        let http = sota_config::http::HttpProtocolOptions::default;
        let idle = worker.cluster(&build(limited(
            "idle",
            sota_config::http::HttpProtocolOptions { idle_timeout: Some(Duration::from_millis(40)), ..http() },
        )));
        let aged = worker.cluster(&build(limited(
            "aged",
            sota_config::http::HttpProtocolOptions {
                max_connection_duration: Some(Duration::from_millis(40)),
                ..http()
            },
        )));
        let few = worker.cluster(&build(limited(
            "few",
            sota_config::http::HttpProtocolOptions { max_requests_per_connection: Some(2), ..http() },
        )));
        for cluster in [&idle, &aged] {
            let connection = connect(cluster).await.unwrap();
            get(&connection).await;
            connection.release();
        }
        let connections = |name: &str| worker.stat(&format!("cluster.{name}.upstream_cx_active"));
        assert_eq!((connections("idle"), connections("aged")), (1, 1));
        eventually("both are closed", || connections("idle") + connections("aged") == 0).await;
        assert_eq!(worker.stat("cluster.idle.upstream_cx_idle_timeout"), 1);
        assert_eq!(worker.stat("cluster.aged.upstream_cx_max_duration_reached"), 1);
        assert_eq!(worker.stat("cluster.idle.upstream_cx_destroy_local"), 1);
        // A connection whose time is over sooner than that of those before it.
        let both = worker.cluster(&build(limited(
            "both",
            sota_config::http::HttpProtocolOptions {
                max_connection_duration: Some(Duration::from_millis(60)),
                idle_timeout: Some(Duration::from_millis(50)),
                ..http()
            },
        )));
        let connection = connect(&both).await.unwrap();
        get(&connection).await;
        connection.release();
        let connection = connect(&both).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        connection.release();
        eventually("its age counts", || connections("both") == 0).await;
        assert_eq!(worker.stat("cluster.both.upstream_cx_max_duration_reached"), 1);
        for _ in 0..4 {
            let connection = connect(&few).await.unwrap();
            get(&connection).await;
            connection.release();
        }
        assert_eq!(worker.stat("cluster.few.upstream_cx_total"), 2);
        assert_eq!(worker.stat("cluster.few.upstream_cx_max_requests"), 2);
        assert_eq!(worker.stat("cluster.few.upstream_rq_per_cx"), 2);
    });
}

#[test]
fn failures_in_envoys_words() {
    on_worker(|worker| async move {
        let refused = worker.cluster(&build(model(vec![at(([127, 0, 0, 1], free_port()).into())])));
        let failure = connect(&refused).await.err().unwrap();
        assert_eq!(
            failure.details(),
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
        assert_eq!(failure.kind.flag(), sota_plugin::info::ResponseFlag::UpstreamConnectionFailure);
        assert_eq!(worker.stat("cluster.web.upstream_cx_connect_fail"), 1);
        assert_eq!(worker.stat("cluster.web.upstream_cx_destroy_remote"), 1);
        assert_eq!(worker.stat("cluster.web.upstream_rq_pending_failure_eject"), 1);
        assert_eq!(worker.stat("cluster.web.upstream_rq_total"), 0);

        let pipe = Address::Pipe { path: "/nowhere/x.sock".into(), mode: 0 };
        let missing = worker.cluster(&build(Model { name: "pipe".into(), ..model(vec![endpoint(pipe)]) }));
        assert_eq!(
            connect(&missing).await.err().unwrap().details(),
            "upstream_reset_before_response_started{remote_connection_failure|immediate_connect_error:_\
             No_such_file_or_directory|remote_address:/nowhere/x.sock}"
        );

        let foreign = Address::Ip { ip: [8, 8, 8, 8].into(), port: 0, ipv4_compat: false };
        let bind = BindConfig { source_address: Some(foreign), ..Default::default() };
        let any = at(([127, 0, 0, 1], 9).into());
        let unbound = Model { name: "bind".into(), upstream_bind_config: Some(bind), ..model(vec![any]) };
        assert_eq!(
            connect(&worker.cluster(&build(unbound))).await.err().unwrap().details(),
            "upstream_reset_before_response_started{local_connection_failure|failed_to_bind_to_8.8.8.8:0:_\
             Cannot_assign_requested_address}"
        );
        assert_eq!(worker.stat("cluster.bind.bind_errors"), 1);
        assert_eq!(worker.stat("cluster.bind.upstream_cx_destroy_local"), 1);

        let hole = SynBlackHole::new();
        let timeout = Duration::from_millis(100);
        let silent = Model { name: "hole".into(), connect_timeout: timeout, ..model(vec![at(hole.address())]) };
        let silent = worker.cluster(&build(silent));
        let begin = Instant::now();
        let failure = connect(&silent).await.err().unwrap();
        assert!((timeout..timeout * 3).contains(&begin.elapsed()));
        assert_eq!(failure.details(), "upstream_reset_before_response_started{connection_timeout}");
        assert_eq!(worker.stat("cluster.hole.upstream_cx_connect_timeout"), 1);
        assert_eq!(worker.stat("cluster.hole.upstream_cx_active"), 0);
    });
}

#[test]
fn source_address_unix_sockets_and_tcp() {
    let origin = Origin::named("one");
    on_worker(|worker| async move {
        let source = Address::Ip { ip: [127, 0, 0, 6].into(), port: 0, ipv4_compat: false };
        let bind = BindConfig { source_address: Some(source), ..Default::default() };
        let bound = Model { upstream_bind_config: Some(bind), ..model(vec![at(origin.address())]) };
        let connection = connect(&worker.cluster(&build(bound))).await.unwrap();
        assert_eq!(connection.local_address.unwrap().ip().to_string(), "127.0.0.6");
        assert!(get(&connection).await.ends_with("one"));

        let dir = sota_testkit::temp_dir();
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let cluster = worker
            .cluster(&build(Model { name: "unix".into(), ..model(vec![endpoint(Address::Pipe { path, mode: 0 })]) }));
        let host = cluster.choose_host(&LbContext::default()).unwrap();
        let connection = cluster.tcp_connection(&host, 0, None).await.unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        connection.socket.write_all(b"hello").await.unwrap();
        let mut read = [0; 5];
        std::io::Read::read_exact(&mut peer, &mut read).unwrap();
        assert_eq!(&read, b"hello");
        assert_eq!(worker.stat("cluster.unix.upstream_rq_active"), 1);
        drop(connection);
        assert_eq!(worker.stat("cluster.unix.upstream_rq_active"), 0);
        assert_eq!(worker.stat("cluster.unix.upstream_cx_active"), 0);
    });
}

#[test]
fn connections_are_made_before_they_are_needed_where_that_is_wanted() {
    let origin = Origin::named("one");
    on_worker(|worker| async move {
        let ahead = Model { preconnect_ratio: 2.0, ..model(vec![at(origin.address())]) };
        let cluster = worker.cluster(&build(ahead));
        let first = connect(&cluster).await.unwrap();
        eventually("there is another", || origin.connections() == 2).await;
        let second = connect(&cluster).await.unwrap();
        eventually("there are two for each", || origin.connections() == 4).await;
        get(&first).await;
        get(&second).await;
        first.release();
        second.release();
        let third = connect(&cluster).await.unwrap();
        get(&third).await;
        assert_eq!((third.reused, origin.connections()), (true, 4), "there were enough");
    });
}
