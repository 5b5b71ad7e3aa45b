use super::*;
use sota_config::listener::TrafficDirection;

pub(super) fn listener() -> Listener {
    Listener {
        name: "l".into(),
        addresses: Vec::new(),
        stat_prefix: None,
        filter_chains: Vec::new(),
        default_filter_chain: None,
        listener_filters: Vec::new(),
        listener_filters_timeout: None,
        continue_on_listener_filters_timeout: false,
        use_original_dst: false,
        bind_to_port: true,
        per_connection_buffer_limit_bytes: 1 << 20,
        transparent: false,
        freebind: false,
        tcp_fast_open_queue_length: None,
        tcp_keepalive: None,
        tcp_backlog_size: 128,
        socket_options: Vec::new(),
        enable_reuse_port: true,
        exact_balance: false,
        connection_limit: None,
        traffic_direction: TrafficDirection::Unspecified,
        access_log: Vec::new(),
        ignore_global_conn_limit: false,
        source: None,
    }
}

#[test]
fn an_exact_balance_holds_for_connections_that_come_together() {
    let load = Arc::new(Load::new(4));
    let accepting: Vec<_> = (0..4)
        .map(|own| {
            let load = Arc::clone(&load);
            std::thread::spawn(move || (0..250).map(|_| load.seat(own, true)).collect::<Vec<_>>())
        })
        .collect();
    let seats: Vec<_> = accepting.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(load.by_worker.iter().all(|count| count.load(Ordering::Relaxed) == 250), "{load:?}");
    drop(seats);
    assert_eq!(load.total.load(Ordering::Relaxed), 0);
    assert!(load.by_worker.iter().all(|count| count.load(Ordering::Relaxed) == 0), "{load:?}");
}

#[test]
fn connections_go_to_the_least_loaded_worker() {
    let load = Load::new(3);
    for worker in [0, 0, 1] {
        load.enter(worker);
    }
    assert_eq!(load.pick_worker(0, true), 2);
    assert_eq!(load.pick_worker(0, false), 0, "a few connections are no imbalance");
    for _ in 0..40 {
        load.enter(0);
    }
    assert_eq!(load.pick_worker(0, false), 2);
    assert_eq!(load.pick_worker(1, false), 1);
    for _ in 0..42 {
        load.leave(0);
    }
    assert_eq!((load.pick_worker(0, true), load.total.load(Ordering::Relaxed)), (0, 1));
}
