use super::*;
use sota_config::cluster::CircuitBreakerThresholds;
use sota_plugin::{
    LocalFuture,
    cx::{ClusterHealth, WorkerCx, WorkerServices},
    upstream::{self, HostChoice, UpstreamError},
};
use sota_testkit::{Origin, free_port};

/// Time and tasks: the rest is not asked for here.
struct Time;

impl WorkerServices for Time {
    fn sleep(&self, time: Duration) -> LocalFuture<()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn spawn(&self, task: LocalFuture<()>, _: bool) {
        tokio::task::spawn_local(task);
    }

    fn is_draining(&self) -> bool {
        false
    }

    fn is_health_check_failing(&self) -> bool {
        false
    }

    fn cluster_health(&self, _: &str) -> Option<ClusterHealth> {
        None
    }

    fn cluster(&self, _: &str, _: &WorkerCx) -> Option<upstream::Cluster> {
        None
    }

    fn next_stream_id(&self) -> u64 {
        0
    }
}

pub(super) fn worker_cx(worker: &Worker) -> WorkerCx {
    WorkerCx::new(0, worker.registry.shard(), Rc::new(Time))
}

pub(super) fn access(worker: &Worker, config: &Arc<ClusterConfig>) -> upstream::Cluster {
    for_extensions(worker.cluster(config), &worker_cx(worker))
}

/// Sends back lines.
fn echo() -> Origin {
    Origin::raw(|mut peer| {
        while let Ok(bytes) = peer.read_some(1024) {
            if bytes.is_empty() || peer.send(&bytes).is_err() {
                return;
            }
        }
    })
}

async fn ask(connection: &mut upstream::UpstreamConnection) {
    connection.write_all(b"ping\n").await.unwrap();
    assert_eq!(connection.read_line(10).await.unwrap().unwrap(), b"ping");
}

#[test]
fn connections_of_extensions_are_pooled_by_protocol_and_counted() {
    let origin = echo();
    on_worker(|worker| async move {
        let config = build(model(vec![at(origin.address())]));
        let cluster = access(&worker, &config);
        let host = cluster.choose(&HostChoice::default()).unwrap();
        for (protocol, is_reused) in [("line", false), ("line", true), ("other", false)] {
            let request = host.begin_request().unwrap();
            let mut connection = host.pooled(protocol).await.unwrap();
            assert_eq!(connection.facts().is_reused, is_reused, "{protocol}");
            ask(&mut connection).await;
            assert_eq!(worker.stat("cluster.web.upstream_rq_active"), 1);
            connection.give_back();
            request.finish(upstream::Outcome::Success);
        }
        host.begin_request().unwrap().finish(upstream::Outcome::Timeout);
        let counts = config.hosts().hosts()[0].state().counts();
        assert_eq!((counts.rq_total, counts.rq_active, counts.rq_success, counts.rq_error), (4, 0, 3, 1));
        assert_eq!((counts.cx_total, counts.cx_active, counts.rq_timeout), (2, 2, 1));
        assert_eq!(worker.stat("cluster.web.upstream_rq_timeout"), 1);
        assert_eq!(worker.stat("cluster.web.upstream_rq_time"), 3);
        assert_eq!(worker.stat("cluster.web.upstream_cx_rx_bytes_total"), 15);
        worker.clusters.remove("web");
        eventually("idle connections go with the cluster", || origin.open_connections() == 0).await;
    });
}

#[test]
fn a_connection_of_ones_own_is_split_and_closed_when_dropped() {
    let origin = echo();
    on_worker(|worker| async move {
        let cluster = access(&worker, &build(model(vec![at(origin.address())])));
        let host = cluster.choose(&HostChoice::default()).unwrap();
        let connection = host.connect().await.unwrap();
        let (mut read, mut write) = connection.into_stream().split();
        let writing = tokio::task::spawn_local(async move {
            write.write_all(b"a\nb\n").await.unwrap();
            write.shutdown().await.unwrap();
        });
        assert_eq!(read.read_line(9).await.unwrap().unwrap(), b"a");
        assert_eq!(read.read_line(9).await.unwrap().unwrap(), b"b");
        assert_eq!(read.read_line(9).await.unwrap(), None);
        writing.await.unwrap();
        assert_eq!(worker.stat("cluster.web.upstream_cx_active"), 1);
        drop(read);
        assert_eq!(worker.stat("cluster.web.upstream_cx_active"), 0);
        assert_eq!(worker.stat("cluster.web.upstream_rq_total"), 0);
    });
}

#[test]
fn each_failure_has_its_error() {
    on_worker(|worker| async move {
        let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let limits = CircuitBreakerThresholds { max_requests: 1, ..Default::default() };
        let limited = Model { circuit_breakers: [limits, Default::default()], ..model(vec![at(nobody)]) };
        let cluster = access(&worker, &build(limited));
        let host = cluster.choose(&HostChoice::default()).unwrap();
        let first = host.begin_request().unwrap();
        assert_eq!(host.begin_request().err(), Some(UpstreamError::Overflow));
        drop(first);
        assert!(host.begin_request().is_ok());
        for result in [host.connect().await, host.pooled("x").await] {
            let error = result.err().unwrap();
            assert!(matches!(&error, UpstreamError::ConnectFailure(why) if why.contains("refused")), "{error}");
        }
        let empty = access(&worker, &build(Model { name: "empty".into(), ..model(vec![]) }));
        let error = empty.choose(&HostChoice::default()).unwrap_err();
        assert_eq!(error.to_string(), "cluster \"empty\" has no healthy host");
    });
}

#[test]
fn a_host_that_leaves_says_so() {
    on_worker(|worker| async move {
        let (one, two) = (named(1, 1), named(2, 1));
        let config = build(model(vec![one, two.clone()]));
        let cluster = access(&worker, &config);
        let hosts = cluster.hosts();
        assert_eq!(hosts.len(), 2);
        let drains = |n: usize| hosts[n].draining();
        let (first, second) = (drains(0), drains(1));
        let next = build_next(model(vec![two]), &config);
        let after = access(&worker, &next);
        first.await;
        assert!(tokio::time::timeout(Duration::from_millis(5), second).await.is_err());
        assert_eq!((after.hosts().len(), after.hosts()[0] == hosts[1]), (1, true));
        // Another choice avoids a host that failed.
        let excluded = [hosts[1].clone()];
        let choice = HostChoice { excluded: &excluded, ..HostChoice::default() };
        assert_eq!(after.choose(&choice).unwrap(), hosts[1], "there is no other");
    });
}
