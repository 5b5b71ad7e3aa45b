//! `-t forwards`: a dialect whose documents say which port goes where.
//!
//! ```yaml
//! forward:
//!   web: [127.0.0.1:8080, 10.0.0.1:80]   # name: [listens on, connects to]
//! ```
//!
//! It makes a document of the native dialect, with the places of what it was made from: so errors are shown where the
//! author of the file can mend them.

use sota_config::{ConfigError, ConfigErrors, Node, Value, dialect::Dialect};

/// The dialect, as `main` registers it.
pub static FORWARDS: Forwards = Forwards;

/// The dialect.
pub struct Forwards;

impl Dialect for Forwards {
    fn name(&self) -> &str {
        "forwards"
    }

    fn translate(&self, document: &Node) -> Result<Node, ConfigErrors> {
        let (mut listeners, mut clusters, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for (name, pair) in document.entries("forward") {
            let [from, to] = pair.items() else {
                errors.push(ConfigError::new(format!("forward.{name}"), pair.mark, "write [LISTENS, CONNECTS]"));
                continue;
            };
            let name = || Node { value: Value::String(name.clone()), mark: pair.mark };
            listeners.push(map(pair, [("name", name()), ("address", from.clone()), ("tcp", name())]));
            let endpoints = Node { value: Value::List(vec![to.clone()]), mark: to.mark };
            clusters.push(map(pair, [("name", name()), ("endpoints", endpoints)]));
        }
        for (key, value) in document.pairs() {
            if !matches!(&**key, "forward" | "admin_address") {
                errors.push(ConfigError::new("", value.mark, format!("unknown field \"{key}\"")));
            }
        }
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        let list = |items| Node { value: Value::List(items), mark: document.mark };
        let admin = document.get("admin_address").map(|address| ("admin_address", address.clone()));
        Ok(map(document, [("listeners", list(listeners)), ("clusters", list(clusters))].into_iter().chain(admin)))
    }
}

/// A map that stands where `at` does.
fn map<'a>(at: &Node, entries: impl IntoIterator<Item = (&'a str, Node)>) -> Node {
    let entries = entries.into_iter().map(|(key, node)| (key.into(), node)).collect();
    Node { value: Value::Map(entries), mark: at.mark }
}
