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
    let rated = |part: u32, total: u32| match total {
        0 => 0,
        _ => u32::try_from(u64::from(factor) * u64::from(part) / u64::from(total))
            .map_or(100, |percent| percent.min(100)),
    };
    let healthy: Vec<_> = priorities.iter().map(|p| rated(p.healthy, p.total)).collect();
    let degraded: Vec<_> = priorities.iter().map(|p| rated(p.degraded, p.total)).collect();
    let available = healthy.iter().chain(&degraded).sum::<u32>().min(100);

    if available > 0 {
        let mut left = 100;
        for (load, health) in loads.iter_mut().zip(&healthy) {
            load.healthy = left.min(health * 100 / available);
            left -= load.healthy;
        }
        for (load, health) in loads.iter_mut().zip(&degraded) {
            load.degraded = left.min(health * 100 / available);
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
