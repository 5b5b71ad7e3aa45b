//! Network namespaces: a network of the test's own, for what loopback alone can't show. Root only.
#![allow(unsafe_code, reason = "unshare(2), socket ioctls")]

use std::mem;
use std::os::fd::AsRawFd;
use std::thread;

/// Whether namespaces can be made here.
pub fn available() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// Runs `f` on a thread with a network of its own: nothing but a loopback interface, which is up.
///
/// Threads and processes that `f` starts are in it too. Panics of `f` are passed on. Packet filters set within `f`
/// (by `iptables`, for example) act on this network only and go with it.
///
/// # Panics
///
/// When the namespace can't be made; ask [`available`] first and skip the test otherwise.
pub fn isolated<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    let name = thread::current().name().map(str::to_owned);
    thread::scope(|scope| {
        let builder = thread::Builder::new().name(name.unwrap_or_else(|| "isolated".to_owned()));
        let thread = builder.spawn_scoped(scope, || {
            // SAFETY: unshare takes no pointers; it moves this thread, which was made for it, into a new namespace.
            let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(done, 0, "unshare: {}", std::io::Error::last_os_error());
            loopback_up();
            f()
        });
        match thread.unwrap().join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn loopback_up() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: ifreq is a plain struct of integers and arrays, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which `request` is and which outlives the call; the descriptor is open.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    assert_eq!(done, 0, "loopback up: {}", std::io::Error::last_os_error());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn an_isolated_network_shares_no_ports() {
        if !available() {
            crate::skip!("network namespaces need root");
        }
        let outside = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = outside.local_addr().unwrap();
        isolated(|| {
            assert!(TcpStream::connect(address).is_err(), "the outer listener is not here");
            let inside = TcpListener::bind(address).unwrap();
            TcpStream::connect(inside.local_addr().unwrap()).unwrap();
        });
        TcpStream::connect(address).unwrap();
    }
}
