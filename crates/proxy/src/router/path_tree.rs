//! Finds the routes whose path can match a request's, in the order of the configuration, without trying them all.
//!
//! Each route stands in a tree of prefixes under the text with which every path that it takes begins. The routes on the
//! way from the root along a path are its candidates; there are few of them, however many routes there are.

use smallvec::SmallVec;

/// Which routes may take a path.
#[derive(Debug)]
pub(super) struct PathTree {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// What the path goes on with here, behind the parent's.
    label: Box<[u8]>,
    /// First octet and number of each child, sorted.
    children: Vec<(u8, usize)>,
    /// Routes for paths that begin like this, ascending.
    prefix: Routes,
    /// Routes for exactly this path, ascending.
    exact: Routes,
}

/// Nearly always one.
type Routes = SmallVec<[usize; 1]>;

const ROOT: usize = 0;
/// So many nodes are not made room for in advance.
const FEW: usize = 4;

impl Default for PathTree {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl PathTree {
    /// Adds a route for paths that begin with `prefix`. Routes are added in ascending order.
    pub(super) fn add_prefix(&mut self, prefix: &[u8], route: usize) {
        self.node(prefix).prefix.push(route);
    }

    /// Adds a route for exactly `path`.
    pub(super) fn add_exact(&mut self, path: &[u8], route: usize) {
        self.node(path).exact.push(route);
    }

    /// The routes that may take `path`, ascending.
    pub(super) fn candidates<'a>(&'a self, path: &[u8]) -> Candidates<'a> {
        let mut lists = SmallVec::new();
        let mut rest = path;
        let mut at = ROOT;
        while let Some(node) = self.nodes.get(at) {
            let Some(left) = rest.strip_prefix(&*node.label) else { break };
            rest = left;
            if !node.prefix.is_empty() {
                lists.push(&*node.prefix);
            }
            let Some(first) = rest.first() else {
                if !node.exact.is_empty() {
                    lists.push(&*node.exact);
                }
                break;
            };
            match node.child(*first) {
                Some(child) => at = child,
                None => break,
            }
        }
        Candidates { lists }
    }

    /// The node of this text; made, and an edge split, where needed.
    fn node(&mut self, text: &[u8]) -> &mut Node {
        let (mut at, mut rest) = (ROOT, text);
        while let Some(first) = rest.first() {
            let Some(child) = self.nodes[at].child(*first) else {
                at = self.add_child(at, rest);
                break;
            };
            let label = &self.nodes[child].label;
            let common = label.iter().zip(rest).take_while(|(a, b)| a == b).count();
            if common < label.len() {
                self.split(child, common);
            }
            at = child;
            rest = &rest[common..];
        }
        &mut self.nodes[at]
    }

    fn add_child(&mut self, parent: usize, label: &[u8]) -> usize {
        let child = self.nodes.len();
        if child < FEW {
            // Most virtual hosts have a route or two, and there may be thousands of them.
            self.nodes.reserve_exact(1);
        }
        self.nodes.push(Node { label: label.into(), ..Node::default() });
        let children = &mut self.nodes[parent].children;
        let at = children.partition_point(|(first, _)| *first < label[0]);
        children.insert(at, (label[0], child));
        child
    }

    /// Makes a node end behind `len` octets of its label; what it held goes on in a child.
    fn split(&mut self, at: usize, len: usize) {
        let lower = self.nodes.len();
        let upper = &mut self.nodes[at];
        let tail: Box<[u8]> = upper.label[len..].into();
        let head: Box<[u8]> = upper.label[..len].into();
        let first = tail[0];
        let old = std::mem::replace(upper, Node { label: head, children: vec![(first, lower)], ..Node::default() });
        self.nodes.push(Node { label: tail, ..old });
    }
}

impl Node {
    fn child(&self, first: u8) -> Option<usize> {
        let at = self.children.binary_search_by_key(&first, |(first, _)| *first).ok()?;
        self.children.get(at).map(|(_, child)| *child)
    }
}

/// Merges the ascending lists of the nodes on the way.
pub(super) struct Candidates<'a> {
    lists: SmallVec<[&'a [usize]; 8]>,
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let list = self.lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list.first().copied())?;
        let (first, rest) = list.split_first()?;
        let first = *first;
        *list = rest;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn candidates_come_in_order() {
        let mut tree = PathTree::default();
        tree.add_exact(b"/a/b", 0);
        tree.add_prefix(b"/a", 1);
        tree.add_prefix(b"", 2);
        tree.add_prefix(b"/a/bc", 3);
        tree.add_exact(b"/a", 4);
        tree.add_prefix(b"/a/b", 5);
        let candidates = |path: &str| tree.candidates(path.as_bytes()).collect::<Vec<_>>();
        assert_eq!(candidates("/a/b"), [0, 1, 2, 5]);
        assert_eq!(candidates("/a"), [1, 2, 4]);
        assert_eq!(candidates("/a/bcd"), [1, 2, 3, 5]);
        assert_eq!(candidates("/b"), [2]);
        assert_eq!(candidates(""), [2]);
    }

    proptest! {
        #[test]
        fn like_trying_each(
            routes in proptest::collection::vec(("[ab/]{0,5}", any::<bool>()), 0..20),
            path in "[ab/]{0,7}",
        ) {
            let mut tree = PathTree::default();
            for (at, (text, exact)) in routes.iter().enumerate() {
                if *exact { tree.add_exact(text.as_bytes(), at) } else { tree.add_prefix(text.as_bytes(), at) }
            }
            let expected: Vec<_> = (0..routes.len())
                .filter(|at| {
                    let (text, exact) = &routes[*at];
                    if *exact { path == *text } else { path.starts_with(text) }
                })
                .collect();
            prop_assert_eq!(tree.candidates(path.as_bytes()).collect::<Vec<_>>(), expected);
        }
    }
}
