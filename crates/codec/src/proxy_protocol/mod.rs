//! The PROXY protocol, versions 1 and 2, both directions: what a proxy in front of us says about the real client,
//! and what we say to an upstream. (The protocol's specification is a text of HAProxy, `proxy-protocol.txt`.)

mod v1;
mod v2;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use v1::encode_v1;
pub use v2::encode_v2;

/// A PROXY header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The version it came in.
    pub version: Version,
    /// What it says about the connection.
    pub command: Command,
    /// The additional facts of version 2, in their order.
    pub tlvs: Vec<Tlv>,
}

/// The versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// What a header is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The proxy's own connection (a health check): the addresses of the socket hold. Version 2 only.
    Local,
    /// A connection on behalf of a client.
    Proxy(Addresses),
}

/// Who talks to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// Not known (`UNKNOWN`, `AF_UNSPEC`): the addresses of the socket hold.
    Unspecified,
    /// IPv4 or IPv6, both the same.
    Ip {
        /// The client.
        source: SocketAddr,
        /// Where the client wanted to.
        destination: SocketAddr,
        /// Stream or datagram.
        transport: Transport,
    },
    /// Unix sockets: paths without the padding; may be empty.
    Unix {
        /// The client.
        source: Box<[u8]>,
        /// Where the client wanted to.
        destination: Box<[u8]>,
        /// Stream or datagram.
        transport: Transport,
    },
}

/// The kind of connection that was proxied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, or a Unix stream socket.
    Stream,
    /// UDP, or a Unix datagram socket.
    Datagram,
}

/// A type-length-value of version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tlv {
    /// The type, such as 0x02 (authority) or 0xEA (AWS VPC endpoint).
    pub kind: u8,
    /// The value.
    pub value: Box<[u8]>,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header. At least so many octets are needed in all.
    NeedMore(usize),
    /// No PROXY header.
    NotProxy,
    /// A header of so many octets; the payload begins behind it.
    Header(usize, ProxyHeader),
}

/// A header that must not be believed: the connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyProtocolError {
    /// Version 1: not `PROXY TCP4|TCP6|UNKNOWN ...` within 107 octets.
    #[error("malformed PROXY line")]
    Line,
    /// Version 2: version, command, family or transport that the protocol does not have.
    #[error("unknown PROXY command or family")]
    Unknown,
    /// Version 2: shorter than its addresses.
    #[error("PROXY header too short for its addresses")]
    TooShort,
    /// An address that is no unicast address.
    #[error("PROXY address is not a unicast address")]
    NotUnicast,
    /// A TLV that does not fit the header.
    #[error("malformed PROXY TLV")]
    Tlv,
    /// Encoding: more than 64 KiB of TLVs or a path of over 108 octets.
    #[error("PROXY header too large")]
    TooLarge,
}

/// Reads a header of either version from the beginning of `buf`. What it holds is bounded by the header itself:
/// 107 octets, or 16 and at most 65,535.
pub fn parse(buf: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    if buf.is_empty() {
        Ok(Parsed::NeedMore(1))
    } else if v2::SIGNATURE.starts_with(buf) || buf.starts_with(v2::SIGNATURE) {
        v2::parse(buf)
    } else if v1::SIGNATURE.starts_with(buf) || buf.starts_with(v1::SIGNATURE) {
        v1::parse(buf)
    } else {
        Ok(Parsed::NotProxy)
    }
}

/// TCP and UDP clients have unicast addresses; a multicast or broadcast source is forged.
fn is_unicast(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(v4) => !v4.ip().is_multicast() && !v4.ip().is_broadcast() && !v4.ip().is_unspecified(),
        SocketAddr::V6(v6) => !v6.ip().is_multicast() && !v6.ip().is_unspecified(),
    }
}
