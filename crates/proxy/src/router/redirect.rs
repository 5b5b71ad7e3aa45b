//! Answers that routes give themselves: redirects and direct responses.

use super::{matching::RouteMatcher, path_without_query, rewrite::PathRewrite, virtual_hosts::port_start};
use bytes::Bytes;
use sota_config::{
    ConfigError, Mark,
    access_log::FormatString,
    route::{DirectResponse as DirectConfig, PathMatcher, PathRewrite as PathConfig, RedirectAction},
};
use sota_plugin::{
    access_log::{LogEntry, LogKind},
    filter::LocalReply,
    format::Format,
    http::{HeaderId, RequestHead, ResponseHead, Scheme, StatusCode},
    info::StreamInfo,
};

/// Response code details of everything that a route answers itself.
const DETAILS: &str = "direct_response";

/// A compiled [`RedirectAction`].
#[derive(Debug)]
pub(super) struct Redirect {
    status: StatusCode,
    rewrite: Option<PathRewrite>,
    target: Target,
}

/// What takes the place of parts of a request's URI.
#[derive(Debug, Default)]
struct Target {
    scheme: Option<Box<str>>,
    host: Option<Box<[u8]>>,
    /// With its colon.
    port: Option<Box<[u8]>>,
    path: Option<Box<[u8]>>,
    path_has_query: bool,
    strip_query: bool,
}

impl Redirect {
    /// `matched`: how the route matches its path. Fails for an invalid expression and a status that does not exist.
    pub(super) fn build(config: &RedirectAction, matched: &PathMatcher) -> Result<Self, ConfigError> {
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
            Some(rewrite) => Some(PathRewrite::build(rewrite, matched)?),
            None => None,
        };
        Ok(Self {
            status: status(config.response_code, "response_code")?,
            rewrite,
            target: Target {
                scheme,
                host: bytes(&config.host),
                port: config.port.filter(|port| *port != 0).map(|port| format!(":{port}").into_bytes().into()),
                path: bytes(&config.path),
                path_has_query: config.path.as_ref().is_some_and(|path| path.contains('?')),
                strip_query: config.strip_query,
            },
        })
    }

    /// The redirect of a request, whose path is rewritten like that of a request that is forwarded (for logs).
    pub(super) fn reply(
        &self,
        head: &mut RequestHead,
        matcher: &RouteMatcher,
        info: &StreamInfo,
        keep_original: bool,
    ) -> LocalReply {
        if let Some(rewrite) = &self.rewrite {
            rewrite.apply(head, matcher, info, keep_original);
        }
        let mut reply = LocalReply::new(self.status, Bytes::new(), DETAILS);
        reply.headers.set_sanitized(HeaderId::Location, self.target.location(head));
        reply
    }
}

impl Target {
    /// The whole URI.
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

/// The redirect of a request whose virtual host requires TLS: to the same, but with `https`.
pub(super) fn to_https(head: &RequestHead) -> LocalReply {
    let mut reply = LocalReply::new(StatusCode::MOVED_PERMANENTLY, Bytes::new(), DETAILS);
    reply.headers.set_sanitized(HeaderId::Location, [b"https://", head.authority(), head.path()].concat());
    reply
}

/// A compiled [`sota_config::route::DirectResponse`].
#[derive(Debug)]
pub(super) struct DirectResponse {
    status: StatusCode,
    body: Bytes,
    /// Makes the body of the one above, with the content type that it then has.
    format: Option<(Format, Box<str>)>,
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
        let format = config.body_format.as_ref().map(body_format).transpose()?;
        Ok(Self { status: status(config.status, "status")?, body, format })
    }

    pub(super) fn reply(&self, head: &RequestHead, info: &StreamInfo) -> LocalReply {
        let mut reply = match &self.format {
            Some((format, content_type)) => self.formatted(format, content_type, head, info),
            None => LocalReply::new(self.status, self.body.clone(), DETAILS),
        };
        // RFC 9110 §10.2.2: with these statuses, `location` means something. Compat: it is the request's own.
        if self.status == StatusCode::CREATED || self.status.class() == 3 {
            reply.headers.set_sanitized(HeaderId::Location, Target::default().location(head));
        }
        reply
    }

    fn formatted(&self, format: &Format, content_type: &str, head: &RequestHead, info: &StreamInfo) -> LocalReply {
        let response = ResponseHead::new(self.status);
        let mut body = Vec::new();
        let entry = LogEntry {
            request: Some(head),
            response: Some(&response),
            local_reply_body: std::str::from_utf8(&self.body).unwrap_or_default(),
            ..LogEntry::new(info, LogKind::NotSet)
        };
        if format.is_json() {
            // With a line feed at its end, as a line of a log.
            format.write_log(&entry, &mut body);
        } else {
            format.write(&entry, &mut body);
        }
        let mut reply = LocalReply::new(self.status, body, DETAILS);
        if !content_type.is_empty() {
            reply.headers.set_sanitized(HeaderId::ContentType, content_type.as_bytes());
        }
        reply
    }
}

fn body_format(config: &FormatString) -> Result<(Format, Box<str>), ConfigError> {
    let format = Format::build(config).map_err(|error| error.at("body_format", Mark::NONE))?;
    let default = if format.is_json() { "application/json" } else { "" };
    Ok((format, config.content_type.as_deref().unwrap_or(default).into()))
}

fn status(code: u16, field: &str) -> Result<StatusCode, ConfigError> {
    StatusCode::from_u16(code).ok_or_else(|| ConfigError::new(field, Mark::NONE, format!("{code} is no HTTP status")))
}
