//! Compiled matchers of strings, header fields, query parameters, cookies, metadata, filter state, fractions and log
//! entries, and changes to fields.
//!
//! Each is built once from its form in [`sota_config`]; building may fail and allocate, matching does neither (but for
//! fields that are repeated, whose values are joined). The errors of `build` say which pattern is wrong and why, and
//! have no path: the caller knows it and adds it with [`sota_config::ConfigError::at`].

mod access_log_filter;
mod cookie;
mod filter_state;
mod fraction;
mod header;
mod metadata;
mod mutations;
mod query;
pub mod read;
mod regex;
mod string;
mod uri_template;

pub use access_log_filter::AccessLogFilter;
pub use cookie::{CookieMatcher, cookies};
pub use filter_state::FilterStateMatcher;
pub use fraction::FractionalPercent;
pub use header::HeaderMatcher;
pub use metadata::MetadataMatcher;
pub use mutations::HeaderMutations;
pub use query::{QueryParameterMatcher, query_parameters};
pub use regex::{Regex, RegexSubstitution};
pub use string::StringMatcher;
pub use uri_template::UriTemplate;

use sota_config::{ConfigError, Mark};

/// An error of a part that does not know its place.
fn error(reason: impl Into<String>) -> ConfigError {
    ConfigError::new("", Mark::NONE, reason)
}
