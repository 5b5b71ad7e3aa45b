//! Rewriting path and host of a request on its way upstream.

use super::{matching::RouteMatcher, path_without_query};
use sota_config::{
    ConfigError, Mark,
    route::{HostRewrite as HostConfig, PathMatcher, PathRewrite as PathConfig},
};
use sota_plugin::{
    access_log::{LogEntry, LogKind},
    format::Format,
    http::{HeaderId, HeaderName, RequestHead},
    info::StreamInfo,
    matcher::{RegexSubstitution, UriTemplate},
};

/// A compiled [`sota_config::route::PathRewrite`].
#[derive(Debug)]
pub(super) enum PathRewrite {
    Prefix(Box<[u8]>),
    /// Of the path without query.
    Regex(RegexSubstitution),
    /// Makes the path without query.
    Format(Box<Format>),
}

impl PathRewrite {
    /// `matched`: how the route matches its path. Fails for an invalid expression, format or template, and for text that
    /// cannot stand in a path.
    pub(super) fn build(config: &PathConfig, matched: &PathMatcher) -> Result<Self, ConfigError> {
        match config {
            PathConfig::Prefix(prefix) => Ok(Self::Prefix(target_text(prefix, "prefix_rewrite")?)),
            PathConfig::Regex { pattern, substitution } => {
                target_text(substitution, "regex_rewrite.substitution")?;
                let regex = RegexSubstitution::build(pattern, substitution);
                regex.map(Self::Regex).map_err(|error| error.at("regex_rewrite", Mark::NONE))
            }
            PathConfig::Template(text) => {
                let error = |reason| ConfigError::new("path_rewrite_policy", Mark::NONE, format!("{text:?}: {reason}"));
                let PathMatcher::Template(path) = matched else {
                    return Err(error("the route has to match its path by a template too".to_owned()));
                };
                UriTemplate::parse(path).and_then(|path| path.rewriter(text)).map(Self::Regex).map_err(error)
            }
            PathConfig::Format(text) => format(text, "path_rewrite", true).map(Box::new).map(Self::Format),
        }
    }

    /// Path and query after the rewrite.
    fn new_path(&self, head: &RequestHead, matcher: &RouteMatcher, info: &StreamInfo) -> Vec<u8> {
        let path = head.path();
        match self {
            Self::Prefix(prefix) => {
                // A filter may have made the path shorter than what was matched.
                let rest = path.get(matcher.matched_len(path)..).unwrap_or_default();
                [prefix, rest].concat()
            }
            Self::Regex(substitution) => {
                let matched = path_without_query(path);
                match substitution.replace_all(matched) {
                    Some(mut new) => {
                        new.extend_from_slice(path.get(matched.len()..).unwrap_or_default());
                        new
                    }
                    None => path.to_vec(),
                }
            }
            Self::Format(format) => {
                let mut new = formatted(format, head, info);
                if !new.is_empty() {
                    new.extend_from_slice(path.get(path_without_query(path).len()..).unwrap_or_default());
                }
                new
            }
        }
    }

    /// Rewrites the path, and says in `x-envoy-original-path` what it was.
    pub(super) fn apply(&self, head: &mut RequestHead, matcher: &RouteMatcher, info: &StreamInfo, keep_original: bool) {
        let new = self.new_path(head, matcher, info);
        if new.is_empty() {
            return;
        }
        if keep_original {
            let original = head.path().to_vec();
            head.headers.set_sanitized(HeaderId::XEnvoyOriginalPath, original);
        }
        // The parts are valid: the old path, and text that was checked when it was configured. What a format makes of
        // fields may be not; then the path stays.
        let _ = head.set_path(&new);
    }
}

/// A compiled [`sota_config::route::HostRewrite`].
#[derive(Debug)]
pub(super) enum HostRewrite {
    Literal(Box<[u8]>),
    /// By the host that is chosen.
    Auto,
    Header(HeaderName),
    Format(Box<Format>),
    PathRegex(RegexSubstitution),
}

impl HostRewrite {
    /// Fails for an invalid expression or name and for text that cannot be a host.
    pub(super) fn build(config: &HostConfig) -> Result<Self, ConfigError> {
        Ok(match config {
            HostConfig::Literal(host) => Self::Literal(target_text(host, "host_rewrite_literal")?),
            HostConfig::Auto => Self::Auto,
            HostConfig::Header(name) => Self::Header(HeaderName::parse_any(name.as_bytes()).map_err(|reason| {
                ConfigError::new("host_rewrite_header", Mark::NONE, format!("header name {name:?}: {reason}"))
            })?),
            // Compat: what has no value prints as `-` here, but as nothing in paths.
            HostConfig::Format(text) => Self::Format(Box::new(format(text, "host_rewrite", false)?)),
            HostConfig::PathRegex { pattern, substitution } => {
                target_text(substitution, "host_rewrite_path_regex.substitution")?;
                let regex = RegexSubstitution::build(pattern, substitution);
                Self::PathRegex(regex.map_err(|error| error.at("host_rewrite_path_regex", Mark::NONE))?)
            }
        })
    }

    /// Rewrites the host, unless that waits for the choice of an endpoint.
    pub(super) fn apply(
        &self,
        head: &mut RequestHead,
        info: &StreamInfo,
        append_forwarded_host: bool,
        keep_original: bool,
    ) {
        let host = match self {
            Self::Literal(host) => return set_authority(head, host, append_forwarded_host, keep_original),
            Self::Auto => return,
            Self::Header(name) => head.get(name).unwrap_or_default().to_vec(),
            Self::Format(format) => formatted(format, head, info),
            Self::PathRegex(substitution) => {
                let path = path_without_query(head.path());
                substitution.replace_all(path).unwrap_or_else(|| path.to_vec())
            }
        };
        if !host.is_empty() {
            set_authority(head, &host, append_forwarded_host, keep_original);
        }
    }
}

/// Gives the request another authority. What it was goes into `x-envoy-original-host` and, if asked for, at the end of
/// `x-forwarded-host`. A host that cannot stand in a request changes nothing.
pub(super) fn set_authority(head: &mut RequestHead, host: &[u8], append_forwarded_host: bool, keep_original: bool) {
    let old = head.authority().to_vec();
    if head.set_authority(host).is_err() || old.is_empty() {
        return;
    }
    if keep_original {
        head.headers.set_sanitized(HeaderId::XEnvoyOriginalHost, &old);
    }
    if append_forwarded_host {
        // Compat: not a second time when a rewrite happens again.
        let forwarded = head.headers.get(HeaderId::XForwardedHost).unwrap_or_default();
        let last = forwarded.rsplit(|c| *c == b',').find(|part| !part.is_empty());
        if last != Some(&*old) {
            let _ = head.headers.append_to(HeaderId::XForwardedHost, ",", &old);
        }
    }
}

fn format(text: &str, field: &str, omit_empty: bool) -> Result<Format, ConfigError> {
    Format::text(text, omit_empty).map_err(|error| error.at(field, Mark::NONE))
}

fn formatted(format: &Format, head: &RequestHead, info: &StreamInfo) -> Vec<u8> {
    let mut out = Vec::new();
    format.write(&LogEntry { request: Some(head), ..LogEntry::new(info, LogKind::NotSet) }, &mut out);
    out
}

/// Text from the configuration that becomes a part of a request's target.
fn target_text(text: &str, field: &str) -> Result<Box<[u8]>, ConfigError> {
    if text.bytes().any(|c| c <= b' ' || c == 0x7f) {
        let reason = format!("{text:?} has white space or control characters");
        return Err(ConfigError::new(field, Mark::NONE, reason));
    }
    Ok(text.as_bytes().into())
}
