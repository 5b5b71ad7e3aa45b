//! The tools of lowering: places, fields, and what is told.

use crate::{check::nearest, table::Message, translate::PathMap};
use sota_config::{ConfigError, Mark, Node, Value, dialect::Extensions};
use std::sync::Arc;

/// The state of lowering one document.
pub(super) struct Lower<'a> {
    pub(super) extensions: &'a dyn Extensions,
    pub(super) paths: PathMap,
    pub(super) errors: Vec<ConfigError>,
    allow_unknown_fields: bool,
}

/// Where a node stands in the document, and where what it is made into will stand.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) written: String,
    pub(super) made: String,
}

impl Place {
    pub(super) fn root() -> Self {
        Self { written: String::new(), made: String::new() }
    }

    /// A field of the same name in both.
    pub(super) fn field(&self, key: &str) -> Self {
        Self { written: join(&self.written, key), made: join(&self.made, key) }
    }

    /// An item of a list that is a list in both.
    pub(super) fn index(&self, index: usize) -> Self {
        Self { written: format!("{}[{index}]", self.written), made: format!("{}[{index}]", self.made) }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl<'a> Lower<'a> {
    pub(super) fn new(extensions: &'a dyn Extensions, allow_unknown_fields: bool) -> Self {
        Self { extensions, paths: PathMap::default(), errors: Vec::new(), allow_unknown_fields }
    }

    /// Notes that what is written at `place` is made into the field `made` of what stands around it: the field's own
    /// name is replaced. Answers the new place.
    pub(super) fn moved(&mut self, place: &Place, made: &str) -> Place {
        let around = place.made.rfind('.').map_or("", |at| place.made.get(..at).unwrap_or(""));
        self.at(&place.written, join(around, made))
    }

    /// Notes that what is written at `place` is made into a field below it.
    pub(super) fn below(&mut self, place: &Place, made: &str) -> Place {
        self.at(&place.written, join(&place.made, made))
    }

    /// Notes that `written` becomes `made`.
    pub(super) fn at(&mut self, written: &str, made: String) -> Place {
        self.paths.insert(made.clone(), written.to_owned());
        Place { written: written.to_owned(), made }
    }

    pub(super) fn error(&mut self, place: &Place, mark: Mark, reason: impl Into<String>) {
        self.errors.push(ConfigError::new(place.written.clone(), mark, reason));
    }

    /// Lowers each item of a list. What is no list is left for the check to tell.
    pub(super) fn list(
        &mut self,
        value: &Node,
        place: &Place,
        mut item: impl FnMut(&mut Self, &Node, &Place) -> Node,
    ) -> Node {
        let Value::List(items) = &value.value else { return value.clone() };
        let items = items.iter().enumerate().map(|(i, node)| item(self, node, &place.index(i))).collect();
        Node { value: Value::List(items), mark: value.mark }
    }

    /// The proto name of a field of `message`, by either spelling. An unknown one is told here, where the short forms
    /// beside the fields are known too.
    pub(super) fn known(
        &mut self,
        key: &str,
        value: &Node,
        message: &str,
        short_forms: &[&str],
        place: &Place,
    ) -> Option<&'static str> {
        let message = Message::find(message)?;
        if let Some(field) = message.field_by_key(key) {
            return Some(field.name());
        }
        let names = short_forms.iter().copied().chain(message.fields().map(|field| field.name()));
        let reason = match nearest(key, names) {
            Some(name) => format!("unknown field \"{}\"; did you mean \"{name}\"?", key.escape_debug()),
            None => format!("unknown field \"{}\"", key.escape_debug()),
        };
        let path = place.written.clone();
        self.errors.push(match self.allow_unknown_fields {
            true => ConfigError::warning(path, value.mark, reason),
            false => ConfigError::new(path, value.mark, reason),
        });
        None
    }
}

/// Whether a message has a field, by its proto name; for short forms that lift fields of an inner message.
pub(super) fn field_of(message: &str, key: &str) -> Option<&'static str> {
    Some(Message::find(message)?.field_by_key(key)?.name())
}

/// The fields of a message that is being made.
pub(super) struct Fields {
    entries: Vec<(Arc<str>, Node)>,
    mark: Mark,
}

impl Fields {
    /// A message at the place of `node`.
    pub(super) fn new(node: &Node) -> Self {
        Self { entries: Vec::with_capacity(node.pairs().len()), mark: node.mark }
    }

    pub(super) fn push(&mut self, key: &str, value: Node) {
        self.entries.push((key.into(), value));
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, value)| &**name == key && !value.is_null())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A text field at the place of the message.
    pub(super) fn push_text(&mut self, key: &str, text: &str) {
        let mark = self.mark;
        self.push(key, Node { value: Value::String(text.into()), mark });
    }

    /// The message.
    pub(super) fn build(self) -> Node {
        Node { value: Value::Map(self.entries), mark: self.mark }
    }

    /// The message; or `node` as it is when that was no map, for the check to tell.
    pub(super) fn or(self, node: &Node) -> Node {
        if matches!(node.value, Value::Map(_)) { self.build() } else { node.clone() }
    }
}

/// A message with one field, at the place of `node`.
pub(super) fn wrap(key: &str, node: Node) -> Node {
    let mark = node.mark;
    Node { value: Value::Map(vec![(key.into(), node)]), mark }
}

/// A list with one item, at its place.
pub(super) fn list_of(node: Node) -> Node {
    let mark = node.mark;
    Node { value: Value::List(vec![node]), mark }
}

/// A text node at a mark.
pub(super) fn text(text: &str, mark: Mark) -> Node {
    Node { value: Value::String(text.into()), mark }
}
