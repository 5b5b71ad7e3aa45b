//! Whole answers. The formats were compared byte by byte with those of Envoy 1.40 for the same stats.

use super::*;
use sota_config::{
    bootstrap::{HistogramBuckets, StatsMatcher},
    matcher::{StringMatcher, StringPattern},
};
use sota_plugin::stat_group;

stat_group! {
    struct ClusterStats {
        upstream_rq_total: counter,
        upstream_rq_active: gauge,
        upstream_rq_time: histogram(Milliseconds),
    }
}

fn store() -> Store {
    Store::new(&StatsConfig::default()).unwrap()
}

fn answer(store: &Store, query: &str) -> String {
    let pieces: Vec<u8> = store.output(StatsQuery::parse(query, Format::Text).unwrap()).flatten().collect();
    String::from_utf8(pieces).unwrap()
}

fn prefix(prefix: &str) -> StringMatcher {
    StringMatcher { pattern: StringPattern::Prefix(prefix.into()), ignore_case: false }
}

#[test]
fn text_has_readouts_then_numbers_then_histograms_by_name() {
    let store = store();
    let (main, worker) = (store.shard(), store.shard());
    let web = main.child("cluster.web.").group::<ClusterStats>();
    let also_web = worker.child("cluster.web.").group::<ClusterStats>();
    let (version, zone) = (main.text_readout("z_version"), main.child("cluster.web.zone.").counter("rq"));
    let early = main.child("cluster.web-1.").gauge("up");
    web.upstream_rq_total.add(2);
    also_web.upstream_rq_total.add(40);
    also_web.upstream_rq_active.sub(1);
    web.upstream_rq_active.add(3);
    version.set("1.2");
    early.set(7);
    zone.inc();
    let expected = "\
z_version: \"1.2\"
cluster.web-1.up: 7
cluster.web.upstream_rq_active: 2
cluster.web.upstream_rq_total: 42
cluster.web.zone.rq: 1
cluster.web.upstream_rq_time: No recorded values
";
    assert_eq!(answer(&store, ""), expected);
}

#[test]
fn a_name_is_one_stat_however_it_is_split() {
    let store = store();
    let shard = store.shard();
    let stats = [shard.counter("a.b.c"), shard.child("a.").counter("b.c"), shard.child("a.b.").counter("c")];
    stats.iter().for_each(|counter| counter.inc());
    assert_eq!(answer(&store, ""), "a.b.c: 3\n");
    assert_eq!(answer(&store, "format=prometheus"), "# TYPE envoy_a_b_c counter\nenvoy_a_b_c{} 3\n");
}

#[test]
fn queries_pick_stats() {
    let store = store();
    let shard = store.shard();
    let web = shard.child("cluster.web.").group::<ClusterStats>();
    let idle = shard.child("cluster.idle.").group::<ClusterStats>();
    web.upstream_rq_total.inc();
    web.upstream_rq_active.set(0);
    web.upstream_rq_time.record(3);
    assert_eq!(
        answer(&store, "usedonly"),
        "cluster.web.upstream_rq_active: 0\ncluster.web.upstream_rq_total: 1\n",
        "the histogram has not been flushed"
    );
    assert_eq!(answer(&store, "filter=idle.*total$"), "cluster.idle.upstream_rq_total: 0\n");
    assert_eq!(answer(&store, "type=Gauges&usedonly"), "cluster.web.upstream_rq_active: 0\n");
    assert_eq!(answer(&store, "type=TextReadouts"), "");
    assert_eq!(answer(&store, "hidden=only"), "");

    store.reset_counters();
    assert_eq!(answer(&store, "type=Counters&usedonly"), "cluster.web.upstream_rq_total: 0\n");
    drop(idle);
    assert_eq!(answer(&store, "filter=idle"), "", "a removed cluster's stats leave");
}

#[test]
fn histograms_show_the_interval_and_all() {
    let store = store();
    let (main, worker) = (store.shard(), store.shard());
    let (time, also_time) = (main.histogram("time", Unit::Milliseconds), worker.histogram("time", Unit::Milliseconds));
    time.record(1);
    store.flush();
    store.flush();
    assert_eq!(
        answer(&store, ""),
        "time: P0(nan,1.05) P25(nan,1.05) P50(nan,1.05) P75(nan,1.05) P90(nan,1.05) P95(nan,1.05) P99(nan,1.05) \
         P99.5(nan,1.05) P99.9(nan,1.05) P100(nan,1.05)\n"
    );
    also_time.record(77);
    store.flush();
    time.record(500);
    assert_eq!(
        answer(&store, "histogram_buckets=detailed"),
        "time:\n  totals=1,0.1:1, 77,1:1\n  intervals=77,1:1\n  summary=P0(77.5,1.05) P25(77.5,1.05) P50(77.5,1.05) \
         P75(77.5,77.5) P90(77.5,77.5) P95(77.5,77.5) P99(77.5,77.5) P99.5(77.5,77.5) P99.9(77.5,77.5) P100(77.5,77.5)\n"
    );
    let cumulative = answer(&store, "histogram_buckets=cumulative");
    assert!(cumulative.starts_with("time: B0.5(0,0) B1(0,1) B5(0,1) "), "{cumulative}");
    assert!(
        cumulative.ends_with(
            " B50(0,1) B100(1,2) B250(1,2) B500(1,2) B1000(1,2) B2500(1,2) B5000(1,2) B10000(1,2) \
         B30000(1,2) B60000(1,2) B300000(1,2) B600000(1,2) B1.8e+06(1,2) B3.6e+06(1,2)\n"
        ),
        "{cumulative}"
    );
    let disjoint = answer(&store, "histogram_buckets=disjoint");
    assert!(disjoint.contains(" B0.5(0,0) B1(0,1) B5(0,0) ") && disjoint.contains(" B50(0,0) B100(1,1) B250(0,0) "));
}

#[test]
fn a_shard_that_leaves_takes_no_values_with_it() {
    let store = store();
    let (main, worker) = (store.shard(), store.shard());
    let main_part = main.child("c.").group::<ClusterStats>();
    let worker_part = worker.child("c.").group::<ClusterStats>();
    worker_part.upstream_rq_total.add(3);
    worker_part.upstream_rq_time.record(9);
    store.flush();
    drop(worker_part);
    store.flush();
    assert_eq!(answer(&store, "type=Counters"), "c.upstream_rq_total: 3\n");
    assert!(answer(&store, "histogram_buckets=detailed&type=Histograms").contains("totals=9,0.1:1\n  intervals=\n"));
    drop(main_part);
    store.flush();
    assert_eq!(answer(&store, ""), "");
}

#[test]
fn json_has_one_entry_for_all_histograms() {
    let store = store();
    assert_eq!(answer(&store, "format=json"), r#"{"stats":[]}"#);
    let shard = store.shard();
    let (count, text, time) = (shard.counter_dyn("a\"b"), shard.text_readout("t"), shard.histogram("h", Unit::Bytes));
    count.add(5);
    text.set("x\ny");
    let none = r#"{"cumulative":null,"interval":null}"#;
    let nones = [none; 10].join(",");
    let numbers = r#"{"stats":[{"name":"t","value":"x\ny"},{"name":"a\"b","value":5},{"histograms":"#;
    let quantiles =
        r#"{"supported_quantiles":[0,25,50,75,90,95,99,99.5,99.9,100],"computed_quantiles":[{"name":"h","values":["#;
    assert_eq!(answer(&store, "format=json"), format!("{numbers}{quantiles}{nones}]}}]}}}}]}}"));

    time.record(100);
    store.flush();
    let disjoint = answer(&store, "format=json&histogram_buckets=disjoint&type=Histograms");
    assert!(
        disjoint.starts_with(r#"{"stats":[{"histograms":[{"name":"h","buckets":[{"upper_bound":0.5,"interval":0,"#)
    );
    assert!(disjoint.contains(r#"{"upper_bound":100,"interval":1,"cumulative":1},{"upper_bound":250,"interval":0,"#));
    assert!(disjoint.contains(r#"{"upper_bound":3e+05,"#) && disjoint.ends_with(r#""cumulative":0}]}]}]}"#));
    let detailed = answer(&store, "format=json&histogram_buckets=detailed&type=Histograms");
    assert!(
        detailed
            .contains(r#""details":[{"name":"h","totals":[{"lower_bound":100,"width":10,"count":1}],"intervals":["#)
    );
    for mode in ["", "summary", "cumulative", "disjoint", "detailed"] {
        let answer = answer(&store, &format!("format=json&histogram_buckets={mode}"));
        assert!(serde_json::from_str::<serde_json::Value>(&answer).is_ok(), "{answer}");
    }
}

#[test]
fn prometheus_groups_by_what_is_left_of_the_name() {
    let store = store();
    let shard = store.shard();
    let clusters = ["web-1", "web", "we\"b\\\n"].map(|name| {
        let group = shard.child(&format!("cluster.{name}.")).group::<ClusterStats>();
        group.upstream_rq_total.add(name.len() as u64);
        group
    });
    let (code, readout) = (shard.child("cluster.web.").counter("upstream_rq_503"), shard.text_readout("version"));
    code.inc();
    readout.set("v\"1");
    let filter = "format=prometheus&filter=rq_(total|active|503)|version&text_readouts".replace('|', "%7C");
    let expected = r#"# TYPE envoy_cluster_upstream_rq counter
envoy_cluster_upstream_rq{envoy_response_code="503",envoy_cluster_name="web"} 1
# TYPE envoy_cluster_upstream_rq_total counter
envoy_cluster_upstream_rq_total{envoy_cluster_name="we\"b\\\n"} 6
envoy_cluster_upstream_rq_total{envoy_cluster_name="web"} 3
envoy_cluster_upstream_rq_total{envoy_cluster_name="web-1"} 5
# TYPE envoy_cluster_upstream_rq_active gauge
envoy_cluster_upstream_rq_active{envoy_cluster_name="we\"b\\\n"} 0
envoy_cluster_upstream_rq_active{envoy_cluster_name="web"} 0
envoy_cluster_upstream_rq_active{envoy_cluster_name="web-1"} 0
# TYPE envoy_version gauge
envoy_version{text_value="v\"1"} 0
"#;
    assert_eq!(answer(&store, &filter), expected);

    clusters[1].upstream_rq_time.record(1);
    store.flush();
    let time = answer(&store, "format=prometheus&usedonly&type=Histograms");
    assert!(time.starts_with(
        "# TYPE envoy_cluster_upstream_rq_time histogram\n\
         envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"web\",le=\"0.5\"} 0\n\
         envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"web\",le=\"1\"} 1\n"
    ));
    assert!(time.ends_with(
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"web\",le=\"3600000\"} 1\n\
         envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"web\",le=\"+Inf\"} 1\n\
         envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"web\"} 1.0476190476190476719153821250075\n\
         envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"web\"} 1\n"
    ));
    let summary = answer(&store, "format=prometheus&usedonly&type=Histograms&histogram_buckets=summary");
    assert!(summary.starts_with(
        "# TYPE envoy_cluster_upstream_rq_time summary\n\
         envoy_cluster_upstream_rq_time{envoy_cluster_name=\"web\",quantile=\"0\"} 1.0500000000000000444089209850063\n"
    ));
}

#[test]
fn the_configuration_says_which_stats_exist_and_their_bounds() {
    let config = StatsConfig {
        matcher: StatsMatcher::Include(vec![prefix("cluster.web."), prefix("time")]),
        histogram_buckets: vec![HistogramBuckets { matcher: prefix("time"), buckets: vec![250.0, 0.5] }],
        ..Default::default()
    };
    let store = Store::new(&config).unwrap();
    let shard = store.shard();
    let held = ["cluster.web.", "cluster.api."].map(|name| shard.child(name).counter("rq"));
    let time = shard.histogram("time", Unit::Milliseconds);
    time.record(3);
    store.flush();
    assert_eq!(answer(&store, "type=Counters"), "cluster.web.rq: 0\n");
    assert_eq!(answer(&store, "histogram_buckets=cumulative&type=Histograms"), "time: B0.5(0,0) B250(1,1)\n");
    assert_eq!(answer(&store, "format=prometheus&type=Counters").lines().count(), 2);
    drop(held);
}

#[test]
fn large_answers_come_in_pieces_and_whole() {
    let store = store();
    let shard = store.shard();
    let held: Vec<_> =
        (0..1_000).map(|n| shard.child(&format!("cluster.service_{n}.")).group::<ClusterStats>()).collect();
    for (format, lines) in [("text", 3_000), ("prometheus", 2 * 1_000 + 22 * 1_000 + 3)] {
        let query = StatsQuery::parse(&format!("format={format}"), Format::Text).unwrap();
        let pieces: Vec<_> = store.output(query).collect();
        assert!(pieces.len() > 2 && pieces.iter().all(|piece| !piece.is_empty() && piece.len() < 2 * Output::PIECE));
        assert_eq!(pieces.concat().iter().filter(|byte| **byte == b'\n').count(), lines, "{format}");
    }
    let mut output = store.output(StatsQuery::default());
    assert!(output.next().is_some());
    drop(held);
    assert!(output.map(|piece| piece.len()).sum::<usize>() > Output::PIECE, "an answer that began is not cut");
}
