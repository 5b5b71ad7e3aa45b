//! Regular expressions in RE2's syntax on the `regex` crate, which like RE2 takes linear time.

mod re2;

use super::error;
use regex::bytes::{CaptureLocations, RegexBuilder};
use sota_config::ConfigError;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// The largest compiled size of one expression: RE2's own budget, 8 MiB.
const SIZE_LIMIT: usize = 8 << 20;
/// Of longer patterns messages show the beginning.
const SHOWN_CHARACTERS: usize = 100;

/// An expression that is matched against whole values. Equal expressions are compiled once in a process and shared.
#[derive(Debug, Clone)]
pub struct Regex(Arc<regex::bytes::Regex>);

impl Regex {
    /// Fails when the pattern is no RE2 expression or is over 8 MiB when compiled.
    pub fn build(pattern: &str) -> Result<Self, ConfigError> {
        let translated = translate(pattern)?;
        // The group below would give a meaning to a lone `)`, so the pattern has to be valid by itself.
        compile(pattern, &translated)?;
        compile(pattern, &format!("\\A(?:{translated})\\z")).map(Self)
    }

    /// Whether the whole value matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.0.is_match(value)
    }
}

/// A search with a replacement for every match, as `RE2::GlobalReplace` does it.
#[derive(Debug, Clone)]
pub struct RegexSubstitution {
    regex: Arc<regex::bytes::Regex>,
    parts: Box<[Part]>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Literal(Box<[u8]>),
    Group(usize),
}

impl RegexSubstitution {
    /// `substitution` may hold `\0` (the match) to `\9` (groups) and `\\`. Fails when the pattern is no RE2
    /// expression or too large, when another character follows a backslash, and when the pattern has no such group.
    pub fn build(pattern: &str, substitution: &str) -> Result<Self, ConfigError> {
        let regex = compile(pattern, &translate(pattern)?)?;
        let parts = substitution_parts(substitution, regex.captures_len())
            .map_err(|reason| error(format!("substitution {substitution:?}: {reason}")))?;
        Ok(Self { regex, parts })
    }

    /// The value with every match replaced, or `None` when there is no match.
    pub fn replace_all(&self, value: &[u8]) -> Option<Vec<u8>> {
        let mut groups = self.regex.capture_locations();
        let mut out = Vec::new();
        let (mut copied, mut at, mut last_end) = (0, 0, None);
        while at <= value.len() {
            let Some(found) = self.regex.captures_read_at(&mut groups, value, at) else { break };
            if found.is_empty() && last_end == Some(found.end()) {
                // An empty match behind a match does not count; go on behind the next character.
                at = found.end() + character_len(value.get(found.end()..).unwrap_or_default());
                continue;
            }
            out.extend_from_slice(value.get(copied..found.start()).unwrap_or_default());
            self.expand(value, &groups, &mut out);
            copied = found.end();
            last_end = Some(found.end());
            at = found.end();
        }
        last_end?;
        out.extend_from_slice(value.get(copied..).unwrap_or_default());
        Some(out)
    }

    fn expand(&self, value: &[u8], groups: &CaptureLocations, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Group(group) => {
                    let span = groups.get(*group).and_then(|(start, end)| value.get(start..end));
                    out.extend_from_slice(span.unwrap_or_default());
                }
            }
        }
    }
}

fn substitution_parts(text: &str, groups: usize) -> Result<Box<[Part]>, String> {
    let mut parts = Vec::new();
    let mut literal = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            literal.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => literal.push(b'\\'),
            Some(digit) if digit.is_ascii_digit() => {
                let group = usize::from(digit - b'0');
                if group >= groups {
                    return Err(format!("\\{group} is used, but the pattern has only {} groups", groups - 1));
                }
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                }
                parts.push(Part::Group(group));
            }
            _ => return Err("a backslash must be followed by a digit or a backslash".to_owned()),
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(parts.into())
}

/// Octets of the first character; of what is not UTF-8, one.
fn character_len(text: &[u8]) -> usize {
    let start = text.get(..text.len().min(4)).unwrap_or_default();
    start.utf8_chunks().next().and_then(|chunk| chunk.valid().chars().next()).map_or(1, char::len_utf8)
}

fn translate(pattern: &str) -> Result<String, ConfigError> {
    re2::translate(pattern).map_err(|reason| error(format!("regex {}: {reason}", shown(pattern))))
}

fn compile(pattern: &str, translated: &str) -> Result<Arc<regex::bytes::Regex>, ConfigError> {
    static SHARED: Mutex<Option<HashMap<Box<str>, Weak<regex::bytes::Regex>>>> = Mutex::new(None);
    let shared = || SHARED.lock().unwrap_or_else(PoisonError::into_inner);

    let known = shared().as_ref().and_then(|known| known.get(translated)).and_then(Weak::upgrade);
    if let Some(regex) = known {
        return Ok(regex);
    }
    let regex = RegexBuilder::new(translated)
        .size_limit(SIZE_LIMIT)
        .build()
        .map_err(|reason| error(format!("regex {}: {}", shown(pattern), last_line(&reason.to_string()))))?;
    let regex = Arc::new(regex);
    let mut shared = shared();
    let known = shared.get_or_insert_with(HashMap::new);
    if known.len() == known.capacity() {
        known.retain(|_, regex| regex.strong_count() > 0);
    }
    known.insert(translated.into(), Arc::downgrade(&regex));
    Ok(regex)
}

/// A pattern in quotes for a message, which is to stay readable.
fn shown(pattern: &str) -> String {
    match pattern.char_indices().nth(SHOWN_CHARACTERS).and_then(|(end, _)| pattern.get(..end)) {
        Some(beginning) => format!("{beginning:?}…"),
        None => format!("{pattern:?}"),
    }
}

/// The sentence of a syntax error, without the drawing above it.
fn last_line(text: &str) -> &str {
    let line = text.lines().next_back().unwrap_or(text);
    line.strip_prefix("error: ").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn whole_values_only() {
        let regex = Regex::build("a|ab").unwrap();
        assert!(regex.matches(b"a") && regex.matches(b"ab"));
        assert!(!regex.matches(b"abc") && !regex.matches(b"ab\n") && !regex.matches(b""));
        assert!(Regex::build("/b.*").unwrap().matches(b"/b/\xff\xfe"[..3].as_ref()));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let reason = |pattern: &str| Regex::build(pattern).unwrap_err().reason;
        assert_eq!(reason("(a"), "regex \"(a\": unclosed group");
        assert_eq!(reason("a)(?:b"), "regex \"a)(?:b\": unopened group");
        assert!(reason("(\\pL{100}){100}").contains("size limit"), "{}", reason("(\\pL{100}){100}"));
        let long = reason(&format!("({}", "é".repeat(1000)));
        assert_eq!(long, format!("regex \"({}\"…: unclosed group", "é".repeat(SHOWN_CHARACTERS - 1)));
    }

    #[test]
    fn equal_patterns_are_shared_while_they_live() {
        let (a, b) = (Regex::build("shared[0-9]").unwrap(), Regex::build("shared[0-9]").unwrap());
        assert!(Arc::ptr_eq(&a.0, &b.0));
        let weak = Arc::downgrade(&a.0);
        drop((a, b));
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn substitutions() {
        let replace = |pattern, substitution, value: &str| {
            let replaced = RegexSubstitution::build(pattern, substitution).unwrap().replace_all(value.as_bytes());
            replaced.map(|bytes| String::from_utf8(bytes).unwrap())
        };
        for (pattern, substitution, value, expected) in [
            ("^/service/([^/]+)(/.*)$", "\\2/instance/\\1", "/service/foo/v1/api", Some("/v1/api/instance/foo")),
            ("one", "two", "/xxx/one/yyy/one/zzz", Some("/xxx/two/yyy/two/zzz")),
            ("^(.*?)one(.*)$", "\\1two\\2", "/xxx/one/yyy/one/zzz", Some("/xxx/two/yyy/one/zzz")),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", Some("/aaa/yyy/bbb")),
            ("x", "\\\\\\0$1", "axb", Some("a\\x$1b")),
            ("x", "y", "abc", None),
            ("a(b)?", "[\\1]", "ab a", Some("[b] []")),
            // The cases of RE2's own documentation of empty matches.
            ("b*", "bb", "foo", Some("bbfbbobbobb")),
            ("b*", "bb", "bbb", Some("bb")),
            ("a*", "(\\0)", "baaac", Some("()b(aaa)c()")),
            ("", "-", "äb", Some("-ä-b-")),
            ("x", "", "axb", Some("ab")),
        ] {
            assert_eq!(replace(pattern, substitution, value).as_deref(), expected, "{pattern} {substitution} {value}");
        }
    }

    #[test]
    fn bad_substitutions() {
        let reason = |substitution| RegexSubstitution::build("(a)", substitution).unwrap_err().reason;
        assert_eq!(reason("\\2"), "substitution \"\\\\2\": \\2 is used, but the pattern has only 1 groups");
        let backslash = "a backslash must be followed by a digit or a backslash";
        assert_eq!(reason("\\x"), format!("substitution \"\\\\x\": {backslash}"));
        assert_eq!(reason("a\\"), format!("substitution \"a\\\\\": {backslash}"));
    }

    proptest! {
        #[test]
        fn any_pattern_builds_or_fails(pattern in ".{0,12}", value in proptest::collection::vec(any::<u8>(), 0..16)) {
            if let Ok(regex) = Regex::build(&pattern) {
                regex.matches(&value);
            }
            if let Ok(substitution) = RegexSubstitution::build(&pattern, "<\\0>") {
                substitution.replace_all(&value);
            }
        }

        #[test]
        fn replacing_a_match_with_itself_changes_nothing(
            pattern in "[ab.?*()|]{0,6}", value in proptest::collection::vec(any::<u8>(), 0..16)
        ) {
            if let Ok(substitution) = RegexSubstitution::build(&pattern, "\\0") {
                prop_assert_eq!(substitution.replace_all(&value).unwrap_or_else(|| value.clone()), value);
            }
        }
    }
}
