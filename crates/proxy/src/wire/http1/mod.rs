//! HTTP/1 over a socket.
//!
//! A body is moved in [`Part`](super::Part)s. [`Part::Data`](super::Part::Data) tells how many octets at the front of the socket's unused input are data:
//! they stay there until somebody has taken them, so a body that nobody looks at goes from the memory it was read into
//! straight to the other socket, and a peer that does not take it stops the reading by itself.

mod body;
mod client;
mod server;
#[cfg(test)]
mod tests;
mod writer;

pub use body::BodyReader;
pub use client::{ClientOptions, ClientStream};
pub use server::{ServerOptions, ServerStream};
pub use writer::Writer;

use sota_plugin::http::{HeaderId, Headers};

/// Compat: of a head that is received, Envoy counts names and values, and so many octets for each line beside them.
pub const LINE_EXTRA: usize = 3;

/// Octets of a head as Envoy counts them when it is received.
pub fn field_bytes(headers: &Headers) -> usize {
    headers.byte_size() + headers.len() * LINE_EXTRA
}

/// The value of `content-length`, if it is a number.
pub(super) fn content_length(headers: &Headers) -> Option<u64> {
    let digits = headers.get(HeaderId::ContentLength)?;
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, c| c.is_ascii_digit().then(|| sum * 10 + u64::from(c - b'0')))
}
