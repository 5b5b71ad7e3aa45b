//! Makes the message table: the descriptor set of Envoy's API, the messages it lacks (`src/gaps.txt`) and the support
//! table (`src/support/*.txt`) become one blob of a few hundred kilobytes that the program maps and never parses.

mod descriptor;
mod emit;
mod gaps;
#[path = "../src/table/layout.rs"]
#[allow(dead_code, reason = "each side of the layout uses its part")]
mod layout;
mod source;
mod support;

use std::{env, fs, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let crate_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    for path in ["build", "src/table/layout.rs", "src/gaps.txt", "src/support", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", crate_dir.join(path).display());
    }

    let set = source::descriptor_set(&crate_dir)?;
    let mut schema = descriptor::read(&set)?;
    gaps::add(&mut schema, &read_text(&crate_dir.join("src/gaps.txt"))?)?;
    schema.sort();
    let mut files: Vec<_> = fs::read_dir(crate_dir.join("src/support"))
        .map_err(|e| format!("src/support: {e}"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    for file in files {
        support::apply(&mut schema, &read_text(&file)?).map_err(|e| format!("{}:{e}", file.display()))?;
    }
    write(&out.join("messages.table"), &emit::table(&schema)?)?;
    // The set itself, for the tests that compare with another implementation.
    write(&out.join("messages.fds"), &descriptor::without_source_info(&set)?)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}

fn read_text(path: &PathBuf) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &PathBuf, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))
}
