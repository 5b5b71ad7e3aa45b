//! `envoy.filters.http.set_metadata`: gives streams dynamic metadata.

use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::StreamCx,
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, per_stream},
    http::RequestHead,
    info::Metadata,
};
use std::sync::Arc;

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.set_metadata",
    short_name: "set_metadata",
    type_urls: &["envoy.extensions.filters.http.set_metadata.v3.Config"],
    build,
    build_route: None,
    route_type_urls: &[],
};

fn build(config: &TypedConfig, _cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let entries = match config {
        TypedConfig::Value { node, .. } => read(node),
        _ => Vec::new(),
    };
    Ok(per_stream(entries, |entries, _| (!entries.is_empty()).then(|| Filter(Arc::clone(entries)))))
}

/// `envoy.extensions.filters.http.set_metadata.v3.Metadata`
struct Entry {
    namespace: String,
    /// Merge into what is there; otherwise that stays as it is.
    allow_overwrite: bool,
    value: Node,
}

fn read(node: &Node) -> Vec<Entry> {
    let entry = |node: &Node, allow_overwrite| Entry {
        namespace: node.str("metadata_namespace").to_owned(),
        allow_overwrite,
        value: node.get("value").cloned().unwrap_or_else(Node::map),
    };
    // The older fields stand for one entry.
    let old = (node.has("value") && !node.str("metadata_namespace").is_empty()).then(|| entry(node, true));
    let list = node.list("metadata").iter().map(|item| entry(item, item.bool("allow_overwrite")));
    old.into_iter().chain(list).collect()
}

struct Filter(Arc<Vec<Entry>>);

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        _head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        for entry in self.0.iter() {
            set(&mut cx.info.metadata, entry);
        }
        FilterStatus::Continue
    }
}

fn set(metadata: &mut Metadata, entry: &Entry) {
    match metadata.get(&entry.namespace) {
        None => metadata.merge(&entry.namespace, entry.value.clone()),
        Some(there) if entry.allow_overwrite => {
            let merged = merged(there, &entry.value);
            metadata.merge(&entry.namespace, merged);
        }
        Some(_) => {}
    }
}

/// Maps are merged key by key, lists are joined, anything else is replaced.
fn merged(old: &Node, new: &Node) -> Node {
    use sota_config::Value::{List, Map};
    match (&old.value, &new.value) {
        (Map(old), Map(new)) => {
            let mut all = old.clone();
            for (key, value) in new {
                match all.iter_mut().find(|(known, _)| known == key) {
                    Some((_, slot)) => *slot = merged(slot, value),
                    None => all.push((Arc::clone(key), value.clone())),
                }
            }
            Node::new(Map(all))
        }
        (List(old), List(new)) => Node::new(List(old.iter().chain(new).cloned().collect())),
        _ => new.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Stream, building, config, request};
    use sota_plugin::http::Method;

    fn run(yaml: &str) -> Option<Metadata> {
        let worker = FakeWorker::default();
        let factory = building(|cx| build(&config(EXTENSION.type_urls[0], yaml), cx)).unwrap().for_worker(&worker.cx());
        let mut stream = Stream::new(&worker, request(Method::Get, "/", &[]), None);
        let mut filter = factory.new_filter(&stream.info)?;
        stream.on_request(|head, cx| filter.on_request_headers(head, true, cx));
        Some(stream.info.metadata)
    }

    #[test]
    fn entries_merge_where_they_may() {
        let metadata = run("
metadata_namespace: old
value: {a: 1}
metadata:
- {metadata_namespace: new, value: {list: [1], map: {a: x, b: y}, text: t}}
- {metadata_namespace: new, value: {list: [2], map: {b: z}, text: u}, allow_overwrite: true}
- {metadata_namespace: new, value: {text: ignored}}
")
        .unwrap();
        assert_eq!(metadata.path("old", ["a"]).and_then(Node::as_f64), Some(1.0));
        assert_eq!(metadata.path("new", ["list"]).unwrap().items().len(), 2);
        let text = |keys: &[&str]| metadata.path("new", keys.iter().copied()).and_then(Node::as_str).unwrap();
        assert_eq!((text(&["map", "a"]), text(&["map", "b"]), text(&["text"])), ("x", "z", "u"));
        assert!(run("{}").is_none(), "nothing to do");
    }
}
