use super::*;
use crate::{LocalFuture, cx::ClusterHealth, cx::WorkerServices, stats::Registry, upstream::Cluster};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    io,
    pin::pin,
    task::Waker,
};

/// What the peer has sent and not sent, and what it takes.
#[derive(Default)]
struct Peer {
    input: RefCell<VecDeque<Vec<u8>>>,
    ended: Cell<bool>,
    output: RefCell<Vec<u8>>,
    room: Cell<usize>,
    given_back: Cell<bool>,
}

struct PeerIo(Rc<Peer>);

impl ConnectionIo for PeerIo {
    fn poll_read(&mut self, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize>> {
        let Some(mut piece) = self.0.input.borrow_mut().pop_front() else {
            return if self.0.ended.get() { Poll::Ready(Ok(0)) } else { Poll::Pending };
        };
        let rest = piece.split_off(piece.len().min(buf.len()));
        buf[..piece.len()].copy_from_slice(&piece);
        if !rest.is_empty() {
            self.0.input.borrow_mut().push_front(rest);
        }
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_write(&mut self, _: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        let take = self.0.room.get().min(buf.len());
        if take == 0 {
            return Poll::Pending;
        }
        self.0.room.set(self.0.room.get() - take);
        self.0.output.borrow_mut().extend_from_slice(&buf[..take]);
        Poll::Ready(Ok(take))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        self.0.output.borrow_mut().extend_from_slice(b"$");
        Poll::Ready(Ok(()))
    }

    fn give_back(self: Box<Self>) {
        self.0.given_back.set(true);
    }
}

/// Sleeps end when a test says so; time itself is the real one.
#[derive(Default)]
struct Sleeps(Rc<Cell<bool>>);

impl WorkerServices for Sleeps {
    fn sleep(&self, time: Duration) -> LocalFuture<()> {
        let over = Rc::clone(&self.0);
        Box::pin(std::future::poll_fn(move |_| {
            if !over.get() {
                return Poll::Pending;
            }
            std::thread::sleep(time);
            Poll::Ready(())
        }))
    }

    fn spawn(&self, _: LocalFuture<()>, _: bool) {}

    fn is_draining(&self) -> bool {
        false
    }

    fn is_health_check_failing(&self) -> bool {
        false
    }

    fn cluster_health(&self, _: &str) -> Option<ClusterHealth> {
        None
    }

    fn cluster(&self, _: &str, _: &WorkerCx) -> Option<Cluster> {
        None
    }

    fn next_stream_id(&self) -> u64 {
        0
    }
}

fn stream(limit: usize) -> (Stream, Rc<Peer>, Rc<Cell<bool>>) {
    let (peer, sleeps) = (Rc::<Peer>::default(), Sleeps::default());
    let over = Rc::clone(&sleeps.0);
    let worker = WorkerCx::new(0, Registry::new().shard(), Rc::new(sleeps));
    (Stream::new(Box::new(PeerIo(Rc::clone(&peer))), worker, limit), peer, over)
}

fn poll<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn kind<T>(result: Poll<Result<T>>) -> Option<io::ErrorKind> {
    match result {
        Poll::Ready(Err(error)) => Some(error.kind()),
        _ => None,
    }
}

impl Peer {
    fn send(&self, bytes: &[u8]) {
        self.input.borrow_mut().push_back(bytes.to_vec());
    }
}

#[test]
fn the_buffer_is_bounded_and_empty_when_nothing_comes() {
    let (mut stream, peer, _) = stream(4);
    assert!(poll(stream.fill()).is_pending());
    peer.send(b"abcdef");
    assert!(matches!(poll(stream.fill()), Poll::Ready(Ok(4))));
    assert_eq!(kind(poll(stream.fill())), Some(io::ErrorKind::InvalidData));
    assert_eq!(&stream.buffer().split_to(3)[..], b"abc");
    assert!(matches!(poll(stream.fill()), Poll::Ready(Ok(2))));
    let mut buf = [0; 8];
    assert!(matches!(poll(stream.read(&mut buf)), Poll::Ready(Ok(3))));
    assert_eq!((&buf[..3], stream.bytes_read()), (&b"def"[..], 6));
    assert!(poll(stream.fill()).is_pending());
    assert_eq!(stream.buffer().capacity(), 0);
    peer.ended.set(true);
    assert!(matches!(poll(stream.fill()), Poll::Ready(Ok(0))));
}

#[test]
fn lines_end_in_either_way_and_have_a_limit() {
    let (mut stream, peer, _) = stream(100);
    for piece in [&b"a\r\nbc\n\n"[..], b"12345\r", b"\n123456", b"\nrest"] {
        peer.send(piece);
    }
    peer.ended.set(true);
    let mut next = || match poll(stream.read_line(5)) {
        Poll::Ready(Ok(line)) => line.map(|line| String::from_utf8(line).unwrap()),
        other => panic!("{other:?}"),
    };
    assert_eq!([next(), next(), next(), next()].map(Option::unwrap), ["a", "bc", "", "12345"]);
    assert_eq!(kind(poll(stream.read_line(5))), Some(io::ErrorKind::InvalidData));
    assert!(matches!(poll(stream.read_line(5)), Poll::Ready(Ok(Some(line))) if line == b"rest"));
    assert!(matches!(poll(stream.read_line(5)), Poll::Ready(Ok(None))));
}

#[test]
fn writing_waits_for_the_peer_while_reading_goes_on() {
    let (stream, peer, _) = stream(100);
    let (mut read, mut write) = stream.split();
    peer.room.set(3);
    {
        let mut writing = pin!(write.write_all(b"hello"));
        assert!(poll(writing.as_mut()).is_pending());
        peer.send(b"x");
        assert!(matches!(poll(read.fill()), Poll::Ready(Ok(1))));
        peer.room.set(3);
        assert!(matches!(poll(writing.as_mut()), Poll::Ready(Ok(()))));
    }
    assert!(matches!(poll(write.shutdown()), Poll::Ready(Ok(()))));
    assert_eq!(*peer.output.borrow(), b"hello$");
    let (other, _, _) = self::stream(1);
    let (_, foreign) = other.split();
    assert!(Stream::join(read, foreign).is_none());
}

#[test]
fn timeouts_end_both_directions() {
    for total in [false, true] {
        let (mut stream, _, over) = stream(100);
        let timeout = Some(Duration::from_millis(20));
        if total {
            stream.set_total_timeout(timeout)
        } else {
            stream.set_idle_timeout(timeout)
        }
        assert!(poll(stream.fill()).is_pending());
        over.set(true);
        assert_eq!(kind(poll(stream.fill())), Some(io::ErrorKind::TimedOut), "{total}");
        assert_eq!(kind(poll(stream.write_all(b"x"))), Some(io::ErrorKind::TimedOut), "{total}");
        // No timeout any more.
        if total {
            stream.set_total_timeout(None)
        } else {
            stream.set_idle_timeout(None)
        }
        assert!(poll(stream.fill()).is_pending());
    }
}

#[test]
fn what_moves_is_not_idle_but_grows_old() {
    let ms = Duration::from_millis;
    let (mut stream, peer, over) = stream(100);
    over.set(true);
    stream.set_idle_timeout(Some(ms(100)));
    std::thread::sleep(ms(60));
    peer.send(b"x");
    assert!(matches!(poll(stream.fill()), Poll::Ready(Ok(1))));
    let began = std::time::Instant::now();
    assert_eq!(kind(poll(stream.fill())), Some(io::ErrorKind::TimedOut));
    assert!(began.elapsed() >= ms(95), "{:?}", began.elapsed());
    stream.set_idle_timeout(Some(ms(60_000)));
    stream.set_total_timeout(Some(ms(50)));
    assert_eq!(kind(poll(stream.fill())), Some(io::ErrorKind::TimedOut));
}

#[test]
fn only_a_clean_connection_is_given_back() {
    for (sent, is_clean) in [(&b""[..], true), (b"x", false)] {
        let (mut stream, peer, _) = stream(100);
        peer.send(b"y");
        assert!(matches!(poll(stream.fill()), Poll::Ready(Ok(1))));
        stream.buffer().clear();
        stream.buffer().extend_from_slice(sent);
        if let Some(io) = stream.into_io() {
            io.give_back();
        }
        assert_eq!(peer.given_back.get(), is_clean);
    }
}
