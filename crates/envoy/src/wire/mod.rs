//! Protobuf's wire format: bytes to a tree in document form, and a checked tree to bytes.

mod decode;
mod encode;
mod reader;

pub use encode::encode;
pub(crate) use encode::put_bytes;
pub(crate) use reader::{RawValue, Reader, WireError};
