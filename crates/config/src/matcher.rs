//! Matchers as configured; `sota_plugin::matcher` compiles them.

use std::ops::Range;

/// The largest program that a regular expression may compile to. Envoy's engine stops at 8 MiB of its own form; ten of
/// this one take about as many repetitions.
pub const MAX_REGEX_PROGRAM_BYTES: usize = 10 * 1024 * 1024;

/// `envoy.type.matcher.v3.StringMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct StringMatcher {
    /// What to compare with.
    pub pattern: StringPattern,
    /// Compare ASCII letters without case. Not for regular expressions, where the pattern says so itself.
    pub ignore_case: bool,
}

/// The ways a string can match.
#[derive(Debug, Clone, PartialEq)]
pub enum StringPattern {
    /// The whole string.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Its end.
    Suffix(String),
    /// A part of it.
    Contains(String),
    /// RE2 syntax, matched against the whole string.
    Regex(String),
}

/// `envoy.config.route.v3.HeaderMatcher`. `name` may be a pseudo-header (`:path`, `:method`, `:authority`, `:scheme`).
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderMatcher {
    /// The field's name in lower case.
    pub name: String,
    /// What its value must be.
    pub condition: HeaderCondition,
    /// The opposite counts.
    pub invert: bool,
    /// An absent field is matched as an empty value.
    pub treat_missing_as_empty: bool,
}

/// What a header matcher asks.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderCondition {
    /// The value as text.
    String(StringMatcher),
    /// The value as a decimal number in this half-open range.
    Range(Range<i64>),
    /// Whether the field is there at all.
    Present(bool),
}

/// `envoy.config.route.v3.QueryParameterMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryParameterMatcher {
    /// The parameter's name.
    pub name: String,
    /// What its value must be; `None`: present with any value.
    pub value: Option<StringMatcher>,
}

/// `envoy.config.core.v3.RuntimeFractionalPercent` with its default.
#[derive(Debug, Clone, PartialEq)]
pub struct FractionalPercent {
    /// Parts out of `denominator`.
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000.
    pub denominator: u32,
    /// The runtime key that overrides it.
    pub runtime_key: Option<String>,
}
