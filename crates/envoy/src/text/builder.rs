//! Makes a tree from the events of a reader, without recursion and within limits.

use sota_config::{ConfigError, Mark, Node, Value};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// How deep maps and lists may be nested.
pub(super) const MAX_DEPTH: usize = 256;
/// Values in one text. A node has 40 bytes, so that a hostile text of short values makes at most 300 MiB.
const MAX_NODES: usize = 4_000_000;
/// Values that aliases may add ("billion laughs").
const MAX_ALIAS_NODES: usize = 1_000_000;
/// From so many keys on, duplicates are looked for in a set.
const LINEAR_KEYS: usize = 16;

/// An open map or list.
enum Frame {
    List {
        items: Vec<Node>,
        mark: Mark,
        anchor: usize,
    },
    Map {
        entries: Vec<(Arc<str>, Node)>,
        key: Option<(Arc<str>, Mark)>,
        seen: HashSet<Arc<str>>,
        mark: Mark,
        anchor: usize,
    },
}

/// What an anchor stands for.
struct Anchored {
    node: Node,
    nodes: usize,
    height: usize,
}

/// Takes the events of a document in order.
#[derive(Default)]
pub(super) struct Builder {
    open: Vec<Frame>,
    root: Option<Node>,
    anchors: HashMap<usize, Anchored>,
    keys: HashSet<Arc<str>>,
    nodes: usize,
    alias_nodes: usize,
}

impl Builder {
    /// Whether a scalar that comes now is the key of a map.
    pub(super) fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Frame::Map { key: None, .. }))
    }

    /// The key of the next value of the innermost map.
    pub(super) fn key(&mut self, text: &str, mark: Mark) -> Result<(), ConfigError> {
        let name = match self.keys.get(text) {
            Some(known) => known.clone(),
            None => {
                let name: Arc<str> = text.into();
                self.keys.insert(name.clone());
                name
            }
        };
        let Some(Frame::Map { entries, key, seen, .. }) = self.open.last_mut() else {
            return Err(ConfigError::new("", mark, "a key outside a map"));
        };
        let duplicate = if entries.len() < LINEAR_KEYS {
            entries.iter().any(|(known, _)| *known == name)
        } else {
            if seen.is_empty() {
                seen.extend(entries.iter().map(|(known, _)| known.clone()));
            }
            !seen.insert(name.clone())
        };
        if duplicate {
            return Err(ConfigError::new(self.path(), mark, format!("the key \"{text}\" is given twice")));
        }
        *key = Some((name, mark));
        Ok(())
    }

    /// A value that is neither map nor list. `anchor` 0 is none.
    pub(super) fn scalar(&mut self, value: Value, mark: Mark, anchor: usize) -> Result<(), ConfigError> {
        self.count(1, mark)?;
        self.finish(Node { value, mark }, anchor)
    }

    /// A list begins.
    pub(super) fn begin_list(&mut self, mark: Mark, anchor: usize) -> Result<(), ConfigError> {
        self.begin(Frame::List { items: Vec::new(), mark, anchor }, mark)
    }

    /// A map begins.
    pub(super) fn begin_map(&mut self, mark: Mark, anchor: usize) -> Result<(), ConfigError> {
        self.begin(Frame::Map { entries: Vec::new(), key: None, seen: HashSet::new(), mark, anchor }, mark)
    }

    /// The innermost map or list ends.
    pub(super) fn end(&mut self) -> Result<(), ConfigError> {
        match self.open.pop() {
            Some(Frame::List { items, mark, anchor }) => self.finish(Node { value: Value::List(items), mark }, anchor),
            Some(Frame::Map { entries, mark, anchor, .. }) => {
                self.finish(Node { value: Value::Map(entries), mark }, anchor)
            }
            None => Ok(()),
        }
    }

    /// The value that an anchor stands for, once more.
    pub(super) fn alias(&mut self, anchor: usize, mark: Mark) -> Result<(), ConfigError> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(ConfigError::new(self.path(), mark, "this alias stands inside what it names"));
        };
        let (nodes, height) = (anchored.nodes, anchored.height);
        self.alias_nodes = self.alias_nodes.saturating_add(nodes);
        if self.alias_nodes > MAX_ALIAS_NODES {
            return Err(ConfigError::new(
                self.path(),
                mark,
                format!("aliases expand to more than {MAX_ALIAS_NODES} values"),
            ));
        }
        self.count(nodes, mark)?;
        if self.open.len() + height > MAX_DEPTH {
            return Err(self.too_deep(mark));
        }
        let mut node = self.anchors.get(&anchor).map_or_else(Node::map, |anchored| anchored.node.clone());
        node.mark = mark;
        self.finish(node, 0)
    }

    /// The whole document.
    pub(super) fn into_root(self) -> Node {
        self.root.unwrap_or_else(|| Node::new(Value::Null))
    }

    /// Where the reader stands, such as `static_resources.listeners[0]`.
    pub(super) fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.open {
            match frame {
                Frame::List { items, .. } => path.push_str(&format!("[{}]", items.len())),
                Frame::Map { key: Some((name, _)), .. } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
                Frame::Map { .. } => {}
            }
        }
        path
    }

    fn begin(&mut self, frame: Frame, mark: Mark) -> Result<(), ConfigError> {
        self.count(1, mark)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(self.too_deep(mark));
        }
        self.open.push(frame);
        Ok(())
    }

    /// Puts a complete value where it belongs.
    fn finish(&mut self, mut node: Node, anchor: usize) -> Result<(), ConfigError> {
        if anchor != 0 {
            let (nodes, height) = measure(&node);
            // The copy that the anchor keeps is memory too.
            self.count(nodes, node.mark)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, height });
        }
        match self.open.last_mut() {
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { entries, key, .. }) => match key.take() {
                Some((name, mark)) => {
                    node.mark = mark;
                    entries.push((name, node));
                }
                None => {
                    let mark = node.mark;
                    return Err(ConfigError::new(self.path(), mark, "a key must be text, not a map or a list"));
                }
            },
            None => self.root = Some(node),
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, mark: Mark) -> Result<(), ConfigError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(ConfigError::new("", mark, format!("the text has more than {MAX_NODES} values")));
        }
        Ok(())
    }

    pub(super) fn too_deep(&self, mark: Mark) -> ConfigError {
        // The path of such a place would be as long as the nesting is deep.
        ConfigError::new("", mark, format!("maps and lists are nested more than {MAX_DEPTH} deep"))
    }
}

/// How many values a tree has and how deep it is. The depth is limited, so the recursion is.
fn measure(node: &Node) -> (usize, usize) {
    let mut total = (1, 0);
    let mut add = |child: &Node| {
        let (nodes, height) = measure(child);
        total = (total.0 + nodes, total.1.max(height));
    };
    match &node.value {
        Value::List(items) => items.iter().for_each(&mut add),
        Value::Map(entries) => entries.iter().for_each(|(_, child)| add(child)),
        _ => return (1, 0),
    }
    (total.0, total.1 + 1)
}
