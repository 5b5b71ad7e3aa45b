//! Why an upstream request failed, in Envoy's words.

use super::retry_state;
use crate::{
    upstream::PoolFailureKind,
    wire::http2::{ConnectionEnd, StreamEnd},
};
use sota_codec::http2::ResetCause;
use sota_plugin::{
    filter::LocalReply,
    http::StatusCode,
    info::{ResponseFlag, StreamInfo},
};

/// Why an attempt ended without (the whole of) a response: Envoy's reset reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// We could not even try to connect.
    LocalConnectionFailure,
    /// The connection could not be made.
    RemoteConnectionFailure,
    /// The connection was not made in time.
    ConnectionTimeout,
    /// The connection ended.
    ConnectionTermination,
    /// We gave the attempt up.
    LocalReset,
    /// The host has reset the stream.
    RemoteReset,
    /// The host has refused the stream, unseen.
    RemoteRefusedStreamReset,
    /// A circuit breaker is open.
    Overflow,
    /// What came is no HTTP.
    ProtocolError,
}

impl ResetReason {
    /// As replies and details name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LocalConnectionFailure => "local connection failure",
            Self::RemoteConnectionFailure => "remote connection failure",
            Self::ConnectionTimeout => "connection timeout",
            Self::ConnectionTermination => "connection termination",
            Self::LocalReset => "local reset",
            Self::RemoteReset => "remote reset",
            Self::RemoteRefusedStreamReset => "remote refused stream reset",
            Self::Overflow => "overflow",
            Self::ProtocolError => "protocol error",
        }
    }

    /// The response flag that says so.
    pub const fn flag(self) -> ResponseFlag {
        match self {
            Self::LocalConnectionFailure | Self::RemoteConnectionFailure | Self::ConnectionTimeout => {
                ResponseFlag::UpstreamConnectionFailure
            }
            Self::ConnectionTermination => ResponseFlag::UpstreamConnectionTermination,
            Self::LocalReset => ResponseFlag::LocalReset,
            Self::RemoteReset | Self::RemoteRefusedStreamReset => ResponseFlag::UpstreamRemoteReset,
            Self::Overflow => ResponseFlag::UpstreamOverflow,
            Self::ProtocolError => ResponseFlag::UpstreamProtocolError,
        }
    }

    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::ProtocolError => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<PoolFailureKind> for ResetReason {
    fn from(kind: PoolFailureKind) -> Self {
        match kind {
            PoolFailureKind::Overflow => Self::Overflow,
            PoolFailureKind::LocalConnectionFailure => Self::LocalConnectionFailure,
            PoolFailureKind::RemoteConnectionFailure => Self::RemoteConnectionFailure,
            PoolFailureKind::Timeout => Self::ConnectionTimeout,
        }
    }
}

impl From<StreamEnd> for ResetReason {
    fn from(end: StreamEnd) -> Self {
        match end {
            StreamEnd::Reset(ResetCause::Fault(_)) | StreamEnd::Connection(ConnectionEnd::Protocol(_)) => {
                Self::ProtocolError
            }
            StreamEnd::Reset(cause) if cause.is_refused() => Self::RemoteRefusedStreamReset,
            StreamEnd::Reset(_) => Self::RemoteReset,
            StreamEnd::Connection(_) => Self::ConnectionTermination,
        }
    }
}

/// As retry policies tell them apart.
impl From<ResetReason> for retry_state::ResetReason {
    fn from(reason: ResetReason) -> Self {
        match reason {
            ResetReason::Overflow => Self::Overflow,
            ResetReason::LocalConnectionFailure
            | ResetReason::RemoteConnectionFailure
            | ResetReason::ConnectionTimeout => Self::ConnectFailure,
            ResetReason::RemoteRefusedStreamReset => Self::RefusedStream,
            ResetReason::RemoteReset
            | ResetReason::ConnectionTermination
            | ResetReason::LocalReset
            | ResetReason::ProtocolError => Self::Other,
        }
    }
}

/// A failed attempt.
#[derive(Debug)]
pub struct UpstreamFault {
    /// Why.
    pub reason: ResetReason,
    /// What the transport says of it; may be empty.
    pub transport: String,
    /// There were attempts before.
    pub is_retry: bool,
    /// The response had begun.
    pub is_late: bool,
    /// What happened, as one sentence.
    pub cause: Box<str>,
}

impl UpstreamFault {
    /// The answer to it; notes the transport's words.
    pub fn into_reply(self, info: &mut StreamInfo) -> Box<LocalReply> {
        let Self { reason, transport, is_retry, is_late, cause } = self;
        let retried = if is_retry { "retried and the latest " } else { "" };
        let body = format!(
            "upstream connect error or disconnect/reset before headers. {retried}reset reason: {}",
            reason.as_str()
        );
        let when = if is_late { "after" } else { "before" };
        let mut details = format!("upstream_reset_{when}_response_started{{{}", reason.as_str());
        if !transport.is_empty() {
            details.push('|');
            details.push_str(&transport);
            info.upstream.transport_failure_reason = Some(transport.into());
        }
        details.push('}');
        let details: String = details.chars().map(|c| if c.is_ascii_whitespace() { '_' } else { c }).collect();
        Box::new(LocalReply::new(reason.status(), body, details).flag(reason.flag()).cause(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sota_plugin::info::{ConnectionInfo, PeerAddress};
    use std::{net::SocketAddr, rc::Rc};

    #[test]
    fn words_are_those_of_envoy() {
        let address = PeerAddress::from(SocketAddr::from(([127, 0, 0, 1], 1)));
        let mut info = StreamInfo::new(Rc::new(ConnectionInfo::new(0, address.clone(), address)), 0, None);
        let fault = |reason, transport: &str| UpstreamFault {
            reason,
            transport: transport.to_owned(),
            is_retry: false,
            is_late: false,
            cause: "the cause".into(),
        };
        let transport = "delayed connect error: Connection refused";
        let reply = fault(ResetReason::RemoteConnectionFailure, transport).into_reply(&mut info);
        assert_eq!(
            reply.body,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
        );
        assert_eq!(
            reply.details,
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
        assert_eq!(reply.cause.as_deref(), Some("the cause"));
        assert_eq!(info.upstream.transport_failure_reason.as_deref(), Some(transport));
        let mut late = fault(ResetReason::ProtocolError, "");
        (late.is_retry, late.is_late) = (true, true);
        let reply = late.into_reply(&mut info);
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
        assert_eq!(reply.details, "upstream_reset_after_response_started{protocol_error}");
        assert!(reply.body.ends_with(b"before headers. retried and the latest reset reason: protocol error"));
    }
}
