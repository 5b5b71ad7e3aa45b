//! The process: configuration read and served, workers, signals, draining, logs, stats and the admin interface.

mod admin;
mod configuration;
mod explain;
mod log_files;
mod log_pattern;
mod logging;
mod memory;
mod options;
mod reload;
mod resources;
mod runtime;
mod server;
mod endpoint_stats;
mod overload;
mod server_stats;
mod sinks;
pub mod stats;
mod xds;

pub use explain::{ExplainOptions, explain};
pub use log_pattern::Pattern;
pub use logging::{COMPONENTS, LogFormat, parse_level};
pub use memory::set_allocator_collect;
pub use options::{ConfigOptions, Options, default_concurrency};
pub use server::{start, validate};
pub use tracing::level_filters::LevelFilter;
