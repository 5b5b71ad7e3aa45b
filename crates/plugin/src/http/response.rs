//! The head of a response.

use super::{AsHeaderName, Headers, Protocol, StatusCode};

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

    /// A field by name; the status code cannot be got here as it is a number, see [`Self::status`].
    pub fn get(&self, name: impl AsHeaderName) -> Option<&[u8]> {
        self.headers.get(name)
    }

    /// Empties the head for the next message, keeping its memory unless it grew large.
    pub fn recycle(&mut self) {
        self.status = StatusCode::OK;
        self.protocol = Protocol::Http11;
        self.headers.recycle();
    }
}
