//! ZMTP, the wire protocol of ZeroMQ: versions 1.0 (RFC 13), 2.0 (15), 3.0 (23) and 3.1 (37), both sides, with the
//! mechanisms NULL, PLAIN (24) and CURVE (25, 26). What the RFCs leave open is done as libzmq does it.
//!
//! A [`Connection`] gets the bytes of its peer and gives [`Event`]s: credentials to be judged, the facts about the
//! [`Peer`] when the handshake is done, frames of messages (in pieces as they come, slices of what was read, or made
//! to whole [`Message`]s by an [`Assembler`]), subscriptions, heartbeats. What is to be sent it appends to a buffer.
//! Time is told to it ([`Connection::on_elapsed`]), and everything a peer may do has a limit ([`Limits`]).
//!
//! ```
//! use sota_codec::zmtp::*;
//! use std::sync::Arc;
//!
//! let options = |socket_type| Arc::new(Options { socket_type, ..Options::default() });
//! let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
//! let mut client = Connection::new(options(SocketType::Req), &mut to_server);
//! let mut server = Connection::new(options(SocketType::Router), &mut to_client);
//! // What would be reading from a socket.
//! fn read(connection: &mut Connection, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), ZmtpError> {
//!     let mut at = 0;
//!     loop {
//!         let (taken, event) = connection.recv(&input[at..], out)?;
//!         at += taken;
//!         if event == Event::NeedMore {
//!             input.clear();
//!             return Ok(());
//!         }
//!     }
//! }
//! while !client.is_ready() {
//!     read(&mut server, &mut to_server, &mut to_client)?;
//!     read(&mut client, &mut to_client, &mut to_server)?;
//! }
//! client.send_frames([&b""[..], b"Hello"], &mut to_server).unwrap();
//! assert!(to_server.ends_with(b"\x01\0\0\x05Hello"));
//! # Ok::<(), ZmtpError>(())
//! ```

mod command;
mod connection;
mod curve;
mod error;
mod establish;
mod event;
mod frame;
pub(crate) mod fuzzing;
mod greeting;
mod handshake;
mod heartbeat;
mod message;
mod metadata;
mod options;
mod send;
mod socket_type;
mod spoken;
mod subscriptions;
mod traffic;

#[cfg(test)]
mod tests;

pub use command::Command;
pub use connection::Connection;
pub use curve::{CurveKeyPair, CurvePublicKey, KeyError};
pub use error::{CurveStep, SendError, ZmtpError};
pub use event::{Credentials, Event};
pub use message::{Assembler, Frame, Message};
pub use metadata::Peer;
pub use options::{HeartbeatOptions, Limits, Mechanism, MechanismName, Options, RandomSource, Security, Version};
pub use socket_type::SocketType;
pub use spoken::{Inspection, Spoken, inspect};
pub use subscriptions::Subscriptions;
