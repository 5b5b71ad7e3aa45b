//! The status of a gRPC call: in trailers, in the head of a response without body, or made of the HTTP status.

use super::{HeaderId, Headers, RequestHead, ResponseHead, StatusCode};
use std::time::Duration;

/// A gRPC status code; 0 to 16 have names. An unreadable `grpc-status` is -1, as Envoy logs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcStatus(pub i64);

/// Camel-case and snake-case name of each code.
const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

impl GrpcStatus {
    /// 0: all went well.
    pub const OK: Self = Self(0);
    /// 2: what there is nothing to say of.
    pub const UNKNOWN: Self = Self(2);

    /// The status of a response: from the trailers, otherwise from the head, otherwise made of the HTTP status.
    pub fn of(
        trailers: Option<&Headers>,
        head: Option<&ResponseHead>,
        response_code: Option<StatusCode>,
    ) -> Option<Self> {
        trailers
            .and_then(Self::in_fields)
            .or_else(|| head.and_then(|head| Self::in_fields(&head.headers)))
            .or_else(|| response_code.map(Self::from_http))
    }

    /// What a `grpc-status` field says.
    fn parse(value: &[u8]) -> Self {
        let number = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<u64>().ok());
        Self(number.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1))
    }

    /// The status that stands for an HTTP status (the gRPC document "HTTP to gRPC Status Code Mapping").
    pub const fn from_http(status: StatusCode) -> Self {
        Self(match status.as_u16() {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502 | 503 | 504 => 14,
            _ => 2,
        })
    }

    /// What the fields say: of a head without body, or of trailers.
    pub fn in_fields(headers: &Headers) -> Option<Self> {
        headers.get(HeaderId::GrpcStatus).map(Self::parse)
    }

    /// The HTTP status that stands for it, as Envoy has it (`google.rpc.Code`).
    pub const fn to_http(self) -> u16 {
        match self.0 {
            0 => 200,
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            12 => 501,
            14 => 503,
            16 => 401,
            _ => 500,
        }
    }

    /// Such as `NotFound`; `None` for a number that has no name.
    pub fn camel_case(self) -> Option<&'static str> {
        Some(NAMES.get(usize::try_from(self.0).ok()?)?.0)
    }

    /// Such as `NOT_FOUND`; `None` for a number that has no name.
    pub fn snake_case(self) -> Option<&'static str> {
        Some(NAMES.get(usize::try_from(self.0).ok()?)?.1)
    }
}

impl RequestHead {
    /// Whether this is a gRPC call: `content-type` is `application/grpc` or begins with `application/grpc+`.
    pub fn is_grpc(&self) -> bool {
        let content_type = self.headers.get(HeaderId::ContentType);
        let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
    }

    /// How long the call may take (`grpc-timeout`), in whole milliseconds, rounded up. `None` also for what cannot be
    /// read.
    pub fn grpc_timeout(&self) -> Option<Duration> {
        let (unit, digits) = self.headers.get(HeaderId::GrpcTimeout)?.split_last()?;
        let number = std::str::from_utf8(digits).ok()?.parse::<u64>().ok()?.min(MAX_TIMEOUT);
        Some(Duration::from_millis(match unit {
            b'H' => number * 3_600_000,
            b'M' => number * 60_000,
            b'S' => number * 1000,
            b'm' => number,
            b'u' => number.div_ceil(1000),
            b'n' => number.div_ceil(1_000_000),
            _ => return None,
        }))
    }

    /// Says in `grpc-timeout` how long the call may take: in milliseconds, or coarser where that has more than eight
    /// digits.
    pub fn set_grpc_timeout(&mut self, timeout: Duration) {
        let mut number = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let mut unit = "m";
        for (coarser, factor) in [("S", 1000), ("M", 60), ("H", 60)] {
            if number > MAX_TIMEOUT {
                (number, unit) = (number / factor, coarser);
            }
        }
        self.headers.set_sanitized(HeaderId::GrpcTimeout, format!("{}{unit}", number.min(MAX_TIMEOUT)));
    }
}

/// The largest number in `grpc-timeout`: eight digits.
const MAX_TIMEOUT: u64 = 99_999_999;

/// Text as `grpc-message` has it: percent-encoded (gRPC over HTTP/2, "Responses").
pub fn grpc_message(text: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(text.len());
    for c in text {
        if (b' '..b'~').contains(c) && *c != b'%' {
            out.push(*c);
        } else {
            out.extend([b'%', DIGITS[usize::from(c >> 4)], DIGITS[usize::from(c & 15)]]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Method;

    #[test]
    fn where_the_status_is_found() {
        let head = ResponseHead::new(StatusCode::NOT_FOUND);
        let with_status = ResponseHead::new(StatusCode::OK).with("grpc-status", "5");
        let trailers: Headers = [("grpc-status", "16")].into_iter().collect();
        assert_eq!(GrpcStatus::of(None, None, None), None);
        assert_eq!(GrpcStatus::of(None, Some(&head), Some(StatusCode::NOT_FOUND)), Some(GrpcStatus(12)));
        assert_eq!(GrpcStatus::of(None, Some(&with_status), Some(StatusCode::OK)), Some(GrpcStatus(5)));
        assert_eq!(GrpcStatus::of(Some(&trailers), Some(&with_status), None), Some(GrpcStatus(16)));
        for (text, number) in [("-1", -1), ("x", -1), ("", -1), ("17", 17), ("99999999999999999999", -1)] {
            let head = ResponseHead::new(StatusCode::OK).with("grpc-status", text);
            assert_eq!(GrpcStatus::of(None, Some(&head), None), Some(GrpcStatus(number)), "{text}");
        }
        assert_eq!((GrpcStatus(5).camel_case(), GrpcStatus(5).snake_case()), (Some("NotFound"), Some("NOT_FOUND")));
        assert_eq!((GrpcStatus(17).camel_case(), GrpcStatus(-1).snake_case()), (None, None));
    }

    #[test]
    fn timeouts() {
        let mut head = RequestHead::new(Method::Post, "h", "/p").unwrap();
        assert_eq!(head.grpc_timeout(), None);
        for (text, millis) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3000)),
            ("4m", Some(4)),
            ("1u", Some(1)),
            ("1001u", Some(2)),
            ("999999n", Some(1)),
            ("0m", Some(0)),
            ("999999999m", Some(99_999_999)),
            ("-1m", None),
            ("m", None),
            ("5", None),
            ("5x", None),
            ("", None),
        ] {
            head.headers.set("grpc-timeout", text).unwrap();
            assert_eq!(head.grpc_timeout(), millis.map(Duration::from_millis), "{text}");
        }
        for (millis, text) in
            [(15, "15m"), (99_999_999, "99999999m"), (100_000_000, "100000S"), (u64::MAX, "99999999H")]
        {
            head.set_grpc_timeout(Duration::from_millis(millis));
            assert_eq!(head.headers.get_str("grpc-timeout"), Some(text));
        }
    }

    #[test]
    fn grpc_requests() {
        let mut head = RequestHead::new(Method::Post, "h", "/p").unwrap();
        assert!(!head.is_grpc());
        for (value, is) in
            [("application/grpc", true), ("application/grpc+proto", true), ("application/grpc-web", false)]
        {
            head.headers.set("content-type", value).unwrap();
            assert_eq!(head.is_grpc(), is, "{value}");
        }
    }
}
