//! sota-mesh with one more filter.

use std::process::ExitCode;

fn main() -> ExitCode {
    sota_mesh::cli::run(|| {
        let mut registry = sota_mesh::builtin_extensions()?;
        registry.http_filters.add(&header_stamp::EXTENSION)?;
        Ok(registry)
    })
}
