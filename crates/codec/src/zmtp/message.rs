//! Frames as they come, and whole messages made of them.

use smallvec::SmallVec;

/// A piece of a message frame. A frame that lies whole in what was read is one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Octets of the frame, a slice of what was given (of what was opened, with CURVE). Empty only if the frame is.
    pub payload: &'a [u8],
    /// Where in the frame the piece begins.
    pub offset: u64,
    /// Octets of the whole frame.
    pub length: u64,
    /// Whether another frame of the same message follows.
    pub more: bool,
}

impl Frame<'_> {
    /// Whether the frame begins with this piece.
    pub const fn is_first(&self) -> bool {
        self.offset == 0
    }

    /// Whether the frame ends with this piece.
    pub const fn is_last(&self) -> bool {
        self.offset + self.payload.len() as u64 == self.length
    }

    /// Whether the message ends with this piece.
    pub const fn ends_message(&self) -> bool {
        self.is_last() && !self.more
    }
}

/// A message: one or more frames, side by side in one piece of memory.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// The frames, and behind them whatever was there before.
    bytes: Vec<u8>,
    ends: SmallVec<[usize; 4]>,
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.frames().eq(other.frames())
    }
}

impl Eq for Message {}

impl Message {
    /// Adds a frame.
    pub fn push(&mut self, payload: &[u8]) {
        self.bytes.truncate(self.payload_bytes());
        self.bytes.extend_from_slice(payload);
        self.ends.push(self.bytes.len());
    }

    /// The frames in their order.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        (0..self.ends.len()).map(|index| self.frame(index).unwrap_or_default())
    }

    /// A frame by its place.
    pub fn frame(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.bytes.get(start..end)
    }

    /// How many frames; 0 only of a message that is being made.
    pub fn frame_count(&self) -> usize {
        self.ends.len()
    }

    /// Octets of all payloads.
    pub fn payload_bytes(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Its memory, for [`Assembler::lend`].
    pub fn into_memory(self) -> Vec<u8> {
        self.bytes
    }
}

impl<'a> FromIterator<&'a [u8]> for Message {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(frames: I) -> Self {
        let mut message = Self::default();
        for frame in frames {
            message.push(frame);
        }
        message
    }
}

/// Makes whole messages of the pieces. What it holds is bounded by the limits that the connection applied to them,
/// and its memory by twice of what has come, or by [what was lent](Self::lend): never by a length that was only announced.
#[derive(Debug, Default)]
pub struct Assembler {
    message: Message,
    /// Octets of the message that have come.
    filled: usize,
}

impl Assembler {
    /// Adds a piece; the message, if it is whole with that. Pieces are given in their order, all of them. If the
    /// connection ends before, nothing of the message is ever seen.
    pub fn push(&mut self, frame: &Frame<'_>) -> Option<Message> {
        let bytes = &mut self.message.bytes;
        let end = self.filled + frame.payload.len();
        if let Some(room) = bytes.get_mut(self.filled..end) {
            room.copy_from_slice(frame.payload);
        } else {
            bytes.truncate(self.filled);
            if !frame.is_last() && bytes.capacity() < end {
                // At most doubled, and not beyond what the frame is to have: the usual growth would go over that.
                let missing = usize::try_from(frame.length - frame.offset).unwrap_or(usize::MAX);
                bytes.reserve_exact(bytes.len().clamp(frame.payload.len(), missing.max(frame.payload.len())));
            }
            bytes.extend_from_slice(frame.payload);
        }
        self.filled = end;
        if !frame.is_last() {
            return None;
        }
        self.message.ends.push(end);
        (!frame.more).then(|| {
            self.filled = 0;
            std::mem::take(&mut self.message)
        })
    }

    /// Puts the message that is being made into this memory, if that is larger than its own: whoever has carried a large
    /// message spares the next one to grow step by step.
    pub fn lend(&mut self, mut memory: Vec<u8>) {
        let front = self.message.bytes.get(..self.filled).unwrap_or_default();
        if memory.len() > self.message.bytes.capacity()
            && let Some(room) = memory.get_mut(..self.filled)
        {
            room.copy_from_slice(front);
            self.message.bytes = memory;
        }
    }

    /// Memory that was lent and not used yet, to receive into, at most `most` octets of it: the next of the frame that
    /// has begun, of which there must be more than that. [`Self::advance`] says how many have come.
    pub fn room(&mut self, most: usize) -> &mut [u8] {
        let room = self.message.bytes.get_mut(self.filled..).unwrap_or_default();
        let most = most.min(room.len());
        room.get_mut(..most).unwrap_or_default()
    }

    /// So many octets have come into the [room](Self::room).
    pub fn advance(&mut self, octets: usize) {
        self.filled = (self.filled + octets).min(self.message.bytes.len());
    }

    /// Whether a message has begun and is not whole.
    pub fn is_within(&self) -> bool {
        self.filled > 0 || !self.message.ends.is_empty()
    }

    /// Octets of memory that are held.
    pub fn capacity(&self) -> usize {
        self.message.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_messages() {
        let mut assembler = Assembler::default();
        let piece = |payload, offset, length, more| Frame { payload, offset, length, more };
        assert_eq!(assembler.push(&piece(b"", 0, 0, true)), None);
        assert!(assembler.is_within());
        assert_eq!(assembler.push(&piece(b"he", 0, 5, true)), None);
        assert_eq!(assembler.push(&piece(b"llo", 2, 5, true)), None);
        let message = assembler.push(&piece(b"x", 0, 1, false)).unwrap();
        assert!(!assembler.is_within());
        assert_eq!(message.frames().collect::<Vec<_>>(), [&b""[..], b"hello", b"x"]);
        assert_eq!((message.frame(0), message.frame(1), message.frame(3)), (Some(&b""[..]), Some(&b"hello"[..]), None));
        assert_eq!((message.frame_count(), message.payload_bytes()), (3, 6));
        assert_eq!(message, [&b""[..], b"hello", b"x"].into_iter().collect());
        assert_eq!(message.frames().len(), 3);
    }

    #[test]
    fn memory_that_is_lent_keeps_what_has_come() {
        let piece = |payload, offset, length, more| Frame { payload, offset, length, more };
        let mut assembler = Assembler::default();
        assert_eq!(assembler.push(&piece(b"id", 0, 2, true)), None);
        assembler.lend(vec![1; 1000]);
        assembler.lend(vec![2; 10]);
        assert_eq!(assembler.push(&piece(&[7; 400], 0, 800, false)), None);
        assembler.room(300).fill(7);
        assembler.advance(300);
        assert_eq!(assembler.capacity(), 1000);
        let message = assembler.push(&piece(&[7; 100], 700, 800, false)).unwrap();
        assert_eq!((message.frame(0), message.frame(1)), (Some(&b"id"[..]), Some(&[7; 800][..])));
        assert_eq!((message.payload_bytes(), message.into_memory().len()), (802, 1000));
        assert_eq!(assembler.room(1).len(), 0, "nothing was lent to the next");
    }

    #[test]
    fn memory_follows_what_came() {
        let mut assembler = Assembler::default();
        let announced = 1 << 40;
        let mut came = 0;
        for _ in 0..1000 {
            let piece = [7; 1000];
            assert_eq!(assembler.push(&Frame { payload: &piece, offset: came, length: announced, more: false }), None);
            came += 1000;
            assert!(assembler.capacity() as u64 <= 2 * came, "{} held for {came}", assembler.capacity());
        }
        let mut exact = Assembler::default();
        assert_eq!(exact.push(&Frame { payload: &[0; 600], offset: 0, length: 1000, more: true }), None);
        assert_eq!(exact.push(&Frame { payload: &[0; 300], offset: 600, length: 1000, more: true }), None);
        assert_eq!(exact.capacity(), 1000, "not beyond the frame");
    }
}
