//! Rewriting path and host of a request on its way upstream.

use super::{matching::RouteMatcher, path_without_query};
use sota_config::{
    ConfigError, Mark,
    route::{HostRewrite as HostConfig, PathRewrite as PathConfig},
};
use sota_plugin::{
    http::{HeaderId, HeaderName, RequestHead},
    matcher::RegexSubstitution,
};

/// A compiled [`sota_config::route::PathRewrite`].
#[derive(Debug)]
pub(super) enum PathRewrite {
    Prefix(Box<[u8]>),
    Regex(RegexSubstitution),
}

impl PathRewrite {
    /// Fails for an invalid expression and for text that cannot stand in a path.
    pub(super) fn build(config: &PathConfig) -> Result<Self, ConfigError> {
        match config {
            PathConfig::Prefix(prefix) => Ok(Self::Prefix(target_text(prefix, "prefix_rewrite")?)),
            PathConfig::Regex { pattern, substitution } => {
                target_text(substitution, "regex_rewrite.substitution")?;
                let regex = RegexSubstitution::build(pattern, substitution);
                regex.map(Self::Regex).map_err(|error| error.at("regex_rewrite", Mark::NONE))
            }
        }
    }

    /// Path and query after the rewrite.
    pub(super) fn new_path(&self, path: &[u8], matcher: &RouteMatcher) -> Vec<u8> {
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
        }
    }

    /// Rewrites the path, and says in `x-envoy-original-path` what it was.
    pub(super) fn apply(&self, head: &mut RequestHead, matcher: &RouteMatcher, keep_original: bool) {
        let new = self.new_path(head.path(), matcher);
        if keep_original {
            let original = head.path().to_vec();
            head.headers.set_sanitized(HeaderId::XEnvoyOriginalPath, original);
        }
        // The parts are valid: the old path, and text that was checked when it was configured.
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
            HostConfig::PathRegex { pattern, substitution } => {
                target_text(substitution, "host_rewrite_path_regex.substitution")?;
                let regex = RegexSubstitution::build(pattern, substitution);
                Self::PathRegex(regex.map_err(|error| error.at("host_rewrite_path_regex", Mark::NONE))?)
            }
        })
    }

    /// Rewrites the host, unless that waits for the choice of an endpoint.
    pub(super) fn apply(&self, head: &mut RequestHead, append_forwarded_host: bool, keep_original: bool) {
        let host = match self {
            Self::Literal(host) => return set_authority(head, host, append_forwarded_host, keep_original),
            Self::Auto => return,
            Self::Header(name) => head.get(name).unwrap_or_default().to_vec(),
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

/// Text from the configuration that becomes a part of a request's target.
fn target_text(text: &str, field: &str) -> Result<Box<[u8]>, ConfigError> {
    if text.bytes().any(|c| c <= b' ' || c == 0x7f) {
        let reason = format!("{text:?} has white space or control characters");
        return Err(ConfigError::new(field, Mark::NONE, reason));
    }
    Ok(text.as_bytes().into())
}
