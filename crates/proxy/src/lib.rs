//! The data plane. Modules stand in the order of a connection's path, and use only what stands below them.

pub mod local;
pub mod drain;
pub mod timer;
pub mod socket;
pub mod buffer;
