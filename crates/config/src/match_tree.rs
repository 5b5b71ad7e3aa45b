//! Generic matchers (`xds.type.matcher.v3.Matcher`): trees of conditions whose leaves say what to do.

use crate::{address::CidrRange, matcher::StringMatcher};

/// A matcher. `A` is what its leaves hold.
#[derive(Debug, Clone, PartialEq)]
pub struct MatchTree<A> {
    /// How it chooses.
    pub kind: MatchKind<A>,
    /// What counts when nothing matches.
    pub on_no_match: Option<Box<OnMatch<A>>>,
}

/// How a matcher chooses.
#[derive(Debug, Clone, PartialEq)]
pub enum MatchKind<A> {
    /// The first whose predicate holds.
    List(Vec<(Predicate, OnMatch<A>)>),
    /// By the value of an input.
    Map {
        /// What is looked at.
        input: MatchInput,
        /// Whether a key is the beginning of the value (the longest counts) or the whole.
        is_prefix: bool,
        /// Keys with what they lead to.
        entries: Vec<(String, OnMatch<A>)>,
    },
}

/// What follows a match.
#[derive(Debug, Clone, PartialEq)]
pub enum OnMatch<A> {
    /// Another matcher; where that finds nothing, the search goes on behind this one.
    Matcher(Box<MatchTree<A>>),
    /// The end of the search.
    Action(A),
}

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Predicate {
    /// On one input. An input that has no value matches nothing.
    Single(MatchInput, InputMatcher),
    /// One holds.
    Or(Vec<Self>),
    /// All hold.
    And(Vec<Self>),
    /// The opposite.
    Not(Box<Self>),
}

/// What a predicate compares with.
#[derive(Debug, Clone, PartialEq)]
pub enum InputMatcher {
    /// The input as text.
    String(StringMatcher),
    /// The input as an address in one of these ranges.
    Ip(Vec<CidrRange>),
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq)]
pub enum MatchInput {
    /// A request header; several values are joined by commas.
    RequestHeader(String),
    /// The first value of a query parameter.
    QueryParameter(String),
    /// The address of this machine that the client connected to.
    DestinationIp,
    /// Its port.
    DestinationPort,
    /// The client's address, as far as trusted.
    SourceIp,
    /// Its port.
    SourcePort,
    /// The address of the connection's other end.
    DirectSourceIp,
    /// `local` when the connection is from this machine.
    SourceType,
    /// The server name that the client asked for (TLS).
    ServerName,
    /// The text of a filter state object.
    FilterState(String),
    /// A text in dynamic metadata: namespace and keys.
    DynamicMetadata(String, Vec<String>),
}
