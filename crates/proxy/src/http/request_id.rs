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
    const VERSION: u128 = 0x4 << 76;
    const VARIANT: u128 = 0x2 << 62;
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | VERSION | VARIANT;
    let [a, b, c, d] = [96, 64, 32, 0].map(|shift| hex((bits >> shift) as u32));
    let mut text = [b'-'; LEN];
    text[..8].copy_from_slice(&a);
    text[9..13].copy_from_slice(&b[..4]);
    text[14..18].copy_from_slice(&b[4..]);
    text[19..23].copy_from_slice(&c[..4]);
    text[24..28].copy_from_slice(&c[4..]);
    text[28..].copy_from_slice(&d);
    text
}

/// The eight digits of a number, made side by side: each octet of a word takes one.
const fn hex(number: u32) -> [u8; 8] {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let mut digits = number as u64;
    digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
    digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
    digits = (digits | digits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // From ten on a letter, which does not follow the digits at once.
    let letters = ((digits + ONES * 6) >> 4) & ONES;
    (digits + ONES * b'0' as u64 + letters * (b'a' - b'0' - 10) as u64).to_be_bytes()
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
