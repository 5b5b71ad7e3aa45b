//! Matchers as configured; `sota_plugin::matcher` compiles them.

use crate::address::CidrRange;
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

/// `envoy.config.route.v3.CookieMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct CookieMatcher {
    /// The cookie's name.
    pub name: String,
    /// What its value must be; a cookie that is not there does not match.
    pub value: StringMatcher,
    /// The opposite counts.
    pub invert: bool,
}

/// `envoy.type.matcher.v3.MetadataMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataMatcher {
    /// The namespace (`filter`).
    pub namespace: String,
    /// The keys that lead to the value.
    pub path: Vec<String>,
    /// What the value must be.
    pub value: ValueMatcher,
    /// The opposite counts.
    pub invert: bool,
}

/// `envoy.type.matcher.v3.ValueMatcher`. A value that is not there matches nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueMatcher {
    /// It is null.
    Null,
    /// It is this number.
    Number(f64),
    /// It is a number in this half-open range.
    Range(Range<f64>),
    /// It is text.
    String(StringMatcher),
    /// It is this truth value.
    Bool(bool),
    /// It is there; `false` never matches.
    Present(bool),
    /// It is a list, and one of its items matches.
    OneOf(Box<Self>),
    /// One of these matches.
    Or(Vec<Self>),
}

/// `envoy.type.matcher.v3.FilterStateMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterStateMatcher {
    /// The object's name.
    pub key: String,
    /// What it must be.
    pub pattern: FilterStatePattern,
}

/// What a filter state object must be.
#[derive(Debug, Clone, PartialEq)]
pub enum FilterStatePattern {
    /// Its text matches.
    String(StringMatcher),
    /// It is an address in one of these ranges.
    Address {
        /// The ranges.
        ranges: Vec<CidrRange>,
        /// The opposite counts.
        invert: bool,
    },
}
