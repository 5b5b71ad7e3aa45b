//! HTTP/1 over a socket.
//!
//! A body is moved in [`Part`]s. [`Part::Data`] tells how many octets at the front of the socket's unused input are data:
//! they stay there until somebody has taken them, so a body that nobody looks at goes from the memory it was read into
//! straight to the other socket, and a peer that does not take it stops the reading by itself.

mod body;
mod client;
mod server;
#[cfg(test)]
mod tests;
mod writer;

pub use body::{BodyError, BodyReader, Part};
pub use client::{ClientError, ClientOptions, ClientStream, ResponseEvent};
pub use server::{RequestError, RequestStart, ServerOptions, ServerStream};
pub use writer::{WriteError, Writer};

use sota_plugin::http::{HeaderId, Headers};

/// The value of `content-length`, if it is a number.
fn content_length(headers: &Headers) -> Option<u64> {
    let digits = headers.get(HeaderId::ContentLength)?;
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, c| c.is_ascii_digit().then(|| sum * 10 + u64::from(c - b'0')))
}
