//! Field compression (RFC 7541): a decoder that writes into whatever takes fields, and an encoder with a policy.
//!
//! Both tables own no memory before their first entry.

mod decoder;
mod encoder;
mod huffman;
mod integer;
mod static_table;
mod table;

#[cfg(test)]
mod tests;

pub use decoder::{Decoder, FieldSink, HpackError, Name, Pseudo};
pub use encoder::{Encoder, Indexing};
