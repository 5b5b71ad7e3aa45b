//! Zone-aware routing: which part of the requests stays, and where the rest goes.

use super::*;
use crate::local::Place;
use sota_config::load_balancer::ZoneAware;

/// Hosts of 10.0.<zone>.<number>, so many in each of the zones a, b, c.
fn zones(counts: [u8; 3]) -> Vec<LocalityEndpoints> {
    let zone = |(number, count): (u8, u8)| LocalityEndpoints {
        locality: ["r".into(), ["a", "b", "c"][usize::from(number)].into(), String::new()],
        endpoints: (1..=count).map(|n| at(SocketAddr::from(([10, 0, number, n], 80)))).collect(),
        ..Default::default()
    };
    (0..).zip(counts).filter(|(_, count)| *count > 0).map(zone).collect()
}

fn in_zones(name: &str, counts: [u8; 3], zone_aware: ZoneAware) -> Model {
    let mut model = Model { name: name.into(), ..model(Vec::new()) };
    model.load_assignment.localities = zones(counts);
    model.lb_config.zone_aware = zone_aware;
    model
}

struct Fixture {
    clusters: Clusters,
    worker: Rc<Worker>,
}

impl Fixture {
    /// This proxy is in zone a, and there are so many of its equals in each zone.
    fn new(worker: Rc<Worker>, proxies: [u8; 3]) -> Self {
        let locality = ["r".to_owned(), "a".to_owned(), String::new()];
        worker.local.process.set_place(Place { local_cluster: "proxies".into(), locality });
        let clusters = Clusters::new(&worker.local);
        clusters.set(&build(in_zones("proxies", proxies, ZoneAware::default())));
        Self { clusters, worker }
    }

    fn cluster(&self, model: Model) -> Rc<Cluster> {
        let name = model.name.clone();
        self.clusters.set(&build(model));
        self.clusters.get(&name).unwrap()
    }

    fn stat(&self, name: &str) -> i64 {
        self.worker.stat(name)
    }
}

/// How many of 8,000 requests go to each zone; `None`: some were not answered.
fn spread(cluster: &Cluster) -> Option<[u32; 3]> {
    let mut counts = [0; 3];
    for _ in 0..8000 {
        let host = cluster.choose_host(&LbContext::default())?;
        let Some(IpAddr::V4(ip)) = host.host().address().ip() else { panic!("no address") };
        counts[usize::from(ip.octets()[2])] += 1;
    }
    Some(counts)
}

#[track_caller]
fn assert_near(counts: [u32; 3], expected: [u32; 3]) {
    for (count, expected) in counts.iter().zip(expected) {
        // Five standard deviations at most.
        assert!(count.abs_diff(expected) <= 225, "{counts:?}");
        assert!(expected != 0 || *count == 0, "{counts:?}");
    }
}

#[test]
fn what_a_zone_cannot_take_goes_where_hosts_are_to_spare() {
    on_worker(|worker| async move {
        let fixture = Fixture::new(worker, [4, 4, 2]);
        // 40 % of the proxies and 25 % of the hosts: 62.5 % stay. Zone b has 10 % to spare, zone c 5 %.
        let cluster = fixture.cluster(in_zones("web", [2, 4, 2], ZoneAware::default()));
        assert_near(spread(&cluster).unwrap(), [5000, 2000, 1000]);
        let (sampled, crossed) = (
            fixture.stat("cluster.web.lb_zone_routing_sampled"),
            fixture.stat("cluster.web.lb_zone_routing_cross_zone"),
        );
        assert_eq!(sampled + crossed, 8000);
        assert_eq!(fixture.stat("cluster.web.lb_recalculate_zone_structures"), 1);
        // Two hosts of b fail: a third of the six that are left is here, still less than 40 %.
        for host in &cluster.config().hosts().hosts()[2..4] {
            host.state().set(HostState::FAILED_CHECK, true);
        }
        cluster.config().refresh();
        // b: 33 % of hosts for 40 % of proxies, nothing to spare; c takes what does not stay.
        assert_near(spread(&cluster).unwrap(), [6667, 0, 1333]);
        // The proxies change.
        fixture.clusters.set(&build(in_zones("proxies", [2, 4, 4], ZoneAware::default())));
        assert_near(spread(&cluster).unwrap(), [8000, 0, 0]);
        assert_eq!(fixture.stat("cluster.web.lb_zone_routing_all_directly"), 8000);
    });
}

#[test]
fn when_zones_do_not_count() {
    on_worker(|worker| async move {
        let fixture = Fixture::new(worker, [2, 2, 0]);
        let even = [2667, 2667, 2666];
        let small = fixture.cluster(in_zones("small", [1, 1, 1], ZoneAware::default()));
        assert_near(spread(&small).unwrap(), even);
        assert_eq!(fixture.stat("cluster.small.lb_zone_cluster_too_small"), 1);
        let off = fixture.cluster(in_zones("off", [2, 2, 2], ZoneAware { routing_enabled: 0, ..Default::default() }));
        assert_near(spread(&off).unwrap(), even);
        let one = fixture.cluster(in_zones("one", [0, 6, 0], ZoneAware::default()));
        assert_near(spread(&one).unwrap(), [0, 8000, 0]);
        let mut weighted = in_zones("weighted", [2, 2, 2], ZoneAware::default());
        weighted.lb_config.locality_weighted = true;
        assert_near(spread(&fixture.cluster(weighted)).unwrap(), even);
        // Of the proxies none is where this one is.
        fixture.clusters.set(&build(in_zones("proxies", [0, 2, 2], ZoneAware::default())));
        let astray = fixture.cluster(in_zones("astray", [2, 2, 2], ZoneAware::default()));
        assert_near(spread(&astray).unwrap(), even);
        assert_eq!(fixture.stat("cluster.astray.lb_local_cluster_not_ok"), 1);
        fixture.clusters.remove("proxies");
        let alone = fixture.cluster(in_zones("alone", [2, 2, 2], ZoneAware::default()));
        assert_near(spread(&alone).unwrap(), even);
    });
}

#[test]
fn forced_to_stay_weights_and_panic() {
    on_worker(|worker| async move {
        let fixture = Fixture::new(worker, [4, 1, 1]);
        let forced = |least| ZoneAware { force_local_zone: Some(least), ..Default::default() };
        assert_near(spread(&fixture.cluster(in_zones("forced", [1, 4, 4], forced(1)))).unwrap(), [8000, 0, 0]);
        // Too few here: 1 of 9 hosts for 4 of 6 proxies, a sixth stays.
        assert_near(spread(&fixture.cluster(in_zones("few", [1, 4, 4], forced(2)))).unwrap(), [1333, 3333, 3333]);
        // By weight this zone has 8 of 12.
        let mut heavy = in_zones("heavy", [2, 2, 2], ZoneAware { by_weight: true, ..Default::default() });
        heavy.load_assignment.localities[0].endpoints.iter_mut().for_each(|endpoint| endpoint.weight = 4);
        assert_near(spread(&fixture.cluster(heavy)).unwrap(), [8000, 0, 0]);
        // Most proxies are ill: nothing can be said of them.
        let mut ill = in_zones("proxies", [4, 1, 1], ZoneAware::default());
        for endpoint in &mut ill.load_assignment.localities[0].endpoints {
            endpoint.health = HealthStatus::Unhealthy;
        }
        fixture.clusters.set(&build(ill));
        assert_near(spread(&fixture.cluster(in_zones("any", [2, 2, 2], forced(1)))).unwrap(), [2667, 2667, 2666]);
        assert_eq!(fixture.stat("cluster.any.lb_local_cluster_not_ok"), 8000);
        let fails = ZoneAware { fail_traffic_on_panic: true, ..forced(1) };
        assert_eq!(spread(&fixture.cluster(in_zones("fails", [2, 2, 2], fails.clone()))), None);
        let mut panic = in_zones("panic", [2, 2, 2], fails);
        for locality in &mut panic.load_assignment.localities {
            locality.endpoints.iter_mut().for_each(|endpoint| endpoint.health = HealthStatus::Unhealthy);
        }
        assert_eq!(spread(&fixture.cluster(panic)), None);
        assert_eq!(fixture.stat("cluster.panic.lb_healthy_panic"), 1);
    });
}
