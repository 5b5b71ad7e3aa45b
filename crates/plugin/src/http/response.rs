//! The head of a response.

use super::{AsHeaderName, Headers, NameRef, Protocol, StatusCode};
use std::borrow::Cow;

/// Status and fields of a response. The reason phrase is not kept: the encoder writes the registered one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResponseHead {
    /// The status code.
    pub status: StatusCode,
    /// The protocol it came by.
    pub protocol: Protocol,
    /// The fields.
    pub headers: Headers,
}

impl ResponseHead {
    /// A head without fields.
    pub fn new(status: StatusCode) -> Self {
        Self { status, ..Self::default() }
    }

    /// Adds a field, sanitised; for building replies. See [`Headers::set_sanitized`].
    #[must_use]
    pub fn with(mut self, name: impl AsHeaderName, value: impl AsRef<[u8]>) -> Self {
        self.headers.set_sanitized(name, value);
        self
    }

    /// What matchers and format strings name: `:status` (three digits), or a field.
    pub fn get(&self, name: impl AsHeaderName) -> Option<&[u8]> {
        match name.as_name() {
            NameRef::Other(b":status") => Some(self.status.as_str().as_bytes()),
            _ => self.headers.get(name),
        }
    }

    /// Like [`Self::get`], with all values of a repeated field joined by `,`: what matchers compare.
    pub fn get_joined(&self, name: impl AsHeaderName) -> Option<Cow<'_, [u8]>> {
        match name.as_name() {
            NameRef::Other(pseudo) if pseudo.first() == Some(&b':') => self.get(name).map(Cow::Borrowed),
            _ => self.headers.get_joined(name),
        }
    }

    /// Octets of names and values, `:status` included, as Envoy's `%RESPONSE_HEADERS_BYTES%` counts them.
    pub fn byte_size(&self) -> usize {
        const STATUS: usize = ":status".len() + 3;
        STATUS + self.headers.byte_size()
    }

    /// Empties the head for the next message, keeping its memory unless it grew large.
    pub fn recycle(&mut self) {
        self.status = StatusCode::OK;
        self.protocol = Protocol::Http11;
        self.headers.recycle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_status_by_name() {
        let mut head = ResponseHead::new(StatusCode::NOT_FOUND).with("X-A", "1\n2");
        assert_eq!((head.get(":status"), head.get("x-a")), (Some(&b"404"[..]), Some(&b"1 2"[..])));
        head.headers.append("x-a", b"3").unwrap();
        assert_eq!(head.get_joined("x-a").as_deref(), Some(&b"1 2,3"[..]));
        assert_eq!(head.get_joined(":status").as_deref(), Some(&b"404"[..]));
        head.headers.set("x-a", b"1 2").unwrap();
        assert_eq!(head.byte_size(), 16);
        head.recycle();
        assert_eq!(head, ResponseHead::default());
    }
}
