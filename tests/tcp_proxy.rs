//! The TCP proxy as a whole process: what is large goes through without being copied, what is small as before.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::ProxyProcess;
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
};

const LARGE: usize = 12 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

fn config(origin: u16, limit: u32) -> String {
    format!(
        "static_resources:
  listeners:
  - name: front
    per_connection_buffer_limit_bytes: {limit}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: front
          cluster: origin
  clusters:
  - name: origin
    type: STATIC
    load_assignment:
      cluster_name: origin
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {origin}}}}}}}}}]}}]
"
    )
}

fn octets(seed: u32) -> Vec<u8> {
    (0..LARGE as u32).map(|n| (n.wrapping_mul(31).wrapping_add(seed) % 253) as u8).collect()
}

/// The two ends of a proxied connection.
fn connect(proxy: &ProxyProcess, origin: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(proxy.listener("front")).unwrap();
    let server = origin.accept().unwrap().0;
    for end in [&client, &server] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
        end.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    (client, server)
}

fn start(limit: u32) -> (ProxyProcess, TcpListener) {
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config(origin.local_addr().unwrap().port(), limit);
    (ProxyProcess::start_with(env!("CARGO_BIN_EXE_sota-mesh"), &config, &["--concurrency", "1"]), origin)
}

/// Sends `sent` from the one end and expects it at the other, which begins to read late.
fn pass(from: &mut TcpStream, to: &mut TcpStream, sent: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(sent).unwrap());
        thread::sleep(Duration::from_millis(20));
        let mut got = vec![0; sent.len()];
        to.read_exact(&mut got).unwrap();
        assert!(got == sent, "{} octets differ", got.iter().zip(sent).filter(|(a, b)| a != b).count());
    });
}

#[test]
fn large_and_small_take_turns_in_both_directions_and_each_may_end_by_itself() {
    for limit in [1 << 20, 20_000] {
        let (proxy, origin) = start(limit);
        let (mut client, mut server) = connect(&proxy, &origin);
        for round in 0..2 {
            pass(&mut client, &mut server, b"small");
            pass(&mut client, &mut server, &octets(round));
            pass(&mut server, &mut client, &octets(round + 7));
            pass(&mut server, &mut client, b"small");
        }
        // At the same time.
        let (mut client_too, mut server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let (up, down) = (octets(1), octets(2));
        thread::scope(|scope| {
            scope.spawn(|| pass(&mut client, &mut server, &up));
            scope.spawn(|| pass(&mut server_too, &mut client_too, &down));
        });
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0, "the end of the one direction");
        pass(&mut server, &mut client, &octets(3));
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the end of the other");
        let stats = proxy.admin("/stats?filter=tcp.front.downstream_cx_.._bytes_total").text();
        let (rx, tx) = (3 * LARGE + 10, 4 * LARGE + 10);
        assert!(stats.contains(&format!("downstream_cx_rx_bytes_total: {rx}")), "{rx}: {stats}");
        assert!(stats.contains(&format!("downstream_cx_tx_bytes_total: {tx}")), "{tx}: {stats}");
    }
}

#[test]
fn a_side_that_goes_in_the_middle_of_much_ends_the_other_and_nothing_of_it_reaches_anybody_else() {
    let (proxy, origin) = start(1 << 20);
    for _ in 0..4 {
        let (mut client, server) = connect(&proxy, &origin);
        let sent = octets(5);
        // Nobody reads: the way is full when the reader goes.
        client.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let _ = client.write_all(&sent);
        drop(server);
        let ended = client.read(&mut [0]);
        assert!(!matches!(ended, Ok(1)), "{ended:?}");
        let (mut client, mut server) = connect(&proxy, &origin);
        pass(&mut client, &mut server, &octets(6));
        pass(&mut server, &mut client, b"small");
    }
}
