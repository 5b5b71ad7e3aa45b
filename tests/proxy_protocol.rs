//! Hosts that are told who the client is: the transport socket `upstream_proxy_protocol`, under TCP and under HTTP. The
//! expected octets are those of Envoy 1.40 with the same configuration.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Client, Origin, ProxyProcess};
use std::{process::Command, sync::mpsc, time::Duration};

const TCP: &str = "{name: t, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
                   stat_prefix: t, cluster: origin}}";
const HTTP: &str = "{name: h, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
                    stat_prefix: h, route_config: {virtual_hosts: [{name: a, domains: ['*'], routes: [{match: {prefix: /}, \
                    route: {cluster: origin}}]}]}, http_filters: [{name: r, typed_config: {\"@type\": \
                    type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}";
const RAW: &str = "{name: raw, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn config(filter: &str, header: &str, cluster: &str, port: u16) -> String {
    format!(
        "static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    listener_filters:
    - name: proxy_protocol
      typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, \
         allow_requests_without_proxy_protocol: true, pass_through_tlvs: {{match_type: INCLUDE_ALL}}}}
    filter_chains: [{{filters: [{filter}]}}]
  clusters:
  - name: origin
    connect_timeout: 1s
    transport_socket:
      name: envoy.transport_sockets.upstream_proxy_protocol
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport
        config: {{{header}}}
        transport_socket: {RAW}
    load_assignment:
      cluster_name: origin
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]
    {cluster}
"
    )
}

struct Mesh {
    proxy: ProxyProcess,
    /// What came on each connection, up to the first request or word.
    told: mpsc::Receiver<Vec<u8>>,
    _origin: Origin,
}

fn start(filter: &str, header: &str, cluster: &str) -> Mesh {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::raw(move |mut peer| {
        let mut got = Vec::new();
        let ends =
            |got: &[u8]| got.ends_with(b"word") || got.ends_with(b"\r\n\r\n") && got.windows(4).any(|w| w == b"GET ");
        while !ends(&got) {
            match peer.read_some(4096) {
                Ok(bytes) if !bytes.is_empty() => got.extend(bytes),
                _ => break,
            }
        }
        let is_http = got.windows(4).any(|w| w == b"GET ");
        let _ = tell.lock().unwrap().send(got);
        let _ = peer.send(if is_http { &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..] } else { b"heard" });
        while peer.read_some(4096).is_ok_and(|bytes| !bytes.is_empty()) {
            if is_http {
                let _ = peer.send(&b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsame"[..]);
            }
        }
    });
    let proxy = ProxyProcess::start_with(
        env!("CARGO_BIN_EXE_sota-mesh"),
        &config(filter, header, cluster, origin.port()),
        &["--concurrency", "1"],
    );
    Mesh { proxy, told, _origin: origin }
}

impl Mesh {
    fn told(&self) -> Vec<u8> {
        self.told.recv_timeout(Duration::from_secs(20)).expect("a connection to the origin")
    }

    /// What the origin hears before `sent`, and the port that it was sent from.
    fn tcp(&self, sent: &[u8]) -> (Vec<u8>, u16, u16) {
        let address = self.proxy.listener("front");
        let mut client = Client::connect(address);
        client.send([sent, b"word"].concat()).unwrap();
        assert_eq!(client.read_exactly(5).0, b"heard");
        let mut told = self.told();
        told.truncate(told.len() - 4);
        (told, client.local_address().port(), address.port())
    }
}

fn v2_from(client: ([u8; 4], u16), to: ([u8; 4], u16), tlvs: &[u8]) -> Vec<u8> {
    let length = u16::try_from(12 + tlvs.len()).unwrap().to_be_bytes();
    let (client_port, port) = (client.1.to_be_bytes(), to.1.to_be_bytes());
    [SIGNATURE, &[0x21, 0x11], &length, &client.0, &to.0, &client_port, &port, tlvs].concat()
}

#[test]
fn version_1_tells_the_addresses() {
    let mesh = start(TCP, "version: V1", "");
    let (told, client, listener) = mesh.tcp(b"");
    assert_eq!(told, format!("PROXY TCP4 127.0.0.1 127.0.0.1 {client} {listener}\r\n").as_bytes());
    // Who stands before us has said otherwise.
    let (told, ..) = mesh.tcp(b"PROXY TCP4 10.0.0.1 10.0.0.2 99 80\r\n");
    assert_eq!(told, b"PROXY TCP4 10.0.0.1 10.0.0.2 99 80\r\n");
}

#[test]
fn version_2_passes_values_on_and_adds_some() {
    let local = [127, 0, 0, 1];
    let header = "version: V2, pass_through_tlvs: {match_type: INCLUDE, tlv_type: [225]}, added_tlvs: [{type: 224, value: aGVsbG8=}]";
    let mesh = start(TCP, header, "");
    let (told, client, listener) = mesh.tcp(b"");
    assert_eq!(told, v2_from((local, client), (local, listener), b"\xe0\0\x05hello"));
    let addresses = (([10, 0, 0, 1], 99), ([10, 0, 0, 2], 80));
    let (told, ..) = mesh.tcp(&v2_from(addresses.0, addresses.1, b"\xe1\0\x01z\xe2\0\x01y"));
    assert_eq!(told, v2_from(addresses.0, addresses.1, b"\xe0\0\x05hello\xe1\0\x01z"));
}

#[test]
fn clients_of_http_have_connections_of_their_own() {
    let mesh = start(HTTP, "version: V1", "");
    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut clients: Vec<Client> = (0..2).map(|_| Client::connect(mesh.proxy.listener("front"))).collect();
    for client in &mut clients {
        assert_eq!(client.exchange(get).text(), "ok");
        let told = String::from_utf8(mesh.told()).unwrap();
        let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} ", client.local_address().port());
        assert!(told.starts_with(&line), "{told}");
    }
    for client in &mut clients {
        assert_eq!(client.exchange(get).text(), "same", "its own connection goes on");
    }
    assert_eq!(mesh.proxy.stat("cluster.origin.upstream_cx_total"), 2);
}

#[test]
fn a_health_check_is_nobodys() {
    let check = "health_checks: [{timeout: 1s, interval: 10s, unhealthy_threshold: 1, healthy_threshold: 1, \
                 tcp_health_check: {send: {text: '776f7264'}}}]";
    let mesh = start(TCP, "version: V2", check);
    assert_eq!(mesh.told(), [SIGNATURE, b"\x20\0\0\0word"].concat());
}

#[test]
fn mistakes_are_told() {
    for (header, reason) in [
        ("version: V1, added_tlvs: [{type: 1, value: aQ==}]", "version 1 has no type-length-values"),
        ("version: V2, added_tlvs: [{type: 256, value: aQ==}]", "added_tlvs[0].type"),
        ("version: V3", "version"),
    ] {
        let folder = sota_testkit::temp_dir();
        let path = folder.path().join("x.yaml");
        std::fs::write(&path, config(TCP, header, "", 1)).unwrap();
        let checked =
            Command::new(env!("CARGO_BIN_EXE_sota-mesh")).args(["validate", "-c"]).arg(path).output().unwrap();
        let told = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(!checked.status.success() && told.contains(reason), "{header}: {told}");
    }
}
