//! Frames of all versions: their headers, read octet by octet if need be, and written.

use super::ZmtpError;

/// MORE: another frame of the same message follows.
pub(super) const MORE: u8 = 1;
/// LONG: the length has eight octets. (Not in 1.0.)
pub(super) const LONG: u8 = 2;
/// COMMAND: no message. (Since 3.0.)
pub(super) const COMMAND: u8 = 4;

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// RFC 13: `length flags body`, where the length counts the flags.
    V1,
    /// RFC 15 and later: `flags length body`.
    V2,
}

/// What stands before a frame's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// As on the wire.
    pub flags: u8,
    /// Octets of the body.
    pub length: u64,
}

/// Reads headers, whole or in pieces. It holds at most the beginning of one.
#[derive(Debug, Default)]
pub(super) struct HeaderReader {
    bytes: [u8; 10],
    have: u8,
}

impl HeaderReader {
    /// Takes octets of `input` up to the end of a header, if that is there; otherwise all of them.
    #[inline]
    pub(super) fn read(&mut self, input: &[u8], framing: Framing) -> Result<(usize, Option<FrameHeader>), ZmtpError> {
        if self.have == 0
            && let Some((size, header)) = parse(input, framing)?
        {
            return Ok((size, Some(header)));
        }
        self.read_piece(input, framing)
    }

    fn read_piece(&mut self, input: &[u8], framing: Framing) -> Result<(usize, Option<FrameHeader>), ZmtpError> {
        let mut taken = 0;
        for octet in input {
            if let Some(place) = self.bytes.get_mut(usize::from(self.have)) {
                *place = *octet;
                self.have += 1;
            }
            taken += 1;
            let have = self.bytes.get(..usize::from(self.have)).unwrap_or_default();
            if let Some((_, header)) = parse(have, framing)? {
                self.have = 0;
                return Ok((taken, Some(header)));
            }
        }
        Ok((taken, None))
    }

    /// Whether the beginning of a header has come.
    pub(super) fn is_within(&self) -> bool {
        self.have != 0
    }
}

/// A header at the beginning of `bytes` and its size, if it is whole.
#[inline]
fn parse(bytes: &[u8], framing: Framing) -> Result<Option<(usize, FrameHeader)>, ZmtpError> {
    let (size, flags, length) = match (framing, bytes) {
        (Framing::V2, [flags, rest @ ..]) if flags & LONG == 0 => match rest.first() {
            Some(length) => (2, *flags, u64::from(*length)),
            None => return Ok(None),
        },
        (Framing::V2, [flags, rest @ ..]) => match rest.first_chunk() {
            Some(length) => (9, *flags, u64::from_be_bytes(*length)),
            None => return Ok(None),
        },
        (Framing::V1, [0xff, rest @ ..]) => match (rest.first_chunk(), rest.get(8)) {
            (Some(length), Some(flags)) => (10, *flags, behind_flags(u64::from_be_bytes(*length))?),
            _ => return Ok(None),
        },
        (Framing::V1, [length, rest @ ..]) => {
            // A frame without flags is known to be wrong before the flags would come.
            let length = behind_flags(u64::from(*length))?;
            match rest.first() {
                Some(flags) => (2, *flags, length),
                None => return Ok(None),
            }
        }
        (_, []) => return Ok(None),
    };
    // RFC 15, 37: 0 to 2^63-1 octets.
    if length > i64::MAX as u64 { Err(ZmtpError::FrameLength) } else { Ok(Some((size, FrameHeader { flags, length }))) }
}

fn behind_flags(length: u64) -> Result<u64, ZmtpError> {
    length.checked_sub(1).ok_or(ZmtpError::FrameLength)
}

/// Writes a header with the short form where that is possible. `flags` without LONG.
#[inline]
pub(super) fn write_header(framing: Framing, flags: u8, length: u64, out: &mut Vec<u8>) {
    match framing {
        Framing::V2 => match u8::try_from(length) {
            Ok(length) => out.extend_from_slice(&[flags, length]),
            Err(_) => {
                out.push(flags | LONG);
                out.extend_from_slice(&length.to_be_bytes());
            }
        },
        Framing::V1 => {
            let length = length.saturating_add(1);
            match u8::try_from(length) {
                Ok(length) if length != 0xff => out.push(length),
                _ => {
                    out.push(0xff);
                    out.extend_from_slice(&length.to_be_bytes());
                }
            }
            out.push(flags);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(framing: Framing, flags: u8, length: u64) -> Vec<u8> {
        let mut out = Vec::new();
        write_header(framing, flags, length, &mut out);
        out
    }

    #[test]
    fn headers_as_observed() {
        assert_eq!(written(Framing::V2, MORE, 0), [1, 0]);
        assert_eq!(written(Framing::V2, 0, 255), [0, 255]);
        assert_eq!(written(Framing::V2, 0, 256), [2, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(written(Framing::V2, MORE, 256), [3, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(written(Framing::V1, 0, 0), [1, 0]);
        assert_eq!(written(Framing::V1, MORE, 0), [1, 1]);
        assert_eq!(written(Framing::V1, 0, 253), [254, 0]);
        assert_eq!(written(Framing::V1, 0, 254), [255, 0, 0, 0, 0, 0, 0, 0, 255, 0]);
    }

    #[test]
    fn what_is_written_is_read_in_any_split() {
        for framing in [Framing::V1, Framing::V2] {
            for length in [0, 1, 252, 253, 254, 255, 256, 70_000, i64::MAX as u64 - 1] {
                let mut bytes = written(framing, MORE, length);
                let size = bytes.len();
                bytes.push(0xaa);
                for split in 0..=size {
                    let mut reader = HeaderReader::default();
                    let (first, early) = reader.read(&bytes[..split], framing).unwrap();
                    assert_eq!(first, split);
                    let header = early.unwrap_or_else(|| {
                        let (second, header) = reader.read(&bytes[split..], framing).unwrap();
                        assert_eq!(first + second, size);
                        header.unwrap()
                    });
                    assert_eq!((header.flags & !LONG, header.length), (MORE, length));
                    assert!(!reader.is_within());
                }
            }
        }
    }

    #[test]
    fn impossible_lengths() {
        let read = |bytes: &[u8], framing| HeaderReader::default().read(bytes, framing);
        assert_eq!(read(&[0], Framing::V1), Err(ZmtpError::FrameLength));
        assert_eq!(read(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0], Framing::V1), Err(ZmtpError::FrameLength));
        assert_eq!(read(&[2, 0x80, 0, 0, 0, 0, 0, 0, 0], Framing::V2), Err(ZmtpError::FrameLength));
        assert_eq!(
            read(&[2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Framing::V2),
            Err(ZmtpError::FrameLength)
        );
        let largest = FrameHeader { flags: LONG, length: i64::MAX as u64 };
        let bytes = [2, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(read(&bytes, Framing::V2), Ok((9, Some(largest))));
    }
}
