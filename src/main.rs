//! The `sota-mesh` binary: the command line over the built-in extensions.

mod allocator;

use std::process::ExitCode;

fn main() -> ExitCode {
    sota_server::set_allocator_collect(allocator::collect);
    sota_mesh::cli::run(sota_mesh::builtin_extensions)
}
