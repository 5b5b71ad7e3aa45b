//! The generic matcher of a virtual host, compiled: which of its routes are tried for a request.

use hashbrown::HashMap;
use sota_config::{
    ConfigError, Node,
    address::CidrRange,
    match_tree::{
        InputMatcher as MatcherConfig, MatchInput, MatchKind, MatchTree as Config, OnMatch,
        Predicate as PredicateConfig,
    },
};
use sota_plugin::{
    http::{HeaderName, RequestHead},
    info::StreamInfo,
    matcher::{StringMatcher, query_parameters},
};
use std::{borrow::Cow, net::IpAddr};

/// A compiled [`sota_config::match_tree::MatchTree`]. `A` is what its leaves hold.
#[derive(Debug)]
pub(super) struct MatchTree<A> {
    kind: Kind<A>,
    on_no_match: Option<Box<Next<A>>>,
}

#[derive(Debug)]
enum Kind<A> {
    List(Box<[(Predicate, Next<A>)]>),
    Exact(Input, HashMap<Key, Next<A>>),
    /// Longest key first.
    Prefix(Input, Box<[(Key, Next<A>)]>),
}

type Key = Box<[u8]>;

#[derive(Debug)]
enum Next<A> {
    Tree(MatchTree<A>),
    Action(A),
}

#[derive(Debug)]
enum Predicate {
    Single(Input, Matcher),
    Or(Box<[Self]>),
    And(Box<[Self]>),
    Not(Box<Self>),
}

#[derive(Debug)]
enum Matcher {
    String(StringMatcher),
    Ip(Box<[CidrRange]>),
}

#[derive(Debug)]
enum Input {
    Header(HeaderName),
    Query(Box<[u8]>),
    Connection(MatchInput),
}

impl<A> MatchTree<A> {
    /// `action` compiles a leaf. Fails for invalid names and patterns.
    pub(super) fn build<C>(config: &Config<C>, action: &mut dyn FnMut(&C) -> A) -> Result<Self, ConfigError> {
        let kind = match &config.kind {
            MatchKind::List(entries) => {
                let entry = |(predicate, next): &(PredicateConfig, OnMatch<C>)| {
                    Ok((Predicate::build(predicate)?, Next::build(next, action)?))
                };
                Kind::List(entries.iter().map(entry).collect::<Result<_, ConfigError>>()?)
            }
            MatchKind::Map { input, is_prefix, entries } => {
                let input = Input::build(input)?;
                let mut built = Vec::with_capacity(entries.len());
                for (key, next) in entries {
                    built.push((Key::from(key.as_bytes()), Next::build(next, action)?));
                }
                match is_prefix {
                    true => {
                        built.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
                        Kind::Prefix(input, built.into())
                    }
                    false => Kind::Exact(input, built.into_iter().collect()),
                }
            }
        };
        let on_no_match =
            config.on_no_match.as_ref().map(|next| Next::build(next, action).map(Box::new)).transpose()?;
        Ok(Self { kind, on_no_match })
    }

    /// The leaf that a request comes to.
    pub(super) fn find(&self, head: &RequestHead, info: &StreamInfo) -> Option<&A> {
        let found = match &self.kind {
            Kind::List(entries) => entries
                .iter()
                .filter(|(predicate, _)| predicate.holds(head, info))
                .find_map(|(_, next)| next.find(head, info)),
            Kind::Exact(input, map) => {
                let value = input.value(head, info);
                value.and_then(|value| map.get(&*value)).and_then(|next| next.find(head, info))
            }
            Kind::Prefix(input, list) => input.value(head, info).and_then(|value| {
                list.iter().filter(|(key, _)| value.starts_with(key)).find_map(|(_, next)| next.find(head, info))
            }),
        };
        found.or_else(|| self.on_no_match.as_ref().and_then(|next| next.find(head, info)))
    }
}

impl<A> Next<A> {
    fn build<C>(config: &OnMatch<C>, action: &mut dyn FnMut(&C) -> A) -> Result<Self, ConfigError> {
        Ok(match config {
            OnMatch::Matcher(tree) => Self::Tree(MatchTree::build(tree, action)?),
            OnMatch::Action(leaf) => Self::Action(action(leaf)),
        })
    }

    fn find(&self, head: &RequestHead, info: &StreamInfo) -> Option<&A> {
        match self {
            Self::Tree(tree) => tree.find(head, info),
            Self::Action(action) => Some(action),
        }
    }
}

impl Predicate {
    fn build(config: &PredicateConfig) -> Result<Self, ConfigError> {
        let all = |list: &[PredicateConfig]| list.iter().map(Self::build).collect::<Result<Box<[_]>, _>>();
        Ok(match config {
            PredicateConfig::Single(input, matcher) => {
                let matcher = match matcher {
                    MatcherConfig::String(matcher) => Matcher::String(StringMatcher::build(matcher)?),
                    MatcherConfig::Ip(ranges) => Matcher::Ip(ranges.as_slice().into()),
                };
                Self::Single(Input::build(input)?, matcher)
            }
            PredicateConfig::Or(list) => Self::Or(all(list)?),
            PredicateConfig::And(list) => Self::And(all(list)?),
            PredicateConfig::Not(inner) => Self::Not(Box::new(Self::build(inner)?)),
        })
    }

    fn holds(&self, head: &RequestHead, info: &StreamInfo) -> bool {
        match self {
            Self::Single(input, matcher) => input.value(head, info).is_some_and(|value| matcher.matches(&value)),
            Self::Or(list) => list.iter().any(|predicate| predicate.holds(head, info)),
            Self::And(list) => list.iter().all(|predicate| predicate.holds(head, info)),
            Self::Not(inner) => !inner.holds(head, info),
        }
    }
}

impl Matcher {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::String(matcher) => matcher.matches(value),
            Self::Ip(ranges) => {
                let ip: Option<IpAddr> = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                ip.is_some_and(|ip| ranges.iter().any(|range| range.contains(&ip)))
            }
        }
    }
}

impl Input {
    fn build(config: &MatchInput) -> Result<Self, ConfigError> {
        Ok(match config {
            MatchInput::RequestHeader(name) => {
                let reason =
                    |reason| ConfigError::new("", sota_config::Mark::NONE, format!("header name {name:?}: {reason}"));
                Self::Header(HeaderName::parse_any(name.as_bytes()).map_err(reason)?)
            }
            MatchInput::QueryParameter(name) => Self::Query(name.as_bytes().into()),
            other => Self::Connection(other.clone()),
        })
    }

    fn value<'a>(&self, head: &'a RequestHead, info: &StreamInfo) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Header(name) => head.get_joined(name),
            Self::Query(name) => {
                let query = head.query().unwrap_or_default();
                query_parameters(query).find(|(key, _)| *key == &**name).map(|(_, value)| value.into())
            }
            Self::Connection(input) => of_connection(input, info).map(|text| text.into_bytes().into()),
        }
    }
}

/// The value of an input that is not in the request.
fn of_connection(input: &MatchInput, info: &StreamInfo) -> Option<String> {
    let connection = &info.connection;
    match input {
        MatchInput::RequestHeader(_) | MatchInput::QueryParameter(_) => None,
        MatchInput::DestinationIp => connection.local.ip().map(|ip| ip.to_string()),
        MatchInput::DestinationPort => connection.local.port().map(|port| port.to_string()),
        MatchInput::SourceIp => info.remote().ip().map(|ip| ip.to_string()),
        MatchInput::SourcePort => info.remote().port().map(|port| port.to_string()),
        MatchInput::DirectSourceIp => connection.direct_remote().ip().map(|ip| ip.to_string()),
        MatchInput::SourceType => {
            let (from, to) = (connection.remote.ip()?, connection.local.ip()?);
            (from.is_loopback() || from == to).then(|| "local".to_owned())
        }
        MatchInput::ServerName => connection.server_name.as_deref().map(str::to_owned),
        MatchInput::FilterState(key) => {
            info.filter_state.text(key).or_else(|| connection.filter_state.borrow().text(key))
        }
        MatchInput::DynamicMetadata(namespace, path) => {
            info.metadata.path(namespace, path.iter().map(String::as_str)).and_then(Node::as_str).map(str::to_owned)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_context::stream_from;
    use sota_config::matcher::{StringMatcher as StringConfig, StringPattern};
    use sota_plugin::http::Method;
    use std::rc::Rc;

    /// A list of one predicate.
    fn list(predicate: PredicateConfig) -> Config<u32> {
        Config { kind: MatchKind::List(vec![(predicate, OnMatch::Action(1))]), on_no_match: None }
    }

    fn exact(input: MatchInput, text: &str) -> PredicateConfig {
        let pattern = StringPattern::Exact(text.into());
        PredicateConfig::Single(input, MatcherConfig::String(StringConfig { pattern, ignore_case: false }))
    }

    #[test]
    fn inputs_of_connection_and_stream() {
        let mut info = stream_from([10, 0, 0, 1].into());
        info.filter_state.set("key", Rc::new("text".to_owned()));
        info.metadata.set("ns", "a", Node::string("b"));
        let head = RequestHead::new(Method::Get, "h", "/?q=1&q=2").unwrap();
        let finds =
            |predicate| MatchTree::build(&list(predicate), &mut |leaf| *leaf).unwrap().find(&head, &info).is_some();
        for (input, text) in [
            (MatchInput::DestinationIp, "127.0.0.1"),
            (MatchInput::DestinationPort, "2000"),
            (MatchInput::SourceIp, "10.0.0.1"),
            (MatchInput::SourcePort, "1000"),
            (MatchInput::DirectSourceIp, "10.0.0.1"),
            (MatchInput::FilterState("key".into()), "text"),
            (MatchInput::DynamicMetadata("ns".into(), vec!["a".into()]), "b"),
            (MatchInput::QueryParameter("q".into()), "1"),
            (MatchInput::RequestHeader(":authority".into()), "h"),
        ] {
            assert!(finds(exact(input.clone(), text)), "{input:?}");
            assert!(!finds(exact(input.clone(), "other")), "{input:?}");
            assert!(!finds(PredicateConfig::Not(Box::new(exact(input, text)))));
        }
        for input in [MatchInput::SourceType, MatchInput::ServerName, MatchInput::FilterState("none".into())] {
            assert!(!finds(exact(input, "")), "an absent value matches nothing");
        }
        let within = |range: &str| {
            PredicateConfig::Single(MatchInput::SourceIp, MatcherConfig::Ip(vec![range.parse().unwrap()]))
        };
        assert!(finds(within("10.0.0.0/8")) && !finds(within("11.0.0.0/8")));
    }

    #[test]
    fn the_search_goes_on_behind_what_finds_nothing() {
        let map = |is_prefix, entries: &[(&str, OnMatch<u32>)]| Config {
            kind: MatchKind::Map {
                input: MatchInput::RequestHeader(":path".into()),
                is_prefix,
                entries: entries.iter().map(|(key, next)| ((*key).to_owned(), next.clone())).collect(),
            },
            on_no_match: None,
        };
        let inner = map(false, &[("/a/b", OnMatch::Action(3))]);
        let outer = Config {
            on_no_match: Some(Box::new(OnMatch::Action(9))),
            ..map(true, &[("/", OnMatch::Action(1)), ("/a", OnMatch::Matcher(Box::new(inner)))])
        };
        let tree = MatchTree::build(&outer, &mut |leaf| *leaf).unwrap();
        let find = |path: &str| {
            tree.find(&RequestHead::new(Method::Get, "h", path).unwrap(), &stream_from([10, 0, 0, 1].into())).copied()
        };
        assert_eq!((find("/a/b"), find("/a/c"), find("/x"), find("*")), (Some(3), Some(1), Some(1), Some(9)));
    }
}
