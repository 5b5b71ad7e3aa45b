//! Field blocks to heads and trailers: what makes a valid message (RFC 9113 §8), checked field by field while the
//! block is decompressed.

use super::{
    StreamFault,
    hpack::{FieldSink, Name, Pseudo},
    options::Options,
};
use crate::http1::{content_length, is_valid_authority, retain_allowed};
use sota_config::http::UnderscoreAction;
use sota_plugin::http::{HeaderId, Headers, Method, Protocol, RequestHead, ResponseHead, Scheme, StatusCode};

/// Octets of DATA that must come: `None` when nothing says so.
pub(super) type BodyOctets = Option<u64>;

/// What the fields of a block share: limits, and the first fault. Behind a fault or a limit nothing is stored.
struct Gate {
    max_bytes: usize,
    max_fields: usize,
    underscores: UnderscoreAction,
    bytes: usize,
    fields: usize,
    dropped: u32,
    /// A regular field was seen: pseudo-header fields may not follow (RFC 9113 §8.3).
    regular: bool,
    fault: Option<StreamFault>,
}

impl Gate {
    fn new(options: &Options, underscores: UnderscoreAction) -> Self {
        Self {
            max_bytes: options.max_head_bytes,
            max_fields: options.max_fields,
            underscores,
            bytes: 0,
            fields: 0,
            dropped: 0,
            regular: false,
            fault: None,
        }
    }

    fn fail(&mut self, fault: StreamFault) {
        self.fault.get_or_insert(fault);
    }

    /// Counts a field; `false` when it is not to be looked at.
    fn admit(&mut self, name: Name<'_>, value: &[u8]) -> bool {
        if self.fault.is_some() {
            return false;
        }
        self.fields += 1;
        self.bytes += name.as_bytes().len() + value.len();
        if self.fields > self.max_fields || self.bytes > self.max_bytes {
            self.fail(StreamFault::TooLarge);
            return false;
        }
        true
    }

    /// A field that is no pseudo-header field: the checks that heads and trailers share, and the name and value to
    /// store.
    fn regular<'a>(&mut self, name: Name<'a>, value: &'a [u8], headers: &mut Headers) {
        self.regular = true;
        let stored = match name {
            Name::Known(
                HeaderId::Connection
                | HeaderId::KeepAlive
                | HeaderId::ProxyConnection
                | HeaderId::TransferEncoding
                | HeaderId::Upgrade,
            ) => Err(StreamFault::Field),
            Name::Known(HeaderId::Te) if !trim(value).eq_ignore_ascii_case(b"trailers") => Err(StreamFault::Field),
            Name::Known(id) => headers.append(id, trim(value)).map_err(|_| StreamFault::Field),
            Name::Other(text) => {
                if self.underscores != UnderscoreAction::Allow && memchr::memchr(b'_', text).is_some() {
                    if self.underscores == UnderscoreAction::DropHeader {
                        self.dropped += 1;
                        return;
                    }
                    Err(StreamFault::Underscore)
                } else {
                    headers.append(text, trim(value)).map_err(|_| StreamFault::Field)
                }
            }
            Name::Pseudo(_) | Name::Invalid(_) => Err(StreamFault::Field),
        };
        if let Err(fault) = stored {
            self.fail(fault);
        }
    }
}

/// Without surrounding white space. RFC 9113 §8.2.1 forbids it and Envoy lets it pass; without it there is one
/// reading.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Facts about a request that are no fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestFacts {
    pub(super) body: BodyOctets,
    /// CONNECT, plain or extended.
    pub(super) is_connect: bool,
    /// An extended CONNECT, which the head shows as an HTTP/1 upgrade.
    pub(super) is_upgrade: bool,
    pub(super) dropped: u32,
}

/// Takes the fields of a request.
pub(super) struct RequestSink<'a> {
    gate: Gate,
    head: &'a mut RequestHead,
    /// Cookie crumbs, joined (RFC 9113 §8.2.3).
    cookies: &'a mut Vec<u8>,
    has_cookie: bool,
    /// `:protocol`
    protocol: Option<Vec<u8>>,
    has_method: bool,
    has_scheme: bool,
    has_authority: bool,
    has_path: bool,
    has_host: bool,
}

impl<'a> RequestSink<'a> {
    /// `head` is overwritten.
    pub(super) fn new(options: &Options, head: &'a mut RequestHead, cookies: &'a mut Vec<u8>) -> Self {
        head.recycle();
        head.protocol = Protocol::Http2;
        cookies.clear();
        Self {
            gate: Gate::new(options, options.underscores),
            head,
            cookies,
            has_cookie: false,
            protocol: None,
            has_method: false,
            has_scheme: false,
            has_authority: false,
            has_path: false,
            has_host: false,
        }
    }

    fn pseudo(&mut self, pseudo: Pseudo, value: &[u8]) -> Result<(), StreamFault> {
        // In the second block of a head, or twice, or not of a request.
        let seen = match pseudo {
            Pseudo::Method => &mut self.has_method,
            Pseudo::Scheme => &mut self.has_scheme,
            Pseudo::Authority => &mut self.has_authority,
            Pseudo::Path => &mut self.has_path,
            Pseudo::Protocol if self.protocol.is_none() => {
                self.protocol = Some(value.to_vec());
                return Ok(());
            }
            Pseudo::Protocol | Pseudo::Status => return Err(StreamFault::Field),
        };
        if self.gate.regular || std::mem::replace(seen, true) {
            return Err(StreamFault::Field);
        }
        match pseudo {
            Pseudo::Method => self.head.method = Method::from_bytes(value).ok_or(StreamFault::Field)?,
            Pseudo::Scheme => self.head.scheme = Scheme::from_bytes(value).ok_or(StreamFault::Field)?,
            Pseudo::Authority if !is_valid_authority(value) => return Err(StreamFault::Field),
            Pseudo::Authority => self.head.set_authority(value).map_err(|_| StreamFault::Field)?,
            // Visible ASCII and no fragment, as in HTTP/1.
            _ if !value.iter().fold(true, |ok, c| ok & (0x21..=0x7e).contains(c) & (*c != b'#')) => {
                return Err(StreamFault::Field);
            }
            _ => self.head.set_path(value).map_err(|_| StreamFault::Field)?,
        }
        Ok(())
    }

    /// What `host` says counts only where there is no `:authority`, as in Envoy; two of it are refused.
    fn host(&mut self, value: &[u8]) -> Result<(), StreamFault> {
        self.gate.regular = true;
        let value = trim(value);
        if std::mem::replace(&mut self.has_host, true) || !is_valid_authority(value) {
            return Err(StreamFault::Field);
        }
        if self.has_authority {
            return Ok(());
        }
        self.head.set_authority(value).map_err(|_| StreamFault::Field)
    }

    fn cookie(&mut self, value: &[u8]) {
        self.gate.regular = true;
        if std::mem::replace(&mut self.has_cookie, true) {
            self.cookies.extend_from_slice(b"; ");
        }
        self.cookies.extend_from_slice(trim(value));
    }

    /// Checks the whole, when the block has been read.
    pub(super) fn finish(mut self, end_stream: bool, allow_connect: bool) -> Result<RequestFacts, StreamFault> {
        if let Some(fault) = self.gate.fault {
            return Err(fault);
        }
        if self.has_cookie {
            self.head.headers.append(HeaderId::Cookie, &*self.cookies).map_err(|_| StreamFault::Field)?;
        }
        let is_connect = self.head.method == Method::Connect;
        let protocol = self.protocol.take();
        if !self.has_method || protocol.is_some() && !(is_connect && allow_connect) {
            return Err(StreamFault::Messaging);
        }
        if is_connect && protocol.is_none() {
            // RFC 9113 §8.5.
            if self.has_scheme || self.has_path || self.head.authority().is_empty() {
                return Err(StreamFault::Messaging);
            }
        } else {
            let is_asterisk = self.head.path() == b"*" && self.head.method == Method::Options;
            if !self.has_scheme || !is_asterisk && self.head.path().first() != Some(&b'/') {
                return Err(StreamFault::Messaging);
            }
        }
        let length = content_length(&mut self.head.headers).map_err(|_| StreamFault::Messaging)?;
        let mut body = length;
        if is_connect {
            body = None;
            if length.is_some_and(|length| length > 0) {
                return Err(StreamFault::Messaging);
            }
            self.head.headers.remove(HeaderId::ContentLength);
        } else if end_stream && length.is_some_and(|length| length > 0) {
            return Err(StreamFault::Messaging);
        }
        if let Some(protocol) = &protocol {
            // What Envoy makes of it (RFC 8441 §5 read backwards): routes and filters know upgrades.
            let headers = &mut self.head.headers;
            headers.append(HeaderId::Connection, "upgrade").map_err(|_| StreamFault::Field)?;
            if protocol.is_empty() {
                return Err(StreamFault::Messaging);
            }
            headers.append(HeaderId::Upgrade, protocol).map_err(|_| StreamFault::Field)?;
            self.head.method = Method::Get;
        }
        Ok(RequestFacts { body, is_connect, is_upgrade: protocol.is_some(), dropped: self.gate.dropped })
    }
}

impl FieldSink for RequestSink<'_> {
    fn field(&mut self, name: Name<'_>, value: &[u8]) {
        if !self.gate.admit(name, value) {
            return;
        }
        let result = match name {
            Name::Pseudo(Pseudo::Protocol) if self.gate.regular => Err(StreamFault::Field),
            Name::Pseudo(pseudo) => self.pseudo(pseudo, value),
            Name::Known(HeaderId::Host) => self.host(value),
            Name::Known(HeaderId::Cookie) => {
                self.cookie(value);
                Ok(())
            }
            _ => {
                self.gate.regular(name, value, &mut self.head.headers);
                Ok(())
            }
        };
        if let Err(fault) = result {
            self.gate.fail(fault);
        }
    }
}

/// What a response answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Answers {
    pub(super) is_head: bool,
    /// CONNECT, plain or extended.
    pub(super) is_connect: bool,
}

/// Takes the fields of a response.
pub(super) struct ResponseSink<'a> {
    gate: Gate,
    head: &'a mut ResponseHead,
    has_status: bool,
}

impl<'a> ResponseSink<'a> {
    /// `head` is overwritten.
    pub(super) fn new(options: &Options, head: &'a mut ResponseHead) -> Self {
        head.recycle();
        head.protocol = Protocol::Http2;
        Self { gate: Gate::new(options, UnderscoreAction::Allow), head, has_status: false }
    }

    fn status(&mut self, value: &[u8]) -> Result<(), StreamFault> {
        if self.gate.regular || std::mem::replace(&mut self.has_status, true) {
            return Err(StreamFault::Field);
        }
        let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = value else { return Err(StreamFault::Field) };
        let code = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
        self.head.status = StatusCode::from_u16(code).ok_or(StreamFault::Field)?;
        Ok(())
    }

    /// Checks the whole, when the block has been read.
    pub(super) fn finish(self, end_stream: bool, answers: Answers) -> Result<BodyOctets, StreamFault> {
        if let Some(fault) = self.gate.fault {
            return Err(fault);
        }
        let status = self.head.status;
        // RFC 9113 §8.6: there is no 101; §8.1: an informational response never ends a stream.
        let informational = status.is_informational();
        if !self.has_status || status == StatusCode::SWITCHING_PROTOCOLS || informational && end_stream {
            return Err(StreamFault::Messaging);
        }
        let length = content_length(&mut self.head.headers).map_err(|_| StreamFault::Messaging)?;
        if informational || status == StatusCode::NO_CONTENT {
            if length.is_some_and(|length| length > 0) {
                return Err(StreamFault::Messaging);
            }
            self.head.headers.remove(HeaderId::ContentLength);
            return Ok(Some(0));
        }
        if answers.is_connect && status.is_success() {
            self.head.headers.remove(HeaderId::ContentLength);
            return Ok(None);
        }
        if answers.is_head || status == StatusCode::NOT_MODIFIED {
            return Ok(Some(0));
        }
        if end_stream && length.is_some_and(|length| length > 0) {
            return Err(StreamFault::Messaging);
        }
        Ok(length)
    }
}

impl FieldSink for ResponseSink<'_> {
    fn field(&mut self, name: Name<'_>, value: &[u8]) {
        if !self.gate.admit(name, value) {
            return;
        }
        match name {
            Name::Pseudo(Pseudo::Status) => {
                if let Err(fault) = self.status(value) {
                    self.gate.fail(fault);
                }
            }
            _ => self.gate.regular(name, value, &mut self.head.headers),
        }
    }
}

/// Takes the fields of trailers, in which there are no pseudo-header fields (RFC 9113 §8.1).
pub(super) struct TrailerSink<'a> {
    gate: Gate,
    fields: &'a mut Headers,
}

impl<'a> TrailerSink<'a> {
    /// `fields` is overwritten.
    pub(super) fn new(options: &Options, fields: &'a mut Headers) -> Self {
        fields.recycle();
        Self { gate: Gate::new(options, UnderscoreAction::Allow), fields }
    }

    /// Leaves out what may not be in trailers (RFC 9110 §6.5.1).
    pub(super) fn finish(self) -> Result<(), StreamFault> {
        retain_allowed(self.fields);
        self.gate.fault.map_or(Ok(()), Err)
    }
}

impl FieldSink for TrailerSink<'_> {
    fn field(&mut self, name: Name<'_>, value: &[u8]) {
        if self.gate.admit(name, value) {
            self.gate.regular(name, value, self.fields);
        }
    }
}

/// Takes nothing: for blocks that are read only for the table's sake.
pub(super) struct NoSink;

impl FieldSink for NoSink {
    fn field(&mut self, _name: Name<'_>, _value: &[u8]) {}
}
