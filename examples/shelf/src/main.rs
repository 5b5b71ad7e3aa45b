//! sota-mesh with one more dispatcher and one more protocol.

use std::process::ExitCode;

fn main() -> ExitCode {
    sota_mesh::cli::run(|| {
        let mut registry = sota_mesh::builtin_extensions()?;
        registry.network_filters.add(&shelf::relay::EXTENSION)?;
        registry.network_filters.add(&shelf::protocol::EXTENSION)?;
        Ok(registry)
    })
}
