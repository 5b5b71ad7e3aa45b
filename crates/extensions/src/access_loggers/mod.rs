//! Access loggers. What they have in common stands in `writer` and `format`.

mod delivery;
mod writer;

pub(crate) mod file;
pub(crate) mod grpc;
pub(crate) mod open_telemetry;
pub(crate) mod stream;
