//! The example between real sockets, on the configuration of `docs/writing-a-protocol.md`, which shows its source.

use sota_testkit::{Client, Origin, ProxyProcess};
use std::{collections::HashMap, fs, path::Path, sync::Mutex, time::Duration};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The code blocks of a language, in order.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let parts = document.split(&fence).skip(1);
    parts.map(|part| part.split_once("```").expect("a block that ends").0.to_owned()).collect()
}

#[test]
fn the_document_shows_the_source() {
    let blocks = blocks(&read("../../docs/writing-a-protocol.md"), "rust");
    let sources = ["src/relay.rs", "src/protocol.rs", "src/main.rs"].map(read);
    assert_eq!(blocks, sources);
}

/// A shelf that says its name with what it has.
fn shelf(name: &'static str) -> Origin {
    let texts = Mutex::new(HashMap::new());
    Origin::raw(move |mut peer| {
        let mut held = Vec::new();
        loop {
            match peer.read_some(1024) {
                Ok(bytes) if !bytes.is_empty() => held.extend(bytes),
                _ => return,
            }
            while let Some(end) = held.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = held.drain(..=end).collect();
                let line = String::from_utf8(line).expect("a text");
                let words: Vec<_> = line.trim_end().splitn(3, ' ').collect();
                let mut texts = texts.lock().expect("no panic");
                let answer = match words[..] {
                    ["put", key, text] => {
                        texts.insert(key.to_owned(), text.to_owned());
                        format!("ok {name}\n")
                    }
                    ["get", "broken"] => "bad worm\n".to_owned(),
                    ["get", "silent"] => continue,
                    ["get", key] => match texts.get(key) {
                        Some(text) => format!("ok {name} {text}\n"),
                        None => format!("no {name} {key}\n"),
                    },
                    _ => format!("ok {}\n", line.trim_end()),
                };
                if peer.send(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
    })
}

struct Setup {
    proxy: ProxyProcess,
    shelves: [Origin; 2],
    _archive: Origin,
}

/// The proxy of the document, its hosts on ports of their own.
fn setup() -> Setup {
    let (shelves, archive) = ([shelf("one"), shelf("two")], shelf("archive"));
    let mut config = blocks(&read("../../docs/writing-a-protocol.md"), "yaml").remove(0);
    for (written, port) in
        [("7000", 0), ("7001", 0), ("9001", shelves[0].port()), ("9002", shelves[1].port()), ("9003", archive.port())]
    {
        config = config.replace(written, &port.to_string());
    }
    let binary = env!("CARGO_BIN_EXE_shelf");
    let arguments = ["--concurrency", "1", "--file-flush-interval-msec", "10"];
    Setup { proxy: ProxyProcess::start_with(binary, &config, &arguments), shelves, _archive: archive }
}

fn ask(client: &mut Client, line: &str) -> String {
    client.send(format!("{line}\n")).expect("a client that sends");
    read_line(client)
}

fn read_line(client: &mut Client) -> String {
    let mut line = Vec::new();
    loop {
        let (octet, end) = client.read_exactly(1);
        match octet[..] {
            [b'\n'] => return String::from_utf8(line).expect("a text"),
            [octet] => line.push(octet),
            _ => panic!("{end:?} after {:?}", String::from_utf8_lossy(&line)),
        }
    }
}

#[test]
fn requests_go_by_their_keys() {
    let setup = setup();
    let mut client = Client::connect(setup.proxy.listener("shelves"));
    assert_eq!(ask(&mut client, "ping"), "ok");
    assert_eq!(ask(&mut client, "put old:a x"), "ok archive");
    assert_eq!(ask(&mut client, "get old:a"), "ok archive x");
    for n in 0..20 {
        let host = ask(&mut client, &format!("put k{n} text {n}"));
        assert_eq!(ask(&mut client, &format!("get k{n}")), format!("{host} text {n}"));
    }
    assert!(setup.shelves.iter().all(|shelf| shelf.connections() == 1), "each has one connection, and its keys");
    // Many at once are answered in their order.
    let lines: String = (0..20).map(|n| format!("get k{n}\n")).collect();
    client.send(lines).expect("a client that sends");
    for n in 0..20 {
        assert!(read_line(&mut client).ends_with(&format!(" text {n}")));
    }
    assert!(ask(&mut client, "get nothing").starts_with("no "));
    let stat = |name: &str| setup.proxy.stat(&format!("shelf.shelves.{name}"));
    assert_eq!((stat("downstream_rq_total"), stat("rq_success"), stat("rq_rejected")), (63, 62, 1));
    assert_eq!((stat("downstream_heartbeat"), stat("downstream_rq_active")), (1, 0));
    assert_eq!(setup.proxy.stat("cluster.archive.upstream_rq_total"), 2);
    let address = setup.shelves[0].address().to_string();
    setup.proxy.wait_for_log(&format!("shelves {address} -\n"), Duration::from_secs(5));
}

#[test]
fn what_fails_is_told_and_repeated_where_that_is_safe() {
    let setup = setup();
    let mut client = Client::connect(setup.proxy.listener("shelves"));
    assert_eq!(ask(&mut client, "get broken"), "bad worm");
    let stat = |name: &str| setup.proxy.stat(&format!("shelf.shelves.{name}"));
    assert_eq!((stat("rq_retry"), stat("rq_failed")), (1, 1));
    assert_eq!(ask(&mut client, "get silent"), "bad the host did not answer in time");
    assert_eq!((stat("rq_retry"), stat("rq_timeout"), stat("rq_unanswered")), (2, 1, 1));
    setup.proxy.wait_for_log(" UT\n", Duration::from_secs(5));
    client.send("take k\n").expect("a client that sends");
    assert_eq!(client.read_to_end().0, b"");
    assert_eq!(stat("downstream_cx_protocol_error"), 1);
    drop(setup.shelves);
    let mut client = Client::connect(setup.proxy.listener("shelves"));
    let answer = ask(&mut client, "put k v");
    assert!(answer.starts_with("bad ") && answer.contains("refused"), "{answer}");
}

#[test]
fn the_dispatcher_asks_a_host() {
    let setup = setup();
    let mut client = Client::connect(setup.proxy.listener("relay"));
    assert_eq!(ask(&mut client, "hello"), "OK HELLO");
    assert_eq!(ask(&mut client, "again"), "OK AGAIN");
    let stat = |name: &str| setup.proxy.stat(&format!("cluster.shelves.{name}"));
    assert_eq!((stat("upstream_rq_total"), stat("upstream_rq_active")), (2, 0));
    drop(setup.shelves);
    assert!(ask(&mut client, "anybody").starts_with("sorry: "));
}

#[test]
fn mistakes_are_told() {
    let config = blocks(&read("../../docs/writing-a-protocol.md"), "yaml").remove(0);
    let folder = sota_testkit::temp_dir();
    let file = folder.path().join("shelf.yaml");
    for (written, wrong, error) in [
        ("timeout: 1s", "timeout: soon", "is no duration"),
        ("timeout: 1s", "timeuot: 1s", "unknown field \"timeuot\"; did you mean \"timeout\"?"),
        ("prefix: \"old:\"", "suffix: x", "unknown field \"suffix\""),
        ("text_format_source", "text_formt_source", "text_formt_source"),
        ("v3.StdoutAccessLog", "v3.StdoutAccessLogg", "access_log[0]"),
    ] {
        fs::write(&file, config.replacen(written, wrong, 1)).expect("a file");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shelf"));
        let output = command.arg("validate").arg("-c").arg(&file).output().expect("the binary");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(error), "{wrong}: {text}");
    }
}
