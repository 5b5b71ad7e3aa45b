//! The status of a gRPC call: in trailers, in the head of a response without body, or made of the HTTP status.

use super::{HeaderId, Headers, RequestHead, ResponseHead, StatusCode};

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
    /// 2: what there is nothing to say of.
    pub const UNKNOWN: Self = Self(2);

    /// The status of a response: from the trailers, otherwise from the head, otherwise made of the HTTP status.
    pub fn of(
        trailers: Option<&Headers>,
        head: Option<&ResponseHead>,
        response_code: Option<StatusCode>,
    ) -> Option<Self> {
        let from = |headers: &Headers| headers.get(HeaderId::GrpcStatus).map(Self::parse);
        trailers
            .and_then(from)
            .or_else(|| head.and_then(|head| from(&head.headers)))
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
