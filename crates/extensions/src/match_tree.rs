//! `xds.type.matcher.v3.Matcher`, compiled: a tree of conditions on inputs, whose leaves say what to do.

use crate::matchers;
use sota_config::{ConfigError, Node, address::CidrRange};
use sota_plugin::{
    FactoryContext,
    matcher::{StringMatcher, read},
};
use std::{borrow::Cow, net::IpAddr};

/// What a kind of matcher can look at.
pub(crate) trait Input: Sized {
    /// What is matched.
    type Subject<'a>;

    /// Reads the fields of an input of this message (without its host), or says why it cannot. `None`: there is no such
    /// input here.
    fn read(message: &str, config: &Node) -> Result<Option<Self>, String>;

    /// Its value. An input without a value matches nothing.
    fn value<'a>(&self, subject: &Self::Subject<'a>) -> Option<Cow<'a, [u8]>>;

    /// Its value where that is an address.
    fn ip(&self, _subject: &Self::Subject<'_>) -> Option<IpAddr> {
        None
    }
}

/// A matcher whose leaves are `A`.
#[derive(Debug)]
pub(crate) struct Tree<I, A> {
    kind: Kind<I, A>,
    on_no_match: Option<Box<OnMatch<I, A>>>,
}

#[derive(Debug)]
enum Kind<I, A> {
    /// The first whose predicate holds.
    List(Vec<(Predicate<I>, OnMatch<I, A>)>),
    /// By the value of an input; of beginnings the longest counts, and so stands first.
    Map { input: I, is_prefix: bool, entries: Vec<(String, OnMatch<I, A>)> },
}

#[derive(Debug)]
enum OnMatch<I, A> {
    /// Where that finds nothing, the search goes on behind it.
    Tree(Tree<I, A>),
    Action(A),
}

#[derive(Debug)]
enum Predicate<I> {
    Single(I, Matcher),
    Or(Vec<Self>),
    And(Vec<Self>),
    Not(Box<Self>),
}

#[derive(Debug)]
enum Matcher {
    String(StringMatcher),
    Ip(Vec<CidrRange>),
}

/// Reads a leaf: its `TypedExtensionConfig` and path.
pub(crate) type Leaf<'r, A> = &'r dyn Fn(&Node, &str, &FactoryContext<'_>) -> Result<A, ConfigError>;

impl<I: Input, A> Tree<I, A> {
    /// Reads a matcher that stands at `path`, seen from the filter's configuration.
    pub(crate) fn read(
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
            let mut entries = entries.collect::<Result<Vec<_>, ConfigError>>()?;
            entries.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
            Kind::Map { input: input(tree.field("input"), &format!("{path}.input"), cx)?, is_prefix, entries }
        } else {
            Kind::List(Vec::new())
        };
        let on_no_match = node
            .get("on_no_match")
            .map(|item| OnMatch::read(item, &format!("{path}.on_no_match"), leaf, cx).map(Box::new));
        Ok(Self { kind, on_no_match: on_no_match.transpose()? })
    }

    /// The leaf that a subject comes to.
    pub(crate) fn find(&self, subject: &I::Subject<'_>) -> Option<&A> {
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
                let mut all = entries.iter().filter(|(key, _)| matches(key));
                all.find_map(|(_, on_match)| on_match.find(subject))
            }),
        };
        found.or_else(|| self.on_no_match.as_ref()?.find(subject))
    }

    /// Whether something is looked at that is such a one.
    pub(crate) fn any_input(&self, is_such: &dyn Fn(&I) -> bool) -> bool {
        let inside = match &self.kind {
            Kind::List(matchers) => {
                matchers.iter().any(|(predicate, on_match)| predicate.any_input(is_such) || on_match.any_input(is_such))
            }
            Kind::Map { input, entries, .. } => {
                is_such(input) || entries.iter().any(|(_, on_match)| on_match.any_input(is_such))
            }
        };
        inside || self.on_no_match.as_ref().is_some_and(|on_match| on_match.any_input(is_such))
    }

    /// Whether a leaf is such a one.
    pub(crate) fn any_leaf(&self, is_such: &dyn Fn(&A) -> bool) -> bool {
        let inside = match &self.kind {
            Kind::List(matchers) => matchers.iter().any(|(_, on_match)| on_match.any_leaf(is_such)),
            Kind::Map { entries, .. } => entries.iter().any(|(_, on_match)| on_match.any_leaf(is_such)),
        };
        inside || self.on_no_match.as_ref().is_some_and(|on_match| on_match.any_leaf(is_such))
    }
}

impl<I: Input, A> OnMatch<I, A> {
    fn read(node: &Node, path: &str, leaf: Leaf<'_, A>, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        match node.get("matcher") {
            Some(tree) => Tree::read(tree, &format!("{path}.matcher"), leaf, cx).map(Self::Tree),
            None => leaf(node.field("action"), &format!("{path}.action"), cx).map(Self::Action),
        }
    }

    fn find(&self, subject: &I::Subject<'_>) -> Option<&A> {
        match self {
            Self::Tree(tree) => tree.find(subject),
            Self::Action(action) => Some(action),
        }
    }

    fn any_input(&self, is_such: &dyn Fn(&I) -> bool) -> bool {
        match self {
            Self::Tree(tree) => tree.any_input(is_such),
            Self::Action(_) => false,
        }
    }

    fn any_leaf(&self, is_such: &dyn Fn(&A) -> bool) -> bool {
        match self {
            Self::Tree(tree) => tree.any_leaf(is_such),
            Self::Action(action) => is_such(action),
        }
    }
}

impl<I: Input> Predicate<I> {
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
        let matcher = Matcher::read(single, &path, cx)?;
        Ok(Self::Single(input(single.field("input"), &format!("{path}.input"), cx)?, matcher))
    }

    fn any_input(&self, is_such: &dyn Fn(&I) -> bool) -> bool {
        match self {
            Self::Single(input, _) => is_such(input),
            Self::Or(list) | Self::And(list) => list.iter().any(|predicate| predicate.any_input(is_such)),
            Self::Not(inner) => inner.any_input(is_such),
        }
    }

    fn holds(&self, subject: &I::Subject<'_>) -> bool {
        match self {
            Self::Single(input, Matcher::String(matcher)) => {
                input.value(subject).is_some_and(|value| matcher.matches(&value))
            }
            Self::Single(input, Matcher::Ip(ranges)) => {
                input.ip(subject).is_some_and(|ip| ranges.iter().any(|range| range.contains(&ip)))
            }
            Self::Or(list) => list.iter().any(|predicate| predicate.holds(subject)),
            Self::And(list) => list.iter().all(|predicate| predicate.holds(subject)),
            Self::Not(inner) => !inner.holds(subject),
        }
    }
}

impl Matcher {
    fn read(single: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        if let Some(matcher) = single.get("value_match") {
            return StringMatcher::build(&read::string_matcher(matcher))
                .map(Self::String)
                .map_err(|error| cx.error(&format!("{path}.value_match"), matcher.mark, error.reason));
        }
        let custom = single.field("custom_match");
        let (message, config) = typed(custom);
        match message {
            "envoy.extensions.matching.input_matchers.ip.v3.Ip" => {
                matchers::ranges(config, "cidr_ranges", &format!("{path}.custom_match.typed_config"), cx).map(Self::Ip)
            }
            _ => Err(cx.error(
                &format!("{path}.custom_match"),
                custom.mark,
                format!("the matcher \"{message}\" is not supported here"),
            )),
        }
    }
}

/// The message's name, without its host, and the fields of a `TypedExtensionConfig`.
pub(crate) fn typed(node: &Node) -> (&str, &Node) {
    let config = node.field("typed_config");
    let (url, config) = match config.str("@type") {
        url if url.ends_with(".TypedStruct") => (config.str("type_url"), config.field("value")),
        url => (url, config),
    };
    (url.rsplit_once('/').map_or(url, |(_, name)| name), config)
}

fn input<I: Input>(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<I, ConfigError> {
    let (message, config) = typed(node);
    let error = |reason: String| cx.error(path, node.mark, reason);
    I::read(message, config)
        .map_err(error)?
        .ok_or_else(|| error(format!("the input \"{message}\" is not supported here")))
}
