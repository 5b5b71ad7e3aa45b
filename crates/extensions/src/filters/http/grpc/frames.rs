//! The frames of a gRPC body: a flag, the length in four octets, the message.

/// Octets before each message.
pub(crate) const HEAD: usize = 5;

/// Follows the frames of a body as it passes, whatever pieces it comes in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frames {
    head: [u8; HEAD],
    /// How much of the head is there.
    head_len: usize,
    /// What is left of the message.
    left: u32,
    count: u64,
}

impl Frames {
    /// How many frames have begun.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Sees data pass; says how many frames begin in it.
    pub(crate) fn inspect(&mut self, mut data: &[u8]) -> u64 {
        let before = self.count;
        while !data.is_empty() {
            let (len, _) = self.next(data);
            data = data.get(len..).unwrap_or_default();
        }
        self.count - before
    }

    /// How many octets of the data belong to the frame at its beginning, at least one; and whether the frame ends there.
    pub(crate) fn next(&mut self, data: &[u8]) -> (usize, bool) {
        let missing = HEAD - self.head_len;
        let taken = missing.min(data.len());
        if taken > 0 {
            self.count += u64::from(self.head_len == 0);
            for (slot, octet) in self.head.iter_mut().skip(self.head_len).zip(data) {
                *slot = *octet;
            }
            self.head_len += taken;
            if self.head_len < HEAD {
                return (taken, false);
            }
            let [_, a, b, c, d] = self.head;
            self.left = u32::from_be_bytes([a, b, c, d]);
        }
        let rest = data.len() - taken;
        let message = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest);
        self.left -= u32::try_from(message).unwrap_or(self.left);
        let ends = self.left == 0;
        if ends {
            self.head_len = 0;
        }
        (taken + message, ends)
    }
}

/// The head of a frame with so many octets.
pub(crate) fn head(flag: u8, len: usize) -> [u8; HEAD] {
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [flag, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_in_any_pieces() {
        let body = [&head(0, 3)[..], b"abc", &head(1, 0), &head(0, 300), &[b'x'; 300]].concat();
        for size in 1..body.len() {
            let mut frames = Frames::default();
            let mut ends = Vec::new();
            let mut at = 0;
            for piece in body.chunks(size) {
                let mut piece = piece;
                while !piece.is_empty() {
                    let (len, end) = frames.next(piece);
                    assert!(len > 0 && len <= piece.len());
                    at += len;
                    if end {
                        ends.push(at);
                    }
                    piece = &piece[len..];
                }
            }
            assert_eq!((ends, frames.count()), (vec![8, 13, 318], 3), "pieces of {size}");
        }
        let mut frames = Frames::default();
        assert_eq!((frames.inspect(&body[..9]), frames.inspect(&body[9..])), (2, 1));
    }
}
