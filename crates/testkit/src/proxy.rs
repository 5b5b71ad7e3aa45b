//! The proxy as a child process, and what its admin interface says.

use crate::client::{Client, Response, request};
use crate::net::free_port;
use crate::process::Process;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(20);

/// A running proxy, ours or Envoy: both read the same bootstrap and answer the same admin requests.
///
/// The configuration is YAML whose listeners have port 0; the admin interface is added on a port of its own. The process
/// ends with the value.
pub struct ProxyProcess {
    process: Process,
    admin: SocketAddr,
    folder: tempfile::TempDir,
    ready_after: Duration,
}

impl ProxyProcess {
    /// Starts `binary start -c FILE` on this configuration and waits until it is ready.
    ///
    /// `binary` is `env!("CARGO_BIN_EXE_sota-mesh")` in tests of the root package.
    #[track_caller]
    pub fn start(binary: impl AsRef<Path>, config: &str) -> Self {
        Self::start_with(binary, config, &["--concurrency", "2"])
    }

    /// [`ProxyProcess::start`] with other arguments after the configuration.
    #[track_caller]
    pub fn start_with(binary: impl AsRef<Path>, config: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary.as_ref());
        command.arg("start");
        Self::launch(command, config, arguments)
    }

    /// Starts any command that takes `-c FILE` and then `arguments`, for example ours under a limit of its shell.
    #[track_caller]
    pub fn launch(mut command: Command, config: &str, arguments: &[&str]) -> Self {
        let folder = crate::temp_dir();
        let port = free_port();
        let file = folder.path().join("config.yaml");
        fs::write(&file, with_admin(port, config)).unwrap();
        command.arg("-c").arg(&file).args(arguments);
        let started = Instant::now();
        let process = Process::spawn(command, &folder.path().join("log"));
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut proxy = Self { process, admin, folder, ready_after: Duration::ZERO };
        proxy.wait_ready();
        proxy.ready_after = started.elapsed();
        proxy
    }

    #[track_caller]
    fn wait_ready(&mut self) {
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.process.ended() {
                panic!("ended with {status} instead of starting; it printed:\n{}", self.process.log());
            }
            let answer = Client::try_connect(self.admin)
                .map(|mut client| client.exchange("GET /ready HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n"));
            if answer.is_ok_and(|response| response.status() == 200) {
                return;
            }
            assert!(Instant::now() < deadline, "not ready after {START:?}; it printed:\n{}", self.process.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Time from the start of the process to the first 200 of `/ready`.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// The folder of the configuration, `config.yaml`, and the log; a place for further files of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// Writes another configuration into the file; the process learns of it by a signal, or by watching.
    pub fn rewrite_config(&self, config: &str) {
        fs::write(self.config_file(), with_admin(self.admin.port(), config)).unwrap();
    }

    /// The address of the admin interface.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// GET on the admin interface.
    #[track_caller]
    pub fn admin(&self, path: &str) -> Response {
        request(self.admin, format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n"))
    }

    /// POST on the admin interface.
    #[track_caller]
    pub fn admin_post(&self, path: &str) -> Response {
        request(
            self.admin,
            format!("POST {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
        )
    }

    /// The address of a listener by its name, the port that the system gave it included.
    #[track_caller]
    pub fn listener(&self, name: &str) -> SocketAddr {
        let text = self.admin("/listeners").text();
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("::"));
        let Some(address) = found.and_then(|text| text.parse::<SocketAddr>().ok()) else {
            panic!("no listener {name} in:\n{text}");
        };
        // The wildcard is no address to connect to.
        if address.ip().is_unspecified() { SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())) } else { address }
    }

    /// The value of a counter or gauge; 0 if there is none yet.
    pub fn stat(&self, name: &str) -> u64 {
        let text = self.admin("/stats").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    }

    /// Waits until a counter or gauge has this value.
    #[track_caller]
    pub fn wait_stat(&self, name: &str, value: u64, limit: Duration) {
        let mut last = 0;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            last = self.stat(name);
            if last == value {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{name} is {last} and not {value} after {limit:?}");
    }

    /// Waits until the memory that no file backs is within a MiB of, and the open files at, what they were.
    #[track_caller]
    pub fn wait_settled(&self, rss_anon_kib: u64, open_files: usize, limit: Duration) {
        let mut last = (0, 0);
        let is_settled = |last: &mut (usize, u64)| {
            *last = (self.open_files(), self.rss_anon_kib());
            last.0 <= open_files && last.1 <= rss_anon_kib + 1024
        };
        let deadline = Instant::now() + limit;
        while !is_settled(&mut last) {
            assert!(
                Instant::now() < deadline,
                "{} open files and {} KiB, and not {open_files} and {rss_anon_kib} + 1024, within {limit:?}",
                last.0,
                last.1
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn with_admin(port: u16, config: &str) -> String {
    if config.starts_with("listeners:") {
        return format!("admin_address: 127.0.0.1:{port}\n{config}");
    }
    format!("admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}\n{config}")
}

impl Deref for ProxyProcess {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for ProxyProcess {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
