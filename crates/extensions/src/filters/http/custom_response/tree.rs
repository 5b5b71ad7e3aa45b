//! `xds.type.matcher.v3.Matcher` over a response and its request.

use sota_config::{ConfigError, Node};
use sota_plugin::{
    FactoryContext,
    http::{HeaderName, RequestHead, ResponseHead},
    info::StreamInfo,
    matcher::{StringMatcher, read},
};
use std::{borrow::Cow, sync::Arc};

/// A matcher whose leaves are `A`.
#[derive(Debug)]
pub(super) struct Tree<A> {
    kind: Kind<A>,
    on_no_match: Option<Box<OnMatch<A>>>,
}

#[derive(Debug)]
enum Kind<A> {
    /// The first whose predicate holds.
    List(Vec<(Predicate, OnMatch<A>)>),
    /// By the value of an input; of beginnings the longest counts.
    Map { input: Input, is_prefix: bool, entries: Vec<(String, OnMatch<A>)> },
}

#[derive(Debug)]
enum OnMatch<A> {
    /// Where that finds nothing, the search goes on behind it.
    Tree(Tree<A>),
    Action(Arc<A>),
}

#[derive(Debug)]
enum Predicate {
    Single(Input, StringMatcher),
    Or(Vec<Self>),
    And(Vec<Self>),
    Not(Box<Self>),
}

/// What is looked at. An input without a value matches nothing.
#[derive(Debug)]
enum Input {
    Status,
    /// `2xx` and its kin.
    StatusClass,
    /// `true` where the proxy itself answers.
    LocalReply,
    RequestHeader(HeaderName),
    ResponseHeader(HeaderName),
}

/// A response with its request.
pub(super) struct Subject<'a> {
    pub(super) head: &'a ResponseHead,
    pub(super) request: Option<&'a RequestHead>,
    pub(super) info: &'a StreamInfo,
}

/// Reads a leaf: its `TypedExtensionConfig` and path.
pub(super) type Leaf<'r, A> = &'r dyn Fn(&Node, &str, &FactoryContext<'_>) -> Result<A, ConfigError>;

impl<A> Tree<A> {
    pub(super) fn read(
        node: &Node,
        path: &str,
        leaf: Leaf<'_, A>,
        cx: &FactoryContext<'_>,
    ) -> Result<Self, ConfigError> {
        let kind = if let Some(list) = node.get("matcher_list") {
            let path = format!("{path}.matcher_list");
            let matchers = list.list("matchers").iter().enumerate().map(|(at, item)| {
                let path = format!("{path}.matchers[{at}]");
                let predicate = Predicate::read(item.field("predicate"), &format!("{path}.predicate"), cx)?;
                Ok((predicate, OnMatch::read(item.field("on_match"), &format!("{path}.on_match"), leaf, cx)?))
            });
            Kind::List(matchers.collect::<Result<_, ConfigError>>()?)
        } else if let Some(tree) = node.get("matcher_tree") {
            let path = format!("{path}.matcher_tree");
            let is_prefix = tree.has("prefix_match_map");
            let key = if is_prefix { "prefix_match_map" } else { "exact_match_map" };
            let entries = tree.field(key).entries("map").iter().map(|(name, item)| {
                Ok((name.to_string(), OnMatch::read(item, &format!("{path}.{key}.map[{name:?}]"), leaf, cx)?))
            });
            let entries = entries.collect::<Result<_, ConfigError>>()?;
            Kind::Map { input: Input::read(tree.field("input"), &format!("{path}.input"), cx)?, is_prefix, entries }
        } else {
            Kind::List(Vec::new())
        };
        let on_no_match = node
            .get("on_no_match")
            .map(|item| OnMatch::read(item, &format!("{path}.on_no_match"), leaf, cx).map(Box::new));
        Ok(Self { kind, on_no_match: on_no_match.transpose()? })
    }

    /// The leaf for a response.
    pub(super) fn find(&self, subject: &Subject<'_>) -> Option<&Arc<A>> {
        let found = match &self.kind {
            Kind::List(matchers) => {
                let mut all = matchers.iter().filter(|(predicate, _)| predicate.holds(subject));
                all.find_map(|(_, on_match)| on_match.find(subject))
            }
            Kind::Map { input, is_prefix, entries } => input.value(subject).and_then(|value| {
                let matches = |key: &str| match is_prefix {
                    true => value.starts_with(key.as_bytes()),
                    false => *value == *key.as_bytes(),
                };
                let mut all: Vec<_> = entries.iter().filter(|(key, _)| matches(key)).collect();
                all.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
                all.into_iter().find_map(|(_, on_match)| on_match.find(subject))
            }),
        };
        found.or_else(|| self.on_no_match.as_ref()?.find(subject))
    }
}

impl<A> OnMatch<A> {
    fn read(node: &Node, path: &str, leaf: Leaf<'_, A>, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        match node.get("matcher") {
            Some(tree) => Tree::read(tree, &format!("{path}.matcher"), leaf, cx).map(Self::Tree),
            None => {
                let action = leaf(node.field("action"), &format!("{path}.action"), cx)?;
                Ok(Self::Action(Arc::new(action)))
            }
        }
    }

    fn find(&self, subject: &Subject<'_>) -> Option<&Arc<A>> {
        match self {
            Self::Tree(tree) => tree.find(subject),
            Self::Action(action) => Some(action),
        }
    }
}

impl Predicate {
    fn read(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        if let Some(not) = node.get("not_matcher") {
            return Self::read(not, &format!("{path}.not_matcher"), cx).map(|inner| Self::Not(Box::new(inner)));
        }
        for (key, make) in [("or_matcher", Self::Or as fn(Vec<Self>) -> Self), ("and_matcher", Self::And)] {
            if let Some(list) = node.get(key) {
                let items = list.list("predicate").iter().enumerate();
                let items = items.map(|(at, item)| Self::read(item, &format!("{path}.{key}.predicate[{at}]"), cx));
                return items.collect::<Result<_, _>>().map(make);
            }
        }
        let single = node.field("single_predicate");
        let path = format!("{path}.single_predicate");
        let Some(matcher) = single.get("value_match") else {
            return Err(cx.error(&path, single.mark, "responses are matched by value_match"));
        };
        let matcher = StringMatcher::build(&read::string_matcher(matcher))
            .map_err(|error| cx.error(&format!("{path}.value_match"), matcher.mark, error.reason))?;
        Ok(Self::Single(Input::read(single.field("input"), &format!("{path}.input"), cx)?, matcher))
    }

    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Single(input, matcher) => input.value(subject).is_some_and(|value| matcher.matches(&value)),
            Self::Or(all) => all.iter().any(|inner| inner.holds(subject)),
            Self::And(all) => all.iter().all(|inner| inner.holds(subject)),
            Self::Not(inner) => !inner.holds(subject),
        }
    }
}

impl Input {
    fn read(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let config = node.field("typed_config");
        let url = config.str("@type");
        let header = || {
            HeaderName::parse_any(config.str("header_name").as_bytes()).map_err(|error| {
                let mark = config.field("header_name").mark;
                cx.error(&format!("{path}.typed_config.header_name"), mark, error.to_string())
            })
        };
        Ok(match url.rsplit_once('/').map_or(url, |(_, name)| name) {
            "envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput" => Self::Status,
            "envoy.type.matcher.v3.HttpResponseStatusCodeClassMatchInput" => Self::StatusClass,
            "envoy.type.matcher.v3.HttpResponseLocalReplyMatchInput" => Self::LocalReply,
            "envoy.type.matcher.v3.HttpRequestHeaderMatchInput" => Self::RequestHeader(header()?),
            "envoy.type.matcher.v3.HttpResponseHeaderMatchInput" => Self::ResponseHeader(header()?),
            _ => return Err(cx.error(path, node.mark, format!("the input \"{url}\" is not supported here"))),
        })
    }

    fn value<'a>(&self, subject: &Subject<'a>) -> Option<Cow<'a, [u8]>> {
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
