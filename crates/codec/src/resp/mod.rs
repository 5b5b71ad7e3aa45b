//! RESP, the protocol of Redis: versions 2 and 3, and the inline commands of people at a terminal.
//!
//! A [`Decoder`] takes what has arrived from the front of a buffer and gives whole values. Long strings are taken piece
//! by piece, so that the buffer may be smaller than a value; nothing is allocated for a length that has not arrived.

mod decode;
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
mod value;

pub use decode::{Decoder, Limits, RespError};
pub use value::Value;
