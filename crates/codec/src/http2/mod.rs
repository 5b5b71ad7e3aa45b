//! HTTP/2
mod error;
mod frame;
pub mod hpack;
mod options;
pub use error::*;
pub use options::*;
