//! HTTP/2 (RFC 9113, RFC 7541, RFC 8441), both roles, without I/O and without a clock.
//!
//! # Order of calls
//! 1. [`Connection::server`] or [`Connection::client`]: settings (and the client's preface) are in the output.
//! 2. When octets were read: [`Connection::recv`] on them again and again until it says `None`. It takes whole and
//!    partial frames; what it needs to see again it keeps, so the caller's buffer is free afterwards. Between two
//!    events anything may be sent.
//! 3. [`Connection::next_sendable`] until `None`: streams that may go on sending.
//! 4. [`Connection::output`] to the socket, [`Connection::written`], and 3 again. One write carries what all streams
//!    have to say.
//! 5. An error of `recv` ends the connection: the output (which has the GOAWAY) is written and the socket closed.
//!
//! # Back-pressure
//! In both directions it is the user's. What a stream received lowers the peer's windows until
//! [`Connection::release`] says that it was written or dropped. What [`Connection::send_data`] does not take stays
//! with the user. So a connection never holds more than [`Options::max_output`] and a frame of data, and its user
//! never more than the windows.
//!
//! # What is checked
//! Frames, states and windows by RFC 9113 §4–6; messages by §8: a malformed one ends its stream (or the connection,
//! see [`Options::stream_error_on_invalid_http_message`]) and nothing of it that could be misread is ever passed on:
//! a body is never longer than its `content-length`, and when it is shorter its end is not told. Floods are bounded by
//! Envoy's limits; [`Counters`] have Envoy's names.
//!
//! ```
//! use sota_codec::http2::*;
//! use sota_plugin::http::{Method, RequestHead, ResponseHead, StatusCode};
//! use std::sync::Arc;
//!
//! let (options, mut pool) = (Arc::new(Options::default()), HeadPool::new());
//! let (mut client, mut server) = (Connection::client(options.clone()), Connection::server(options));
//! let stream = client.send_request(&RequestHead::new(Method::Get, "example.com", "/")?, true)?;
//!
//! let read = client.output().to_vec();
//! client.written(read.len());
//! let mut input = &read[..];
//! while let Some(event) = server.recv(&mut input, &mut pool)? {
//!     if let Event::Request { stream, head, end_stream: true } = event {
//!         assert_eq!(head.path(), b"/");
//!         server.send_response(stream, &ResponseHead::new(StatusCode::OK), false)?;
//!         assert_eq!(server.send_data(stream, b"hello", true)?, 5);
//!         pool.give_request(head);
//!     }
//! }
//!
//! let mut input = server.output();
//! let mut body = Vec::new();
//! while let Some(event) = client.recv(&mut input, &mut pool)? {
//!     if let Event::Data { stream, data, .. } = event {
//!         body.extend_from_slice(data);
//!         client.release(stream, data.len());
//!     }
//! }
//! assert_eq!((&body[..], client.live_streams()), (&b"hello"[..], 0));
//! # assert_eq!(stream, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod connection;
mod encode;
mod error;
mod event;
mod flood;
mod frame;
pub mod hpack;
mod message;
mod options;
mod output;
mod pool;
mod recv;
mod recv_control;
mod recv_fields;
mod send;
mod settings;
mod stream;

#[cfg(test)]
mod tests;

pub use connection::Connection;
pub use error::{ConnectionError, ErrorCode, ErrorKind, SendError, StreamFault};
pub use event::{Event, ResetCause, StreamId};
pub use flood::Counters;
pub use options::Options;
pub use pool::HeadPool;
pub use settings::PeerSettings;
pub use stream::IdHasher;
