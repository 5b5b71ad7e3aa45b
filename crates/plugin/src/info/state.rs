//! What filters leave for each other: metadata (printable trees by namespace) and filter state (any value by name).

use sota_config::Node;
use std::{any::Any, fmt, rc::Rc};

/// Dynamic metadata: a tree for each namespace, usually the name of the filter that set it. Empty costs nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(Vec<(String, Node)>);

impl Metadata {
    /// The tree of a namespace.
    pub fn get(&self, namespace: &str) -> Option<&Node> {
        self.0.iter().find(|(name, _)| name == namespace).map(|(_, node)| node)
    }

    /// A value inside a namespace, by the keys that lead to it.
    pub fn path<'a>(&self, namespace: &str, keys: impl IntoIterator<Item = &'a str>) -> Option<&Node> {
        keys.into_iter().try_fold(self.get(namespace)?, |node, key| node.get(key))
    }

    /// Merges a map into a namespace: keys that are there already are replaced.
    pub fn merge(&mut self, namespace: &str, tree: Node) {
        let Some((_, old)) = self.0.iter_mut().find(|(name, _)| name == namespace) else {
            self.0.push((namespace.to_owned(), tree));
            return;
        };
        match (&mut old.value, tree.value) {
            (sota_config::Value::Map(old), sota_config::Value::Map(new)) => {
                for (key, value) in new {
                    match old.iter_mut().find(|(name, _)| *name == key) {
                        Some((_, slot)) => *slot = value,
                        None => old.push((key, value)),
                    }
                }
            }
            (slot, new) => *slot = new,
        }
    }

    /// Sets one key of a namespace.
    pub fn set(&mut self, namespace: &str, key: &str, value: Node) {
        self.merge(namespace, Node::new(sota_config::Value::Map(vec![(key.into(), value)])));
    }

    /// Every namespace with its tree.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// Whether there is no namespace.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A value that a filter leaves for others.
pub trait FilterStateValue: Any {
    /// What `%FILTER_STATE(NAME:PLAIN)%` prints; `None` when there is nothing to print.
    fn to_text(&self) -> Option<String> {
        None
    }

    /// What `%FILTER_STATE(NAME)%` prints, as JSON: the text as a string, unless the value has more to say.
    fn to_node(&self) -> Option<Node> {
        self.to_text().map(Node::string)
    }

    /// What `%FILTER_STATE(NAME:FIELD:field)%` prints.
    fn field(&self, _name: &str) -> Option<String> {
        None
    }

    /// What a `hash_policy` of `filter_state` hashes it to; `None`: it is not for that.
    fn hash(&self) -> Option<u64> {
        None
    }

    /// For casting back.
    fn as_any(&self) -> &dyn Any;
}

/// Filter state: values by name. Empty costs nothing.
#[derive(Clone, Default)]
pub struct FilterState(Vec<(Box<str>, Rc<dyn FilterStateValue>)>);

impl FilterState {
    /// The value of this name, if it has this type.
    pub fn get<T: 'static>(&self, name: &str) -> Option<&T> {
        self.find(name)?.as_any().downcast_ref()
    }

    /// The value of this name as text.
    pub fn text(&self, name: &str) -> Option<String> {
        self.find(name)?.to_text()
    }

    /// Sets a value, replacing one of the same name.
    pub fn set(&mut self, name: &str, value: Rc<dyn FilterStateValue>) {
        match self.0.iter_mut().find(|(key, _)| **key == *name) {
            Some((_, slot)) => *slot = value,
            None => self.0.push((name.into(), value)),
        }
    }

    /// The value of this name, whatever its type.
    pub fn find(&self, name: &str) -> Option<&dyn FilterStateValue> {
        self.0.iter().find(|(key, _)| **key == *name).map(|(_, value)| &**value)
    }
}

impl fmt::Debug for FilterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Plain text as filter state (`envoy.string`).
impl FilterStateValue for String {
    fn to_text(&self) -> Option<String> {
        Some(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Text that hash policies may name (`envoy.hashable_string`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashableString(pub String);

impl FilterStateValue for HashableString {
    fn to_text(&self) -> Option<String> {
        Some(self.0.clone())
    }

    fn hash(&self) -> Option<u64> {
        Some(crate::hash::xx_hash64(self.0.as_bytes(), 0))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sota_config::Value;

    #[test]
    fn metadata_merges_by_key() {
        let mut metadata = Metadata::default();
        metadata.set("a", "x", Node::string("1"));
        metadata.set("a", "y", Node::string("2"));
        metadata.set("a", "x", Node::string("3"));
        assert_eq!(metadata.path("a", ["x"]).and_then(Node::as_str), Some("3"));
        assert_eq!(metadata.path("a", ["y"]).and_then(Node::as_str), Some("2"));
        assert!(metadata.path("a", ["z"]).is_none() && metadata.path("b", []).is_none());
        metadata.merge("a", Node::new(Value::Bool(true)));
        assert_eq!(metadata.get("a").and_then(Node::as_bool), Some(true));
    }

    #[test]
    fn filter_state_by_name_and_type() {
        let mut state = FilterState::default();
        state.set("s", Rc::new("text".to_owned()));
        assert_eq!(state.get::<String>("s").map(String::as_str), Some("text"));
        assert_eq!(state.text("s").as_deref(), Some("text"));
        assert_eq!(state.find("s").and_then(FilterStateValue::to_node), Some(Node::string("text")));
        assert!(state.get::<u32>("s").is_none());
    }
}
