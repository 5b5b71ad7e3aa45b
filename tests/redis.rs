//! The Redis proxy between real clients and real servers. The words of every answer are those of Envoy 1.40, which was
//! asked the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{
    Client, End, EnvoyProcess, Process, ProxyProcess, free_port, is_listening, skip, temp_dir, wait_until,
};
use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");
const FILTER: &str = "
    - filters:
      - name: envoy.filters.network.redis_proxy
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy";

/// A real server.
struct Server {
    process: Process,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Server {
    /// `None`: there is none on this machine.
    fn start(port: u16) -> Option<Self> {
        let folder = temp_dir();
        let mut command = Command::new("redis-server");
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            return None;
        }
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .arg("--dir")
            .arg(folder.path());
        let process = Process::spawn(command, &folder.path().join("log"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        wait_until("the server listens", Duration::from_secs(10), || is_listening(address));
        Some(Self { process, address, _folder: folder })
    }
}

fn cluster(name: &str, hosts: &[SocketAddr]) -> String {
    let hosts: Vec<_> = hosts
        .iter()
        .map(|host| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}",
                host.ip(),
                host.port()
            )
        })
        .collect();
    format!(
        "  - {{name: {name}, type: STATIC, connect_timeout: 1s, load_assignment: {{cluster_name: {name}, endpoints: \
         [{{lb_endpoints: [{}]}}]}}}}\n",
        hosts.join(", ")
    )
}

fn listener(name: &str, fields: &str) -> String {
    let address = "address: {socket_address: {address: 127.0.0.1, port_value: 0}}";
    let fields = fields.replace('\n', "\n          ");
    format!("  - name: {name}\n    {address}\n    filter_chains:{FILTER}\n          {fields}\n")
}

/// Keys of `x:` go to the second server without their prefix, those of `n:` to nobody, all others to the first.
const ROUTES: &str = "stat_prefix: r
settings: {op_timeout: 1s}
prefix_routes:
  routes:
  - {prefix: \"x:\", cluster: second, remove_prefix: true}
  - {prefix: \"n:\", cluster: nobody}
  - {prefix: \"none:\", cluster: unknown}
  catch_all_route: {cluster: first}";

fn config(listeners: &[String], clusters: &[String]) -> String {
    format!("static_resources:\n  listeners:\n{}  clusters:\n{}", listeners.concat(), clusters.concat())
}

fn command(line: &str) -> Vec<u8> {
    let words: Vec<_> = line.split(' ').collect();
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes += &format!("${}\r\n{word}\r\n", word.len());
    }
    bytes.into_bytes()
}

/// Sends and compares what comes back, with `|` for line ends.
fn ask(client: &mut Client, line: &str, answer: &str) {
    client.send(command(line)).unwrap();
    let answer = answer.replace('|', "\r\n");
    let (found, end) = client.read_exactly(answer.len());
    assert_eq!(String::from_utf8_lossy(&found), answer, "{line} ({end:?})");
}

struct Setup {
    proxy: ProxyProcess,
    first: Server,
    _second: Server,
}

fn setup(listeners: &[String]) -> Option<Setup> {
    let (first, second) = (Server::start(free_port())?, Server::start(free_port())?);
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let clusters =
        [cluster("first", &[first.address]), cluster("second", &[second.address]), cluster("nobody", &[nobody])];
    // One worker: a connection to each server is shared by all clients.
    let proxy = ProxyProcess::start_with(BINARY, &config(listeners, &clusters), &["--concurrency", "1"]);
    Some(Setup { proxy, first, _second: second })
}

#[test]
fn commands_are_answered_as_by_envoy() {
    let Some(setup) = setup(&[listener("redis", ROUTES)]) else { skip!("no redis-server") };
    let mut client = Client::connect(setup.proxy.listener("redis"));
    for (line, answer) in [
        ("PING", "+PONG|"),
        ("PING hi", "+PONG|"),
        ("ECHO x", "$1|x|"),
        ("ECHO", "-invalid request|"),
        ("SET k v", "+OK|"),
        ("get k", "$1|v|"),
        ("GET x:k", "$-1|"),
        ("SET x:k w", "+OK|"),
        ("GET x:k", "$1|w|"),
        ("GET", "-invalid request|"),
        ("FOO a b", "-ERR unknown command 'FOO', with args beginning with: a|"),
        ("foo", "-ERR unknown command 'foo', with args beginning with: |"),
        ("MGET k x:k zz", "*3|$1|v|$1|w|$-1|"),
        ("MGET k n:k none:k", "*3|$1|v|-upstream failure|-no upstream host|"),
        ("MSET k 1 x:k 2", "+OK|"),
        ("MSET k", "-wrong number of arguments for 'MSET' command|"),
        ("MSET n:1 1 k 2", "-finished with 1 error(s)|"),
        ("EXISTS k x:k q", ":2|"),
        ("DEL k x:k q", ":2|"),
        ("DEL k n:a", "-finished with 1 error(s)|"),
        ("HELLO 3", "-NOPROTO unsupported protocol version|"),
        ("AUTH x", "-ERR Client sent AUTH, but no password is set|"),
        ("AUTH u x", "-ERR Client sent AUTH, but no username-password pair is set|"),
        ("AUTH", "-invalid request|"),
        ("SELECT 0", "+OK|"),
        ("CLIENT SETINFO LIB-NAME x", "+OK|"),
        ("CLIENT ID", "-ERR CLIENT subcommand 'ID' is not supported by the proxy|"),
        ("EVAL return_KEYS[1] 1", "-wrong number of arguments for 'EVAL' command|"),
        ("OBJECT HELP", "-wrong number of arguments for 'OBJECT' command|"),
        ("GET n:1", "-upstream failure|"),
        ("GET none:1", "-no upstream host|"),
        ("LPUSH l a b", ":2|"),
        ("LRANGE l 0 -1", "*2|$1|b|$1|a|"),
        ("INCR l", "-WRONGTYPE Operation against a key holding the wrong kind of value|"),
    ] {
        ask(&mut client, line, answer);
    }
    let stat = |name: &str| setup.proxy.stat(name);
    assert_eq!((stat("redis.r.downstream_cx_total"), stat("redis.r.downstream_cx_active")), (1, 1));
    assert_eq!((stat("redis.r.downstream_rq_total"), stat("redis.r.downstream_rq_active")), (34, 0));
    assert_eq!((stat("redis.r.splitter.invalid_request"), stat("redis.r.splitter.unsupported_command")), (3, 2));
    assert_eq!((stat("redis.r.command.get.total"), stat("redis.r.command.get.success")), (5, 3));
    assert_eq!((stat("redis.r.command.get.error"), stat("redis.r.command.incr.success")), (2, 1));
    assert_eq!((stat("redis.r.command.mset.error"), stat("redis.r.command.mget.error")), (2, 1));
    assert_eq!((stat("cluster.first.upstream_cx_total"), stat("cluster.first.upstream_rq_active")), (1, 0));
    assert!(stat("redis.r.downstream_cx_rx_bytes_total") > 500);
    client.send("QUIT\r\nPING\r\n").unwrap();
    let (rest, end) = client.read_to_end();
    assert_eq!((String::from_utf8(rest).unwrap(), end), ("+OK\r\n".to_owned(), End::Closed));
}

#[test]
fn transactions_have_a_connection_for_themselves() {
    let Some(setup) = setup(&[listener("redis", ROUTES)]) else { skip!("no redis-server") };
    let mut client = Client::connect(setup.proxy.listener("redis"));
    for (line, answer) in [
        ("EXEC", "-EXEC without MULTI|"),
        ("DISCARD", "-DISCARD without MULTI|"),
        ("UNWATCH", "+OK|"),
        ("MULTI", "+OK|"),
        ("MULTI", "-MULTI calls can not be nested|"),
        ("EXEC", "*0|"),
        ("MULTI", "+OK|"),
        ("DISCARD", "+OK|"),
        ("MULTI", "+OK|"),
        ("SET k 5", "+QUEUED|"),
        ("MGET k", "+QUEUED|"),
        ("PING", "+PONG|"),
        ("EVAL x 1 k", "-'EVAL' command is not supported within transaction|"),
        ("EXEC", "*2|+OK|*1|$1|5|"),
        ("MULTI", "+OK|"),
        ("SET x:t 1", "+QUEUED|"),
        ("EXEC", "*1|+OK|"),
        ("GET x:t", "$1|1|"),
        ("MULTI", "+OK|"),
        ("GET n:1", "-upstream failure|"),
        ("EXEC", "-EXEC without MULTI|"),
    ] {
        ask(&mut client, line, answer);
    }
    // What another client changes meanwhile undoes it.
    let mut other = Client::connect(setup.proxy.listener("redis"));
    ask(&mut client, "WATCH k", "+OK|");
    ask(&mut other, "SET k 6", "+OK|");
    ask(&mut client, "MULTI", "+OK|");
    ask(&mut client, "SET k 7", "+QUEUED|");
    ask(&mut client, "EXEC", "*-1|");
    ask(&mut client, "GET k", "$1|6|");
    ask(&mut client, "WATCH k", "+OK|");
    ask(&mut client, "UNWATCH", "+OK|");
    // Connections of transactions go with them.
    let active = || setup.proxy.stat("cluster.first.upstream_cx_active");
    wait_until("only the shared connection is left", Duration::from_secs(5), || active() == 1);
}

#[test]
fn answers_come_in_the_order_of_the_commands() {
    let Some(setup) = setup(&[listener("redis", ROUTES)]) else { skip!("no redis-server") };
    let mut client = Client::connect(setup.proxy.listener("redis"));
    let (mut sent, mut expected) = (Vec::new(), String::new());
    for n in 0..3000 {
        sent.extend(command(&format!("SET {}{n} {n}", if n % 2 == 0 { "x:" } else { "" })));
        sent.extend(command("PING"));
        sent.extend(command(&format!("MGET {n} x:{n}")));
        expected += "+OK\r\n+PONG\r\n";
        let text = n.to_string();
        let bulk = format!("${}\r\n{text}\r\n", text.len());
        expected += &if n % 2 == 0 { format!("*2\r\n$-1\r\n{bulk}") } else { format!("*2\r\n{bulk}$-1\r\n") };
    }
    let stream = client.stream().try_clone().unwrap();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut &stream, &sent).unwrap());
    let (found, _) = client.read_exactly(expected.len());
    writing.join().unwrap();
    assert!(String::from_utf8(found).unwrap() == expected);
}

#[test]
fn values_may_be_larger_than_buffers() {
    let Some(setup) = setup(&[listener("redis", ROUTES)]) else { skip!("no redis-server") };
    let mut client = Client::connect(setup.proxy.listener("redis"));
    let value = "v".repeat(3 << 20);
    ask(&mut client, &format!("SET big {value}"), "+OK|");
    ask(&mut client, "GET big", &format!("${}|{value}|", value.len()));
}

#[test]
fn what_is_no_command_is_told() {
    let Some(setup) = setup(&[listener("redis", ROUTES)]) else { skip!("no redis-server") };
    let address = setup.proxy.listener("redis");
    for (sent, answer) in [
        ("PING\r\n", "+PONG\r\n"),
        ("*-1\r\n", "-invalid request\r\n"),
        ("*0\r\n", "-invalid request\r\n"),
        ("+x\r\n", "-invalid request\r\n"),
        ("*1\r\n:1\r\n", "-invalid request\r\n"),
        ("*2\r\n$3\r\nGET\r\n$-1\r\n", "-invalid request\r\n"),
        ("*1\r\n*1\r\n$4\r\nPING\r\n", "-invalid request\r\n"),
        ("*x\r\n", "-downstream protocol error\r\n"),
        ("*1\r\n$-5\r\n", "-downstream protocol error\r\n"),
        ("*1\n$4\nPING\n", "-downstream protocol error\r\n"),
    ] {
        let mut client = Client::connect(address);
        client.send(sent).unwrap();
        client.close_write();
        let (found, end) = client.read_to_end();
        assert_eq!((String::from_utf8_lossy(&found).as_ref(), end), (answer, End::Closed), "{sent:?}");
    }
    assert_eq!(setup.proxy.stat("redis.r.downstream_cx_protocol_error"), 3);
}

#[test]
fn clients_say_who_they_are() {
    let password = "stat_prefix: q
settings: {op_timeout: 1s}
prefix_routes: {catch_all_route: {cluster: first}}
downstream_auth_passwords: [{inline_string: secret}]";
    let named = format!("{password}\ndownstream_auth_username: {{inline_string: user}}");
    let Some(setup) = setup(&[listener("password", password), listener("named", &named)]) else {
        skip!("no redis-server")
    };
    let mut client = Client::connect(setup.proxy.listener("password"));
    for (line, answer) in [
        ("GET k", "-NOAUTH Authentication required.|"),
        ("PING", "-NOAUTH Authentication required.|"),
        ("HELLO", "-NOAUTH Authentication required.|"),
        ("AUTH bad", "-ERR invalid password|"),
        ("AUTH secret", "+OK|"),
        ("GET k", "$-1|"),
        ("AUTH default secret", "+OK|"),
        ("AUTH u secret", "-WRONGPASS invalid username-password pair|"),
        ("GET k", "-NOAUTH Authentication required.|"),
        ("HELLO 2 AUTH default bad", "-WRONGPASS invalid username-password pair|"),
        ("HELLO 2 AUTH default secret", "*14|$6|server|$9|sota-mesh|"),
    ] {
        ask(&mut client, line, answer);
    }
    let mut client = Client::connect(setup.proxy.listener("named"));
    ask(&mut client, "AUTH default secret", "-WRONGPASS invalid username-password pair|");
    ask(&mut client, "AUTH user secret", "+OK|");
    ask(&mut client, "GET k", "$-1|");
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    let Some(mut setup) = setup(&[listener("redis", ROUTES)]) else { skip!("no redis-server") };
    let mut client = Client::connect(setup.proxy.listener("redis"));
    ask(&mut client, "SET k v", "+OK|");
    // It hears nothing: the command runs into the timeout, and so does what waits behind it.
    setup.first.process.signal(19);
    client.send([command("GET k"), command("GET x:k"), command("GET k")].concat()).unwrap();
    let expected = "-upstream failure\r\n$-1\r\n-upstream failure\r\n";
    assert_eq!(String::from_utf8(client.read_exactly(expected.len()).0).unwrap(), expected);
    assert_eq!(setup.proxy.stat("cluster.first.upstream_rq_timeout"), 1);
    setup.first.process.signal(18);
    ask(&mut client, "GET k", "$1|v|");
    setup.first.process.kill();
    let port = setup.first.address.port();
    wait_until("the server is gone", Duration::from_secs(5), || !is_listening(setup.first.address));
    ask(&mut client, "GET k", "-upstream failure|");
    setup.first = Server::start(port).unwrap();
    ask(&mut client, "GET k", "$-1|");
}

#[test]
fn a_real_client_is_served() {
    let Some(setup) = setup(&[listener("redis", ROUTES)]) else { skip!("no redis-server") };
    let port = setup.proxy.listener("redis").port().to_string();
    let cli = |words: &[&str]| {
        let output = Command::new("redis-cli").args(["-p", &port]).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(cli(&["SET", "greeting", "hello world"]), "OK\n");
    assert_eq!(cli(&["GET", "greeting"]), "hello world\n");
    assert_eq!(cli(&["MGET", "greeting", "x:nothing"]), "hello world\n\n");
    let benchmark = Command::new("redis-benchmark")
        .args(["-p", &port, "-n", "2000", "-c", "20", "-P", "16", "-t", "set,get,lpush", "-q", "--csv"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&benchmark.stdout).into_owned();
    assert!(benchmark.status.success() && text.contains("\"GET\""), "{text}");
    assert!(setup.proxy.stat("redis.r.command.get.success") > 2000);
}

#[test]
fn keys_stand_where_envoy_looks_for_them() {
    let Some(envoy) = EnvoyProcess::binary() else { skip!("no Envoy in .venv") };
    let servers: Vec<_> = (0..3).map_while(|_| Server::start(free_port())).collect();
    if servers.is_empty() {
        skip!("no redis-server");
    }
    let hosts: Vec<_> = servers.iter().map(|server| server.address).collect();
    for policy in ["lb_policy: MAGLEV", "lb_policy: RING_HASH, ring_hash_lb_config: {hash_function: MURMUR_HASH_2}"] {
        let clusters = [cluster("first", &hosts).replace("type: STATIC", &format!("type: STATIC, {policy}"))];
        let fields = "stat_prefix: r
settings: {op_timeout: 5s, enable_hashtagging: true}
prefix_routes: {catch_all_route: {cluster: first}}";
        let config = config(&[listener("redis", fields)], &clusters);
        let (ours, theirs) = (ProxyProcess::start(BINARY, &config), EnvoyProcess::start(&envoy, &config));
        let (mut ours, mut theirs) =
            (Client::connect(ours.listener("redis")), Client::connect(theirs.listener("redis")));
        let keys = (0..100).map(|n| if n % 3 == 0 { format!("{{tag{n}}}:x") } else { format!("key:{n}") });
        for (n, key) in keys.enumerate() {
            ask(&mut ours, &format!("SET {key} {}", n + 100), "+OK|");
            ask(&mut theirs, &format!("GET {key}"), &format!("$3|{}|", n + 100));
        }
        let sizes = servers.iter().map(|server| {
            let mut client = Client::connect(server.address);
            client.send("DBSIZE\r\nFLUSHALL\r\n").unwrap();
            String::from_utf8(client.read_exactly(5).0).unwrap()
        });
        assert!(sizes.into_iter().all(|size| size.starts_with(":") && !size.starts_with(":0")), "{policy}");
    }
}
