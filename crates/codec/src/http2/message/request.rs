//! Requests (RFC 9113 §8.3.1, §8.5).

use super::{BodyOctets, Gate, trim};
use crate::{
    http1::{content_length, is_valid_authority},
    http2::{
        StreamFault,
        hpack::{FieldSink, Name, Pseudo},
        options::Options,
    },
};
use sota_plugin::http::{HeaderId, Method, Protocol, RequestHead, Scheme};

/// Facts about a request that are no fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http2) struct RequestFacts {
    pub(in crate::http2) body: BodyOctets,
    /// CONNECT, plain or extended.
    pub(in crate::http2) is_connect: bool,
    /// An extended CONNECT, which the head shows as an HTTP/1 upgrade.
    pub(in crate::http2) is_upgrade: bool,
    pub(in crate::http2) dropped: u32,
}

/// Takes the fields of a request.
pub(in crate::http2) struct RequestSink<'a> {
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
    pub(in crate::http2) fn new(options: &Options, head: &'a mut RequestHead, cookies: &'a mut Vec<u8>) -> Self {
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
    pub(in crate::http2) fn finish(
        mut self,
        end_stream: bool,
        allow_connect: bool,
    ) -> Result<RequestFacts, StreamFault> {
        if let Some(fault) = self.gate.fault {
            return Err(fault);
        }
        if self.has_cookie {
            self.head.headers.append(HeaderId::Cookie, trim(self.cookies)).map_err(|_| StreamFault::Field)?;
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
            // Compat: RFC 9113 §8.3.1 does not ask for an authority; Envoy's library does.
            let has_host = self.has_authority || self.has_host;
            if !has_host || !self.has_scheme || !is_asterisk && self.head.path().first() != Some(&b'/') {
                return Err(StreamFault::Messaging);
            }
            if self.head.authority().is_empty() {
                self.head.note_empty_host();
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
