//! What readers of configuration ask of the extensions: which types they own, how they are called, and dialects.

use crate::{ConfigErrors, Node};

/// A configuration dialect of an extension, chosen with `-t NAME`.
pub trait Dialect: Send + Sync {
    /// The name after `-t`.
    fn name(&self) -> &str;

    /// Makes a document in the shape of Envoy's bootstrap, or of the native dialect, from one in this dialect. It is
    /// then checked and read as if it stood in the file, so nodes should keep the marks of what they are made from:
    /// errors about them are shown there.
    fn translate(&self, document: &Node) -> Result<Node, ConfigErrors>;
}

/// How an extension is called in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionName {
    /// Its full name, such as `envoy.filters.http.cors`.
    pub name: String,
    /// The type URL of its configuration; `None` when it is found by name alone.
    pub type_url: Option<String>,
}

/// The registered extensions, as far as a reader of configuration needs to know them.
///
/// Categories are Envoy's: `envoy.filters.listener`, `envoy.filters.network`, `envoy.filters.http`,
/// `envoy.access_loggers`, `envoy.clusters`.
pub trait Extensions {
    /// Whether one of them owns this type URL.
    fn claims(&self, type_url: &str) -> bool;

    /// The one of this category with this full or short name.
    fn find(&self, category: &str, name: &str) -> Option<ExtensionName>;

    /// Full and short names of a category, to suggest one.
    fn names(&self, category: &str) -> Vec<String>;

    /// Their dialects.
    fn dialects(&self) -> Vec<&dyn Dialect>;
}

/// No extensions at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoExtensions;

impl Extensions for NoExtensions {
    fn claims(&self, _: &str) -> bool {
        false
    }

    fn find(&self, _: &str, _: &str) -> Option<ExtensionName> {
        None
    }

    fn names(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn dialects(&self) -> Vec<&dyn Dialect> {
        Vec::new()
    }
}
