//! Frame heads, and the frames that we write (RFC 9113 §4, §6).

use super::ErrorCode;

/// Octets of a frame's head.
pub(super) const HEAD_LEN: usize = 9;
/// Largest payload that we accept: the protocol's default, which we never raise. Larger frames would only let one
/// stream hold up the others.
pub(super) const MAX_PAYLOAD: u32 = 16_384;
/// Largest stream identifier and largest window.
pub(super) const MAX_31: u32 = 0x7fff_ffff;

/// Frame types.
pub(super) mod kind {
    pub(in crate::http2) const DATA: u8 = 0;
    pub(in crate::http2) const HEADERS: u8 = 1;
    pub(in crate::http2) const PRIORITY: u8 = 2;
    pub(in crate::http2) const RST_STREAM: u8 = 3;
    pub(in crate::http2) const SETTINGS: u8 = 4;
    pub(in crate::http2) const PUSH_PROMISE: u8 = 5;
    pub(in crate::http2) const PING: u8 = 6;
    pub(in crate::http2) const GOAWAY: u8 = 7;
    pub(in crate::http2) const WINDOW_UPDATE: u8 = 8;
    pub(in crate::http2) const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub(super) mod flag {
    pub(in crate::http2) const END_STREAM: u8 = 0x1;
    pub(in crate::http2) const ACK: u8 = 0x1;
    pub(in crate::http2) const END_HEADERS: u8 = 0x4;
    pub(in crate::http2) const PADDED: u8 = 0x8;
    pub(in crate::http2) const PRIORITY: u8 = 0x20;
}

/// The nine octets before each payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// Octets of payload.
    pub(super) len: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// Stream identifier, reserved bit removed.
    pub(super) stream: u32,
}

impl FrameHead {
    /// Reads a head.
    #[inline]
    pub(super) fn parse(octets: &[u8; HEAD_LEN]) -> Self {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *octets;
        Self {
            len: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & MAX_31,
        }
    }

    /// The head's octets.
    #[inline]
    pub(super) fn octets(self) -> [u8; HEAD_LEN] {
        let [_, a, b, c] = self.len.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s0, s1, s2, s3]
    }

    /// Whether all of these flags are set.
    #[inline]
    pub(super) fn has(self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Frames of which Envoy limits how many may wait in the output: answers that a peer can ask for at no cost.
    pub(super) fn is_control_answer(self) -> bool {
        match self.kind {
            kind::RST_STREAM => true,
            kind::PING | kind::SETTINGS => self.has(flag::ACK),
            _ => false,
        }
    }
}

/// Appends a frame with a short payload.
pub(super) fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[&[u8]]) {
    let len = payload.iter().map(|part| part.len()).sum::<usize>();
    // Callers' payloads are far below 2^24.
    let head = FrameHead { len: u32::try_from(len).unwrap_or(MAX_PAYLOAD), kind, flags, stream };
    out.reserve(HEAD_LEN + len);
    out.extend_from_slice(&head.octets());
    for part in payload {
        out.extend_from_slice(part);
    }
}

pub(super) fn write_rst_stream(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    write(out, kind::RST_STREAM, 0, stream, &[&code.0.to_be_bytes()]);
}

pub(super) fn write_window_update(out: &mut Vec<u8>, stream: u32, octets: u32) {
    write(out, kind::WINDOW_UPDATE, 0, stream, &[&octets.to_be_bytes()]);
}

pub(super) fn write_settings_ack(out: &mut Vec<u8>) {
    write(out, kind::SETTINGS, flag::ACK, 0, &[]);
}

pub(super) fn write_ping(out: &mut Vec<u8>, payload: [u8; 8], is_ack: bool) {
    write(out, kind::PING, if is_ack { flag::ACK } else { 0 }, 0, &[&payload]);
}

pub(super) fn write_goaway(out: &mut Vec<u8>, last_stream: u32, code: ErrorCode, debug: &[u8]) {
    let debug = debug.get(..debug.len().min(MAX_DEBUG)).unwrap_or_default();
    write(out, kind::GOAWAY, 0, 0, &[&last_stream.to_be_bytes(), &code.0.to_be_bytes(), debug]);
}

/// Debug data is words for a human: more than this is cut off, in both directions.
pub(super) const MAX_DEBUG: usize = 256;

/// Big-endian number at `at`; 0 behind the end.
pub(super) fn u32_at(payload: &[u8], at: usize) -> u32 {
    payload.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |octets| u32::from_be_bytes(*octets))
}

/// Takes padding off a payload (RFC 9113 §6.1); `None` when it is longer than the payload.
pub(super) fn without_padding(head: FrameHead, payload: &[u8]) -> Option<&[u8]> {
    if !head.has(flag::PADDED) {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_round_trip_and_lose_the_reserved_bit() {
        let head = FrameHead { len: 0x01_0203, kind: 9, flags: 0x2d, stream: 0x7fff_fffe };
        assert_eq!(FrameHead::parse(&head.octets()), head);
        let octets = [0, 0, 0, 0, 0, 0x80, 0, 0, 1];
        assert_eq!(FrameHead::parse(&octets).stream, 1);
    }

    #[test]
    fn padding() {
        let head = FrameHead { len: 0, kind: kind::HEADERS, flags: flag::PADDED, stream: 1 };
        assert_eq!(without_padding(head, &[2, b'a', 0, 0]), Some(&b"a"[..]));
        assert_eq!(without_padding(head, &[3, 0, 0, 0]), Some(&b""[..]));
        assert_eq!(without_padding(head, &[4, 0, 0, 0]), None);
        assert_eq!(without_padding(head, &[]), None);
        assert_eq!(without_padding(FrameHead { flags: 0, ..head }, &[9]), Some(&[9][..]));
    }

    #[test]
    fn debug_data_is_cut() {
        let mut out = Vec::new();
        write_goaway(&mut out, 3, ErrorCode::PROTOCOL_ERROR, &[b'x'; 1000]);
        assert_eq!(out.len(), HEAD_LEN + 8 + MAX_DEBUG);
        assert_eq!((u32_at(&out, 9), u32_at(&out, 13), u32_at(&out, 1000)), (3, 1, 0));
    }
}
