//! What an extension author sees: heads and fields, what is known about connections and streams, the traits of every
//! kind of extension, and the parts that routes, filters and loggers share (matchers, format strings, stats).
//!
//! An extension has three levels with one word each. Its *config* is built once when configuration is read, is shared
//! by all threads and may fail. Each worker makes a *factory* of it, which may hold `Rc`s. The factory makes one
//! *filter* for each stream or connection, or declines. Nothing here knows sockets or a file format: an out-of-tree
//! crate depends on this one alone.

pub mod access_log;
pub mod cx;
pub mod de;
pub mod extension;
pub mod file_version;
pub mod filter;
pub mod format;
pub mod future;
pub mod grpc;
pub mod hash;
pub mod http;
pub mod info;
pub mod load_balancer;
pub mod matcher;
pub mod protocol;
pub mod rate_limit;
pub mod runtime;
pub mod secrets;
pub mod stats;
pub mod stream;
pub mod token_bucket;
pub mod upstream;

use std::{future::Future, pin::Pin};

/// A future that stays on its worker.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

pub use extension::{Category, Extension, FactoryContext, Registry};
