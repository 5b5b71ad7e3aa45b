//! Spans that have ended, as both protocols need them.

use std::{borrow::Cow, time::SystemTime};

/// Whether a span was begun by whom was asked or by who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Server,
    Client,
}

/// A span that has ended.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) trace_id: u128,
    pub(super) span_id: u64,
    pub(super) parent_id: Option<u64>,
    pub(super) is_64bit: bool,
    pub(super) is_shared: bool,
    pub(super) state: Box<str>,
    pub(super) name: Box<str>,
    pub(super) kind: Kind,
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    pub(super) is_error: bool,
    pub(super) tags: Vec<(Cow<'static, str>, Box<str>)>,
    /// What happened when (`verbose`).
    pub(super) events: Vec<(&'static str, SystemTime)>,
}

impl Span {
    /// Adds a tag, or replaces its value.
    pub(super) fn tag(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Box<str>>) {
        let name = name.into();
        match self.tags.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value.into(),
            None => self.tags.push((name, value.into())),
        }
    }
}

/// Nanoseconds since 1970.
pub(super) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
