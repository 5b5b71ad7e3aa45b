//! Ports, waiting, and an address whose packets vanish.

use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A TCP port of 127.0.0.1 that nobody uses, for a peer that can't be given port 0.
///
/// It lies below the range from which the system takes the ports of outgoing connections, so none of those can take it
/// before the peer does.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries run at the same time: each begins at another place.
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start.wrapping_mul(37).wrapping_add(step)) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Whether somebody accepts connections there.
pub fn is_listening(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

/// Asks `done` every few milliseconds until it says yes; panics with `what` after `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Lets this process and its children open so many files, if the system does; how many they may.
#[expect(unsafe_code, reason = "the limit is asked for and set by system calls")]
pub fn allow_open_files(wanted: usize) -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is ours, for as long as the call takes.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    let more = libc::rlimit { rlim_cur: limit.rlim_max.min(wanted as u64).max(limit.rlim_cur), ..limit };
    // SAFETY: as above.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const more) } == 0;
    usize::try_from(if raised { more.rlim_cur } else { limit.rlim_cur }).unwrap_or(usize::MAX)
}

/// A TCP address that answers no SYN: a listener whose queue of waiting connections is full.
pub struct SynBlackHole {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl SynBlackHole {
    /// Fills the queue of a listener that never accepts.
    pub fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let connected = socket.connect_timeout(&address.into(), Duration::from_millis(200)).is_ok();
            queued.push(socket);
            if !connected {
                return Self { address, _listener: listener, _queued: queued };
            }
            assert!(queued.len() < 64, "the queue never fills");
        }
    }

    /// Where connects hang.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Default for SynBlackHole {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ_and_can_be_bound() {
        let (a, b) = (free_port(), free_port());
        assert_ne!(a, b);
        TcpListener::bind((Ipv4Addr::LOCALHOST, a)).unwrap();
    }

    #[test]
    fn a_black_hole_answers_no_syn() {
        let hole = SynBlackHole::new();
        let error = TcpStream::connect_timeout(&hole.address(), Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }

    #[test]
    #[should_panic(expected = "never: not within")]
    fn waiting_is_bounded() {
        wait_until("never", Duration::from_millis(20), || false);
    }
}
