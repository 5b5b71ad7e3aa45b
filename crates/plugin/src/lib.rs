//! What an extension author sees.

pub mod http;
pub mod stats;
