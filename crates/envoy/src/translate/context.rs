//! The state of one translation: the path, what was found, and readers of fields that can be wrong.

use super::TranslateOptions;
use sota_config::{ConfigError, ConfigErrors, Mark, Node, Severity, Value, tracing::Provider};
use std::{sync::Arc, time::Duration};

/// The longest duration that Envoy takes, in seconds: what fits 64 bits of nanoseconds.
const MAX_DURATION_SECONDS: u64 = 9_223_372_036;
/// More findings than this are counted and not listed.
const MAX_FINDINGS: usize = 10_000;

/// Paths of the document that was checked to those of the document that a person wrote: the longest prefix counts.
#[derive(Debug, Default)]
pub(crate) struct PathMap(std::collections::BTreeMap<String, String>);

impl PathMap {
    /// What stands at `made` was written at `written`.
    pub(crate) fn insert(&mut self, made: String, written: String) {
        self.0.insert(made, written);
    }

    /// The written path of a made one.
    pub(crate) fn written(&self, path: &str) -> String {
        let mut end = path.len();
        loop {
            let (prefix, rest) = path.split_at(end);
            if let Some(written) = self.0.get(prefix) {
                let rest = if written.is_empty() { rest.trim_start_matches('.') } else { rest };
                return format!("{written}{rest}");
            }
            // Paths are cut before a dot or a bracket only, which are characters of one byte.
            match prefix.rfind(['.', '[']) {
                Some(at) => end = at,
                None => return path.to_owned(),
            }
        }
    }
}

/// The state of one translation.
pub(crate) struct Cx<'a> {
    pub(crate) options: &'a TranslateOptions<'a>,
    /// The tracer of connection managers that name none.
    pub(crate) tracer: Option<Arc<Provider>>,
    paths: Option<&'a PathMap>,
    findings: &'a ConfigErrors,
    path: String,
    errors: Vec<ConfigError>,
    left_out: usize,
}

impl<'a> Cx<'a> {
    /// `paths` renames the paths of findings and of extensions; without it they are those of the checked document.
    /// `findings` are those of the check, with paths renamed.
    pub(crate) fn new(
        options: &'a TranslateOptions<'a>,
        paths: Option<&'a PathMap>,
        findings: &'a ConfigErrors,
    ) -> Self {
        Self {
            options,
            tracer: options.tracer.cloned(),
            paths,
            findings,
            path: String::new(),
            errors: Vec::new(),
            left_out: 0,
        }
    }

    /// The findings in document order.
    pub(crate) fn into_errors(self) -> ConfigErrors {
        let mut errors = self.errors;
        errors.sort_by_key(|e| (e.mark.line, e.mark.column));
        if self.left_out > 0 {
            errors.push(ConfigError::new("", Mark::NONE, format!("and {} more findings", self.left_out)));
        }
        ConfigErrors(errors)
    }

    /// The current path as the document's author knows it.
    pub(crate) fn path(&self) -> String {
        self.paths.map_or_else(|| self.path.clone(), |paths| paths.written(&self.path))
    }

    /// How many findings there are.
    pub(crate) fn findings(&self) -> usize {
        self.errors.len()
    }

    /// Notes an error at the current path.
    pub(crate) fn error(&mut self, mark: Mark, reason: impl Into<String>) {
        self.note(Severity::Error, mark, reason.into());
    }

    /// Notes a warning at the current path.
    pub(crate) fn warning(&mut self, mark: Mark, reason: impl Into<String>) {
        self.note(Severity::Warning, mark, reason.into());
    }

    /// Notes a reference to something that is not there, which costs what refers to it and nothing else.
    pub(crate) fn missing(&mut self, mark: Mark, reason: impl Into<String>) {
        let severity = if self.options.strict { Severity::Error } else { Severity::Warning };
        self.note(severity, mark, reason.into());
    }

    /// Notes that what is read while the configuration is loaded is not there on this host.
    pub(crate) fn absent(&mut self, mark: Mark, reason: impl Into<String>) {
        let is_odd = self.options.elsewhere && !self.options.strict;
        self.note(if is_odd { Severity::Warning } else { Severity::Error }, mark, reason.into());
    }

    /// Whether the check has refused something at or below the current path, so that more about it would only repeat.
    pub(crate) fn is_refused(&self) -> bool {
        let path = self.path();
        self.findings.0.iter().filter(|finding| finding.severity == Severity::Error).any(|finding| {
            finding.path.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Whether the check has refused the field at this place. It names the path of the message around it.
    pub(crate) fn is_refused_field(&self, mark: Mark) -> bool {
        mark != Mark::NONE
            && self.findings.0.iter().any(|finding| finding.severity == Severity::Error && finding.mark == mark)
    }

    fn note(&mut self, severity: Severity, mark: Mark, reason: String) {
        if self.errors.len() < MAX_FINDINGS {
            self.errors.push(ConfigError { severity, path: self.path(), reason, mark });
        } else if severity == Severity::Error {
            self.left_out += 1;
        }
    }

    /// Notes an error at a field; where the field is absent, at the place of its message.
    pub(crate) fn field_error(&mut self, node: &Node, key: &str, reason: impl Into<String>) {
        let mark = node.get(key).map_or(node.mark, |field| field.mark);
        self.with(key, |cx| cx.error(mark, reason));
    }

    /// Notes a warning at a field.
    pub(crate) fn field_warning(&mut self, node: &Node, key: &str, reason: impl Into<String>) {
        let mark = node.get(key).map_or(node.mark, |field| field.mark);
        self.with(key, |cx| cx.warning(mark, reason));
    }

    /// Runs `inside` with the path extended by a field or by several.
    pub(crate) fn with<T>(&mut self, key: &str, inside: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        let result = inside(self);
        self.path.truncate(length);
        result
    }

    /// Runs `inside` with the path extended by a part that brings its own separator.
    fn with_part<T>(&mut self, part: &str, inside: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push_str(part);
        let result = inside(self);
        self.path.truncate(length);
        result
    }

    /// A field that is there, translated.
    pub(crate) fn optional<T>(
        &mut self,
        node: &Node,
        key: &str,
        inside: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        let field = node.get(key)?;
        self.with(key, |cx| inside(cx, field))
    }

    /// The items of a list, translated; those that cannot be are left out, and told by `inside`.
    pub(crate) fn each<T>(
        &mut self,
        node: &Node,
        key: &str,
        mut inside: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Vec<T> {
        let items = node.list(key);
        self.with(key, |cx| {
            // Exactly as much as is needed: most lists have one item, and the model is kept.
            let mut found = Vec::with_capacity(items.len());
            let items = items.iter().enumerate();
            found.extend(items.filter_map(|(at, item)| cx.with_part(&format!("[{at}]"), |cx| inside(cx, item))));
            found
        })
    }

    /// The entries of a map, translated.
    pub(crate) fn entries<T>(
        &mut self,
        node: &Node,
        key: &str,
        mut inside: impl FnMut(&mut Self, &str, &Node) -> Option<T>,
    ) -> Vec<T> {
        let entries = node.entries(key);
        self.with(key, |cx| {
            entries
                .iter()
                .filter_map(|(name, value)| cx.with_part(&format!("[{name:?}]"), |cx| inside(cx, name, value)))
                .collect()
        })
    }

    /// A duration field, if it is there. Negative ones and those over 292 years are errors, as in Envoy.
    pub(crate) fn duration(&mut self, node: &Node, key: &str) -> Option<Duration> {
        let field = node.get(key)?;
        let Value::Duration { seconds, nanos } = field.value else { return None };
        if seconds < 0 || nanos < 0 {
            self.field_error(node, key, "the duration must not be negative");
            return None;
        }
        let duration = field.as_duration()?;
        if duration.as_secs() > MAX_DURATION_SECONDS {
            self.field_error(node, key, format!("the duration must not be over {MAX_DURATION_SECONDS} s"));
            return None;
        }
        Some(duration)
    }

    /// A timeout: absent it is `default`, and 0 switches it off.
    pub(crate) fn timeout(&mut self, node: &Node, key: &str, default: Option<Duration>) -> Option<Duration> {
        if !node.has(key) {
            return default;
        }
        self.duration(node, key).filter(|duration| !duration.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::PathMap;

    #[test]
    fn the_longest_prefix_counts() {
        let mut paths = PathMap::default();
        paths.insert(String::new(), String::new());
        paths.insert("static_resources".to_owned(), String::new());
        paths.insert("static_resources.listeners[0].filter_chains[0]".to_owned(), "listeners[0]".to_owned());
        for (made, written) in [
            ("static_resources.listeners[0].name", "listeners[0].name"),
            ("static_resources.listeners[0].filter_chains[0].filters[1]", "listeners[0].filters[1]"),
            ("static_resources", ""),
            ("admin.address", "admin.address"),
            ("", ""),
        ] {
            assert_eq!(paths.written(made), written, "{made}");
        }
    }
}
