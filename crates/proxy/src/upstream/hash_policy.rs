//! What of a request is hashed (Envoy's `hash_policy`), for balancers that choose by a hash.

use smallvec::SmallVec;
use sota_config::{
    ConfigError, Mark,
    load_balancer::{HashPolicy, HashSource},
};
use sota_plugin::{
    hash::{xx_hash64, xx_hash64_all},
    http::{HeaderId, HeaderName, RequestHead},
    info::StreamInfo,
    matcher::{RegexSubstitution, query_parameters},
};
use std::{borrow::Cow, fmt::Write, time::Duration};

/// Compiled hash policies.
#[derive(Debug)]
pub struct HashPolicies(Box<[Method]>);

#[derive(Debug)]
struct Method {
    source: Source,
    terminal: bool,
}

#[derive(Debug)]
enum Source {
    Header { name: HeaderName, rewrite: Option<RegexSubstitution> },
    Cookie(Cookie),
    ClientIp,
    QueryParameter(Box<[u8]>),
    FilterState(Box<str>),
}

#[derive(Debug)]
struct Cookie {
    name: Box<str>,
    ttl: Option<Duration>,
    /// What follows the value in `set-cookie`.
    attributes: Box<str>,
}

/// What a request hashes to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RequestHash {
    /// `None`: nothing that the policies name is there.
    pub hash: Option<u64>,
    /// Values of `set-cookie` for the response, for cookies that were made.
    pub cookies: Vec<Vec<u8>>,
}

impl HashPolicies {
    /// Fails for names and expressions that are none.
    pub fn build(config: &[HashPolicy]) -> Result<Self, ConfigError> {
        let build = |(number, policy): (usize, &HashPolicy)| {
            let source = Source::build(&policy.source);
            let source = source.map_err(|error| error.at(&format!("hash_policy[{number}]"), Mark::NONE))?;
            Ok(Method { source, terminal: policy.terminal })
        };
        config.iter().enumerate().map(build).collect::<Result<_, ConfigError>>().map(Self)
    }

    /// The hash of what a request has: `None` where a cookie would have to be made for it.
    pub fn known_hash(&self, head: &RequestHead, info: &StreamInfo) -> Option<u64> {
        let found = self.hash(Some(head), info);
        found.hash.filter(|_| found.cookies.is_empty())
    }

    /// The hash of a request, or of a TCP connection, which has no head.
    pub fn hash(&self, head: Option<&RequestHead>, info: &StreamInfo) -> RequestHash {
        let mut result = RequestHash::default();
        for method in &self.0 {
            if let Some(hash) = method.source.hash(head, info, &mut result.cookies) {
                // Turned, so that two equal ones do not cancel each other.
                result.hash = Some(result.hash.map_or(0, |old| old.rotate_left(1)) ^ hash);
            }
            if method.terminal && result.hash.is_some() {
                break;
            }
        }
        result
    }
}

impl Source {
    fn build(config: &HashSource) -> Result<Self, ConfigError> {
        let error = |field: &str, reason: String| ConfigError::new(field, Mark::NONE, reason);
        Ok(match config {
            HashSource::Header { name, rewrite } => Self::Header {
                name: HeaderName::parse_any(name.as_bytes())
                    .map_err(|reason| error("header.header_name", format!("header name {name:?}: {reason}")))?,
                rewrite: rewrite
                    .as_ref()
                    .map(|(pattern, substitution)| RegexSubstitution::build(pattern, substitution))
                    .transpose()
                    .map_err(|error| error.at("header.regex_rewrite", Mark::NONE))?,
            },
            HashSource::Cookie { name, ttl, path, attributes } => {
                let mut text = String::new();
                if let Some(ttl) = ttl.filter(|ttl| ttl.as_secs() > 0) {
                    let _ = write!(text, "; Max-Age={}", ttl.as_secs());
                }
                if !path.is_empty() {
                    let _ = write!(text, "; Path={path}");
                }
                for (name, value) in attributes {
                    let equals = if value.is_empty() { "" } else { "=" };
                    let _ = write!(text, "; {name}{equals}{value}");
                }
                text.push_str("; HttpOnly");
                Self::Cookie(Cookie { name: name.as_str().into(), ttl: *ttl, attributes: text.into() })
            }
            HashSource::SourceIp => Self::ClientIp,
            HashSource::QueryParameter(name) => Self::QueryParameter(name.as_bytes().into()),
            HashSource::FilterState(key) => Self::FilterState(key.as_str().into()),
        })
    }

    fn hash(&self, head: Option<&RequestHead>, info: &StreamInfo, cookies: &mut Vec<Vec<u8>>) -> Option<u64> {
        match self {
            Self::Header { name, rewrite } => header_hash(head?, name, rewrite.as_ref()),
            Self::Cookie(cookie) => match cookie.value(head?) {
                Some(value) if !value.is_empty() => Some(xx_hash64(value, 0)),
                _ => {
                    cookie.ttl?;
                    let value = cookie.make(info);
                    let hash = xx_hash64(value.as_bytes(), 0);
                    cookies.push(format!("{}=\"{value}\"{}", cookie.name, cookie.attributes).into_bytes());
                    Some(hash)
                }
            },
            Self::ClientIp => info.remote().ip().map(|ip| xx_hash64(ip.to_string().as_bytes(), 0)),
            Self::QueryParameter(name) => {
                let mut parameters = query_parameters(head?.query()?);
                parameters.find(|(other, _)| *other == &**name).map(|(_, value)| xx_hash64(value, 0))
            }
            Self::FilterState(key) => {
                let hash = info.filter_state.find(key).and_then(|state| state.hash());
                hash.or_else(|| info.connection.filter_state.borrow().find(key).and_then(|state| state.hash()))
            }
        }
    }
}

/// All values together, whatever their order.
fn header_hash(head: &RequestHead, name: &HeaderName, rewrite: Option<&RegexSubstitution>) -> Option<u64> {
    let mut values: SmallVec<[Cow<'_, [u8]>; 4]> = head.headers.get_all(name).map(Cow::Borrowed).collect();
    if values.is_empty() {
        // A pseudo-header.
        values.extend(head.get(name).map(Cow::Borrowed));
    }
    if values.is_empty() {
        return None;
    }
    if let Some(rewrite) = rewrite {
        for value in &mut values {
            if let Some(new) = rewrite.replace_all(value) {
                *value = Cow::Owned(new);
            }
        }
    }
    values.sort_unstable();
    Some(xx_hash64_all(values.iter().map(|value| &**value)))
}

impl Cookie {
    fn value<'a>(&self, head: &'a RequestHead) -> Option<&'a [u8]> {
        head.headers.get_all(HeaderId::Cookie).flat_map(|field| field.split(|byte| *byte == b';')).find_map(|pair| {
            let start = pair.iter().position(|byte| *byte != b' ')?;
            let pair = pair.get(start..)?;
            let equals = memchr::memchr(b'=', pair)?;
            let (name, value) = (pair.get(..equals)?, pair.get(equals + 1..)?);
            (name == self.name.as_bytes()).then_some(match value {
                [b'"', inner @ .., b'"'] => inner,
                value => value,
            })
        })
    }

    /// The same for all requests of a connection, so that those which run at once are given the same.
    fn make(&self, info: &StreamInfo) -> String {
        let ends = format!("{}{}", info.connection.remote, info.connection.local);
        format!("{:016x}", xx_hash64(ends.as_bytes(), 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sota_plugin::{
        http::Method,
        info::{ConnectionInfo, HashableString, PeerAddress},
    };
    use std::{net::SocketAddr, rc::Rc};

    fn hash(sources: &[HashSource], terminal: bool, head: &RequestHead, info: &StreamInfo) -> RequestHash {
        let policies: Vec<_> = sources.iter().map(|source| HashPolicy { source: source.clone(), terminal }).collect();
        HashPolicies::build(&policies).unwrap().hash(Some(head), info)
    }

    fn stream() -> StreamInfo {
        let address = |last, port| PeerAddress::from(SocketAddr::from(([10, 0, 0, last], port)));
        StreamInfo::new(Rc::new(ConnectionInfo::new(1, address(1, 1000), address(2, 80))), 1, None)
    }

    #[test]
    fn a_cookie_is_made_once_and_hashes_the_same_afterwards() {
        let cookie = HashSource::Cookie {
            name: "s".into(),
            ttl: Some(Duration::from_secs(60)),
            path: "/p".into(),
            attributes: vec![("SameSite".into(), "Strict".into()), ("Secure".into(), String::new())],
        };
        let (mut head, info) = (RequestHead::new(Method::Get, "a", "/").unwrap(), stream());
        let made = hash(std::slice::from_ref(&cookie), false, &head, &info);
        let value = format!("{:016x}", xx_hash64(b"10.0.0.1:100010.0.0.2:80", 0));
        let expected = format!("s=\"{value}\"; Max-Age=60; Path=/p; SameSite=Strict; Secure; HttpOnly");
        assert_eq!(made.cookies, [expected.into_bytes()]);
        head.headers.append("cookie", format!("a=b; s=\"{value}\"")).unwrap();
        let again = hash(&[cookie], false, &head, &info);
        assert_eq!((again.hash, again.cookies.len()), (made.hash, 0));
    }

    #[test]
    fn other_sources_and_their_order() {
        let (mut head, mut info) = (RequestHead::new(Method::Get, "a", "/?q=1").unwrap(), stream());
        head.headers.append("x", "1").unwrap();
        info.filter_state.set("k", Rc::new(HashableString("v".into())));
        info.filter_state.set("plain", Rc::new("v".to_owned()));
        let one = |source: HashSource| hash(&[source], false, &head, &info).hash;
        let header = || HashSource::Header { name: "x".into(), rewrite: None };
        assert_eq!(one(header()), Some(xx_hash64(b"1", 0)));
        assert_eq!(one(HashSource::QueryParameter("q".into())), one(header()));
        assert_eq!(one(HashSource::SourceIp), Some(xx_hash64(b"10.0.0.1", 0)));
        assert_eq!(one(HashSource::FilterState("k".into())), Some(xx_hash64(b"v", 0)));
        assert_eq!(one(HashSource::FilterState("plain".into())), None);
        let both = [header(), HashSource::SourceIp];
        let combined = xx_hash64(b"1", 0).rotate_left(1) ^ xx_hash64(b"10.0.0.1", 0);
        assert_eq!(hash(&both, false, &head, &info).hash, Some(combined));
        assert_eq!(hash(&both, true, &head, &info).hash, one(header()));
    }
}
