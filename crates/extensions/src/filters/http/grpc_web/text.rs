//! Bodies as base64 (`application/grpc-web-text`), in whatever pieces they come.

use crate::filters::http::grpc::frames::Frames;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

/// No base64, or not all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    /// The end is missing: groups are of four.
    Size,
    /// A character that does not belong there.
    Data,
}

/// Decodes a body. Padding may stand at the end of any group, as clients join what they encoded bit by bit.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a group.
    group: [u8; 4],
    len: usize,
}

impl Decoder {
    /// The octets of the groups that are whole.
    pub(super) fn decode(&mut self, data: &[u8], end: bool) -> Result<Bytes, Malformed> {
        let mut out = Vec::with_capacity((self.len + data.len()) / 4 * 3);
        for c in data {
            if let Some(slot) = self.group.get_mut(self.len) {
                *slot = *c;
            }
            self.len += 1;
            if self.len == self.group.len() {
                self.len = 0;
                out.extend_from_slice(&STANDARD.decode(self.group).map_err(|_| Malformed::Data)?);
            }
        }
        if end && self.len > 0 { Err(Malformed::Size) } else { Ok(out.into()) }
    }
}

/// Encodes a body, each frame for itself, so that a client can read a frame as soon as it is there.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    frames: Frames,
    /// Octets of a frame that wait for a third one.
    rest: Vec<u8>,
}

impl Encoder {
    /// The characters of what is whole: groups of three octets, and ends of frames.
    pub(super) fn encode(&mut self, mut data: &[u8]) -> Bytes {
        let mut out = String::with_capacity(data.len() / 3 * 4 + 8);
        while !data.is_empty() {
            let (len, ends) = self.frames.next(data);
            let (frame, next) = data.split_at_checked(len).unwrap_or((data, &[]));
            data = next;
            let joined = [&self.rest, frame].concat();
            let whole = if ends { joined.len() } else { joined.len() / 3 * 3 };
            let (now, later) = joined.split_at_checked(whole).unwrap_or((&joined, &[]));
            STANDARD.encode_string(now, &mut out);
            self.rest = later.to_vec();
        }
        out.into()
    }

    /// What is left of a frame that has been cut off.
    pub(super) fn finish(&mut self) -> String {
        STANDARD.encode(std::mem::take(&mut self.rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::http::grpc::frames;

    #[test]
    fn decoded_in_any_pieces() {
        let text = b"AAAAAAM=YWJjAAE=";
        for size in 1..=text.len() {
            let mut decoder = Decoder::default();
            let out: Vec<u8> =
                text.chunks(size).flat_map(|piece| decoder.decode(piece, false).unwrap().to_vec()).collect();
            assert_eq!(out, b"\0\0\0\0\x03abc\0\x01", "pieces of {size}");
            assert_eq!(decoder.decode(b"", true).unwrap(), "");
        }
        assert_eq!(Decoder::default().decode(b"AAA", true), Err(Malformed::Size));
        assert_eq!(Decoder::default().decode(b"A*AA", false), Err(Malformed::Data));
        assert_eq!(Decoder::default().decode(b"A=AA", false), Err(Malformed::Data));
    }

    #[test]
    fn encoded_frame_by_frame() {
        let body = [&frames::head(0, 3)[..], b"abc", &frames::head(0, 1), b"d"].concat();
        let expected = [STANDARD.encode(&body[..8]), STANDARD.encode(&body[8..])].concat();
        for size in 1..=body.len() {
            let mut encoder = Encoder::default();
            let out: Vec<u8> = body.chunks(size).flat_map(|piece| encoder.encode(piece).to_vec()).collect();
            assert_eq!(out, expected.as_bytes(), "pieces of {size}");
            assert_eq!(encoder.finish(), "");
        }
        let mut encoder = Encoder::default();
        assert_eq!((encoder.encode(b"\0\0\0\0"), encoder.finish()), ("AAAA".into(), "AA==".into()));
    }
}
