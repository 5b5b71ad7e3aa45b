//! The configuration model: what every dialect is translated to and what the data plane is built from.
//!
//! Plain immutable structs without behaviour beyond small look-ups. They derive `PartialEq`, so a resource that
//! arrives again unchanged is no update. Nothing here knows a file format: [`node`] is the one document tree that
//! all readers produce, [`error`] the one shape of configuration errors.

pub mod access_log;
pub mod address;
pub mod bootstrap;
pub mod cluster;
pub mod config_source;
pub mod dialect;
pub mod error;
pub mod extension;
pub mod health_check;
pub mod http;
pub mod listener;
pub mod load_balancer;
pub mod match_tree;
pub mod matcher;
pub mod node;
pub mod outlier_detection;
pub mod overload;
pub mod retry;
pub mod route;
pub mod secret;
pub mod source;
pub mod stats_sink;
pub mod tcp_proxy;
pub mod tls;
pub mod tracing;
pub mod upgrade;

pub use error::{ConfigError, ConfigErrors, Severity};
pub use extension::{ExtensionConfig, TypedConfig};
pub use node::{Mark, Node, Value};
pub use source::Source;
