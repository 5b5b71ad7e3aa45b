//! Field blocks to heads and trailers: what makes a valid message (RFC 9113 §8), checked field by field while the
//! block is decompressed.

mod request;
mod response;

pub(super) use request::RequestSink;
pub(super) use response::{Answers, ResponseSink};

use super::{
    StreamFault,
    hpack::{FieldSink, Name},
    options::Options,
};
use crate::http1::retain_allowed;
use sota_config::http::UnderscoreAction;
use sota_plugin::http::{HeaderId, Headers};

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
