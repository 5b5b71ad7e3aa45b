//! What the tests of loading share: a registry as `main` would hand it in, and models without their sources.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use sota_config::{
    bootstrap::Bootstrap,
    dialect::{Dialect, ExtensionName, Extensions},
    http::RouteSource,
    listener::{FilterChain, NetworkFilterKind},
};
use sota_envoy::{LoadOptions, Loaded, load, render};
use std::{path::PathBuf, sync::Arc};

/// Category, full name, short name, type URL.
const REGISTERED: [(&str, &str, &str, Option<&str>); 10] = [
    (
        "envoy.filters.listener",
        "envoy.filters.listener.tls_inspector",
        "tls_inspector",
        Some("type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"),
    ),
    (
        "envoy.filters.listener",
        "envoy.filters.listener.http_inspector",
        "http_inspector",
        Some("type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"),
    ),
    (
        "envoy.filters.network",
        "envoy.filters.network.direct_response",
        "direct_response",
        Some("type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config"),
    ),
    (
        "envoy.filters.network",
        "sota.filters.network.simple_line",
        "simple_line",
        Some("type.sota.com/sota.filters.network.simple"),
    ),
    ("envoy.filters.network", "example.filters.network.nameless", "nameless", None),
    (
        "envoy.filters.http",
        "envoy.filters.http.cors",
        "cors",
        Some("type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"),
    ),
    (
        "envoy.filters.http",
        "envoy.filters.http.buffer",
        "buffer",
        Some("type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer"),
    ),
    ("envoy.filters.http", "sota.filters.http.router", "sota_router", None),
    (
        "envoy.filters.http",
        "example.filters.http.stamp",
        "stamp",
        Some("type.example.com/example.filters.http.stamp.Stamp"),
    ),
    ("envoy.clusters", "sota.clusters.overload", "overload", Some("type.sota.com/sota.clusters.overload")),
];

/// The extensions above, with these dialects.
#[derive(Default)]
pub struct Registry {
    pub dialects: Vec<Box<dyn Dialect>>,
}

impl Extensions for Registry {
    fn claims(&self, type_url: &str) -> bool {
        REGISTERED.iter().any(|(.., url)| *url == Some(type_url))
    }

    fn find(&self, category: &str, name: &str) -> Option<ExtensionName> {
        let found =
            REGISTERED.iter().find(|(c, full, short, _)| *c == category && (*full == name || *short == name))?;
        Some(ExtensionName { name: found.1.to_owned(), type_url: found.3.map(str::to_owned) })
    }

    fn names(&self, category: &str) -> Vec<String> {
        let of = REGISTERED.iter().filter(|(c, ..)| *c == category);
        of.flat_map(|(_, full, short, _)| [(*full).to_owned(), (*short).to_owned()]).collect()
    }

    fn dialects(&self) -> Vec<&dyn Dialect> {
        self.dialects.iter().map(AsRef::as_ref).collect()
    }
}

/// The usual options: nothing allowed.
pub fn options(extensions: &Registry) -> LoadOptions<'_> {
    LoadOptions {
        dialect: None,
        allow_unknown_static_fields: false,
        allow_unsupported: false,
        strict: false,
        elsewhere: true,
        overlays: &[],
        extensions,
        build: None,
    }
}

/// Loads text that must be good.
pub fn good(text: &str) -> Loaded {
    good_in(None, text)
}

/// Loads text that must be good, in a dialect.
pub fn good_in(dialect: Option<&str>, text: &str) -> Loaded {
    let registry = Registry::default();
    let options = LoadOptions { dialect, ..options(&registry) };
    load(text.as_bytes(), "x.yaml", &options).unwrap_or_else(|e| panic!("{}", render(&e, "x.yaml", text.as_bytes())))
}

/// What loading tells about text that must be bad, as `line:column: path: reason`.
pub fn errors(text: &str) -> Vec<String> {
    errors_in(None, text.as_bytes())
}

/// The same in a dialect, for any bytes.
pub fn errors_in(dialect: Option<&str>, text: &[u8]) -> Vec<String> {
    let registry = Registry::default();
    let options = LoadOptions { dialect, ..options(&registry) };
    match load(text, "x.yaml", &options) {
        Ok(_) => panic!("no error in:\n{}", String::from_utf8_lossy(text)),
        Err(found) => found.0.iter().map(|e| format!("{}:{}: {e}", e.mark.line, e.mark.column)).collect(),
    }
}

/// The model without the documents it was made from, for comparing dialects.
pub fn without_sources(mut bootstrap: Bootstrap) -> Bootstrap {
    bootstrap.source = None;
    for cluster in &mut bootstrap.clusters {
        Arc::make_mut(cluster).source = None;
    }
    for listener in &mut bootstrap.listeners {
        let listener = Arc::make_mut(listener);
        listener.source = None;
        listener.filter_chains.iter_mut().for_each(clear_chain);
        listener.default_filter_chain.iter_mut().for_each(clear_chain);
    }
    bootstrap
}

fn clear_chain(chain: &mut Arc<FilterChain>) {
    for filter in &mut Arc::make_mut(chain).filters {
        if let NetworkFilterKind::HttpConnectionManager(manager) = &mut filter.kind
            && let RouteSource::Inline(routes) = &mut Arc::make_mut(manager).routes
        {
            Arc::make_mut(routes).source = None;
        }
    }
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
