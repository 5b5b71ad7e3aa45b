//! Configuration errors: what is wrong, where in the document, and what to write instead.

use crate::node::Mark;
use std::fmt;

/// Whether a finding stops the configuration or is only told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is taken; the finding is logged and counted.
    Warning,
}

/// One finding about one place of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Whether this refuses the configuration.
    pub severity: Severity,
    /// The place in the document, such as `static_resources.listeners[0].filter_chains[1]`. Empty for the whole file.
    pub path: String,
    /// What is wrong, in words, without the path.
    pub reason: String,
    /// Line and column; [`Mark::NONE`] for resources that came as wire bytes.
    pub mark: Mark,
}

impl ConfigError {
    /// An error at a place of the document.
    pub fn new(path: impl Into<String>, mark: Mark, reason: impl Into<String>) -> Self {
        Self { severity: Severity::Error, path: path.into(), reason: reason.into(), mark }
    }

    /// A warning at a place of the document.
    pub fn warning(path: impl Into<String>, mark: Mark, reason: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, path: path.into(), reason: reason.into(), mark }
    }

    /// The same finding, seen from `path`, which goes before the finding's own path; `mark` counts where the finding
    /// has no place of its own. For parts that do not know where their configuration stands.
    #[must_use]
    pub fn at(mut self, path: &str, mark: Mark) -> Self {
        if self.path.is_empty() {
            self.path.push_str(path);
        } else if !path.is_empty() {
            let dot = if self.path.starts_with('[') { "" } else { "." };
            self.path.insert_str(0, dot);
            self.path.insert_str(0, path);
        }
        if self.mark == Mark::NONE {
            self.mark = mark;
        }
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.reason) } else { write!(f, "{}: {}", self.path, self.reason) }
    }
}

impl std::error::Error for ConfigError {}

/// Every finding about one configuration, in document order. At least one is an error when returned as `Err`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// Whether one of the findings refuses the configuration.
    pub fn is_fatal(&self) -> bool {
        self.0.iter().any(|e| e.severity == Severity::Error)
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_and_the_inner_mark_wins() {
        let (outer, inner) = (Mark { line: 1, column: 2 }, Mark { line: 3, column: 4 });
        let error = |path: &str, mark| ConfigError::new(path, mark, "no").at("a.b", outer);
        assert_eq!(error("", Mark::NONE), ConfigError::new("a.b", outer, "no"));
        assert_eq!(error("c", inner), ConfigError::new("a.b.c", inner, "no"));
        assert_eq!(error("[0].c", Mark::NONE), ConfigError::new("a.b[0].c", outer, "no"));
        assert_eq!(ConfigError::new("c", inner, "no").at("", outer).path, "c");
    }
}
