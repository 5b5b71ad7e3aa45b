//! Version 2: a binary header of 16 octets, addresses, TLVs.

use super::{Addresses, Command, Parsed, ProxyHeader, ProxyProtocolError, Tlv, Transport, Version, is_unicast};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const HEADER: usize = 16;
const UNIX_PATH: usize = 108;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const INET: u8 = 0x10;
const INET6: u8 = 0x20;
const UNIX: u8 = 0x30;
const STREAM: u8 = 0x1;
const DATAGRAM: u8 = 0x2;

pub(super) fn parse(buf: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    let Some((fixed, rest)) = buf.split_first_chunk::<HEADER>() else { return Ok(Parsed::NeedMore(HEADER)) };
    let [.., version_command, family_transport, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !matches!(version_command, LOCAL | PROXY) {
        return Err(ProxyProtocolError::Unknown);
    }
    let Some(body) = rest.get(..length) else { return Ok(Parsed::NeedMore(HEADER + length)) };
    let (addresses, tlvs) = parse_addresses(family_transport, body)?;
    let tlvs = parse_tlvs(tlvs)?;
    let command = if version_command == LOCAL { Command::Local } else { Command::Proxy(checked(addresses)?) };
    Ok(Parsed::Header(HEADER + length, ProxyHeader { version: Version::V2, command, tlvs }))
}

/// The addresses and the TLVs behind them.
fn parse_addresses(family_transport: u8, body: &[u8]) -> Result<(Addresses, &[u8]), ProxyProtocolError> {
    let transport = match family_transport & 0xf {
        0 => None,
        STREAM => Some(Transport::Stream),
        DATAGRAM => Some(Transport::Datagram),
        _ => return Err(ProxyProtocolError::Unknown),
    };
    match (family_transport & 0xf0, transport) {
        (0, _) => Ok((Addresses::Unspecified, body)),
        (INET, Some(transport)) => {
            let (block, rest) = body.split_first_chunk::<12>().ok_or(ProxyProtocolError::TooShort)?;
            let [a, b, c, d, e, f, g, h, sp1, sp2, dp1, dp2] = *block;
            let source = SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([sp1, sp2])));
            let destination = SocketAddr::from((Ipv4Addr::new(e, f, g, h), u16::from_be_bytes([dp1, dp2])));
            Ok((Addresses::Ip { source, destination, transport }, rest))
        }
        (INET6, Some(transport)) => {
            let (source, rest) = body.split_first_chunk::<16>().ok_or(ProxyProtocolError::TooShort)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(ProxyProtocolError::TooShort)?;
            let (ports, rest) = rest.split_first_chunk::<4>().ok_or(ProxyProtocolError::TooShort)?;
            let [sp1, sp2, dp1, dp2] = *ports;
            let source = SocketAddr::from((Ipv6Addr::from(*source), u16::from_be_bytes([sp1, sp2])));
            let destination = SocketAddr::from((Ipv6Addr::from(*destination), u16::from_be_bytes([dp1, dp2])));
            Ok((Addresses::Ip { source, destination, transport }, rest))
        }
        (UNIX, Some(transport)) => {
            let (source, rest) = body.split_first_chunk::<UNIX_PATH>().ok_or(ProxyProtocolError::TooShort)?;
            let (destination, rest) = rest.split_first_chunk::<UNIX_PATH>().ok_or(ProxyProtocolError::TooShort)?;
            Ok((Addresses::Unix { source: path(source), destination: path(destination), transport }, rest))
        }
        // A family without a transport says no more than no family.
        (INET | INET6 | UNIX, None) => Ok((Addresses::Unspecified, &[])),
        _ => Err(ProxyProtocolError::Unknown),
    }
}

/// Up to the padding. A path that begins with NUL (abstract namespace) keeps what follows it.
fn path(block: &[u8; UNIX_PATH]) -> Box<[u8]> {
    let (abstract_mark, rest) = match block.split_first() {
        Some((0, rest)) => (1, rest),
        _ => (0, &block[..]),
    };
    let length = memchr::memchr(0, rest).unwrap_or(rest.len());
    if length == 0 { Box::default() } else { block.get(..abstract_mark + length).unwrap_or_default().into() }
}

fn parse_tlvs(mut rest: &[u8]) -> Result<Vec<Tlv>, ProxyProtocolError> {
    let mut tlvs = Vec::new();
    while !rest.is_empty() {
        let (head, behind) = rest.split_first_chunk::<3>().ok_or(ProxyProtocolError::Tlv)?;
        let [kind, high, low] = *head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, next) = behind.split_at_checked(length).ok_or(ProxyProtocolError::Tlv)?;
        tlvs.push(Tlv { kind, value: value.into() });
        rest = next;
    }
    Ok(tlvs)
}

fn checked(addresses: Addresses) -> Result<Addresses, ProxyProtocolError> {
    match &addresses {
        Addresses::Ip { source, destination, .. } if !is_unicast(source) || !is_unicast(destination) => {
            Err(ProxyProtocolError::NotUnicast)
        }
        _ => Ok(addresses),
    }
}

/// Writes a version 2 header. Addresses of two families are written as IPv6, the IPv4 one mapped. Nothing is written
/// on an error.
pub fn encode_v2(command: &Command, tlvs: &[Tlv], out: &mut Vec<u8>) -> Result<(), ProxyProtocolError> {
    let start = out.len();
    let written = write_v2(command, tlvs, out, start);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn write_v2(command: &Command, tlvs: &[Tlv], out: &mut Vec<u8>, start: usize) -> Result<(), ProxyProtocolError> {
    out.extend_from_slice(SIGNATURE);
    let (version_command, family_transport) = match command {
        Command::Local => (LOCAL, 0),
        Command::Proxy(addresses) => (PROXY, family_transport(addresses)),
    };
    out.extend_from_slice(&[version_command, family_transport, 0, 0]);
    match command {
        Command::Local | Command::Proxy(Addresses::Unspecified) => {}
        Command::Proxy(Addresses::Ip { source, destination, .. }) => {
            if let (IpAddr::V4(from), IpAddr::V4(to)) = (source.ip(), destination.ip()) {
                out.extend_from_slice(&from.octets());
                out.extend_from_slice(&to.octets());
            } else {
                out.extend_from_slice(&as_v6(source.ip()).octets());
                out.extend_from_slice(&as_v6(destination.ip()).octets());
            }
            out.extend_from_slice(&source.port().to_be_bytes());
            out.extend_from_slice(&destination.port().to_be_bytes());
        }
        Command::Proxy(Addresses::Unix { source, destination, .. }) => {
            for path in [source, destination] {
                let padding = UNIX_PATH.checked_sub(path.len()).ok_or(ProxyProtocolError::TooLarge)?;
                out.extend_from_slice(path);
                out.resize(out.len() + padding, 0);
            }
        }
    }
    for tlv in tlvs {
        let length = u16::try_from(tlv.value.len()).map_err(|_| ProxyProtocolError::TooLarge)?;
        out.push(tlv.kind);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&tlv.value);
    }
    let length = u16::try_from(out.len() - start - HEADER).map_err(|_| ProxyProtocolError::TooLarge)?;
    if let Some(field) = out.get_mut(start + HEADER - 2..start + HEADER) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

fn family_transport(addresses: &Addresses) -> u8 {
    let (family, transport) = match addresses {
        Addresses::Unspecified => return 0,
        Addresses::Ip { source, destination, transport } => {
            (if source.is_ipv4() && destination.is_ipv4() { INET } else { INET6 }, transport)
        }
        Addresses::Unix { transport, .. } => (UNIX, transport),
    };
    family | if *transport == Transport::Stream { STREAM } else { DATAGRAM }
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}
