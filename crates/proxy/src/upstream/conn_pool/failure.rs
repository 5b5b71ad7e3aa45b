//! Why there is no connection, in Envoy's words.

use sota_plugin::info::{Details, ResponseFlag};
use std::io;

/// Why a pool gave no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolFailure {
    /// The kind.
    pub kind: PoolFailureKind,
    /// What the system said, in Envoy's words: `delayed connect error: Connection refused`. Empty for an overflow.
    pub reason: Details,
    /// The circuit breaker's limit that is reached, as its field is named; empty where none is.
    pub limit: &'static str,
}

/// The kinds of [`PoolFailure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolFailureKind {
    /// A circuit breaker is open.
    Overflow,
    /// It failed on our side: binding to the source address, closing the pool.
    LocalConnectionFailure,
    /// The host refused, or cannot be reached.
    RemoteConnectionFailure,
    /// The host did not answer within `connect_timeout`.
    Timeout,
}

impl PoolFailureKind {
    /// As in response code details.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::LocalConnectionFailure => "local_connection_failure",
            Self::RemoteConnectionFailure => "remote_connection_failure",
            Self::Timeout => "connection_timeout",
        }
    }

    /// The flag of the response.
    pub const fn flag(self) -> ResponseFlag {
        match self {
            Self::Overflow => ResponseFlag::UpstreamOverflow,
            _ => ResponseFlag::UpstreamConnectionFailure,
        }
    }
}

impl PoolFailure {
    pub(super) const fn overflow(limit: &'static str) -> Self {
        Self { kind: PoolFailureKind::Overflow, reason: Details::Borrowed(""), limit }
    }

    pub(crate) fn new(kind: PoolFailureKind, reason: impl Into<Details>) -> Self {
        Self { kind, reason: reason.into(), limit: "" }
    }

    /// The response code details: `upstream_reset_before_response_started{remote_connection_failure|…}`.
    pub fn details(&self) -> String {
        let bar = if self.reason.is_empty() { "" } else { "|" };
        let reason = self.reason.replace(' ', "_");
        format!("upstream_reset_before_response_started{{{}{bar}{reason}}}", self.kind.as_str())
    }
}

/// What the system says of an error, without Rust's number behind it.
pub(super) fn system_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) if error.raw_os_error().is_some() => text[..end].to_owned(),
        _ => text,
    }
}
