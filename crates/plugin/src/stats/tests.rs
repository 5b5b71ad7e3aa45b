use super::*;
use crate::stat_group;
use std::{collections::BTreeMap, mem::size_of, thread};

stat_group! {
    struct Traffic {
        rq_total: counter,
        rq_active: gauge,
        dotted = "inner.rq_shared": shared_counter,
        rq_time: histogram(Milliseconds),
        version: text_readout,
    }
}

const ALL: [Kind; 4] = [Kind::Counter, Kind::Gauge, Kind::Histogram, Kind::TextReadout];

/// Full names and their sums over shards, as the server makes them.
fn sums(registry: &Registry) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for scope in registry.scopes() {
        scope.visit(&ALL, |_, name, reading| {
            let value = match reading {
                Reading::Counter { value, .. } => value.cast_signed(),
                Reading::Gauge { value, .. } => value,
                Reading::Histogram(cell) => {
                    let mut count = 0;
                    cell.visit(|_, n| count += n.cast_signed());
                    count
                }
                Reading::Text(text) => text.map_or(-1, |text| text.len() as i64),
            };
            *sums.entry([scope.prefix(), name].concat()).or_default() += value;
        });
    }
    sums
}

fn sum(registry: &Registry, name: &str) -> Option<i64> {
    sums(registry).get(name).copied()
}

#[test]
fn handles_are_one_pointer_and_cells_one_word() {
    assert_eq!(size_of::<Counter>(), size_of::<usize>());
    assert_eq!(size_of::<Option<Histogram>>(), size_of::<usize>());
    assert_eq!(size_of::<Group<Traffic>>(), size_of::<usize>());
    assert_eq!(size_of::<CounterCell>(), 8);
    assert_eq!(size_of::<GaugeCell>(), 8);
    assert_eq!(size_of::<HistogramCell>(), 24);
    assert_eq!(size_of::<Scope>(), 24);
    // What a single counter costs besides its slot in the registry.
    assert!(size_of::<group::Member<group::One<CounterCell>>>() <= 16);
}

#[test]
fn the_same_name_is_the_same_stat_within_a_shard_and_a_sum_over_shards() {
    let registry = Registry::new();
    let (one, two) = (registry.shard(), registry.shard());
    let a = one.child("cluster.").child("web.").counter("rq_total");
    let b = one.child("cluster.web.").counter_dyn("rq_total");
    a.add(2);
    b.inc();
    assert_eq!((a.value(), b.value()), (3, 3));

    let other = two.child("cluster.web.").counter("rq_total");
    other.inc();
    assert_eq!(other.value(), 1);
    assert_eq!(sum(&registry, "cluster.web.rq_total"), Some(4));
}

#[test]
fn shared_stats_are_one_cell_for_all_shards() {
    let registry = Registry::new();
    let (one, two) = (registry.shard(), registry.shard());
    let (a, b) = (one.shared_gauge("open"), two.shared_gauge("open"));
    let total = one.shared_counter("total");
    thread::scope(|threads| {
        for gauge in [&a, &b] {
            threads.spawn(|| {
                for _ in 0..10_000 {
                    gauge.add(2);
                    gauge.dec();
                    total.inc();
                }
            });
        }
    });
    assert_eq!((a.value(), b.value(), total.value()), (20_000, 20_000, 20_000));
    assert_eq!(sum(&registry, "open"), Some(20_000));
}

#[test]
fn gauges_go_below_zero_and_know_whether_they_were_written() {
    let registry = Registry::new();
    let scope = registry.shard();
    let (set, sub, untouched) = (scope.gauge("set"), scope.gauge("sub"), scope.gauge("untouched"));
    set.set(0);
    sub.sub(3);
    assert_eq!((sub.value(), untouched.value()), (-3, 0));
    let used = |gauge: &Gauge| matches!(gauge.read(), Reading::Gauge { used: true, .. });
    assert_eq!((used(&set), used(&sub), used(&untouched)), (true, true, false));
    sub.set(i64::MAX >> 1);
    assert_eq!(sub.value(), i64::MAX >> 1);
    sub.set(i64::MIN >> 1);
    assert_eq!(sub.value(), i64::MIN >> 1);
}

#[test]
fn a_counter_is_used_once_it_was_written_even_with_nothing() {
    let scope = Registry::new().shard();
    let (counter, shared) = (scope.counter("a"), scope.shared_counter("b"));
    let used = |reading| matches!(reading, Reading::Counter { value: 0, used: true });
    assert!(!used(counter.read()) && !used(shared.read()));
    counter.add(0);
    shared.add(0);
    assert!(used(counter.read()) && used(shared.read()));
    counter.add(5);
    shared.inc();
    shared.inc();
    assert_eq!((counter.value(), shared.value()), (5, 2));
}

#[test]
fn a_group_has_its_stats_under_its_names() {
    let registry = Registry::new();
    let scope = registry.shard().child("http.in.");
    let group = scope.group::<Traffic>();
    group.rq_total.add(5);
    group.rq_active.inc();
    group.dotted.inc();
    group.rq_time.record(7);
    group.version.set("abc");
    scope.group::<Traffic>().rq_total.inc();
    let expected = [
        ("http.in.inner.rq_shared", 1),
        ("http.in.rq_active", 1),
        ("http.in.rq_time", 1),
        ("http.in.rq_total", 6),
        ("http.in.version", 3),
    ];
    assert_eq!(sums(&registry), expected.map(|(name, value)| (name.to_owned(), value)).into());
    assert_eq!(group.rq_time.unit(), Unit::Milliseconds);
}

#[test]
fn stats_stay_while_anybody_has_the_prefix_and_leave_with_the_last() {
    let registry = Registry::new();
    let (main, worker) = (registry.shard(), registry.shard());
    let on_main = main.child("cluster.web.").group::<Traffic>();
    let on_worker = worker.child("cluster.web.").group::<Traffic>();
    on_worker.rq_total.add(7);
    on_worker.rq_time.record(1);

    drop(on_worker);
    assert_eq!(sum(&registry, "cluster.web.rq_total"), Some(7), "the worker's part went, its count did not");
    let again = worker.child("cluster.web.").group::<Traffic>();
    again.rq_total.inc();
    assert_eq!(again.rq_total.value(), 8);
    assert_eq!(again.rq_time.unit(), Unit::Milliseconds);

    drop(on_main);
    assert_eq!(sum(&registry, "cluster.web.rq_total"), Some(8), "a handle alone keeps the prefix");
    drop(again);
    assert!(sums(&registry).is_empty());
    assert_eq!(registry.scopes().len(), 1, "the root, which the shards hold");
    assert_eq!(sum(&registry, "cluster.web.rq_total"), None);
}

#[test]
fn the_last_handle_may_go_while_stats_are_read() {
    let registry = Registry::new();
    let scope = registry.shard().child("x.");
    thread::scope(|threads| {
        threads.spawn(|| {
            for n in 0..2_000 {
                let group = scope.group::<Traffic>();
                group.rq_total.inc();
                let counter = scope.counter_dyn(&(n % 7).to_string());
                counter.inc();
            }
        });
        for _ in 0..500 {
            sums(&registry);
        }
    });
    assert_eq!(sum(&registry, "x.rq_total"), Some(2_000));
}

#[test]
fn a_capped_scope_folds_what_is_too_much() {
    let registry = Registry::new();
    let scope = registry.shard().child("zone.");
    let family = scope.capped(2);
    for name in ["a", "b", "c", "d", "a"] {
        family.counter_dyn(name).inc();
    }
    registry.shard().child("zone.").capped(2).counter_dyn("b").inc();
    scope.counter("fixed").inc();
    let expected = [("zone._overflow", 2), ("zone.a", 2), ("zone.b", 2), ("zone.fixed", 1)];
    assert_eq!(sums(&registry), expected.map(|(name, value)| (name.to_owned(), value)).into());

    let agents = registry.shard().child("agent.").capped(1);
    let held = ["x.", "y.", "x.", "z."].map(|name| agents.child(name).counter("total"));
    held.iter().for_each(|counter| counter.inc());
    assert_eq!(sum(&registry, "agent.x.total"), Some(2));
    assert_eq!(sum(&registry, "agent._overflow.total"), Some(2));
}

#[test]
fn a_reset_concerns_counters_and_loses_nothing_that_comes_after() {
    let registry = Registry::new();
    let scope = registry.shard();
    let group = scope.group::<Traffic>();
    let single = scope.counter("single");
    group.rq_total.add(3);
    group.rq_active.inc();
    group.rq_time.record(1);
    single.add(4);
    registry.reset_counters();
    assert_eq!((sum(&registry, "rq_total"), sum(&registry, "single")), (Some(0), Some(0)));
    single.inc();
    assert_eq!(sum(&registry, "single"), Some(1));
    assert_eq!((sum(&registry, "rq_active"), sum(&registry, "rq_time")), (Some(1), Some(1)));
    drop(single);
    assert_eq!(sum(&registry, "single"), Some(1), "the base stays with the values");

    let mut used = None;
    registry.scopes()[0].visit(&[Kind::Counter], |_, name, reading| {
        if let ("rq_total", Reading::Counter { used: was, .. }) = (name, reading) {
            used = Some(was);
        }
    });
    assert_eq!(used, Some(true));
}

#[test]
fn a_stat_is_found_again_by_its_id() {
    let registry = Registry::new();
    let group = registry.shard().group::<Traffic>();
    group.rq_active.set(9);
    let scopes = registry.scopes();
    let mut ids = Vec::new();
    scopes[0].visit(&ALL, |id, name, _| ids.push((id, name.to_owned())));
    assert_eq!(ids.len(), 5);
    for (id, name) in ids {
        assert_eq!(scopes[0].get(id, |found, _| found.to_owned()).as_deref(), Some(name.as_str()));
    }
}

#[test]
fn kinds_can_be_picked() {
    let registry = Registry::new();
    let scope = registry.shard();
    let _held = (scope.group::<Traffic>(), scope.gauge("g"));
    let mut names = Vec::new();
    registry.scopes()[0].visit(&[Kind::Gauge, Kind::TextReadout], |_, name, _| names.push(name.to_owned()));
    assert_eq!(names, ["rq_active", "version", "g"]);
}

#[test]
fn buckets_have_two_significant_digits() {
    let bounds = |value| {
        let bucket = Bucket::of(value);
        (bucket.lower_bound(), bucket.width())
    };
    assert_eq!(bounds(0), (0.0, 0.0));
    assert_eq!(bounds(1), (1.0, 0.1));
    assert_eq!(bounds(9), (9.0, 0.1));
    assert_eq!(bounds(10), (10.0, 1.0));
    assert_eq!(bounds(99), (99.0, 1.0));
    assert_eq!(bounds(100), (100.0, 10.0));
    assert_eq!(bounds(109), (100.0, 10.0));
    assert_eq!(bounds(110), (110.0, 10.0));
    assert_eq!(bounds(123_456), (120_000.0, 10_000.0));
    assert_eq!(bounds(u64::MAX), (1.8e19, 1e18));
}

#[test]
fn a_histogram_counts_each_value_in_its_bucket_in_order() {
    let histogram = HistogramCell::new(Unit::Bytes);
    assert!(!histogram.used());
    let values = [0, 1, 9, 10, 19, 20, 99, 100, 999, 1_000, 55_555, u64::MAX];
    for value in values.iter().rev() {
        histogram.record(*value);
    }
    histogram.record(104);
    let mut found = Vec::new();
    histogram.visit(|bucket, count| found.push((bucket, count)));
    let expected: Vec<_> = values.iter().map(|&value| (Bucket::of(value), if value == 100 { 2 } else { 1 })).collect();
    assert_eq!(found, expected);
    assert!(found.is_sorted_by_key(|(bucket, _)| *bucket));
    assert!(histogram.used());
}

#[test]
fn every_value_lies_within_its_bucket() {
    for shift in 0..64 {
        for value in [1u64 << shift, (1 << shift) - 1, (1 << shift) | 0x5555] {
            let bucket = Bucket::of(value);
            let value = value as f64;
            assert!(bucket.lower_bound() <= value, "{value}");
            assert!(value < bucket.lower_bound() + bucket.width() || value == 0.0, "{value}");
        }
    }
}
