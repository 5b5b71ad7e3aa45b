//! The walker: a document or wire bytes along the message table to a checked, normalised tree.
//!
//! It never stops at the first finding. [`Walker`] holds the findings and the path; `message.rs` walks fields,
//! `any.rs` what an `Any` holds, `scalar.rs` converts single values, `rules.rs` applies `validate.rules`,
//! `suggest.rs` finds what was meant.

mod any;
mod message;
mod rules;
mod scalar;
mod suggest;

pub(crate) use any::{TYPE_KEY, type_name};
pub(crate) use message::is_default;
pub(crate) use suggest::nearest;

use crate::table::Message;
use sota_config::{ConfigError, ConfigErrors, Mark, Node, Severity};
use std::{collections::HashMap, sync::Arc};

/// How strictly a document is taken.
#[derive(Clone, Copy)]
pub struct CheckOptions<'a> {
    /// The document is a file that a person wrote: unknown fields are errors, deprecated ones warnings. In resources
    /// of a control plane unknown fields are warnings, unless this is set there too
    /// (`--reject-unknown-dynamic-fields`).
    pub static_config: bool,
    /// Unknown fields are warnings everywhere (`--allow-unknown-static-fields`).
    pub allow_unknown_fields: bool,
    /// Unsupported fields are warnings, except those of security (`--allow-unsupported`).
    pub allow_unsupported: bool,
    /// A document in the native dialect: values of enums in any case, and durations also as `250ms`, `5m` or `1h`.
    pub relaxed: bool,
    /// Whether a registered extension owns this type URL. Configuration of a type that the message table does not
    /// know is then left as it is: the document's own tree, or `@type` and `value` with the bytes. Of a type that
    /// the table knows and the support table does not list, every field is then taken.
    pub claims: &'a dyn Fn(&str) -> bool,
}

/// Messages may be nested this deep, each `Any` counted as one: protobuf's own limit.
pub(crate) const MAX_MESSAGE_DEPTH: usize = 100;
/// More findings than this are counted and not listed.
const MAX_FINDINGS: usize = 10_000;

/// Checks a tree as `message` (a full name such as `envoy.config.bootstrap.v3.Bootstrap`) and normalises it.
///
/// In the result fields have their proto names and stand in declaration order, maps are sorted by key, enum values
/// are names, durations are [`sota_config::Value::Duration`], wrappers are plain values, bytes are
/// [`sota_config::Value::Bytes`], and an `Any` is a map whose first key is `@type` with the inner message's fields
/// beside it (or under `value`, for well-known types such as `StringValue`). `TypedStruct` keeps its two fields; its
/// `value` is checked and normalised when its type is known. Null fields are left out.
///
/// The tree is complete only when the errors are not fatal. The findings stand in document order.
pub fn check(node: &Node, message: &str, options: &CheckOptions<'_>) -> (Node, ConfigErrors) {
    run(message, options, |walker, message| walker.root(node, message))
}

/// Checks protobuf bytes as `message` and normalises them to the same tree as [`check`].
pub fn check_wire(bytes: &[u8], message: &str, options: &CheckOptions<'_>) -> (Node, ConfigErrors) {
    run(message, options, |walker, message| {
        let node = walker.decode(bytes, message);
        walker.root(&node, message)
    })
}

fn run(
    message: &str,
    options: &CheckOptions<'_>,
    walk: impl FnOnce(&mut Walker<'_>, Message) -> Node,
) -> (Node, ConfigErrors) {
    let Some(message) = Message::find(message) else {
        let error = ConfigError::new("", Mark::NONE, format!("there is no message \"{message}\""));
        return (Node::map(), error.into());
    };
    let mut walker = Walker::new(options);
    let node = walk(&mut walker, message);
    (node, walker.into_errors())
}

/// The state of one walk.
pub(crate) struct Walker<'a> {
    options: &'a CheckOptions<'a>,
    errors: Vec<ConfigError>,
    left_out: usize,
    path: String,
    depth: usize,
    names: HashMap<u32, Arc<str>>,
    /// The next `Any` is one of several of which the first that is supported counts.
    is_alternative: bool,
}

impl<'a> Walker<'a> {
    fn new(options: &'a CheckOptions<'a>) -> Self {
        Self {
            options,
            errors: Vec::new(),
            left_out: 0,
            path: String::new(),
            depth: 0,
            names: HashMap::new(),
            is_alternative: false,
        }
    }

    fn root(&mut self, node: &Node, message: Message) -> Node {
        // Wire findings came first; what is walked now is the same document.
        self.depth = 0;
        // A message that the support table does not list at all is none of a configuration (a discovery request).
        self.message(node, message, message.is_listed())
    }

    fn into_errors(self) -> ConfigErrors {
        let mut errors = self.errors;
        errors.sort_by_key(|e| (e.mark.line, e.mark.column));
        if self.left_out > 0 {
            errors.push(ConfigError::new("", Mark::NONE, format!("and {} more findings", self.left_out)));
        }
        ConfigErrors(errors)
    }

    /// Notes an error at the current path.
    pub(crate) fn error(&mut self, mark: Mark, reason: impl Into<String>) {
        self.note(Severity::Error, mark, reason.into());
    }

    /// Notes a warning at the current path.
    pub(crate) fn warning(&mut self, mark: Mark, reason: impl Into<String>) {
        self.note(Severity::Warning, mark, reason.into());
    }

    /// Notes an unknown field: how bad that is depends on where the document is from.
    pub(crate) fn unknown(&mut self, mark: Mark, reason: String) {
        let strict = self.options.static_config && !self.options.allow_unknown_fields;
        self.note(if strict { Severity::Error } else { Severity::Warning }, mark, reason);
    }

    /// Notes something unsupported. What belongs to security is refused whatever the options say.
    fn unsupported(&mut self, mark: Mark, is_security: bool, what: &str, reason: &str) {
        let allowed = self.options.allow_unsupported && !is_security;
        let separator = if reason.is_empty() { "" } else { ": " };
        self.note(
            if allowed { Severity::Warning } else { Severity::Error },
            mark,
            format!("{what} is not supported{separator}{reason}"),
        );
    }

    fn note(&mut self, severity: Severity, mark: Mark, reason: String) {
        if self.errors.len() < MAX_FINDINGS {
            self.errors.push(ConfigError { severity, path: self.path.clone(), reason, mark });
        } else if severity == Severity::Error {
            self.left_out += 1;
        }
    }

    /// Runs `inside` with the path extended by a field.
    pub(crate) fn at_field<T>(&mut self, name: &str, inside: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        let result = inside(self);
        self.path.truncate(length);
        result
    }

    /// Runs `inside` with the path extended by a place in a list.
    pub(crate) fn at_index<T>(&mut self, index: usize, inside: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push('[');
        self.path.push_str(&index.to_string());
        self.path.push(']');
        let result = inside(self);
        self.path.truncate(length);
        result
    }

    /// Runs `inside` with the path extended by the key of a map.
    pub(crate) fn at_key<T>(&mut self, key: &str, inside: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push_str(&format!("[{key:?}]"));
        let result = inside(self);
        self.path.truncate(length);
        result
    }

    /// Runs `inside` one message deeper; `None`, with an error noted, when that is too deep.
    pub(crate) fn deeper<T>(&mut self, mark: Mark, inside: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.depth >= MAX_MESSAGE_DEPTH {
            // The path of such a place says little and would be very long.
            let path = std::mem::take(&mut self.path);
            self.error(mark, format!("messages are nested more than {MAX_MESSAGE_DEPTH} deep"));
            self.path = path;
            return None;
        }
        self.depth += 1;
        let result = inside(self);
        self.depth -= 1;
        Some(result)
    }

    /// A name of the table as shared text; `id` is the same for equal names.
    pub(crate) fn shared(&mut self, id: u32, name: &str) -> Arc<str> {
        self.names.entry(id).or_insert_with(|| name.into()).clone()
    }
}

#[cfg(test)]
mod tests;
