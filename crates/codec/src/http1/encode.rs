//! Messages to bytes. Everything that is written was checked when it entered a head, so no value can end a line.

use super::{BodyLength, trailers};
use sota_config::http::HeaderKeyFormat;
use sota_plugin::http::{HeaderId, Headers, Method, Protocol, RequestHead, ResponseHead, StatusCode};

/// The whole interim response that asks a client for its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Ends a chunked body that has no trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What to say in `Connection`. A `Connection` field of the head itself (an upgrade) is written as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConnectionField {
    /// Nothing more.
    #[default]
    Omit,
    /// `close`
    Close,
    /// `keep-alive`, which HTTP/1.0 needs.
    KeepAlive,
}

/// How to write a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadEncoding {
    /// The version to say: HTTP/1.0 to a client that spoke it, else HTTP/1.1.
    pub protocol: Protocol,
    /// How the body will be framed. `Content-Length` and `Transfer-Encoding` are written to agree with it, whatever
    /// the head holds.
    pub body: BodyLength,
    /// How names are spelled.
    pub names: HeaderKeyFormat,
    /// What to say about the connection.
    pub connection: ConnectionField,
    /// Requests: write the target in absolute form.
    pub absolute_form: bool,
}

impl HeadEncoding {
    /// HTTP/1.1, names as they came, nothing said about the connection.
    pub fn new(body: BodyLength) -> Self {
        Self {
            protocol: Protocol::Http11,
            body,
            names: HeaderKeyFormat::Preserve,
            connection: ConnectionField::Omit,
            absolute_form: false,
        }
    }
}

/// Writes a request head: the request line, `host`, the fields in their order.
pub fn encode_request_head(head: &RequestHead, encoding: &HeadEncoding, out: &mut Vec<u8>) {
    out.reserve(head.byte_size() + head.headers.len() * 4 + 128);
    let mut lines = LineWriter { out, names: encoding.names };
    lines.out.extend_from_slice(head.method.as_str().as_bytes());
    lines.out.push(b' ');
    write_target(head, encoding.absolute_form, lines.out);
    lines.out.extend_from_slice(version(encoding.protocol, b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"));
    lines.field(b"host", head.authority());
    let body_expected =
        !matches!(head.method, Method::Get | Method::Head | Method::Delete | Method::Trace | Method::Connect);
    let length = match encoding.body {
        BodyLength::Empty => LengthField::Zero { needed: body_expected },
        body => LengthField::from(body),
    };
    lines.section(&head.headers, length, encoding.connection);
}

/// Writes a response head with the registered reason phrase.
///
/// An empty body is `content-length: 0`, except where a length would describe something else: in answers to HEAD
/// and in 304 a length of the head is kept and none is added (`is_head_reply`), in 1xx and 204 there is none at all.
/// An answer to HEAD may say that the body would be chunked.
pub fn encode_response_head(head: &ResponseHead, encoding: &HeadEncoding, is_head_reply: bool, out: &mut Vec<u8>) {
    out.reserve(head.headers.byte_size() + head.headers.len() * 4 + 128);
    let mut lines = LineWriter { out, names: encoding.names };
    lines.out.extend_from_slice(version(encoding.protocol, b"HTTP/1.1 ", b"HTTP/1.0 "));
    lines.out.extend_from_slice(head.status.as_str().as_bytes());
    lines.out.push(b' ');
    lines.out.extend_from_slice(head.status.reason().as_bytes());
    lines.out.extend_from_slice(b"\r\n");
    let status = head.status;
    let length = match encoding.body {
        _ if status.is_informational() || status == StatusCode::NO_CONTENT => LengthField::None,
        BodyLength::Chunked if is_head_reply => LengthField::Chunked,
        _ if is_head_reply || status == StatusCode::NOT_MODIFIED => LengthField::AsIs,
        BodyLength::Empty => LengthField::Zero { needed: true },
        body => LengthField::from(body),
    };
    lines.section(&head.headers, length, encoding.connection);
}

/// Writes one chunk. Empty data is left out, for an empty chunk would end the body.
pub fn encode_chunk(data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    out.reserve(data.len() + 20);
    out.extend_from_slice(ChunkHead::new(data.len()).as_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Ends a chunked body with trailers. Fields that may not be in trailers are left out.
pub fn encode_trailers(trailers: &Headers, names: HeaderKeyFormat, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    let mut lines = LineWriter { out, names };
    for field in trailers.fields() {
        if field.id.is_none_or(trailers::is_allowed) {
            lines.field(field.name, field.value);
        }
    }
    lines.out.extend_from_slice(b"\r\n");
}

/// The line before a chunk's data, for writers that don't copy the data. The data is followed by CR LF.
#[derive(Debug, Clone, Copy)]
pub struct ChunkHead {
    text: [u8; 18],
    start: usize,
}

impl ChunkHead {
    /// For a chunk of `size` octets, which must not be 0.
    pub fn new(size: usize) -> Self {
        debug_assert!(size > 0, "a chunk without data ends the body");
        let mut text = [0; 18];
        let mut left = size;
        let mut start = text.len();
        for (at, octet) in text.iter_mut().enumerate().rev() {
            match at {
                17 => *octet = b'\n',
                16 => *octet = b'\r',
                _ if left == 0 && at < 15 => break,
                _ => {
                    let digit = (left & 15) as u8;
                    *octet = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
                    left >>= 4;
                }
            }
            start = at;
        }
        Self { text, start }
    }

    /// Size and CR LF.
    pub fn as_bytes(&self) -> &[u8] {
        self.text.get(self.start..).unwrap_or_default()
    }
}

/// What is to be said about the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LengthField {
    /// No length, no coding.
    None,
    /// `content-length: 0`: always, or only if the head has a length already.
    Zero {
        needed: bool,
    },
    Length(u64),
    Chunked,
    /// The head's length, if it has one.
    AsIs,
}

impl From<BodyLength> for LengthField {
    fn from(body: BodyLength) -> Self {
        match body {
            BodyLength::Empty => Self::Zero { needed: true },
            BodyLength::Length(length) => Self::Length(length),
            BodyLength::Chunked => Self::Chunked,
            BodyLength::UntilClose | BodyLength::Tunnel => Self::None,
        }
    }
}

struct LineWriter<'a> {
    out: &'a mut Vec<u8>,
    names: HeaderKeyFormat,
}

impl LineWriter<'_> {
    /// The fields, the fields of framing and connection, and the empty line.
    fn section(&mut self, headers: &Headers, length: LengthField, connection: ConnectionField) {
        let has_length = headers.contains(HeaderId::ContentLength);
        let value = match length {
            LengthField::Zero { needed } if needed || has_length => Some(0),
            LengthField::Length(length) => Some(length),
            _ => None,
        };
        // What the head says is left in its place if it is true and said once.
        let said = headers.get_only(HeaderId::ContentLength);
        let keep_length = said.is_some() == has_length
            && match value {
                Some(value) => said == Some(itoa(value).as_bytes()),
                None => length == LengthField::AsIs,
            };
        let drops_length = has_length && !keep_length;
        let drops_connection = connection != ConnectionField::Omit && headers.contains(HeaderId::Connection);
        let verbatim = self.names == HeaderKeyFormat::Preserve
            && !drops_length
            && !drops_connection
            && !headers.contains(HeaderId::TransferEncoding);
        if verbatim {
            headers.write_lines(self.out);
        } else {
            for field in headers.fields() {
                match field.id {
                    Some(HeaderId::TransferEncoding) => {}
                    Some(HeaderId::ContentLength) if drops_length => {}
                    Some(HeaderId::Connection) if drops_connection => {}
                    _ => self.field(field.name, field.value),
                }
            }
        }
        if let Some(value) = value.filter(|_| !keep_length) {
            self.field(b"content-length", itoa(value).as_bytes());
        }
        if length == LengthField::Chunked {
            self.field(b"transfer-encoding", b"chunked");
        }
        match connection {
            ConnectionField::Omit => {}
            ConnectionField::Close => self.field(b"connection", b"close"),
            ConnectionField::KeepAlive => self.field(b"connection", b"keep-alive"),
        }
        self.out.extend_from_slice(b"\r\n");
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        let start = self.out.len();
        self.out.extend_from_slice(name);
        if self.names == HeaderKeyFormat::ProperCase {
            proper_case(self.out.get_mut(start..).unwrap_or_default());
        }
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
    }
}

/// `x-request-id` becomes `X-Request-Id`: a letter behind anything but a letter or digit is a capital.
fn proper_case(name: &mut [u8]) {
    let mut start = true;
    for c in name {
        *c = if start { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        start = !c.is_ascii_alphanumeric();
    }
}

fn write_target(head: &RequestHead, absolute_form: bool, out: &mut Vec<u8>) {
    if head.method == Method::Connect {
        out.extend_from_slice(head.authority());
        return;
    }
    if absolute_form {
        out.extend_from_slice(head.scheme.as_str().as_bytes());
        out.extend_from_slice(b"://");
        out.extend_from_slice(head.authority());
        // RFC 9112 §3.2.4: OPTIONS * in absolute form has no path at all.
        if head.path() == b"*" {
            return;
        }
    }
    if head.path().is_empty() { out.push(b'/') } else { out.extend_from_slice(head.path()) }
}

const fn version(protocol: Protocol, http_11: &'static [u8], http_10: &'static [u8]) -> &'static [u8] {
    match protocol {
        Protocol::Http10 => http_10,
        _ => http_11,
    }
}

/// A number as decimal digits.
struct Digits {
    text: [u8; 20],
    start: usize,
}

impl Digits {
    fn as_bytes(&self) -> &[u8] {
        self.text.get(self.start..).unwrap_or_default()
    }
}

fn itoa(mut number: u64) -> Digits {
    let mut text = [b'0'; 20];
    let mut start = text.len() - 1;
    for (at, digit) in text.iter_mut().enumerate().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        start = at;
        if number == 0 {
            break;
        }
    }
    Digits { text, start }
}
