//! `x-request-id`: a random UUID (RFC 9562, version 4), as Envoy's `envoy.request_id.uuid` makes it for requests that
//! are not traced.

use sota_plugin::http::{HeaderId, RequestHead};

/// Octets of a UUID's text.
const LEN: usize = 36;

/// Gives the request an id unless it has one; with `force`, a new one.
pub fn set(head: &mut RequestHead, force: bool) {
    if force || !head.headers.contains(HeaderId::XRequestId) {
        head.headers.set_sanitized(HeaderId::XRequestId, uuid(fastrand::u128(..)));
    }
}

/// The text of a version 4 UUID made of these random bits. In the digit of the version Envoy packs why a request is
/// traced; 4 says that it is not.
fn uuid(random: u128) -> [u8; LEN] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    const VERSION: u128 = 0x4 << 76;
    const VARIANT: u128 = 0x2 << 62;
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | VERSION | VARIANT;
    let bytes = bits.to_be_bytes();
    let mut text = [b'-'; LEN];
    let mut at = 0;
    for (number, byte) in bytes.iter().enumerate() {
        if matches!(number, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 0xf)];
        at += 2;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use sota_plugin::http::Method;

    #[test]
    fn version_4() {
        assert_eq!(&uuid(0), b"00000000-0000-4000-8000-000000000000");
        assert_eq!(&uuid(u128::MAX), b"ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(&uuid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), b"01234567-89ab-4def-8123-456789abcdef");
    }

    #[test]
    fn kept_or_made() {
        let mut head = RequestHead::new(Method::Get, "h", "/").unwrap();
        set(&mut head, false);
        let first = head.headers.get("x-request-id").unwrap().to_vec();
        assert_eq!(first.len(), LEN);
        set(&mut head, false);
        assert_eq!(head.headers.get("x-request-id"), Some(&*first));
        set(&mut head, true);
        assert_ne!(head.headers.get("x-request-id"), Some(&*first));
        assert_eq!(head.headers.len(), 1);
    }
}
