//! What the matcher of `custom_response` looks at.

use crate::match_tree;
use sota_config::Node;
use sota_plugin::{
    http::{HeaderName, RequestHead, ResponseHead},
    info::StreamInfo,
};
use std::borrow::Cow;

/// A response with its request.
pub(super) struct Subject<'a> {
    pub(super) head: &'a ResponseHead,
    pub(super) request: Option<&'a RequestHead>,
    pub(super) info: &'a StreamInfo,
}

#[derive(Debug)]
pub(super) enum Input {
    Status,
    /// `2xx` and its kin.
    StatusClass,
    /// `true` where the proxy itself answers.
    LocalReply,
    RequestHeader(HeaderName),
    ResponseHeader(HeaderName),
}

impl match_tree::Input for Input {
    type Subject<'a> = Subject<'a>;

    fn read(message: &str, config: &Node) -> Result<Option<Self>, String> {
        let header = || HeaderName::parse_any(config.str("header_name").as_bytes()).map_err(|e| e.to_string());
        Ok(Some(match message {
            "envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput" => Self::Status,
            "envoy.type.matcher.v3.HttpResponseStatusCodeClassMatchInput" => Self::StatusClass,
            "envoy.type.matcher.v3.HttpResponseLocalReplyMatchInput" => Self::LocalReply,
            "envoy.type.matcher.v3.HttpRequestHeaderMatchInput" => Self::RequestHeader(header()?),
            "envoy.type.matcher.v3.HttpResponseHeaderMatchInput" => Self::ResponseHeader(header()?),
            _ => return Ok(None),
        }))
    }

    fn value<'a>(&self, subject: &Self::Subject<'a>) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Status => Some(subject.head.status.as_str().as_bytes().to_vec().into()),
            Self::StatusClass => {
                let digit = subject.head.status.as_u16() / 100;
                (1..=5).contains(&digit).then(|| format!("{digit}xx").into_bytes().into())
            }
            Self::LocalReply => {
                let is_upstream = subject.info.response_code_details.as_deref() == Some("via_upstream");
                Some(Cow::Borrowed(if is_upstream { b"false" } else { b"true" }))
            }
            Self::RequestHeader(name) => subject.request?.get_joined(name),
            Self::ResponseHeader(name) => subject.head.get_joined(name),
        }
    }
}
