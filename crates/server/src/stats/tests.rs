use super::*;

#[test]
fn throwaway_envoy() {
    let read = |f: &str| std::fs::read_to_string(format!("/tmp/st/{f}")).unwrap();
    let json = |f: &str| serde_json::from_str::<serde_json::Value>(&read(f)).unwrap();
    let store = Store::new(&StatsConfig::default()).unwrap();
    let (a, b) = (store.shard(), store.shard());
    let mut keep: Vec<Box<dyn std::any::Any>> = Vec::new();
    let split = |name: &str, n: usize| {
        let dots: Vec<_> = name.match_indices('.').map(|(i, _)| i + 1).collect();
        let at = if dots.is_empty() { 0 } else { dots[n % dots.len()] };
        (name[..at].to_owned(), name[at..].to_owned())
    };
    let used = |t: &str| -> std::collections::HashSet<String> {
        json(t)["stats"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect()
    };
    let (uc, ug) = (used("u.Counters"), used("u.Gauges"));
    for (n, stat) in json("t.Counters")["stats"].as_array().unwrap().iter().enumerate() {
        let name = stat["name"].as_str().unwrap();
        let (prefix, suffix) = split(name, n);
        let value = stat["value"].as_u64().unwrap();
        if value == 0 && uc.contains(name) { println!("used zero counter {name}"); }
        let c = a.child(&prefix).counter_dyn(&suffix);
        if uc.contains(name) { c.add(value / 3); }
        let (prefix, suffix) = split(name, n + 1);
        let d = b.child(&prefix).counter_dyn(&suffix);
        if uc.contains(name) { d.add(value - value / 3); }
        keep.push(Box::new((c, d)));
    }
    for (n, stat) in json("t.Gauges")["stats"].as_array().unwrap().iter().enumerate() {
        let name = stat["name"].as_str().unwrap();
        let (prefix, suffix) = split(name, n);
        let g = a.child(&prefix).gauge_dyn(&suffix);
        if ug.contains(name) { g.set(stat["value"].as_i64().unwrap()); }
        keep.push(Box::new(g));
    }
    for key in ["totals", "intervals"] {
        for h in json("t.Histograms")["stats"][0]["histograms"]["details"].as_array().unwrap() {
            let name = h["name"].as_str().unwrap();
            let unit = if name == "acc.hp" { Unit::Percent } else { Unit::Milliseconds };
            let cell = a.histogram_dyn(name, unit);
            let scale = if unit == Unit::Percent { Unit::PERCENT_SCALE as f64 } else { 1.0 };
            let count = |k: &str| h[k].as_array().unwrap().iter().map(|b| (b["lower_bound"].as_f64().unwrap(), b["count"].as_u64().unwrap())).collect::<Vec<_>>();
            let intervals = count("intervals");
            for (low, mut n) in count(key) {
                if key == "totals" { n -= intervals.iter().find(|i| i.0 == low).map_or(0, |i| i.1); }
                for _ in 0..n { cell.record((low * scale).round() as u64); }
            }
            keep.push(Box::new(cell));
        }
        store.flush();
    }
    let mut bad = 0;
    for n in ["text", "json", "used", "prom", "promsum", "cum", "dis", "det", "jcum", "jdis", "jdet", "usedprom"] {
        let query = StatsQuery::parse(&read(&format!("q.{n}")), Format::Text).unwrap();
        let pieces: Vec<u8> = store.output(query).flatten().collect();
        std::fs::write(format!("/tmp/st/o.{n}"), &pieces).unwrap();
        let same = pieces == read(&format!("x.{n}")).into_bytes();
        println!("{n}: {same} {} bytes", pieces.len());
        bad += usize::from(!same);
    }
    assert_eq!(bad, 0);
}
#[test]
fn throwaway_size() {
    macro_rules! g { ($($n:ident)*) => { sota_plugin::stat_group! { struct Big { $($n: counter),* } } } }
    g!(a00 a01 a02 a03 a04 a05 a06 a07 a08 a09 a10 a11 a12 a13 a14 a15 a16 a17 a18 a19 a20 a21 a22 a23 a24 a25 a26 a27 a28 a29 a30 a31 a32 a33 a34 a35 a36 a37 a38 a39 a40 a41 a42 a43 a44 a45 a46 a47 a48 a49 a50 a51 a52 a53 a54 a55 a56 a57 a58 a59 a60 a61 a62 a63 a64 a65 a66 a67 a68 a69 a70 a71 a72 a73 a74 a75 a76 a77 a78 a79 a80 a81 a82 a83 a84 a85 a86 a87 a88 a89 a90 a91 a92 a93 a94 a95 a96 a97 a98 a99);
    fn hwm() -> String { std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("VmHWM")).unwrap().to_owned() }
    let store = Store::new(&StatsConfig::default()).unwrap();
    let shards: Vec<_> = (0..3).map(|_| store.shard()).collect();
    let held: Vec<_> = (0..3000).flat_map(|n| shards.iter().map(move |s| s.child(&format!("cluster.service-number-{n}.")).group::<Big>())).collect();
    println!("held {}", hwm());
    for q in ["", "format=json", "format=prometheus", "usedonly"] {
        let t = std::time::Instant::now();
        let n: usize = store.output(StatsQuery::parse(q, Format::Text).unwrap()).map(|p| p.len()).sum();
        println!("{q}: {n} bytes {:?} {}", t.elapsed(), hwm());
    }
    let t = std::time::Instant::now(); store.flush(); println!("flush {:?}", t.elapsed());
    drop(held);
}
