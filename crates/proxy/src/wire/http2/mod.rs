//! HTTP/2 over a socket.
//!
//! A [`Connection`] is shared by its driver and its streams. The driver is whoever polls [`Connection::poll_event`] with
//! the socket: it reads, hands what arrives to the streams, and writes what all of them have to say at once. A [`Stream`]
//! never touches the socket: it takes what was received, puts what it sends into the connection's output, and wakes the
//! driver.
//!
//! What was received and not taken is held by the stream; the peer's window is not opened again until it is taken, so
//! that is never more than the window. What is not taken of what is sent stays with its sender.

mod client;
mod connection;
mod held;
mod keepalive;
mod server;
mod stats;
mod stream;
#[cfg(test)]
mod tests;

pub use client::ClientStream;
pub use connection::{Connection, ConnectionEnd, Event, Options, StreamEnd};
pub use server::ServerStream;
pub use stats::Http2Stats;
pub use stream::Stream;

/// Octets that wait to be written before streams have to wait: with a frame more, just a buffer that the thread keeps.
pub const MAX_OUTPUT: usize = 40 * 1024;
