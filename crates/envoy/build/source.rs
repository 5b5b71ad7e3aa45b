//! Finds the descriptor set of Envoy's API in the source of the crate that ships it.

use serde_json::Value;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The crate that ships the set, pinned in Cargo.toml because this file is no promised part of it.
const CRATE: &str = "envoy-types";
const FILE: &str = "src/generated/types.bin";

/// The encoded `FileDescriptorSet`.
pub(crate) fn descriptor_set(crate_dir: &Path) -> Result<Vec<u8>, String> {
    let manifest = locate(crate_dir)?;
    let path = manifest.parent().unwrap_or_else(|| Path::new("")).join(FILE);
    println!("cargo:rerun-if-changed={}", path.display());
    fs::read(&path).map_err(|e| {
        format!(
            "{}: {e}\nThe crate {CRATE} no longer ships its descriptor set there; pin the version that does.",
            path.display()
        )
    })
}

/// Asks cargo where the source of the resolved crate lies: first without the network, then with it.
fn locate(crate_dir: &Path) -> Result<PathBuf, String> {
    let text = metadata(crate_dir, true).or_else(|_| metadata(crate_dir, false)).map_err(|e| {
        format!(
            "the source of the crate {CRATE} is needed to build the table of Envoy's messages, and cargo could not \
             get it. With a network, `cargo fetch --manifest-path {}` downloads it once.\ncargo says:\n{e}",
            crate_dir.join("Cargo.toml").display()
        )
    })?;
    let metadata: Value = serde_json::from_slice(&text).map_err(|e| format!("cargo metadata: {e}"))?;
    let packages = metadata.get("packages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    packages
        .iter()
        .find(|package| package.get("name").and_then(Value::as_str) == Some(CRATE))
        .and_then(|package| package.get("manifest_path").and_then(Value::as_str))
        .map(PathBuf::from)
        .ok_or_else(|| format!("cargo metadata does not name the crate {CRATE}; is it still in Cargo.toml?"))
}

fn metadata(crate_dir: &Path, offline: bool) -> Result<Vec<u8>, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = env::var("TARGET").map_err(|_| "cargo did not set TARGET".to_owned())?;
    let mut command = Command::new(cargo);
    command
        // Without the platform, cargo would want the packages of every platform in the lock file.
        .args(["metadata", "--format-version=1", "--features=descriptor-source", "--filter-platform", &target])
        .arg("--manifest-path")
        .arg(crate_dir.join("Cargo.toml"));
    if offline {
        command.arg("--offline");
    }
    let output = command.output().map_err(|e| format!("cargo metadata: {e}"))?;
    if output.status.success() { Ok(output.stdout) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
