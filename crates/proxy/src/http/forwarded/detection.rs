//! The client's address where configuration says that it stands.

use super::last_address;
use sota_config::{
    address::CidrRange,
    http::{HttpConnectionManager, OriginalIpDetection},
};
use sota_plugin::{
    http::{HeaderId, HeaderName, RequestHead, StatusCode},
    info::{PeerAddress, StreamInfo},
};
use std::net::{IpAddr, SocketAddr};

/// A compiled [`OriginalIpDetection`].
#[derive(Debug, Clone)]
pub(super) enum Detection {
    ForwardedFor { hops: u32, append: bool },
    ForwardedBy { trusted: Box<[CidrRange]>, append: bool },
    Header { name: HeaderName, is_trusted: bool, reject: Option<StatusCode> },
}

/// What was found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Detected {
    /// The address, if there is one.
    pub(super) address: Option<PeerAddress>,
    /// Whether it may count as internal.
    pub(super) is_trusted: bool,
    /// The peer is appended to `x-forwarded-for`.
    pub(super) append: bool,
}

impl Detection {
    pub(super) fn build_all(config: &HttpConnectionManager) -> Box<[Self]> {
        // The translator has checked names and statuses.
        config.original_ip_detection.iter().filter_map(Self::build).collect()
    }

    fn build(config: &OriginalIpDetection) -> Option<Self> {
        Some(match config {
            OriginalIpDetection::ForwardedFor { trusted_hops, trusted_ranges, append } if trusted_ranges.is_empty() => {
                Self::ForwardedFor { hops: *trusted_hops, append: *append }
            }
            OriginalIpDetection::ForwardedFor { trusted_ranges, append, .. } => {
                Self::ForwardedBy { trusted: trusted_ranges.as_slice().into(), append: *append }
            }
            OriginalIpDetection::Header { name, is_trusted, reject_status } => Self::Header {
                name: HeaderName::parse(name.as_bytes()).ok()?,
                is_trusted: *is_trusted,
                reject: reject_status.and_then(StatusCode::from_u16),
            },
        })
    }

    /// Fails with the status of the answer where an address has to be and is not.
    pub(super) fn find(&self, head: &RequestHead, info: &StreamInfo) -> Result<Detected, StatusCode> {
        let forwarded = || head.headers.get(HeaderId::XForwardedFor).unwrap_or_default();
        let (found, append) = match self {
            Self::ForwardedFor { hops, append } => (last_address(forwarded(), *hops), *append),
            Self::ForwardedBy { trusted, append } => {
                let is_trusted = |ip: &IpAddr| trusted.iter().any(|range| range.contains(ip));
                if !info.connection.remote.ip().as_ref().is_some_and(is_trusted) {
                    // Compat: then the peer is appended whatever is configured.
                    return Ok(Detected { append: true, ..Detected::default() });
                }
                (last_untrusted(forwarded(), is_trusted), *append)
            }
            Self::Header { name, is_trusted, reject } => {
                let value = head.headers.get(name).and_then(|value| std::str::from_utf8(value).ok());
                let address = value.and_then(|text| text.parse::<IpAddr>().ok());
                match (address, reject) {
                    (None, Some(status)) => return Err(*status),
                    (address, _) => ((address.map(without_port), *is_trusted), false),
                }
            }
        };
        let (address, is_trusted) = found;
        Ok(Detected { address, is_trusted, append })
    }
}

/// The last address of the list that is not trusted, or the first one; and whether it is the only one.
fn last_untrusted(list: &[u8], is_trusted: impl Fn(&IpAddr) -> bool) -> (Option<PeerAddress>, bool) {
    let is_single = memchr::memchr(b',', list).is_none();
    let mut last = None;
    for part in list.rsplit(|c| *c == b',') {
        let text = std::str::from_utf8(part.trim_ascii()).ok();
        let Some(ip) = text.and_then(|text| text.parse::<IpAddr>().ok()) else { return (None, false) };
        last = Some(ip);
        if !is_trusted(&ip) {
            break;
        }
    }
    (last.map(without_port), is_single)
}

fn without_port(ip: IpAddr) -> PeerAddress {
    PeerAddress::Ip(SocketAddr::new(ip, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_context::stream_from;
    use sota_plugin::http::Method;

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::new(Method::Get, "h", "/").unwrap();
        head.headers = fields.iter().copied().collect();
        head
    }

    fn address(text: &str) -> PeerAddress {
        without_port(text.parse().unwrap())
    }

    #[test]
    fn behind_trusted_proxies() {
        let detection = Detection::ForwardedBy { trusted: ["10.0.0.0/8".parse().unwrap()].into(), append: false };
        let trusted = stream_from([10, 0, 0, 1].into());
        let find = |list: &str| detection.find(&head(&[("x-forwarded-for", list)]), &trusted).unwrap();
        let found = |list| {
            let found = find(list);
            found.address.map(|address| (address, found.is_trusted))
        };
        assert_eq!(found("1.1.1.1"), Some((address("1.1.1.1"), true)));
        assert_eq!(found("2.2.2.2, 1.1.1.1,10.1.1.1"), Some((address("1.1.1.1"), false)));
        assert_eq!(found("10.2.2.2,10.1.1.1"), Some((address("10.2.2.2"), false)));
        assert_eq!(found("1.1.1.1,what,10.1.1.1"), None);
        assert_eq!(found(""), None);
        let other = stream_from([11, 0, 0, 1].into());
        let nothing = Detected { append: true, ..Detected::default() };
        assert_eq!(detection.find(&head(&[("x-forwarded-for", "1.1.1.1")]), &other), Ok(nothing));
    }

    #[test]
    fn in_a_field_of_its_own() {
        let name = HeaderName::parse(b"x-ip").unwrap();
        let reject = Detection::Header { name: name.clone(), is_trusted: true, reject: Some(StatusCode::FORBIDDEN) };
        let go_on = Detection::Header { name, is_trusted: false, reject: None };
        let info = stream_from([11, 0, 0, 1].into());
        let given = head(&[("x-ip", "::1")]);
        let detected = Detected { address: Some(address("::1")), is_trusted: true, append: false };
        assert_eq!(reject.find(&given, &info), Ok(detected));
        assert_eq!(reject.find(&head(&[("x-ip", "one")]), &info), Err(StatusCode::FORBIDDEN));
        assert_eq!(reject.find(&head(&[]), &info), Err(StatusCode::FORBIDDEN));
        assert_eq!(go_on.find(&head(&[("x-ip", "one")]), &info), Ok(Detected::default()));
    }
}
