//! Answers that routes give themselves: redirects and direct responses.

use super::{matching::RouteMatcher, path_without_query, rewrite::PathRewrite, virtual_hosts::port_start};
use bytes::Bytes;
use sota_config::{
    ConfigError, Mark,
    route::{DirectResponse as DirectConfig, PathRewrite as PathConfig, RedirectAction},
};
use sota_plugin::{
    filter::LocalReply,
    http::{HeaderId, RequestHead, Scheme, StatusCode},
};

/// Response code details of everything that a route answers itself.
const DETAILS: &str = "direct_response";

/// A compiled [`RedirectAction`].
#[derive(Debug)]
pub(super) struct Redirect {
    status: StatusCode,
    scheme: Option<Box<str>>,
    host: Option<Box<[u8]>>,
    /// With its colon.
    port: Option<Box<[u8]>>,
    path: Option<Box<[u8]>>,
    path_has_query: bool,
    rewrite: Option<PathRewrite>,
    strip_query: bool,
}

impl Redirect {
    /// Fails for an invalid expression and a status that does not exist.
    pub(super) fn build(config: &RedirectAction) -> Result<Self, ConfigError> {
        let scheme = match &config.scheme {
            Some(scheme) if !scheme.is_empty() => Some(scheme.as_str().into()),
            _ if config.https => Some("https".into()),
            _ => None,
        };
        let bytes = |text: &Option<String>| {
            text.as_ref().filter(|text| !text.is_empty()).map(|text| text.as_bytes().to_vec().into_boxed_slice())
        };
        let rewrite = match &config.path_rewrite {
            Some(PathConfig::Prefix(prefix)) if prefix.is_empty() => None,
            Some(rewrite) => Some(PathRewrite::build(rewrite)?),
            None => None,
        };
        Ok(Self {
            status: status(config.response_code, "response_code")?,
            scheme,
            host: bytes(&config.host),
            port: config.port.filter(|port| *port != 0).map(|port| format!(":{port}").into_bytes().into()),
            path: bytes(&config.path),
            path_has_query: config.path.as_ref().is_some_and(|path| path.contains('?')),
            rewrite,
            strip_query: config.strip_query,
        })
    }

    /// The redirect of a request, whose path is rewritten like that of a request that is forwarded (for logs).
    pub(super) fn reply(&self, head: &mut RequestHead, matcher: &RouteMatcher, keep_original: bool) -> LocalReply {
        if let Some(rewrite) = &self.rewrite {
            rewrite.apply(head, matcher, keep_original);
        }
        let mut reply = LocalReply::new(self.status, Bytes::new(), DETAILS);
        reply.headers.set_sanitized(HeaderId::Location, self.location(head));
        reply
    }

    fn location(&self, head: &RequestHead) -> Vec<u8> {
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme.as_str());
        let port = self.port.as_deref().unwrap_or_default();
        let host = self.host.as_deref().unwrap_or_else(|| self.request_host(head, scheme));
        let query = head.path().get(path_without_query(head.path()).len()..).unwrap_or_default();
        let (path, query) = match &self.path {
            Some(path) if self.path_has_query => (&**path, &b""[..]),
            Some(path) => (&**path, query),
            None => (path_without_query(head.path()), query),
        };
        let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
        let query = if self.strip_query { b"" } else { query };
        [scheme.as_bytes(), b"://", host, port, slash, path, query].concat()
    }

    /// The request's host. Its port goes when the redirect has one, and when it is the default of the scheme that the
    /// redirect leaves.
    fn request_host<'a>(&self, head: &'a RequestHead, scheme: &str) -> &'a [u8] {
        let authority = head.authority();
        let Some((host, port)) = port_start(authority).and_then(|at| authority.split_at_checked(at)) else {
            return authority;
        };
        let forwarded = head.headers.get(HeaderId::XForwardedProto).unwrap_or_default();
        let is_default = match Scheme::from_bytes(forwarded) {
            Some(Scheme::Http) => port == b":80",
            Some(Scheme::Https) => port == b":443",
            None => false,
        };
        if self.port.is_some() || (forwarded != scheme.as_bytes() && is_default) { host } else { authority }
    }
}

/// A compiled [`sota_config::route::DirectResponse`].
#[derive(Debug)]
pub(super) struct DirectResponse {
    status: StatusCode,
    body: Bytes,
}

impl DirectResponse {
    /// Reads the body; fails when that cannot be read or is over `limit` octets.
    pub(super) fn build(config: &DirectConfig, limit: u32) -> Result<Self, ConfigError> {
        let body = match &config.body {
            Some(source) => {
                source.read().map_err(|reason| ConfigError::new("body", Mark::NONE, reason)).map(Bytes::from)?
            }
            None => Bytes::new(),
        };
        if body.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
            let reason = format!(
                "the body has {} bytes; the route configuration's max_direct_response_body_size_bytes allows {limit}",
                body.len()
            );
            return Err(ConfigError::new("body", Mark::NONE, reason));
        }
        Ok(Self { status: status(config.status, "status")?, body })
    }

    pub(super) fn reply(&self) -> LocalReply {
        LocalReply::new(self.status, self.body.clone(), DETAILS)
    }
}

fn status(code: u16, field: &str) -> Result<StatusCode, ConfigError> {
    StatusCode::from_u16(code).ok_or_else(|| ConfigError::new(field, Mark::NONE, format!("{code} is no HTTP status")))
}
