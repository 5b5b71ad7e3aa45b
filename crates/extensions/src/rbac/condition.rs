//! Permissions and principals, compiled.

use super::{Level, Subject};
use crate::{match_tree::typed, matchers};
use sota_config::{ConfigError, Node, address::CidrRange};
use sota_plugin::{
    FactoryContext,
    info::{CertificateInfo, PeerAddress, PeerCertificate},
    matcher::{FilterStateMatcher, HeaderMatcher, MetadataMatcher, Regex, StringMatcher, UriTemplate},
};
use std::ops::Range;

const URI_TEMPLATE: &str = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";
const MTLS: &str = "envoy.extensions.rbac.principals.mtls_authenticated.v3.Config";

/// Which of the two kinds of conditions is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// `envoy.config.rbac.v3.Permission`
    Permission,
    /// `envoy.config.rbac.v3.Principal`
    Principal,
}

/// A permission or a principal.
#[derive(Debug)]
pub(super) enum Condition {
    Any,
    All(Box<[Self]>),
    One(Box<[Self]>),
    Not(Box<Self>),
    Header(HeaderMatcher),
    /// Without query and fragment.
    Path(StringMatcher),
    UriTemplate(Regex),
    DestinationIp(CidrRange),
    DestinationPort(Range<i64>),
    /// A connection without a server name has an empty one.
    ServerName(StringMatcher),
    Metadata(MetadataMatcher),
    RouteMetadata(MetadataMatcher),
    FilterState(FilterStateMatcher),
    /// `None`: whoever speaks TLS.
    Authenticated(Option<StringMatcher>),
    /// Whose certificate was found valid; with a name of it that matches.
    Mtls(Option<SanMatcher>),
    /// The connection's client, which the PROXY protocol may have named.
    SourceIp(CidrRange),
    DirectRemoteIp(CidrRange),
    /// As far as trusted (`x-forwarded-for`).
    RemoteIp(CidrRange),
}

/// `envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher`
#[derive(Debug)]
pub(super) struct SanMatcher {
    names: fn(&CertificateInfo) -> &[Box<str>],
    matcher: StringMatcher,
}

impl Condition {
    /// A list in a field of `node`, which stands at `path`.
    pub(super) fn read_list(
        node: &Node,
        key: &str,
        path: &str,
        kind: (Side, Level),
        cx: &FactoryContext<'_>,
    ) -> Result<Box<[Self]>, ConfigError> {
        let items = node.list(key).iter().enumerate();
        items.map(|(at, item)| Self::read(item, &format!("{path}.{key}[{at}]"), kind, cx)).collect()
    }

    fn read(node: &Node, path: &str, kind: (Side, Level), cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let set = node.pairs().iter().find(|(_, value)| !value.is_null());
        let Some((name, value)) = set else {
            return Err(cx.error(path, node.mark, "this says nothing; to match everything, write any: true"));
        };
        let path = format!("{path}.{name}");
        let error = |reason: String| cx.error(&path, value.mark, reason);
        let string = || matchers::string(value, &path, cx);
        let range = || matchers::range(value, &path, cx);
        let list = |key: &str| Self::read_list(value, key, &path, kind, cx);
        Ok(match (&**name, kind.0) {
            ("any", _) if value.as_bool() == Some(true) => Self::Any,
            ("any", _) => return Err(error("only \"true\" can stand here".to_owned())),
            ("and_rules", Side::Permission) => Self::All(list("rules")?),
            ("or_rules", Side::Permission) => Self::One(list("rules")?),
            ("and_ids", Side::Principal) => Self::All(list("ids")?),
            ("or_ids", Side::Principal) => Self::One(list("ids")?),
            ("not_rule", Side::Permission) | ("not_id", Side::Principal) => {
                Self::Not(Box::new(Self::read(value, &path, kind, cx)?))
            }
            // Compat: Envoy refuses fields there and takes paths, which match nothing.
            ("header", _) if kind.1 == Level::Network => {
                let name = value.str("name");
                return Err(error(format!("header({name}) is no rule for connections, which have no fields")));
            }
            ("header", _) => Self::Header(matchers::header(value, &path, cx)?),
            ("url_path", _) => Self::Path(matchers::string(value.field("path"), &format!("{path}.path"), cx)?),
            ("uri_template", Side::Permission) => {
                let (message, config) = typed(value);
                if message != URI_TEMPLATE {
                    return Err(error(format!("\"{message}\" is no template of paths")));
                }
                let template = UriTemplate::parse(config.str("path_template")).map_err(error)?;
                Self::UriTemplate(template.matcher().map_err(|e| error(e.reason))?)
            }
            ("destination_ip", Side::Permission) => Self::DestinationIp(range()?),
            ("destination_port", Side::Permission) => {
                let port = value.as_i64().ok_or_else(|| error("expected a port".to_owned()))?;
                Self::DestinationPort(port..port + 1)
            }
            ("destination_port_range", Side::Permission) => {
                let bound = |key: &str| value.field(key).as_i64().unwrap_or(0);
                let (start, end) = (bound("start"), bound("end"));
                if start < 0 || end > 65_536 || start >= end {
                    return Err(error(format!("{start} to {end} is no range of ports")));
                }
                Self::DestinationPort(start..end)
            }
            ("requested_server_name", Side::Permission) => Self::ServerName(string()?),
            ("metadata", _) => Self::Metadata(matchers::metadata(value, &path, cx)?),
            ("sourced_metadata", _) => {
                let path = format!("{path}.metadata_matcher");
                let matcher = matchers::metadata(value.field("metadata_matcher"), &path, cx)?;
                match value.str("metadata_source") {
                    "" | "DYNAMIC" => Self::Metadata(matcher),
                    "ROUTE" => Self::RouteMetadata(matcher),
                    other => return Err(error(format!("there is no metadata of the source \"{other}\""))),
                }
            }
            ("filter_state", Side::Principal) => Self::FilterState(matchers::filter_state(value, &path, cx)?),
            ("authenticated", Side::Principal) => {
                let name = value.get("principal_name");
                let matcher = name.map(|name| matchers::string(name, &format!("{path}.principal_name"), cx));
                Self::Authenticated(matcher.transpose()?)
            }
            ("custom", Side::Principal) => Self::Mtls(mtls(value, &path, cx)?),
            ("source_ip", Side::Principal) => Self::SourceIp(range()?),
            ("direct_remote_ip", Side::Principal) => Self::DirectRemoteIp(range()?),
            ("remote_ip", Side::Principal) => Self::RemoteIp(range()?),
            (other, _) => return Err(error(format!("the rule \"{other}\" is not there"))),
        })
    }

    /// Whether it matches.
    pub(super) fn holds(&self, subject: &Subject<'_>) -> bool {
        let connection = subject.connection;
        match self {
            Self::Any => true,
            Self::All(all) => all.iter().all(|condition| condition.holds(subject)),
            Self::One(all) => all.iter().any(|condition| condition.holds(subject)),
            Self::Not(inner) => !inner.holds(subject),
            Self::Header(matcher) => subject.request.is_some_and(|(head, _)| matcher.matches(head)),
            Self::Path(matcher) => subject.path().is_some_and(|path| matcher.matches(path)),
            Self::UriTemplate(regex) => subject.path().is_some_and(|path| regex.matches(path)),
            Self::DestinationIp(range) => is_in(range, &connection.local),
            Self::DestinationPort(range) => {
                connection.local.port().is_some_and(|port| range.contains(&i64::from(port)))
            }
            Self::ServerName(matcher) => {
                matcher.matches(connection.server_name.as_deref().unwrap_or_default().as_bytes())
            }
            Self::Metadata(matcher) => match subject.request {
                Some((_, info)) => matcher.matches(|namespace| info.metadata.get(namespace)),
                None => {
                    let metadata = connection.metadata.borrow();
                    matcher.matches(|namespace| metadata.get(namespace))
                }
            },
            Self::RouteMetadata(matcher) => {
                let route = subject.request.and_then(|(_, info)| info.route.as_ref());
                // Without a route there is nothing to match, whether inverted or not.
                route.is_some_and(|route| {
                    matcher.matches(|namespace| {
                        route.metadata().and_then(|metadata| metadata.field("filter_metadata").get(namespace))
                    })
                })
            }
            Self::FilterState(matcher) => match subject.request {
                Some((_, info)) => matcher.matches(info),
                None => matcher.matches_connection(connection),
            },
            Self::Authenticated(matcher) => {
                let Some(tls) = connection.tls.get() else { return false };
                let Some(matcher) = matcher else { return true };
                let Some(peer) = tls.peer_certificate() else { return matcher.matches(b"") };
                let mut names = peer.uri_sans.iter().chain(&peer.dns_sans);
                names.any(|name| matcher.matches(name.as_bytes())) || matcher.matches(peer.subject.as_bytes())
            }
            Self::Mtls(matcher) => {
                let peer = connection.tls.get().and_then(|tls| tls.peer_certificate());
                let Some(peer) = peer.filter(|_| connection.peer_certificate.get() == PeerCertificate::Validated)
                else {
                    return false;
                };
                let Some(san) = matcher else { return true };
                (san.names)(peer).iter().any(|name| san.matcher.matches(name.as_bytes()))
            }
            Self::SourceIp(range) => is_in(range, &connection.remote),
            Self::DirectRemoteIp(range) => is_in(range, connection.direct_remote()),
            Self::RemoteIp(range) => is_in(range, subject.remote()),
        }
    }
}

impl Subject<'_> {
    /// The path of the request, without query and fragment.
    fn path(&self) -> Option<&[u8]> {
        let path = self.request?.0.path();
        Some(path.iter().position(|c| matches!(c, b'?' | b'#')).and_then(|end| path.get(..end)).unwrap_or(path))
            .filter(|path| !path.is_empty())
    }

    /// The client, as far as trusted.
    pub(super) fn remote(&self) -> &PeerAddress {
        self.request.map_or(&self.connection.remote, |(_, info)| info.remote())
    }
}

/// A Unix socket is in no range.
fn is_in(range: &CidrRange, address: &PeerAddress) -> bool {
    address.ip().is_some_and(|ip| range.contains(&ip))
}

/// `envoy.extensions.rbac.principals.mtls_authenticated.v3.Config`
fn mtls(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<Option<SanMatcher>, ConfigError> {
    let (message, config) = typed(node);
    let error = |reason: String| cx.error(path, node.mark, reason);
    if message != MTLS {
        return Err(error(format!("there is no principal \"{message}\"")));
    }
    let Some(san) = config.get("san_matcher") else {
        return match config.bool("any_validated_client_certificate") {
            true => Ok(None),
            false => Err(error("one of san_matcher and any_validated_client_certificate is required".to_owned())),
        };
    };
    let names: fn(&CertificateInfo) -> &[Box<str>] = match san.str("san_type") {
        "DNS" => |certificate| &certificate.dns_sans,
        "URI" => |certificate| &certificate.uri_sans,
        "EMAIL" => |certificate| &certificate.email_sans,
        "IP_ADDRESS" => |certificate| &certificate.ip_sans,
        other => return Err(error(format!("names of the type \"{other}\" are not looked at here"))),
    };
    let path = format!("{path}.typed_config.san_matcher.matcher");
    Ok(Some(SanMatcher { names, matcher: matchers::string(san.field("matcher"), &path, cx)? }))
}
