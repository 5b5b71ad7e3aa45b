//! The transport below a stream.

use crate::LocalFuture;
use std::{
    io::{IoSlice, Result},
    task::{Context, Poll},
};

/// The transport below a [`Stream`](super::Stream); the data plane implements it.
pub trait ConnectionIo {
    /// Reads up to `buf.len()` octets; 0: the peer has sent its last.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize>>;
    /// Writes a part of `buf`.
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>>;
    /// Writes a part of `parts`, which follow one another; less at once where the transport can't do better.
    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        let first = parts.iter().find(|part| !part.is_empty());
        self.poll_write(cx, first.map_or(&[][..], |part| part))
    }
    /// Sends what is still held.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;
    /// Half-close: says that nothing more will be written.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;
    /// Ready once the connection shall finish what runs and end. Never, unless the transport knows better.
    fn draining(&self) -> LocalFuture<()> {
        Box::pin(std::future::pending())
    }
    /// Keeps the connection for its next user, where there is a pool. Otherwise it is closed.
    fn give_back(self: Box<Self>) {}
}
