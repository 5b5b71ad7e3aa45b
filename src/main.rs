//! The `sota-mesh` binary: the command line over the built-in extensions.

mod allocator;

use std::process::ExitCode;

fn main() -> ExitCode {
    sota_mesh::cli::run(sota_mesh::builtin_extensions)
}
