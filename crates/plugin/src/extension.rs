//! Extensions and where they are found: by type URL, by name, by short name.

use crate::{
    access_log::{AccessLoggerConfig, LogOpener},
    filter::{HttpFilterConfig, ListenerFilterConfig, NetworkFilterConfig},
    load_balancer::LoadBalancerConfig,
    runtime::Runtime,
    secrets::Secrets,
};
use sota_config::{
    ConfigError, ConfigErrors, ExtensionConfig, Mark, Node, TypedConfig, access_log::AccessLog, bootstrap::NodeInfo,
    dialect::Dialect,
};
use std::{any::Any, collections::HashMap, sync::Arc};

/// Builds an extension from its configuration.
pub type Build<F> = fn(&TypedConfig, &FactoryContext<'_>) -> Result<Arc<F>, ConfigError>;

/// Reads an entry of an access log; what is asked is whether a logger claims a type URL.
pub type ReadAccessLog = fn(&Node, &dyn Fn(&str) -> bool) -> Result<AccessLog, ConfigErrors>;

/// Builds what a route configures for an HTTP filter.
pub type BuildRoute = fn(&TypedConfig, &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError>;

/// An extension of one kind: a `static` value in an explicit list.
pub struct Extension<F: ?Sized> {
    /// Its name, such as `envoy.filters.http.cors`.
    pub name: &'static str,
    /// Its name in the native dialect, such as `cors`.
    pub short_name: &'static str,
    /// What the `@type` of its configuration may be, without `type.googleapis.com/`.
    pub type_urls: &'static [&'static str],
    /// Makes the configuration that all threads share.
    pub build: Build<F>,
    /// Makes what a route, virtual host or weighted cluster configures; HTTP filters only.
    pub build_route: Option<BuildRoute>,
    /// What the `@type` of that may be, without `type.googleapis.com/`.
    pub route_type_urls: &'static [&'static str],
}

/// Two extensions of one kind claim the same name or type URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: \"{key}\" is claimed by {first} and by {second}")]
pub struct DuplicateExtension {
    kind: &'static str,
    key: &'static str,
    first: &'static str,
    second: &'static str,
}

/// All extensions of one kind.
pub struct Category<F: ?Sized + 'static> {
    kind: &'static str,
    extensions: Vec<&'static Extension<F>>,
    by_key: HashMap<&'static str, &'static Extension<F>>,
}

impl<F: ?Sized> Category<F> {
    /// None yet. `kind` is for errors: `HTTP filter`.
    pub fn new(kind: &'static str) -> Self {
        Self { kind, extensions: Vec::new(), by_key: HashMap::new() }
    }

    /// Adds an extension.
    pub fn add(&mut self, extension: &'static Extension<F>) -> Result<(), DuplicateExtension> {
        let keys = extension.type_urls.iter().copied().chain([extension.name, extension.short_name]);
        for key in keys {
            self.claim(key, extension)?;
        }
        self.extensions.push(extension);
        Ok(())
    }

    /// Another name by which an extension is found, such as one that Envoy gave up: `envoy.file_access_log`.
    pub fn add_alias(
        &mut self,
        alias: &'static str,
        extension: &'static Extension<F>,
    ) -> Result<(), DuplicateExtension> {
        self.claim(alias, extension)
    }

    fn claim(&mut self, key: &'static str, extension: &'static Extension<F>) -> Result<(), DuplicateExtension> {
        match self.by_key.insert(key, extension) {
            Some(first) if !std::ptr::eq(first, extension) => {
                Err(DuplicateExtension { kind: self.kind, key, first: first.name, second: extension.name })
            }
            _ => Ok(()),
        }
    }

    /// By type URL (with or without its host), name or short name.
    pub fn find(&self, key: &str) -> Option<&'static Extension<F>> {
        self.by_key.get(type_name(key)).copied()
    }

    /// Whether one of them owns this type URL, as its configuration or as that of its routes.
    pub fn claims(&self, type_url: &str) -> bool {
        let name = type_name(type_url);
        let owns =
            |extension: &Extension<F>| extension.type_urls.contains(&name) || extension.route_type_urls.contains(&name);
        self.extensions.iter().any(|extension| owns(extension))
    }

    /// All of them, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &'static Extension<F>> {
        self.extensions.iter().copied()
    }

    /// The extension that a configuration means: by its type URL if it has one, otherwise by its name. An error names
    /// what there is.
    pub fn resolve(&self, config: &ExtensionConfig) -> Result<&'static Extension<F>, ConfigError> {
        let key = config.config.type_url().unwrap_or(&config.name);
        self.find(key).ok_or_else(|| {
            let mut known: Vec<_> = self.extensions.iter().map(|extension| extension.name).collect();
            known.sort_unstable();
            let what = if config.config.type_url().is_some() { "type URL" } else { "name" };
            ConfigError::new(
                config.path.as_str(),
                config.mark,
                format!("no {} has the {what} \"{key}\"; there are: {}", self.kind, known.join(", ")),
            )
        })
    }
}

/// A type URL without its host.
fn type_name(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(_, name)| name)
}

/// Every extension that this binary has. The root package fills it; nothing registers itself.
pub struct Registry {
    /// Listener filters.
    pub listener_filters: Category<dyn ListenerFilterConfig>,
    /// Network filters, dispatchers among them.
    pub network_filters: Category<dyn NetworkFilterConfig>,
    /// HTTP filters.
    pub http_filters: Category<dyn HttpFilterConfig>,
    /// Access loggers.
    pub access_loggers: Category<dyn AccessLoggerConfig>,
    /// Load balancers, beside those that are built in.
    pub load_balancers: Category<dyn LoadBalancerConfig>,
    /// Reads one entry of an `access_log` in the message of an extension. The root package sets it, with the check that
    /// all other messages pass.
    pub read_access_log: Option<ReadAccessLog>,
    /// Dialects of the configuration, beside Envoy's and the native one.
    pub dialects: Vec<&'static dyn Dialect>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            listener_filters: Category::new("listener filter"),
            network_filters: Category::new("network filter"),
            http_filters: Category::new("HTTP filter"),
            access_loggers: Category::new("access logger"),
            load_balancers: Category::new("load balancer"),
            read_access_log: None,
            dialects: Vec::new(),
        }
    }
}

/// What there is while an extension is built.
#[derive(Clone, Copy)]
pub struct FactoryContext<'a> {
    /// Every extension, for those that hold others.
    pub registry: &'a Registry,
    /// Where access logs are opened.
    pub logs: &'a Arc<dyn LogOpener>,
    /// Runtime values.
    pub runtime: &'a Arc<Runtime>,
    /// Who this proxy is.
    pub node: &'a NodeInfo,
    /// Secrets by name.
    pub secrets: &'a Arc<Secrets>,
    /// Stats of the owner are below this, such as `http.ingress.`; ends with a dot unless it is empty.
    pub stat_prefix: &'a str,
    /// Whether there is a cluster of this name; `None` where that is not known yet.
    pub clusters: Option<&'a dyn Fn(&str) -> bool>,
    /// Where the configuration stands, for errors.
    pub path: &'a str,
    /// Line and column of it.
    pub mark: Mark,
}

impl<'a> FactoryContext<'a> {
    /// The same for a configuration that stands elsewhere.
    #[must_use]
    pub fn at(&self, config: &'a ExtensionConfig) -> Self {
        Self { path: &config.path, mark: config.mark, ..*self }
    }

    /// An error of a part that does not know where it stands.
    pub fn place(&self, error: ConfigError) -> ConfigError {
        error.at(self.path, self.mark)
    }

    /// An error at a field of the configuration; `field` may be empty for the whole.
    pub fn error(&self, field: &str, mark: Mark, reason: impl Into<String>) -> ConfigError {
        let dot = if field.is_empty() || self.path.is_empty() { "" } else { "." };
        let mark = if mark == Mark::NONE { self.mark } else { mark };
        ConfigError::new(format!("{}{dot}{field}", self.path), mark, reason)
    }

    /// An error at a field of this configuration: at the place where the field stands, or would stand.
    pub fn error_in(&self, config: &TypedConfig, field: &str, reason: impl Into<String>) -> ConfigError {
        let mark = match config {
            TypedConfig::Value { node, .. } => node.mark_at(field),
            _ => Mark::NONE,
        };
        self.error(field, mark, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn extension(name: &'static str, type_urls: &'static [&'static str]) -> Extension<dyn HttpFilterConfig> {
        Extension {
            name,
            short_name: name,
            type_urls,
            build: |_, cx| Err(cx.error("", Mark::NONE, "never built")),
            build_route: None,
            route_type_urls: &[],
        }
    }

    static ONE: Extension<dyn HttpFilterConfig> = extension("one", &["a.One"]);
    static TWO: Extension<dyn HttpFilterConfig> = extension("two", &["a.Two"]);

    #[test]
    fn extensions_are_found_by_every_name_they_have() {
        let mut filters = Category::new("HTTP filter");
        filters.add(&ONE).unwrap();
        filters.add(&TWO).unwrap();
        filters.add_alias("old.one", &ONE).unwrap();
        for (key, name) in [("one", "one"), ("old.one", "one"), ("type.googleapis.com/a.Two", "two"), ("a.Two", "two")]
        {
            assert_eq!(filters.find(key).map(|found| found.name), Some(name), "{key}");
        }
        assert!(filters.find("old.two").is_none());
        assert_eq!(filters.iter().count(), 2);
        let error = filters.add_alias("a.Two", &ONE).unwrap_err();
        assert_eq!(error.to_string(), "HTTP filter: \"a.Two\" is claimed by two and by one");
    }
}
