//! What waits to be written, and how many frames that is.

use super::frame::{self, FrameHead, HEAD_LEN};

/// Frames, one behind the other. How many wait is known exactly at any time: as octets leave, the heads among them
/// are read again.
#[derive(Debug, Default)]
pub(super) struct Output {
    buf: Vec<u8>,
    /// Octets at the front of `buf` that are written.
    start: usize,
    /// Octets of the first frame that are not written; 0 when its head comes next.
    first_left: usize,
    first_is_control: bool,
    frames: u32,
    control_frames: u32,
    /// Where the last frame begins and whose it is, as long as none of it was written and it can end a stream.
    last: Option<(usize, u32)>,
}

impl Output {
    /// What is to be written next.
    #[inline]
    pub(super) fn pending(&self) -> &[u8] {
        self.buf.get(self.start..).unwrap_or_default()
    }

    /// How many octets that is.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.buf.len() - self.start
    }

    /// Frames that are not written whole.
    #[inline]
    pub(super) fn frames(&self) -> u32 {
        self.frames
    }

    /// Those of them that a peer can ask for at no cost.
    #[inline]
    pub(super) fn control_frames(&self) -> u32 {
        self.control_frames
    }

    /// Octets that are no frames, before everything else: the client's preface.
    pub(super) fn push_preface(&mut self, preface: &[u8]) {
        debug_assert!(self.buf.is_empty(), "the preface comes first");
        self.buf.extend_from_slice(preface);
        self.first_left = preface.len();
        self.frames += 1;
    }

    /// Memory to append one frame that counts as a control frame or not.
    #[inline]
    pub(super) fn frame(&mut self, is_control: bool) -> &mut Vec<u8> {
        self.frames += 1;
        self.control_frames += u32::from(is_control);
        self.last = None;
        &mut self.buf
    }

    /// Appends a frame of payload.
    #[inline]
    pub(super) fn push(&mut self, head: FrameHead, payload: &[u8]) {
        let at = self.buf.len();
        let buf = self.frame(false);
        buf.reserve(HEAD_LEN + payload.len());
        buf.extend_from_slice(&head.octets());
        buf.extend_from_slice(payload);
        self.last = Some((at, head.stream));
    }

    /// Ends a stream with what was appended last, if that is its head or its data and waits as a whole.
    pub(super) fn end_with_last(&mut self, stream: u32) -> bool {
        let Some((at, _)) = self.last.filter(|(_, of)| *of == stream) else { return false };
        let Some(flags) = self.buf.get_mut(at + FLAGS_AT) else { return false };
        *flags |= frame::flag::END_STREAM;
        true
    }

    /// Appends HEADERS, and CONTINUATION where the block needs it. `encode` appends the block; what it appended is
    /// taken back when it fails.
    pub(super) fn push_block<E>(
        &mut self,
        stream: u32,
        end_stream: bool,
        max_payload: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let at = self.buf.len();
        self.buf.extend_from_slice(&[0; HEAD_LEN]);
        if let Err(error) = encode(&mut self.buf) {
            self.buf.truncate(at);
            return Err(error);
        }
        self.frames += 1;
        self.last = Some((at, stream));
        let end = if end_stream { frame::flag::END_STREAM } else { 0 };
        let len = self.buf.len() - at - HEAD_LEN;
        let head = |len: usize, kind, flags| FrameHead { len: len as u32, kind, flags, stream }.octets();
        if len <= max_payload {
            let octets = head(len, frame::kind::HEADERS, end | frame::flag::END_HEADERS);
            self.patch(at, &octets);
            return Ok(());
        }
        let rest = self.buf.split_off(at + HEAD_LEN + max_payload);
        self.patch(at, &head(max_payload, frame::kind::HEADERS, end));
        let mut parts = rest.chunks(max_payload).peekable();
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_none() { frame::flag::END_HEADERS } else { 0 };
            let octets = head(part.len(), frame::kind::CONTINUATION, flags);
            self.frames += 1;
            self.buf.extend_from_slice(&octets);
            self.buf.extend_from_slice(part);
        }
        Ok(())
    }

    fn patch(&mut self, at: usize, octets: &[u8; HEAD_LEN]) {
        if let Some(head) = self.buf.get_mut(at..at + HEAD_LEN) {
            head.copy_from_slice(octets);
        }
    }

    /// So many octets of [`Self::pending`] were written.
    pub(super) fn written(&mut self, octets: usize) {
        let mut left = octets.min(self.len());
        self.last = None;
        while left > 0 {
            if self.first_left == 0 {
                let Some(head) = self.pending().first_chunk::<HEAD_LEN>().map(FrameHead::parse) else { break };
                self.first_left = HEAD_LEN + head.len as usize;
                self.first_is_control = head.is_control_answer();
            }
            let step = left.min(self.first_left);
            left -= step;
            self.start += step;
            self.first_left -= step;
            if self.first_left == 0 {
                self.frames = self.frames.saturating_sub(1);
                self.control_frames = self.control_frames.saturating_sub(u32::from(self.first_is_control));
                self.first_is_control = false;
            }
        }
        if self.start == self.buf.len() {
            self.buf.clear();
            self.start = 0;
        } else if self.start > self.buf.len() / 2 && self.start > COMPACT {
            // More is gone than moves.
            self.buf.drain(..self.start);
            self.start = 0;
        }
    }

    /// Swaps memory while nothing waits: the caller's for ours, or back.
    pub(super) fn swap_memory(&mut self, other: &mut Vec<u8>) {
        if self.buf.is_empty() {
            other.clear();
            std::mem::swap(&mut self.buf, other);
        }
    }

    /// Gives memory back while nothing waits.
    pub(super) fn trim(&mut self) {
        if self.buf.is_empty() {
            self.buf = Vec::new();
        }
    }

    /// Octets of memory.
    pub(super) fn memory(&self) -> usize {
        self.buf.capacity()
    }
}

/// Where the flags are in the head of a frame.
const FLAGS_AT: usize = 4;

/// Below this, what is written is not worth moving the rest for.
const COMPACT: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::ErrorCode;

    #[test]
    fn frames_are_counted_as_octets_leave() {
        for step in [1, 3, 8, 9, 13, 40, 1000] {
            let mut output = Output::default();
            output.push_preface(b"PRI");
            frame::write_rst_stream(output.frame(true), 1, ErrorCode::CANCEL);
            output.push(FrameHead { len: 5, kind: frame::kind::DATA, flags: 0, stream: 1 }, b"12345");
            frame::write_ping(output.frame(true), [0; 8], true);
            frame::write_ping(output.frame(false), [0; 8], false);
            assert_eq!((output.frames(), output.control_frames()), (5, 2));
            let total = output.len();
            assert_eq!(total, 3 + 13 + 14 + 17 + 17);
            let mut written = 0;
            while output.len() > 0 {
                let octets = step.min(output.len());
                output.written(octets);
                written += octets;
                let left = [3, 16, 30, 47, 64].iter().filter(|end| **end > written).count();
                assert_eq!(output.frames() as usize, left, "step {step}, written {written}");
                let control = [16, 47].iter().filter(|end| **end > written).count();
                assert_eq!(output.control_frames() as usize, control);
            }
            output.trim();
            assert_eq!(output.memory(), 0);
        }
    }

    #[test]
    fn long_blocks_are_continued() {
        let mut output = Output::default();
        let block: Vec<u8> = (0..25).collect();
        let appended = output.push_block(3, true, 10, |out| {
            out.extend_from_slice(&block);
            Ok::<(), ()>(())
        });
        assert_eq!(appended, Ok(()));
        assert_eq!(output.frames(), 3);
        let mut rest = output.pending();
        let mut seen = Vec::new();
        while let Some((head, tail)) = rest.split_first_chunk::<HEAD_LEN>() {
            let head = FrameHead::parse(head);
            let (payload, tail) = tail.split_at(head.len as usize);
            seen.push((head.kind, head.flags, payload.to_vec()));
            rest = tail;
        }
        let parts: Vec<Vec<u8>> = block.chunks(10).map(<[u8]>::to_vec).collect();
        assert_eq!(seen, [(1, 1, parts[0].clone()), (9, 0, parts[1].clone()), (9, 4, parts[2].clone())]);
        assert_eq!(
            output.push_block(3, true, 10, |out| {
                out.push(1);
                Err(())
            }),
            Err(())
        );
        assert_eq!(output.frames(), 3);
    }
}
