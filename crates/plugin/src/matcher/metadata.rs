//! Matching values of metadata.

use super::{StringMatcher, error};
use sota_config::{
    ConfigError, Node, Value,
    matcher::{MetadataMatcher as Config, ValueMatcher as ValueConfig},
};
use std::ops::Range;

/// A compiled [`sota_config::matcher::MetadataMatcher`].
#[derive(Debug, Clone)]
pub struct MetadataMatcher {
    namespace: Box<str>,
    path: Box<[Box<str>]>,
    value: ValueMatcher,
    invert: bool,
}

/// A compiled [`sota_config::matcher::ValueMatcher`].
#[derive(Debug, Clone)]
enum ValueMatcher {
    Null,
    Number(f64),
    Range(Range<f64>),
    String(StringMatcher),
    Bool(bool),
    Present(bool),
    OneOf(Box<Self>),
    Or(Box<[Self]>),
}

impl MetadataMatcher {
    /// Fails for an invalid regular expression.
    pub fn build(config: &Config) -> Result<Self, ConfigError> {
        let value = ValueMatcher::build(&config.value);
        Ok(Self {
            namespace: config.namespace.as_str().into(),
            path: config.path.iter().map(|key| key.as_str().into()).collect(),
            value: value.map_err(|e| error(format!("metadata of {:?}: {}", config.namespace, e.reason)))?,
            invert: config.invert,
        })
    }

    /// Builds each; the first error counts.
    pub fn build_all(configs: &[Config]) -> Result<Vec<Self>, ConfigError> {
        configs.iter().map(Self::build).collect()
    }

    /// The value that is meant, if it is there. `tree` gives the metadata of a namespace.
    pub fn find<'a>(&self, tree: impl FnOnce(&str) -> Option<&'a Node>) -> Option<&'a Node> {
        self.path.iter().try_fold(tree(&self.namespace)?, |node, key| node.get(key))
    }

    /// Whether the metadata matches.
    pub fn matches<'a>(&self, tree: impl FnOnce(&str) -> Option<&'a Node>) -> bool {
        self.value.matches(self.find(tree)) != self.invert
    }

    /// Whether a value that [`Self::find`] found matches; `invert` does not count.
    pub fn matches_value(&self, value: &Node) -> bool {
        self.value.matches(Some(value))
    }
}

impl ValueMatcher {
    fn build(config: &ValueConfig) -> Result<Self, ConfigError> {
        Ok(match config {
            ValueConfig::Null => Self::Null,
            ValueConfig::Number(number) => Self::Number(*number),
            ValueConfig::Range(range) => Self::Range(range.clone()),
            ValueConfig::String(matcher) => Self::String(StringMatcher::build(matcher)?),
            ValueConfig::Bool(value) => Self::Bool(*value),
            ValueConfig::Present(present) => Self::Present(*present),
            ValueConfig::OneOf(inner) => Self::OneOf(Box::new(Self::build(inner)?)),
            ValueConfig::Or(inner) => Self::Or(inner.iter().map(Self::build).collect::<Result<_, _>>()?),
        })
    }

    fn matches(&self, value: Option<&Node>) -> bool {
        let Some(node) = value else { return false };
        match self {
            Self::Null => matches!(node.value, Value::Null),
            Self::Number(number) => node.as_f64() == Some(*number),
            Self::Range(range) => node.as_f64().is_some_and(|number| range.contains(&number)),
            Self::String(matcher) => node.as_str().is_some_and(|text| matcher.matches(text.as_bytes())),
            Self::Bool(wanted) => node.as_bool() == Some(*wanted),
            Self::Present(wanted) => *wanted,
            Self::OneOf(inner) => node.items().iter().any(|item| inner.matches(Some(item))),
            Self::Or(all) => all.iter().any(|matcher| matcher.matches(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::Metadata;
    use sota_config::matcher::{StringMatcher as StringConfig, StringPattern};

    fn number(value: f64) -> Node {
        Node::new(Value::Float(value))
    }

    fn text(pattern: &str) -> ValueConfig {
        ValueConfig::String(StringConfig { pattern: StringPattern::Prefix(pattern.into()), ignore_case: false })
    }

    #[test]
    fn values_of_each_kind() {
        let list = Node::new(Value::List(vec![number(1.0), Node::string("abc")]));
        let null = Node::new(Value::Null);
        let yes = Node::new(Value::Bool(true));
        let cases: [(ValueConfig, [bool; 6]); 8] = [
            // absent, null, true, 1, "abc", [1, "abc"]
            (ValueConfig::Null, [false, true, false, false, false, false]),
            (ValueConfig::Number(1.0), [false, false, false, true, false, false]),
            (ValueConfig::Range(0.5..1.0), [false; 6]),
            (ValueConfig::Bool(true), [false, false, true, false, false, false]),
            (text("ab"), [false, false, false, false, true, false]),
            (ValueConfig::Present(true), [false, true, true, true, true, true]),
            (ValueConfig::OneOf(Box::new(text("ab"))), [false, false, false, false, false, true]),
            (
                ValueConfig::Or(vec![ValueConfig::Bool(true), text("x"), ValueConfig::Number(1.0)]),
                [false, false, true, true, false, false],
            ),
        ];
        for (config, expected) in cases {
            let matcher = ValueMatcher::build(&config).unwrap();
            let values = [
                None,
                Some(null.clone()),
                Some(yes.clone()),
                Some(number(1.0)),
                Some(Node::string("abc")),
                Some(list.clone()),
            ];
            let found = values.map(|value| matcher.matches(value.as_ref()));
            assert_eq!(found, expected, "{config:?}");
        }
    }

    #[test]
    fn paths_and_the_opposite() {
        let mut metadata = Metadata::default();
        let inner = Node::new(Value::Map(vec![("b".into(), Node::string("abc"))]));
        metadata.set("ns", "a", inner);
        let matches = |namespace: &str, path: &[&str], invert| {
            let path = path.iter().map(|key| (*key).to_owned()).collect();
            let config = Config { namespace: namespace.into(), path, value: text("abc"), invert };
            MetadataMatcher::build(&config).unwrap().matches(|namespace| metadata.get(namespace))
        };
        assert!(matches("ns", &["a", "b"], false) && !matches("ns", &["a", "b"], true));
        assert!(
            !matches("ns", &["a"], false) && !matches("ns", &["a", "c"], false) && !matches("other", &["a"], false)
        );
        assert!(matches("other", &["a", "b"], true));
    }
}
