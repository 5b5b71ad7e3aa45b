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
