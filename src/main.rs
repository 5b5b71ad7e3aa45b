//! The `sota-mesh` binary: the command line over the built-in extensions.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sota_mesh::cli::run(sota_mesh::builtin_extensions)
}
