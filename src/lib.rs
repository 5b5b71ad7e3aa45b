//! sota-mesh as a library: what a binary with extensions of its own needs beside them.
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     sota_mesh::cli::run(|| {
//!         let mut registry = sota_mesh::builtin_extensions()?;
//!         // registry.http_filters.add(&my_filter::EXTENSION)?;
//!         Ok(registry)
//!     })
//! }
//! ```

pub mod cli;
mod envoy_cli;

use sota_plugin::{Registry, extension::DuplicateExtension};

/// Every extension that comes with sota-mesh.
pub fn builtin_extensions() -> Result<Registry, DuplicateExtension> {
    let mut registry = Registry { read_access_log: Some(sota_envoy::read_access_log), ..Registry::default() };
    sota_extensions::register(&mut registry)?;
    Ok(registry)
}
