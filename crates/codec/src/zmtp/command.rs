//! Commands of ZMTP 3: `length name data`.

use super::{SendError, ZmtpError};

/// A command. Those of the security handshake are dealt with inside and never seen here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// Wants what begins with this topic.
    Subscribe(&'a [u8]),
    /// Takes one subscription back.
    Cancel(&'a [u8]),
    /// Draft: joins a group of a RADIO.
    Join(&'a [u8]),
    /// Draft: leaves it.
    Leave(&'a [u8]),
    /// Asks for a PONG.
    Ping {
        /// The sender wants to be given up after such a silence, in tenths of a second; 0: it does not say.
        ttl: u16,
        /// Up to 16 octets that the PONG returns.
        context: &'a [u8],
    },
    /// Answers a PING with its context.
    Pong(&'a [u8]),
    /// An end, and the reason in words, up to 255 octets.
    Error(&'a [u8]),
    /// Any other.
    Other {
        /// 1 to 255 octets.
        name: &'a [u8],
        /// What follows.
        data: &'a [u8],
    },
}

/// The most of a PING's context (RFC 37).
pub(super) const MAX_CONTEXT: usize = 16;

impl<'a> Command<'a> {
    /// Reads the body of a command frame. With `lenient` a context that is too long is cut, as libzmq does.
    pub fn parse(body: &'a [u8], lenient: bool) -> Result<Self, ZmtpError> {
        let (name, data) = split(body)?;
        Ok(match name {
            b"SUBSCRIBE" => Self::Subscribe(data),
            b"CANCEL" => Self::Cancel(data),
            b"JOIN" => Self::Join(data),
            b"LEAVE" => Self::Leave(data),
            b"PING" => {
                let (ttl, context) = data.split_first_chunk().ok_or(ZmtpError::Heartbeat)?;
                Self::Ping { ttl: u16::from_be_bytes(*ttl), context: context_of(context, lenient)? }
            }
            b"PONG" => Self::Pong(context_of(data, lenient)?),
            b"ERROR" => Self::Error(error_reason(data)?),
            _ => Self::Other { name, data },
        })
    }

    /// Appends the body of the command's frame.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), SendError> {
        match *self {
            Self::Subscribe(topic) => write_body(b"SUBSCRIBE", topic, out),
            Self::Cancel(topic) => write_body(b"CANCEL", topic, out),
            Self::Join(group) => write_body(b"JOIN", group, out),
            Self::Leave(group) => write_body(b"LEAVE", group, out),
            Self::Ping { context, .. } | Self::Pong(context) if context.len() > MAX_CONTEXT => Err(SendError::TooLong),
            Self::Ping { ttl, context } => {
                write_body(b"PING", &ttl.to_be_bytes(), out)?;
                out.extend_from_slice(context);
                Ok(())
            }
            Self::Pong(context) => write_body(b"PONG", context, out),
            Self::Error(reason) => {
                let length = u8::try_from(reason.len()).map_err(|_| SendError::TooLong)?;
                write_body(b"ERROR", &[length], out)?;
                out.extend_from_slice(reason);
                Ok(())
            }
            Self::Other { name, data } => write_body(name, data, out),
        }
    }
}

/// Name and data of a command.
pub(super) fn split(body: &[u8]) -> Result<(&[u8], &[u8]), ZmtpError> {
    let (length, rest) = body.split_first().ok_or(ZmtpError::Command)?;
    match rest.split_at_checked(usize::from(*length)) {
        Some((name, data)) if !name.is_empty() => Ok((name, data)),
        _ => Err(ZmtpError::Command),
    }
}

/// The reason in the data of an ERROR. A peer that fails anyway is not asked for perfect grammar.
pub(super) fn error_reason(data: &[u8]) -> Result<&[u8], ZmtpError> {
    let (length, rest) = data.split_first().ok_or(ZmtpError::Command)?;
    rest.get(..usize::from(*length)).ok_or(ZmtpError::Command)
}

fn context_of(context: &[u8], lenient: bool) -> Result<&[u8], ZmtpError> {
    match context.get(..MAX_CONTEXT) {
        Some(cut) if lenient => Ok(cut),
        Some(cut) if cut.len() < context.len() => Err(ZmtpError::Heartbeat),
        _ => Ok(context),
    }
}

fn write_body(name: &[u8], data: &[u8], out: &mut Vec<u8>) -> Result<(), SendError> {
    let length = u8::try_from(name.len()).ok().filter(|length| *length > 0).ok_or(SendError::TooLong)?;
    out.push(length);
    out.extend_from_slice(name);
    out.extend_from_slice(data);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        let commands = [
            Command::Subscribe(b"AB"),
            Command::Cancel(b""),
            Command::Join(b"g"),
            Command::Leave(b"g"),
            Command::Ping { ttl: 300, context: b"0123456789abcdef" },
            Command::Pong(b"x"),
            Command::Error(b"400"),
            Command::Other { name: b"WHATEVER", data: b"\0\x01" },
        ];
        for command in commands {
            let mut out = Vec::new();
            command.write(&mut out).unwrap();
            assert_eq!(Command::parse(&out, false), Ok(command));
        }
        let mut out = Vec::new();
        Command::Subscribe(b"AB").write(&mut out).unwrap();
        assert_eq!(out, b"\x09SUBSCRIBEAB", "as libzmq sends it");
    }

    #[test]
    fn malformed() {
        for body in [&b""[..], b"\0", b"\0PING", b"\x05PING", b"\x05ERROR", b"\x05ERROR\x02x"] {
            assert_eq!(Command::parse(body, true), Err(ZmtpError::Command), "{body:?}");
        }
        assert_eq!(Command::parse(b"\x04PING\0", false), Err(ZmtpError::Heartbeat));
        let long = b"\x04PONG0123456789abcdefg";
        assert_eq!(Command::parse(long, false), Err(ZmtpError::Heartbeat));
        assert_eq!(Command::parse(long, true), Ok(Command::Pong(b"0123456789abcdef")));
        let mut out = Vec::new();
        assert_eq!(Command::Pong(&[0; 17]).write(&mut out), Err(SendError::TooLong));
        assert_eq!(Command::Error(&[0; 256]).write(&mut out), Err(SendError::TooLong));
        assert_eq!(Command::Other { name: b"", data: b"" }.write(&mut out), Err(SendError::TooLong));
        assert!(out.is_empty());
    }
}
