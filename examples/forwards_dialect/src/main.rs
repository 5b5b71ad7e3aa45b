//! sota-mesh with one more dialect.

use std::process::ExitCode;

fn main() -> ExitCode {
    sota_mesh::cli::run(|| {
        let mut registry = sota_mesh::builtin_extensions()?;
        registry.dialects.push(&forwards_dialect::FORWARDS);
        Ok(registry)
    })
}
