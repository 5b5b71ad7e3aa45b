//! Typed configuration of extensions: who is meant, and its own part of the document.

use crate::node::{Mark, Node};
use bytes::Bytes;
use std::sync::Arc;

/// A named extension with its configuration (Envoy's `TypedExtensionConfig` and the many messages like it).
#[derive(Debug, Clone)]
pub struct ExtensionConfig {
    /// The name that the document gives; for display and, without `typed_config`, for look-up.
    pub name: String,
    /// Its configuration.
    pub config: TypedConfig,
    /// Where it stands, for errors that building it finds. Not part of equality.
    pub path: String,
    /// Line and column of `config`. Not part of equality.
    pub mark: Mark,
}

impl PartialEq for ExtensionConfig {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.config == other.config
    }
}

/// The configuration that an extension is built from.
#[derive(Debug, Clone, PartialEq)]
pub enum TypedConfig {
    /// Wire bytes of a message that only the extension itself knows (from xDS).
    Proto {
        /// The type URL of the `Any`.
        type_url: String,
        /// The message's bytes.
        bytes: Bytes,
    },
    /// A part of the document: checked and normalised when its message is one of Envoy's, as written when a
    /// registered extension claims the type URL, for `TypedStruct`, and in the native dialect.
    Value {
        /// The type URL, unless the extension was named without one.
        type_url: Option<String>,
        /// The message's fields, without `@type`.
        node: Arc<Node>,
    },
    /// Only the name was given.
    Empty,
}

impl TypedConfig {
    /// The type URL, when there is one.
    pub fn type_url(&self) -> Option<&str> {
        match self {
            Self::Proto { type_url, .. } => Some(type_url),
            Self::Value { type_url, .. } => type_url.as_deref(),
            Self::Empty => None,
        }
    }
}
