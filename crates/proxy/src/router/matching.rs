//! Which requests a route takes.

use super::{path_tree::PathTree, path_without_query};
use sota_config::{
    ConfigError,
    route::{PathMatcher, RouteMatch, TlsContextMatch},
};
use sota_plugin::{
    FactoryContext,
    http::{Method, RequestHead},
    info::{ConnectionInfo, PeerCertificate, StreamInfo},
    matcher::{
        CookieMatcher, FilterStateMatcher, FractionalPercent, HeaderMatcher, MetadataMatcher, QueryParameterMatcher,
        Regex, UriTemplate,
    },
};

/// A compiled [`RouteMatch`]: all of its parts must agree.
#[derive(Debug)]
pub(super) struct RouteMatcher {
    path: PathMatch,
    case_sensitive: bool,
    headers: Box<[HeaderMatcher]>,
    query_parameters: Box<[QueryParameterMatcher]>,
    runtime_fraction: Option<FractionalPercent>,
    /// `None` for nearly all routes, which keeps them small.
    rare: Option<Box<Rare>>,
}

/// Conditions that few routes have.
#[derive(Debug)]
struct Rare {
    grpc: bool,
    cookies: Box<[CookieMatcher]>,
    tls_context: TlsContextMatch,
    dynamic_metadata: Box<[MetadataMatcher]>,
    filter_state: Box<[FilterStateMatcher]>,
}

/// The condition of a route that fails; of several alike, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    Path,
    Fraction,
    Header(usize),
    QueryParameter(usize),
    Grpc,
    Cookie(usize),
    TlsContext,
    DynamicMetadata(usize),
    FilterState(usize),
}

#[derive(Debug)]
enum PathMatch {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    PathSeparatedPrefix(Box<[u8]>),
    /// With the text with which all paths that match begin.
    Regex(Regex, Box<[u8]>),
    Connect,
}

impl RouteMatcher {
    /// Fails for invalid patterns and header names.
    pub(super) fn build(config: &RouteMatch, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let path = match &config.path {
            PathMatcher::Exact(path) => PathMatch::Exact(path.as_bytes().into()),
            PathMatcher::Prefix(prefix) => PathMatch::Prefix(prefix.as_bytes().into()),
            PathMatcher::PathSeparatedPrefix(prefix) => PathMatch::PathSeparatedPrefix(prefix.as_bytes().into()),
            PathMatcher::Regex(pattern) => {
                let regex = Regex::build(pattern).map_err(|error| error.at("safe_regex", cx.mark))?;
                PathMatch::Regex(regex, literal_prefix(pattern).as_bytes().into())
            }
            PathMatcher::Template(text) => {
                let error = |reason| ConfigError::new("path_match_policy", cx.mark, format!("{text:?}: {reason}"));
                let regex = UriTemplate::parse(text).map_err(error)?.matcher();
                let prefix = text.find(['{', '*']).and_then(|end| text.get(..end)).unwrap_or(text);
                PathMatch::Regex(
                    regex.map_err(|error| error.at("path_match_policy", cx.mark))?,
                    prefix.as_bytes().into(),
                )
            }
            PathMatcher::Connect => PathMatch::Connect,
        };
        let headers = HeaderMatcher::build_all(&config.headers).map_err(|error| error.at("headers", cx.mark))?;
        let query_parameters = QueryParameterMatcher::build_all(&config.query_parameters)
            .map_err(|error| error.at("query_parameters", cx.mark))?;
        Ok(Self {
            path,
            case_sensitive: config.case_sensitive,
            headers: headers.into(),
            query_parameters: query_parameters.into(),
            runtime_fraction: config
                .runtime_fraction
                .as_ref()
                .map(|fraction| FractionalPercent::build(fraction, cx.runtime)),
            rare: Rare::build(config).map_err(|error| error.at("", cx.mark))?,
        })
    }

    /// Takes nothing.
    pub(super) fn never() -> Self {
        Self {
            path: PathMatch::Exact(Box::default()),
            case_sensitive: true,
            headers: Box::default(),
            query_parameters: Box::default(),
            runtime_fraction: None,
            rare: None,
        }
    }

    /// Puts the route of this number into the tree.
    pub(super) fn add_to(&self, tree: &mut PathTree, route: usize) {
        match &self.path {
            PathMatch::Regex(_, prefix) => tree.add_prefix(prefix, route),
            PathMatch::Connect => tree.add_prefix(b"", route),
            _ if !self.case_sensitive => tree.add_prefix(b"", route),
            PathMatch::Exact(path) => tree.add_exact(path, route),
            PathMatch::Prefix(prefix) | PathMatch::PathSeparatedPrefix(prefix) => tree.add_prefix(prefix, route),
        }
    }

    /// Whether the route takes this request, whose path without query is `path` (empty for CONNECT).
    pub(super) fn matches(&self, head: &RequestHead, path: &[u8], info: &StreamInfo, random: u64) -> bool {
        self.mismatch(head, path, info, random).is_none()
    }

    /// The first condition that fails.
    pub(super) fn mismatch(&self, head: &RequestHead, path: &[u8], info: &StreamInfo, random: u64) -> Option<Mismatch> {
        if !self.matches_path(&head.method, path) {
            return Some(Mismatch::Path);
        }
        if self.runtime_fraction.as_ref().is_some_and(|fraction| !fraction.sample(random)) {
            return Some(Mismatch::Fraction);
        }
        if let Some(number) = self.headers.iter().position(|matcher| !matcher.matches(head)) {
            return Some(Mismatch::Header(number));
        }
        if let Some(number) = self.query_parameters.iter().position(|matcher| !matcher.matches(head)) {
            return Some(Mismatch::QueryParameter(number));
        }
        self.rare.as_ref().and_then(|rare| rare.mismatch(head, info))
    }

    /// How much of the path `prefix_rewrite` replaces: what was matched.
    pub(super) fn matched_len(&self, path: &[u8]) -> usize {
        match &self.path {
            PathMatch::Exact(text) | PathMatch::Prefix(text) | PathMatch::PathSeparatedPrefix(text) => text.len(),
            PathMatch::Regex(..) | PathMatch::Connect => path_without_query(path).len(),
        }
    }

    fn matches_path(&self, method: &Method, path: &[u8]) -> bool {
        match &self.path {
            PathMatch::Connect => *method == Method::Connect,
            // Compat: the others take no request without a path.
            _ if path.is_empty() => false,
            PathMatch::Exact(text) => path.len() == text.len() && self.begins(path, text),
            PathMatch::Prefix(text) => self.begins(path, text),
            PathMatch::PathSeparatedPrefix(text) => {
                self.begins(path, text) && matches!(path.get(text.len()), None | Some(b'/'))
            }
            PathMatch::Regex(regex, _) => regex.matches(path),
        }
    }

    fn begins(&self, path: &[u8], text: &[u8]) -> bool {
        let start = path.get(..text.len());
        start.is_some_and(|start| if self.case_sensitive { start == text } else { start.eq_ignore_ascii_case(text) })
    }
}

impl Rare {
    fn build(config: &RouteMatch) -> Result<Option<Box<Self>>, ConfigError> {
        let is_empty = !config.grpc
            && config.cookies.is_empty()
            && config.tls_context == TlsContextMatch::default()
            && config.dynamic_metadata.is_empty()
            && config.filter_state.is_empty();
        if is_empty {
            return Ok(None);
        }
        Ok(Some(Box::new(Self {
            grpc: config.grpc,
            cookies: CookieMatcher::build_all(&config.cookies)?.into(),
            tls_context: config.tls_context,
            dynamic_metadata: MetadataMatcher::build_all(&config.dynamic_metadata)?.into(),
            filter_state: FilterStateMatcher::build_all(&config.filter_state)?.into(),
        })))
    }

    fn mismatch(&self, head: &RequestHead, info: &StreamInfo) -> Option<Mismatch> {
        if self.grpc && !head.is_grpc() {
            return Some(Mismatch::Grpc);
        }
        if let Some(number) = self.cookies.iter().position(|matcher| !matcher.matches(head)) {
            return Some(Mismatch::Cookie(number));
        }
        if !tls_matches(self.tls_context, &info.connection) {
            return Some(Mismatch::TlsContext);
        }
        let metadata = |namespace: &str| info.metadata.get(namespace);
        if let Some(number) = self.dynamic_metadata.iter().position(|matcher| !matcher.matches(metadata)) {
            return Some(Mismatch::DynamicMetadata(number));
        }
        self.filter_state.iter().position(|matcher| !matcher.matches(info)).map(Mismatch::FilterState)
    }
}

fn tls_matches(wanted: TlsContextMatch, connection: &ConnectionInfo) -> bool {
    let presented = connection.peer_certificate.get() != PeerCertificate::Absent;
    let validated = connection.peer_certificate.get() == PeerCertificate::Validated;
    wanted.presented.is_none_or(|wanted| wanted == presented)
        && wanted.validated.is_none_or(|wanted| wanted == validated)
}

/// The text with which all matches of a regular expression begin, as far as plain to see.
fn literal_prefix(pattern: &str) -> &str {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '~' | '%' | '@' | ':' | ',' | '!');
    // An alternative may begin with something else.
    if pattern.contains('|') {
        return "";
    }
    let end = pattern.find(|c| !plain(c)).unwrap_or(pattern.len());
    let (prefix, rest) = pattern.split_at_checked(end).unwrap_or_default();
    // The last character belongs to the operator behind it.
    if rest.starts_with(['*', '?', '{']) { prefix.get(..prefix.len().saturating_sub(1)).unwrap_or("") } else { prefix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_regular_expressions() {
        for (pattern, prefix) in [
            ("/api/v1/.*", "/api/v1/"),
            ("/a/b", "/a/b"),
            ("/ab?c", "/a"),
            ("/ab*", "/a"),
            ("/ab{0,2}", "/a"),
            ("/ab+", "/ab"),
            ("/a|/b", ""),
            ("(?i)/a", ""),
            ("^/a", ""),
            ("/a\\.b", "/a"),
            ("/[ab]", "/"),
            ("?", ""),
            ("", ""),
            ("/ä*", "/"),
        ] {
            assert_eq!(literal_prefix(pattern), prefix, "{pattern}");
            if let Ok(regex) = Regex::build(pattern) {
                assert!(!regex.matches(b"other") || prefix.is_empty());
            }
        }
    }
}
