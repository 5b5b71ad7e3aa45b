//! The binary with its dialect, as a user meets it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Origin, Process, free_port, get, is_listening, temp_dir, wait_until};
use std::{fs, net::Ipv4Addr, process::Command, time::Duration};

const BINARY: &str = env!("CARGO_BIN_EXE_forwards-dialect");
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_file_in_the_dialect_is_served() {
    let origin = Origin::named("behind");
    let (folder, port) = (temp_dir(), free_port());
    let file = folder.path().join("x.yaml");
    fs::write(&file, format!("forward:\n  web: [127.0.0.1:{port}, 127.0.0.1:{}]\n", origin.port())).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["start", "-t", "forwards", "--concurrency", "1", "-c"]).arg(&file);
    let mut process = Process::spawn(command, &folder.path().join("log"));
    let address = (Ipv4Addr::LOCALHOST, port).into();
    wait_until("it listens", LIMIT, || is_listening(address));
    assert_eq!(get(address, "/").text(), "behind");
    process.kill();
}

#[test]
fn errors_are_shown_where_they_were_written() {
    let folder = temp_dir();
    let file = folder.path().join("x.yaml");
    for (text, error) in [
        ("forward:\n  web: [127.0.0.1:1]\n", "x.yaml:2:3: forward.web: write [LISTENS, CONNECTS]"),
        ("forward:\n  web: [127.0.0.1:99999, 127.0.0.1:1]\n", "x.yaml:2:9: "),
        ("listeners: []\n", "x.yaml:1:1: unknown field \"listeners\""),
    ] {
        fs::write(&file, text).unwrap();
        let output = Command::new(BINARY).args(["validate", "-t", "forwards", "-c"]).arg(&file).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && shown.contains(error), "{error}: {shown}");
    }
    // Without -t the keys tell, and these are nobody's.
    fs::write(&file, "forward: {}\n").unwrap();
    let output = Command::new(BINARY).args(["validate", "-c"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
