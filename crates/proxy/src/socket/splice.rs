//! Moving octets from one socket to another without copying them into memory of ours (`splice(2)`): by way of a pipe,
//! which holds the pages that the network card or another process has filled.

use super::{Io, Socket, system::SystemSocket};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
    task::{Context, Poll, ready},
};
use tokio::{io::Interest, net::TcpStream, task::coop};

/// What a pipe should hold: the most that a user without privileges may ask for.
const PIPE_SIZE: usize = 1 << 20;
/// So many empty pipes are kept by a thread for the next user; each has two file descriptors.
const KEPT: usize = 16;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = RefCell::default();
}

/// A pipe that no process but this one has.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    size: usize,
}

impl Pipe {
    /// One that was used before, or a new one.
    fn take() -> io::Result<Self> {
        if let Some(pipe) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // A user who has many large pipes gets the usual small one.
        let size = fcntl_setpipe_size(&writer, PIPE_SIZE).unwrap_or(64 << 10);
        Ok(Self { reader, writer, size })
    }

    /// For the next user. It must be empty.
    fn give_back(self) {
        // A thread that ends keeps nothing.
        let _ = PIPES.try_with(|pipes| {
            let mut pipes = pipes.borrow_mut();
            if pipes.len() < KEPT {
                pipes.push(self);
            }
        });
    }
}

/// What is on its way from one socket to another. Holds a pipe only while something is in it.
pub struct Splice {
    pipe: Option<Pipe>,
    limit: usize,
    /// Octets in the pipe.
    held: usize,
    /// The system has refused to do it.
    refused: bool,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spliced {
    /// So many octets were taken by the receiving socket.
    Moved(usize),
    /// The sending peer has sent its last, and all of it was taken.
    Ended,
    /// It cannot be done here; nothing is under way.
    Refused,
}

/// Which of the two sockets has failed.
#[derive(Debug)]
pub enum SpliceError {
    /// The one that is read.
    Reading(io::Error),
    /// The one that is written.
    Writing(io::Error),
}

impl Splice {
    /// Nothing is on its way; there will never be more than `limit` octets.
    pub fn new(limit: usize) -> Self {
        Self { pipe: None, limit, held: 0, refused: false }
    }

    /// Whether there is something on its way.
    pub fn is_under_way(&self) -> bool {
        self.held > 0
    }

    /// Whether it can be done between these sockets: both are plain TCP, and the system has not refused.
    pub fn is_possible(&self, from: &Socket, to: &Socket) -> bool {
        !self.refused && matches!((&*from.io.borrow(), &*to.io.borrow()), (Io::Tcp(_), Io::Tcp(_)))
    }

    /// Moves what has arrived, and ends its step whenever the receiver has taken something. What was read from `from`
    /// into its buffer has to be sent before.
    pub fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        from: &Socket,
        to: &Socket,
    ) -> Poll<Result<Spliced, SpliceError>> {
        let (from_io, to_io) = (from.io.borrow(), to.io.borrow());
        let (Io::Tcp(source), Io::Tcp(sink)) = (&*from_io, &*to_io) else {
            return Poll::Ready(Ok(Spliced::Refused));
        };
        if self.held == 0 {
            from.awaited_by.set(0);
            let read = ready!(self.poll_take(cx, source)).map_err(SpliceError::Reading)?;
            match read {
                None => return Poll::Ready(Ok(Spliced::Refused)),
                Some(0) => {
                    from.ended.set(true);
                    return Poll::Ready(Ok(Spliced::Ended));
                }
                Some(read) => {
                    from.received.set(from.received.get() + read as u64);
                    self.held = read;
                }
            }
        }
        let written = ready!(self.poll_give(cx, sink)).map_err(SpliceError::Writing)?;
        to.sent.set(to.sent.get() + written as u64);
        Poll::Ready(Ok(Spliced::Moved(written)))
    }

    /// Fills an empty pipe. `None`: the system refuses. While nothing arrives, no pipe is held.
    fn poll_take(&mut self, cx: &mut Context<'_>, source: &TcpStream) -> Poll<io::Result<Option<usize>>> {
        let progress = ready!(coop::poll_proceed(cx));
        loop {
            let Ok(pipe) = self.pipe.take().map_or_else(Pipe::take, Ok) else {
                // There are no descriptors left.
                self.refused = true;
                return Poll::Ready(Ok(None));
            };
            let read = move_octets(source, Interest::READABLE, source, &pipe.writer, pipe.size.min(self.limit));
            if matches!(read, Ok(1..)) {
                self.pipe = Some(pipe);
            } else {
                pipe.give_back();
            }
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(source.poll_read_ready(cx))?,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.refused = true;
                    return Poll::Ready(Ok(None));
                }
                result => {
                    progress.made_progress();
                    return Poll::Ready(result.map(Some));
                }
            }
        }
    }

    /// Empties the pipe as far as the receiver takes it.
    fn poll_give(&mut self, cx: &mut Context<'_>, sink: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            let Some(pipe) = &self.pipe else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
            match move_octets(sink, Interest::WRITABLE, &pipe.reader, sink, self.held) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(sink.poll_write_ready(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    self.held = self.held.saturating_sub(written);
                    if self.held == 0 {
                        self.pipe.take().into_iter().for_each(Pipe::give_back);
                    }
                    return Poll::Ready(Ok(written));
                }
            }
        }
    }
}

/// Moves up to `most` octets; `watched` is the one of the two whose readiness the runtime knows.
fn move_octets(
    watched: &TcpStream,
    interest: Interest,
    from: impl AsFd,
    to: impl AsFd,
    most: usize,
) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    SystemSocket::try_io(watched, interest, || {
        Ok(rustix::io::retry_on_intr(|| splice(&from, None, &to, None, most, flags))?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, time::Duration};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::timeout,
    };

    async fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (peer, ours) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (peer.unwrap(), Socket::new(Io::Tcp(ours.unwrap().0)))
    }

    fn kept() -> usize {
        PIPES.with_borrow(Vec::len)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn every_octet_arrives_in_order_though_the_receiver_is_slow() {
        let ((mut sender, from), (mut receiver, to)) = (pair().await, pair().await);
        let sent: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let mut splice = Splice::new(usize::MAX);
        assert!(splice.is_possible(&from, &to));
        let work = async {
            let move_all = async {
                loop {
                    if poll_fn(|cx| splice.poll_step(cx, &from, &to)).await.unwrap() == Spliced::Ended {
                        return to.shutdown().await.unwrap();
                    }
                }
            };
            let send = async {
                sender.write_all(&sent).await.unwrap();
                sender.shutdown().await.unwrap();
            };
            let receive = async {
                // Nothing is taken until both sides are full.
                tokio::time::sleep(Duration::from_millis(30)).await;
                let mut got = Vec::new();
                receiver.read_to_end(&mut got).await.unwrap();
                got
            };
            tokio::join!(move_all, send, receive).2
        };
        let got = timeout(Duration::from_secs(30), work).await.unwrap();
        assert!(got == expected, "{} octets arrived", got.len());
        assert_eq!((from.bytes_received(), to.bytes_sent()), (8_000_000, 8_000_000));
        assert!(from.has_ended() && splice.pipe.is_none());
        assert_eq!(kept(), 1, "the pipe is there for the next");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn waiting_holds_no_pipe_and_a_full_one_is_not_lent_again() {
        let ((mut sender, from), (receiver, to)) = (pair().await, pair().await);
        let mut splice = Splice::new(usize::MAX);
        let step = poll_fn(|cx| Poll::Ready(splice.poll_step(cx, &from, &to).is_pending()));
        assert!(step.await, "nothing was sent");
        assert_eq!((splice.pipe.is_some(), kept()), (false, 1));
        sender.write_all(b"octets").await.unwrap();
        drop(receiver);
        let failed = async {
            loop {
                sender.write_all(&[0; 4096]).await.unwrap();
                if let Err(error) = poll_fn(|cx| splice.poll_step(cx, &from, &to)).await {
                    return error;
                }
            }
        };
        let error = timeout(Duration::from_secs(30), failed).await.unwrap();
        assert!(matches!(error, SpliceError::Writing(_)), "{error:?}");
        drop(splice);
        assert_eq!(kept(), 0, "what was not delivered must not come to somebody else");
    }
}
