//! This machine's address, which stands in `x-forwarded-for` for a client on the same machine.
#![allow(unsafe_code, reason = "getifaddrs has no safe form in std")]

use std::net::{IpAddr, Ipv4Addr};

/// The first IPv4 address of an interface other than the loopback; `127.0.0.1` when there is none. As Envoy finds it.
/// Looked up anew at each call: call it once.
pub fn machine_address() -> IpAddr {
    first_address().unwrap_or(Ipv4Addr::LOCALHOST).into()
}

fn first_address() -> Option<Ipv4Addr> {
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` is a valid place for the pointer that the call writes.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return None;
    }
    let mut found = None;
    let mut at = list;
    while !at.is_null() && found.is_none() {
        // SAFETY: `at` is an element of the list that getifaddrs made, which lives until freeifaddrs below.
        let interface = unsafe { &*at };
        // SAFETY: `ifa_addr` of an element is null or points to an address that lives as long as the list.
        found = unsafe { ipv4(interface.ifa_addr) }.filter(|address| !address.is_loopback());
        at = interface.ifa_next;
    }
    // SAFETY: `list` is of getifaddrs, is freed once, and nothing of it is used any more.
    unsafe { libc::freeifaddrs(list) };
    found
}

/// # Safety
/// `address` is null or points to a socket address of the size that its family has.
unsafe fn ipv4(address: *const libc::sockaddr) -> Option<Ipv4Addr> {
    // SAFETY: the caller promises that it is null or valid.
    let family = unsafe { address.as_ref() }?.sa_family;
    if i32::from(family) != libc::AF_INET {
        return None;
    }
    // SAFETY: the family says that it is a `sockaddr_in`; the read does not rely on its alignment.
    let address = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
    Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_can_be_bound() {
        let address = machine_address();
        assert!(address.is_ipv4());
        std::net::TcpListener::bind((address, 0)).unwrap();
    }
}
