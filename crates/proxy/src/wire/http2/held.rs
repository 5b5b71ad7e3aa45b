//! Data that was received and not taken.

use crate::buffer::WriteBuffer;
use std::collections::VecDeque;

/// Memory of this size is lent by the thread and goes back to it.
const BLOCK: usize = 64 * 1024;

/// Octets in the order in which they came. Empty, they hold no memory.
#[derive(Default)]
pub(super) struct Held {
    front: WriteBuffer,
    /// Octets of `front` that were taken.
    taken: usize,
    rest: VecDeque<WriteBuffer>,
    len: usize,
}

impl Held {
    /// All octets.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, mut data: &[u8]) {
        self.len += data.len();
        while !data.is_empty() {
            let block = self.rest.back_mut().unwrap_or(&mut self.front);
            if block.capacity() == 0 {
                *block = WriteBuffer::new();
            }
            let (fits, more) = data.split_at(data.len().min(BLOCK - block.len()));
            block.extend_from_slice(fits);
            data = more;
            if !data.is_empty() {
                self.rest.push_back(WriteBuffer::new());
            }
        }
    }

    /// The first of them, as far as they lie together.
    pub(super) fn front(&self) -> &[u8] {
        self.front.get(self.taken..).unwrap_or_default()
    }

    /// Takes octets off [`Self::front`]; says how many.
    pub(super) fn consume(&mut self, octets: usize) -> usize {
        let octets = octets.min(self.front().len());
        self.taken += octets;
        self.len -= octets;
        if self.taken == self.front.len() {
            self.taken = 0;
            self.front = self.rest.pop_front().unwrap_or_default();
            if self.rest.is_empty() {
                self.rest = VecDeque::new();
            }
        }
        octets
    }

    /// Throws all away.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order_and_leaves_no_memory() {
        let mut held = Held::default();
        let all: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let mut out = Vec::new();
        for part in all.chunks(30_001) {
            held.push(part);
            held.push(&[]);
            let front = held.front();
            let some = front.len().min(9_999);
            out.extend_from_slice(&front[..some]);
            assert_eq!(held.consume(some), some);
        }
        assert_eq!(held.len() + out.len(), all.len());
        while held.len() > 0 {
            out.extend_from_slice(held.front());
            held.consume(usize::MAX);
        }
        assert!(out == all);
        assert_eq!((held.front().len(), held.front.capacity(), held.rest.capacity()), (0, 0, 0));
    }
}
