//! Version 1: `PROXY TCP4 source destination source-port destination-port CR LF`.

use super::{Addresses, Command, Parsed, ProxyHeader, ProxyProtocolError, Transport, Version, is_unicast};
use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";
/// The longest line there can be, CR LF included.
const MAX_LINE: usize = 107;

pub(super) fn parse(buf: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    let head = buf.get(..MAX_LINE).unwrap_or(buf);
    let Some(end) = memchr::memchr(b'\n', head) else {
        return if buf.len() >= MAX_LINE { Err(ProxyProtocolError::Line) } else { Ok(Parsed::NeedMore(buf.len() + 1)) };
    };
    let line = head.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(ProxyProtocolError::Line)?;
    let text = std::str::from_utf8(line).map_err(|_| ProxyProtocolError::Line)?;
    let addresses = parse_line(text)?;
    let header = ProxyHeader { version: Version::V1, command: Command::Proxy(addresses), tlvs: Vec::new() };
    Ok(Parsed::Header(end + 1, header))
}

fn parse_line(line: &str) -> Result<Addresses, ProxyProtocolError> {
    let mut words = line.split(' ');
    let (Some("PROXY"), Some(family)) = (words.next(), words.next()) else { return Err(ProxyProtocolError::Line) };
    if family == "UNKNOWN" {
        // Whatever follows is to be ignored, says the specification.
        return Ok(Addresses::Unspecified);
    }
    let [Some(source), Some(destination), Some(source_port), Some(destination_port), None] =
        [words.next(), words.next(), words.next(), words.next(), words.next()]
    else {
        return Err(ProxyProtocolError::Line);
    };
    let source = SocketAddr::new(address(family, source)?, port(source_port)?);
    let destination = SocketAddr::new(address(family, destination)?, port(destination_port)?);
    if !is_unicast(&source) || !is_unicast(&destination) {
        return Err(ProxyProtocolError::NotUnicast);
    }
    Ok(Addresses::Ip { source, destination, transport: Transport::Stream })
}

fn address(family: &str, text: &str) -> Result<IpAddr, ProxyProtocolError> {
    match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| ProxyProtocolError::Line),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| ProxyProtocolError::Line),
        _ => Err(ProxyProtocolError::Line),
    }
}

/// Digits without sign or leading zeros.
fn port(text: &str) -> Result<u16, ProxyProtocolError> {
    let plain = text.bytes().all(|c| c.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(ProxyProtocolError::Line)
}

/// Writes a version 1 line. Addresses that it cannot say (none, or of two families) become `UNKNOWN`.
pub fn encode_v1(addresses: Option<(SocketAddr, SocketAddr)>, out: &mut Vec<u8>) {
    let (family, source, destination) = match addresses {
        Some((source, destination)) if source.is_ipv4() && destination.is_ipv4() => ("TCP4", source, destination),
        Some((source, destination)) if source.is_ipv6() && destination.is_ipv6() => ("TCP6", source, destination),
        _ => {
            out.extend_from_slice(b"PROXY UNKNOWN\r\n");
            return;
        }
    };
    // Writing to a vector cannot fail.
    let _ =
        write!(out, "PROXY {family} {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port());
}
