//! The data plane. Modules stand in the order of a connection's path, and use only what stands below them.

pub mod http;
pub mod router;

pub mod buffer;
pub mod downstream;
pub mod drain;
pub mod local;
pub mod socket;
pub mod timer;

#[cfg(test)]
mod test_context;
