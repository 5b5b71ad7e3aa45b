//! Memory for reading and writing, lent by the thread: connections that wait for the other side hold none.

use std::{
    cell::RefCell,
    io,
    ops::{Deref, DerefMut},
    task::{Poll, ready},
};

/// Room for a head and the first octets of a body.
pub const SMALL: usize = 16 * 1024;
/// Room for bodies that keep coming.
pub const LARGE: usize = 256 * 1024;
/// So many buffers are kept for the next user.
const KEPT_SMALL: usize = 64;
const KEPT_LARGE: usize = 8;
const KEPT_WRITE: usize = 64;
/// A written buffer of more capacity is not kept.
const LARGE_WRITE: usize = 64 * 1024;

#[derive(Default)]
struct Pool {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    write: Vec<Vec<u8>>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

fn take_memory(size: usize) -> Box<[u8]> {
    POOL.with_borrow_mut(|pool| match size {
        SMALL => pool.small.pop(),
        LARGE => pool.large.pop(),
        _ => None,
    })
    .unwrap_or_else(|| vec![0; size].into_boxed_slice())
}

fn give_memory(memory: Box<[u8]>) {
    // A thread that ends has no pool any more.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        match memory.len() {
            SMALL if pool.small.len() < KEPT_SMALL => pool.small.push(memory),
            LARGE if pool.large.len() < KEPT_LARGE => pool.large.push(memory),
            _ => {}
        }
    });
}

/// Bytes that were read and not used. Empty, it holds no memory.
#[derive(Default)]
pub struct ReadBuffer {
    memory: Box<[u8]>,
    start: u32,
    end: u32,
}

impl ReadBuffer {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes that were read and not used.
    pub fn unread(&self) -> &[u8] {
        self.memory.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Uses up the first `n` bytes. The last gives the memory back.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start as usize + n).min(self.end as usize) as u32;
        if self.start == self.end {
            self.clear();
        }
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
        if !self.memory.is_empty() {
            give_memory(std::mem::take(&mut self.memory));
        }
    }

    /// Calls `read` with room for at least one more octet, unless there are `max` already (`None`). The memory is as
    /// large as `max` asks for: at most [`SMALL`], at most [`LARGE`], or just `max`. While `read` is pending and there is
    /// nothing unread, no memory is held.
    pub fn poll_fill(
        &mut self,
        max: usize,
        read: impl FnOnce(&mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<Option<usize>>> {
        let (start, end) = (self.start as usize, self.end as usize);
        let unread = end - start;
        if unread >= max {
            return Poll::Ready(Ok(None));
        }
        if self.memory.is_empty() {
            self.memory = take_memory(if max <= LARGE && max > SMALL { LARGE } else { SMALL });
        } else if end == self.memory.len() {
            self.make_room();
        }
        let (start, end) = (self.start as usize, self.end as usize);
        let last = (start + max).min(self.memory.len()).min(u32::MAX as usize);
        let room = self.memory.get_mut(end..last).unwrap_or_default();
        let result = read(room);
        if !matches!(result, Poll::Ready(Ok(n)) if n > 0) && unread == 0 {
            self.clear();
        }
        let n = ready!(result)?;
        self.end = (end + n).min(last) as u32;
        Poll::Ready(Ok(Some(n)))
    }

    /// Moves the bytes to the front, or into memory of twice the size where they fill it.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.memory.copy_within(self.start as usize..self.end as usize, 0);
        } else {
            let mut larger = take_memory(self.memory.len() * 2);
            if let Some(front) = larger.get_mut(..self.end as usize) {
                front.copy_from_slice(self.unread());
            }
            give_memory(std::mem::replace(&mut self.memory, larger));
        }
        self.end -= self.start;
        self.start = 0;
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A `Vec` that is lent by the thread and goes back when it is dropped.
#[derive(Default)]
pub struct WriteBuffer(Vec<u8>);

impl WriteBuffer {
    /// An empty one.
    pub fn new() -> Self {
        Self(POOL.with_borrow_mut(|pool| pool.write.pop()).unwrap_or_default())
    }
}

impl Deref for WriteBuffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for WriteBuffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.0);
        if memory.capacity() == 0 || memory.capacity() > LARGE_WRITE {
            return;
        }
        memory.clear();
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.write.len() < KEPT_WRITE {
                pool.write.push(memory);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffer: &mut ReadBuffer, max: usize, bytes: &[u8]) -> Poll<io::Result<Option<usize>>> {
        buffer.poll_fill(max, |room| {
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
            Poll::Ready(Ok(n))
        })
    }

    #[test]
    fn holds_memory_only_while_it_holds_bytes() {
        let mut buffer = ReadBuffer::new();
        assert!(buffer.poll_fill(SMALL, |_| Poll::Pending).is_pending());
        assert!(buffer.memory.is_empty());
        assert!(matches!(fill(&mut buffer, SMALL, b"abc"), Poll::Ready(Ok(Some(3)))));
        buffer.consume(1);
        assert_eq!(buffer.unread(), b"bc");
        assert!(matches!(fill(&mut buffer, SMALL, b"d"), Poll::Ready(Ok(Some(1)))));
        assert_eq!(buffer.unread(), b"bcd");
        assert!(buffer.poll_fill(SMALL, |_| Poll::Pending).is_pending());
        assert_eq!(buffer.unread(), b"bcd");
        buffer.consume(3);
        assert!(buffer.memory.is_empty());
    }

    #[test]
    fn never_holds_more_than_was_allowed() {
        let mut buffer = ReadBuffer::new();
        let bytes = vec![b'x'; 100_000];
        let mut total = 0;
        while let Poll::Ready(Ok(Some(n))) = fill(&mut buffer, 40_000, &bytes) {
            total += n;
        }
        assert_eq!((total, buffer.unread().len()), (40_000, 40_000));
        buffer.consume(39_999);
        assert!(matches!(fill(&mut buffer, 3, b"abcdef"), Poll::Ready(Ok(Some(2)))));
        assert_eq!(buffer.unread(), b"xab");
    }
}
