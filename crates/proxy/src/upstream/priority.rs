//! How load is spread over priorities (Envoy's `LoadBalancerBase`): percentages by availability, spill-over, panic.

/// What is counted of one priority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Availability {
    pub(super) total: u32,
    pub(super) healthy: u32,
    pub(super) degraded: u32,
}

/// The share of one priority, in percent. Over all priorities, healthy and degraded shares add up to 100.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PriorityLoad {
    pub(super) healthy: u32,
    pub(super) degraded: u32,
    /// So few hosts are available that all are used.
    pub(super) panic: bool,
}

/// The shares. `factor` is the overprovisioning factor in percent, `threshold` the panic threshold in percent.
pub(super) fn loads(priorities: &[Availability], factor: u32, threshold: f64) -> Vec<PriorityLoad> {
    let mut loads = vec![PriorityLoad::default(); priorities.len()];
    let rated = |part: u32, total: u32| {
        let percent = (u64::from(factor) * u64::from(part)).checked_div(u64::from(total)).unwrap_or(0);
        u32::try_from(percent).map_or(100, |percent| percent.min(100))
    };
    let healthy: Vec<_> = priorities.iter().map(|p| rated(p.healthy, p.total)).collect();
    let degraded: Vec<_> = priorities.iter().map(|p| rated(p.degraded, p.total)).collect();
    let available = healthy.iter().chain(&degraded).sum::<u32>().min(100);

    let share = |health: u32, left: u32| (health * 100).checked_div(available).map_or(0, |share| share.min(left));
    if available > 0 {
        let mut left = 100;
        for (load, health) in loads.iter_mut().zip(&healthy) {
            load.healthy = share(*health, left);
            left -= load.healthy;
        }
        for (load, health) in loads.iter_mut().zip(&degraded) {
            load.degraded = share(*health, left);
            left -= load.degraded;
        }
        // What is left is rounding: it goes to the first that is available.
        if let Some(first) = healthy.iter().position(|health| *health > 0) {
            loads[first].healthy += left;
        } else if let Some(first) = degraded.iter().position(|health| *health > 0) {
            loads[first].degraded += left;
        }
    } else if threshold <= 0.0 {
        // Nothing is available and there is no panic: the choice goes to the first and finds nobody.
        if let Some(first) = loads.first_mut() {
            first.healthy = 100;
        }
        return loads;
    }

    if available < 100 {
        for (load, priority) in loads.iter_mut().zip(priorities) {
            load.panic = is_in_panic(*priority, threshold);
        }
    }
    if loads.iter().all(|load| load.panic) {
        in_total_panic(&mut loads, priorities);
    }
    loads
}

fn is_in_panic(priority: Availability, threshold: f64) -> bool {
    let available = match priority.total {
        0 => 0.0,
        total => 100.0 * f64::from(priority.healthy + priority.degraded) / f64::from(total),
    };
    available < threshold.min(100.0)
}

/// All priorities are in panic: each gets a share by its number of hosts, whatever their health.
fn in_total_panic(loads: &mut [PriorityLoad], priorities: &[Availability]) {
    let total: u64 = priorities.iter().map(|p| u64::from(p.total)).sum();
    let mut left = 100;
    for (load, priority) in loads.iter_mut().zip(priorities) {
        load.degraded = 0;
        load.healthy = u32::try_from((100 * u64::from(priority.total)).checked_div(total).unwrap_or(0)).unwrap_or(0);
        left -= load.healthy;
    }
    let first = priorities.iter().position(|p| p.total > 0).unwrap_or(0);
    if let Some(first) = loads.get_mut(first) {
        first.healthy += left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Priorities by their percentages of healthy and degraded hosts.
    fn by_percent(percents: &[(u32, u32)]) -> Vec<Availability> {
        percents
            .iter()
            .map(|(healthy, degraded)| Availability { total: 100, healthy: *healthy, degraded: *degraded })
            .collect()
    }

    fn shares(percents: &[(u32, u32)], threshold: f64) -> Vec<(u32, u32, bool)> {
        let loads = loads(&by_percent(percents), 140, threshold);
        assert_eq!(loads.iter().map(|load| load.healthy + load.degraded).sum::<u32>(), 100);
        loads.iter().map(|load| (load.healthy, load.degraded, load.panic)).collect()
    }

    fn healthy(percents: &[u32], threshold: f64) -> Vec<(u32, bool)> {
        let percents: Vec<_> = percents.iter().map(|healthy| (*healthy, 0)).collect();
        shares(&percents, threshold).into_iter().map(|(healthy, _, panic)| (healthy, panic)).collect()
    }

    /// The tables of Envoy's documentation, "Priority levels" and "Panic threshold".
    #[test]
    fn as_envoy_documents_two_priorities() {
        for (p0, loads) in
            [(100, [100, 0]), (72, [100, 0]), (71, [99, 1]), (50, [70, 30]), (25, [35, 65]), (0, [0, 100])]
        {
            let shares = healthy(&[p0, 100], 0.0);
            assert_eq!(shares.iter().map(|(load, _)| *load).collect::<Vec<_>>(), loads, "{p0}");
        }
        for (p0, p1, loads) in
            [(25, 25, [50, 50]), (72, 72, [100, 0]), (71, 71, [99, 1]), (50, 60, [70, 30]), (25, 5, [84, 16])]
        {
            let shares = healthy(&[p0, p1], 0.0);
            // 35 of 42 is 83.3: the rest of rounding goes to the first.
            assert_eq!(shares.iter().map(|(load, _)| *load).collect::<Vec<_>>(), loads, "{p0} {p1}");
        }
    }

    #[test]
    fn panic_comes_when_nothing_below_can_take_over() {
        for (p0, p1, expected) in [
            (72, 72, [(100, false), (0, false)]),
            (71, 71, [(99, false), (1, false)]),
            (50, 60, [(70, false), (30, false)]),
            (50, 100, [(70, false), (30, false)]),
            (0, 100, [(0, false), (100, false)]),
            (25, 5, [(50, true), (50, true)]),
            // 7 and 92 of 98; the documentation rounds it to 7 and 93.
            (5, 65, [(8, true), (92, false)]),
        ] {
            assert_eq!(healthy(&[p0, p1], 50.0), expected, "{p0} {p1}");
        }
        assert_eq!(healthy(&[0], 50.0), [(100, true)]);
        assert_eq!(healthy(&[0], 0.0), [(100, false)]);
        assert_eq!(healthy(&[49], 50.0), [(100, true)]);
        assert_eq!(healthy(&[50], 50.0), [(100, false)]);
    }

    #[test]
    fn degraded_hosts_come_after_the_healthy_of_all_priorities() {
        assert_eq!(shares(&[(0, 100), (0, 0)], 50.0), [(0, 100, false), (0, 0, false)]);
        assert_eq!(shares(&[(50, 50), (0, 0)], 0.0), [(70, 30, false), (0, 0, false)]);
        assert_eq!(shares(&[(0, 100), (100, 0)], 50.0), [(0, 0, false), (100, 0, false)]);
    }

    #[test]
    fn nobody_at_all() {
        assert!(loads(&[], 140, 50.0).is_empty());
        let none = loads(&[Availability::default(); 2], 140, 50.0);
        assert_eq!((none[0].healthy, none[0].panic), (100, true));
    }
}
