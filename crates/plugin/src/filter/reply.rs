//! Replies that the proxy itself makes.

use crate::{
    http::{Headers, StatusCode},
    info::{Details, ResponseFlag},
};
use bytes::Bytes;

/// A reply that does not come from the upstream. It passes the response filters that have not run, and always says
/// why it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalReply {
    /// The status.
    pub status: StatusCode,
    /// The body; plain text unless `headers` say otherwise.
    pub body: Bytes,
    /// Further fields.
    pub headers: Headers,
    /// The gRPC status for clients of gRPC; `None`: made from `status`.
    pub grpc_status: Option<u32>,
    /// The response flag to set.
    pub flag: Option<ResponseFlag>,
    /// Response code details.
    pub details: Details,
    /// What happened and which setting would have helped, as one sentence. `None`: what the details are known to mean.
    pub cause: Option<Box<str>>,
    /// Send it as the filter made it: neither the route's fields nor `local_reply_config` change it, and
    /// `%RESPONSE_CODE%` is not known before it has left. For answers that are no failures.
    pub verbatim: bool,
    /// End the connection after the reply: where the request ends is not known.
    pub close: bool,
}

impl LocalReply {
    /// A reply with a body, no fields and no flag.
    pub fn new(status: StatusCode, body: impl Into<Bytes>, details: impl Into<Details>) -> Self {
        Self {
            status,
            body: body.into(),
            headers: Headers::new(),
            grpc_status: None,
            flag: None,
            details: details.into(),
            cause: None,
            verbatim: false,
            close: false,
        }
    }

    /// With a response flag.
    #[must_use]
    pub fn flag(mut self, flag: ResponseFlag) -> Self {
        self.flag = Some(flag);
        self
    }

    /// With the sentence that says what happened (`%SOTA_CAUSE%`).
    #[must_use]
    pub fn cause(mut self, cause: impl Into<Box<str>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// As it is; see [`Self::verbatim`](field@Self::verbatim).
    #[must_use]
    pub fn verbatim(mut self) -> Self {
        self.verbatim = true;
        self
    }

    /// With the connection ended behind it.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }
}
