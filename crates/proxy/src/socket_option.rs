//! Socket options that listeners and upstream connections set alike.
#![allow(unsafe_code, reason = "options that the socket crate does not know are set with setsockopt(2)")]

use socket2::{Socket, TcpKeepalive as KeepaliveOptions};
use sota_config::address::{SocketOption, SocketState, TcpKeepalive};
use std::{io, os::fd::AsRawFd, time::Duration};

/// Sets keep-alive of a socket; what configuration leaves out stays the system's.
pub(crate) fn set_keepalive(socket: &Socket, keepalive: &TcpKeepalive) -> io::Result<()> {
    let seconds = |n: u32| Duration::from_secs(u64::from(n));
    let mut options = KeepaliveOptions::new();
    if let Some(time) = keepalive.time_s {
        options = options.with_time(seconds(time));
    }
    if let Some(interval) = keepalive.interval_s {
        options = options.with_interval(seconds(interval));
    }
    if let Some(probes) = keepalive.probes {
        options = options.with_retries(probes);
    }
    socket.set_keepalive(true)?;
    socket.set_tcp_keepalive(&options)
}

/// Sets the options of one state, in their order, up to the first that the system refuses.
pub(crate) fn set_all<'a>(
    socket: &Socket,
    options: &'a [SocketOption],
    state: SocketState,
) -> Result<(), (&'a SocketOption, io::Error)> {
    options
        .iter()
        .filter(|option| option.state == state)
        .try_for_each(|option| set(socket, option.level, option.name, &option.value).map_err(|error| (option, error)))
}

/// Sets one option by its numbers.
pub(crate) fn set(socket: &Socket, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open while `socket` lives, and the kernel reads `length` octets of `value` only.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
