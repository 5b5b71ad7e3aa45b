//! Why a message cannot be taken, and what to tell its sender.

use sota_plugin::http::StatusCode;

/// A message that is refused. The connection cannot be used again: where the message ends is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Http1Error {
    /// The request line is not `method SP target SP HTTP/1.x`.
    #[error("malformed request line")]
    RequestLine,
    /// A request in a version of HTTP/1 that does not exist, or in another one's name.
    #[error("unknown version")]
    Version,
    /// The status line is not `HTTP/1.x SP status`.
    #[error("malformed status line")]
    StatusLine,
    /// The method is no token, or one that nobody registered and custom methods are not allowed.
    #[error("invalid method")]
    Method,
    /// The target fits none of the four forms (RFC 9112 §3.2), or a form its method may not have.
    #[error("invalid request target")]
    Target,
    /// The target has a fragment.
    #[error("request target with a fragment")]
    Fragment,
    /// An absolute-form target where only origin-form is allowed.
    #[error("absolute-form target is not allowed")]
    AbsoluteForm,
    /// An absolute-form target whose scheme is neither `http` nor `https`.
    #[error("unknown scheme in the request target")]
    Scheme,
    /// Host or the target's authority is malformed, has user information, or there are two Host fields.
    #[error("invalid host")]
    Authority,
    /// HTTP/1.1 without Host.
    #[error("missing host")]
    MissingHost,
    /// A field name that is no token (white space before the colon and folded lines are this).
    #[error("malformed field line")]
    Field,
    /// A control character such as NUL or a bare CR in a value.
    #[error("invalid character")]
    Character,
    /// A line that ends in LF without CR.
    #[error("line without carriage return")]
    BareLineFeed,
    /// A field name with an underscore, where that is refused.
    #[error("underscore in a field name")]
    Underscore,
    /// The head, or the trailers, are larger than allowed.
    #[error("head too large")]
    HeadTooLarge,
    /// More fields than allowed.
    #[error("too many fields")]
    TooManyFields,
    /// `Content-Length` is no number, too large, a list, or there are two.
    #[error("invalid content-length")]
    ContentLength,
    /// `Content-Length` together with `Transfer-Encoding`.
    #[error("both content-length and transfer-encoding")]
    LengthAndEncoding,
    /// `Transfer-Encoding` is anything but one `chunked`.
    #[error("unsupported transfer-encoding")]
    TransferEncoding,
    /// `Transfer-Encoding` where there must be none: HTTP/1.0, CONNECT, 1xx, 204.
    #[error("transfer-encoding is not allowed here")]
    TransferEncodingNotAllowed,
    /// `Content-Length` other than 0 where there must be no body: CONNECT, 1xx, 204.
    #[error("content-length is not allowed here")]
    ContentLengthNotAllowed,
    /// `Connection` nominates fields whose removal would hide where the request is from, or too many.
    #[error("connection names fields it must not")]
    ConnectionNomination,
    /// 101 to a request that did not ask for an upgrade.
    #[error("switching protocols without a request to")]
    UnexpectedSwitch,
    /// A chunk size, extension or delimiter that breaks the grammar.
    #[error("malformed chunk")]
    Chunk,
    /// More chunk extensions than data justifies.
    #[error("too many chunk extensions")]
    ChunkExtensions,
    /// The connection ended inside a message.
    #[error("connection closed inside a message")]
    Truncated,
}

impl Http1Error {
    /// The status of the answer to a request that failed so. (A response that failed so becomes 502 upstream's way.)
    pub const fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Self::AbsoluteForm => StatusCode::NOT_FOUND,
            Self::Version => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Envoy's response code details.
    pub const fn details(self) -> &'static str {
        match self {
            Self::Target => "http1.invalid_url",
            Self::Version => "low_version",
            Self::Fragment => "path_normalization_failed",
            Self::AbsoluteForm => "absolute_path_rejected",
            Self::Scheme => "http1.invalid_scheme",
            Self::Authority => "http.invalid_authority",
            Self::MissingHost => "missing_host_header",
            Self::Character => "http1.invalid_characters",
            Self::Underscore => "http1.unexpected_underscore",
            Self::HeadTooLarge => "http1.headers_too_large",
            Self::TooManyFields => "http1.too_many_headers",
            Self::LengthAndEncoding => "http1.content_length_and_chunked_not_allowed",
            Self::TransferEncoding => "http1.invalid_transfer_encoding",
            Self::TransferEncodingNotAllowed => "http1.transfer_encoding_not_allowed",
            Self::ContentLengthNotAllowed => "http1.content_length_not_allowed",
            Self::ConnectionNomination => "http1.connection_header_rejected",
            _ => "http1.codec_error",
        }
    }

    /// Whether Envoy sets the flag DPE (downstream protocol error); the others are refusals of a well-formed request.
    pub const fn is_protocol_error(self) -> bool {
        !matches!(self, Self::Fragment | Self::AbsoluteForm | Self::MissingHost)
    }
}
