//! `validate.rules` of the messages, read from the table in their own encoding.
//!
//! The numbers are those of protoc-gen-validate's `validate.proto`: `FieldRules` has one field for each type of
//! rules, which has one for each rule. A test holds that no message uses a rule that is not here.

use super::Walker;
use crate::{
    table::{Field, Kind},
    wire::{RawValue, Reader},
};
use regex::Regex;
use sota_config::{Mark, Node, Value};
use std::{cmp::Ordering, sync::Mutex};

// The members of FieldRules.
const FLOAT: u32 = 1;
const DOUBLE: u32 = 2;
const SINT32: u32 = 7;
const SINT64: u32 = 8;
const SFIXED64: u32 = 12;
const BOOL: u32 = 13;
const STRING: u32 = 14;
const BYTES: u32 = 15;
const ENUM: u32 = 16;
const MESSAGE: u32 = 17;
const REPEATED: u32 = 18;
const MAP: u32 = 19;
const ANY: u32 = 20;
const DURATION: u32 = 21;

/// A duration or number that a rule compares with.
#[derive(Clone, Copy, PartialEq)]
enum Bound {
    Whole(i128),
    Real(f64),
}

impl Bound {
    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => Some(a.cmp(&b)),
            (a, b) => a.real().partial_cmp(&b.real()),
        }
    }

    fn real(self) -> f64 {
        match self {
            Self::Whole(n) => n as f64,
            Self::Real(n) => n,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(n) => write!(f, "{n}"),
            Self::Real(n) => write!(f, "{n}"),
        }
    }
}

impl Walker<'_> {
    /// Applies the rules of a field to its value; `message_mark` is the place of the message around it.
    pub(super) fn field_rules(&mut self, field: Field, rules: &[u8], value: Option<&Node>, message_mark: Mark) {
        if value.is_none() && !field.is_repeated() && !field.is_map() {
            // In a oneof the rules count for the member that is there.
            if field.oneof().is_none() && refuses_absence(field, rules) {
                self.error(message_mark, format!("the field \"{}\" is required", field.name()));
            }
            return;
        }
        if value.is_some_and(Node::is_null) {
            return; // refused already, as a value of the wrong type
        }
        let absent = Node { value: Value::Null, mark: message_mark };
        let value = value.unwrap_or(&absent);
        self.at_field(field.name(), |walker| walker.value_rules(field.kind(), rules, value));
    }

    /// Applies `FieldRules` to a value that is there.
    fn value_rules(&mut self, kind: Kind, rules: &[u8], value: &Node) {
        for rule in Reader::new(rules).flatten() {
            let Some(bytes) = rule.value.bytes() else { continue };
            let problem = match rule.number {
                FLOAT..=SFIXED64 => number_rules(rule.number, bytes, value),
                BOOL => bool_rules(bytes, value),
                STRING => string_rules(bytes, value.as_str().unwrap_or("")),
                BYTES => bytes_rules(bytes, value.as_bytes().unwrap_or(&[])),
                ENUM => enum_rules(bytes, kind, value),
                DURATION => duration_rules(bytes, value),
                ANY => any_rules(bytes, value),
                REPEATED => {
                    self.list_rules(kind, bytes, value);
                    None
                }
                MAP => {
                    self.map_rules(kind, bytes, value);
                    None
                }
                // MESSAGE: `required` holds, as the value is there.
                _ => None,
            };
            if let Some(problem) = problem {
                self.error(value.mark, problem);
            }
        }
    }

    fn list_rules(&mut self, kind: Kind, rules: &[u8], value: &Node) {
        let items = value.items();
        let count = items.len() as u64;
        if is_set(rules, 5) && count == 0 {
            return;
        }
        for rule in Reader::new(rules).flatten() {
            match (rule.number, rule.value) {
                (1, RawValue::Varint(min)) if count < min => {
                    self.error(value.mark, format!("needs at least {}, has {count}", items_of(min)));
                }
                (2, RawValue::Varint(max)) if count > max => {
                    self.error(value.mark, format!("takes at most {}, has {count}", items_of(max)));
                }
                (3, RawValue::Varint(1)) => {
                    if let Some(index) = (1..items.len()).find(|&i| {
                        items.get(..i).is_some_and(|before| items.get(i).is_some_and(|item| before.contains(item)))
                    }) {
                        let mark = items.get(index).map_or(value.mark, |item| item.mark);
                        self.at_index(index, |walker| walker.error(mark, "stands in the list already"));
                    }
                }
                (4, RawValue::Bytes(each)) => {
                    for (index, item) in items.iter().enumerate() {
                        self.at_index(index, |walker| walker.value_rules(kind, each, item));
                    }
                }
                _ => {}
            }
        }
    }

    fn map_rules(&mut self, kind: Kind, rules: &[u8], value: &Node) {
        let Kind::Message(entry) = kind else { return };
        let kind_of = |number| entry.field_by_number(number).map_or(Kind::String, Field::kind);
        let entries = value.pairs();
        let count = entries.len() as u64;
        if is_set(rules, 6) && count == 0 {
            return;
        }
        for rule in Reader::new(rules).flatten() {
            match (rule.number, rule.value) {
                (1, RawValue::Varint(min)) if count < min => {
                    self.error(value.mark, format!("needs at least {}, has {count}", items_of(min)));
                }
                (2, RawValue::Varint(max)) if count > max => {
                    self.error(value.mark, format!("takes at most {}, has {count}", items_of(max)));
                }
                (4, RawValue::Bytes(each)) => {
                    for (key, item) in entries {
                        let key_node = Node { value: Value::String(key.clone()), mark: item.mark };
                        self.at_key(key, |walker| walker.value_rules(kind_of(1), each, &key_node));
                    }
                }
                (5, RawValue::Bytes(each)) => {
                    for (key, item) in entries {
                        self.at_key(key, |walker| walker.value_rules(kind_of(2), each, item));
                    }
                }
                _ => {}
            }
        }
    }
}

fn items_of(count: u64) -> String {
    if count == 1 { "1 item".to_owned() } else { format!("{count} items") }
}

/// Whether a flag of some rules is set.
fn is_set(rules: &[u8], number: u32) -> bool {
    Reader::new(rules).flatten().any(|rule| rule.number == number && rule.value == RawValue::Varint(1))
}

/// Whether rules refuse the default that an absent field means, or say `required`.
fn refuses_absence(field: Field, rules: &[u8]) -> bool {
    Reader::new(rules).flatten().any(|rule| {
        let Some(bytes) = rule.value.bytes() else { return false };
        match rule.number {
            MESSAGE => is_set(bytes, 2),
            ANY | DURATION => is_set(bytes, 1),
            _ if field.has_presence() => false,
            FLOAT..=SFIXED64 => number_rules(rule.number, bytes, &Node::new(Value::Int(0))).is_some(),
            BOOL => bool_rules(bytes, &Node::new(Value::Bool(false))).is_some(),
            STRING => string_rules(bytes, "").is_some(),
            BYTES => bytes_rules(bytes, &[]).is_some(),
            ENUM => enum_rules(bytes, field.kind(), &Node::new(Value::Int(0))).is_some(),
            _ => false,
        }
    })
}

fn number_rules(kind: u32, rules: &[u8], node: &Node) -> Option<String> {
    let value = match node.value {
        Value::Int(n) => Bound::Whole(n.into()),
        Value::UInt(n) => Bound::Whole(n.into()),
        Value::Float(n) => Bound::Real(n),
        _ => return None,
    };
    if is_set(rules, 8) && value.real() == 0.0 {
        return None;
    }
    let bounds = |number: u32| {
        Reader::new(rules).flatten().filter(move |r| r.number == number).flat_map(move |r| numbers(kind, r.value))
    };
    range_problem(value, &value.to_string(), |number| bounds(number).next(), |b| b.to_string()).or_else(|| {
        let allowed: Vec<_> = bounds(6).collect();
        if !allowed.is_empty() && !allowed.contains(&value) {
            let allowed: Vec<_> = allowed.iter().map(Bound::to_string).collect();
            return Some(format!("must be one of {}, got {value}", allowed.join(", ")));
        }
        bounds(7).any(|b| b == value).then(|| format!("must not be {value}"))
    })
}

/// `const`, `lt`, `lte`, `gt` and `gte`, which numbers and durations share by number from 1 (durations: from 2) on.
/// A lower bound above the upper one means "outside of".
fn range_problem(
    value: Bound,
    shown: &str,
    bound: impl Fn(u32) -> Option<Bound>,
    show: impl Fn(Bound) -> String,
) -> Option<String> {
    if let Some(only) = bound(1).filter(|b| *b != value) {
        return Some(format!("must be {}, got {shown}", show(only)));
    }
    let upper = bound(2).map(|b| (b, false)).or_else(|| bound(3).map(|b| (b, true)));
    let lower = bound(4).map(|b| (b, false)).or_else(|| bound(5).map(|b| (b, true)));
    let below = |(b, inclusive): (Bound, bool)| match value.compare(b) {
        Some(Ordering::Less) => true,
        Some(Ordering::Equal) => inclusive,
        _ => false,
    };
    let above = |(b, inclusive): (Bound, bool)| match value.compare(b) {
        Some(Ordering::Greater) => true,
        Some(Ordering::Equal) => inclusive,
        _ => false,
    };
    let words = |(b, inclusive): (Bound, bool), strict: &str, loose: &str| {
        format!("{} {}", if inclusive { loose } else { strict }, show(b))
    };
    if let (Some(low), Some(high)) = (lower, upper)
        && low.0.compare(high.0) == Some(Ordering::Greater)
    {
        let fine = above(low) || below(high);
        return (!fine).then(|| {
            format!(
                "must be {} or {}, got {shown}",
                words(high, "less than", "at most"),
                words(low, "more than", "at least")
            )
        });
    }
    match (lower, upper) {
        (Some(low), _) if !above(low) => Some(format!("must be {}, got {shown}", words(low, "more than", "at least"))),
        (_, Some(high)) if !below(high) => {
            Some(format!("must be {}, got {shown}", words(high, "less than", "at most")))
        }
        _ => None,
    }
}

/// The number or numbers of a rule, by the type that its rules are for.
fn numbers(kind: u32, value: RawValue<'_>) -> Vec<Bound> {
    match value {
        RawValue::Varint(n) if kind == SINT32 || kind == SINT64 => {
            vec![Bound::Whole(i128::from((n >> 1).cast_signed() ^ -(n & 1).cast_signed()))]
        }
        // Int32 and Int64: two's complement; the unsigned ones stay as they are.
        RawValue::Varint(n) if matches!(kind, 3 | 4) => vec![Bound::Whole(n.cast_signed().into())],
        RawValue::Varint(n) => vec![Bound::Whole(n.into())],
        RawValue::Fixed32(bits) if kind == FLOAT => vec![Bound::Real(f32::from_bits(bits).into())],
        RawValue::Fixed64(bits) if kind == DOUBLE => vec![Bound::Real(f64::from_bits(bits))],
        RawValue::Fixed32(n) => vec![Bound::Whole(n.into())],
        RawValue::Fixed64(n) => vec![Bound::Whole(n.into())],
        RawValue::Bytes(packed) if kind != FLOAT && kind != DOUBLE => {
            let mut reader = Reader::new(packed);
            std::iter::from_fn(|| if reader.is_empty() { None } else { reader.varint().ok() })
                .flat_map(|n| numbers(kind, RawValue::Varint(n)))
                .collect()
        }
        RawValue::Bytes(_) | RawValue::Group => Vec::new(),
    }
}

fn bool_rules(rules: &[u8], node: &Node) -> Option<String> {
    let only = Reader::new(rules).flatten().find(|rule| rule.number == 1)?.value.varint()? != 0;
    (node.as_bool() != Some(only)).then(|| format!("must be {only}"))
}

fn string_rules(rules: &[u8], text: &str) -> Option<String> {
    if text.is_empty() && is_set(rules, 26) {
        return None;
    }
    let all: Vec<_> = Reader::new(rules).flatten().collect();
    let characters = text.chars().count() as u64;
    let bytes = text.len() as u64;
    // `strict` is on unless it is switched off.
    let strict = !all.iter().any(|rule| rule.number == 25 && rule.value == RawValue::Varint(0));
    let allowed: Vec<&str> =
        all.iter().filter(|r| r.number == 10).filter_map(|r| r.value.bytes()).map(as_text).collect();
    if !allowed.is_empty() && !allowed.contains(&text) {
        let allowed: Vec<_> = allowed.iter().map(|text| format!("\"{text}\"")).collect();
        return Some(format!("must be one of {}", allowed.join(", ")));
    }
    all.iter().find_map(|rule| match (rule.number, rule.value) {
        (1, RawValue::Bytes(only)) if as_text(only) != text => Some(format!("must be \"{}\"", as_text(only))),
        (2 | 4, RawValue::Varint(1)) if text.is_empty() => Some("must not be empty".to_owned()),
        (2, RawValue::Varint(min)) if characters < min => {
            Some(format!("needs at least {min} characters, has {characters}"))
        }
        (3, RawValue::Varint(max)) if characters > max => {
            Some(format!("takes at most {max} characters, has {characters}"))
        }
        (4, RawValue::Varint(min)) if bytes < min => Some(format!("needs at least {min} bytes, has {bytes}")),
        (5, RawValue::Varint(max)) if bytes > max => Some(format!("takes at most {max} bytes, has {bytes}")),
        (6, RawValue::Bytes(pattern)) => pattern_problem(as_text(pattern), text),
        (7, RawValue::Bytes(prefix)) if !text.starts_with(as_text(prefix)) => {
            Some(format!("must begin with \"{}\"", as_text(prefix)))
        }
        (8, RawValue::Bytes(suffix)) if !text.ends_with(as_text(suffix)) => {
            Some(format!("must end with \"{}\"", as_text(suffix)))
        }
        (11, RawValue::Bytes(refused)) if as_text(refused) == text => Some(format!("must not be \"{text}\"")),
        (24, RawValue::Varint(known)) => header_problem(known, strict, text),
        _ => None,
    })
}

/// `HTTP_HEADER_NAME` (1) and `HTTP_HEADER_VALUE` (2).
fn header_problem(known: u64, strict: bool, text: &str) -> Option<String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~`".contains(&b);
    let (what, good) = match (known, strict) {
        (1, true) => {
            let name = text.strip_prefix(':').unwrap_or(text);
            ("the name of a header field", !name.is_empty() && name.bytes().all(is_token))
        }
        (2, true) => ("the value of a header field", !text.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f)),
        (1, false) => ("the name of a header field", !text.contains(['\0', '\n', '\r'])),
        (2, false) => ("the value of a header field", !text.contains(['\0', '\n', '\r'])),
        _ => return None,
    };
    (!good).then(|| format!("\"{}\" cannot be {what}", text.escape_debug()))
}

/// The few expressions that rules use, compiled when first needed.
static PATTERNS: Mutex<Vec<(&'static str, Regex)>> = Mutex::new(Vec::new());

fn pattern_problem(pattern: &str, text: &str) -> Option<String> {
    let mut known = PATTERNS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let matches = match known.iter().find(|(source, _)| *source == pattern) {
        Some((_, regex)) => regex.is_match(text),
        None => {
            // Patterns come from the table, and a test compiles them all.
            let Ok(regex) = Regex::new(pattern) else { return None };
            let matches = regex.is_match(text);
            known.push((String::from(pattern).leak(), regex));
            matches
        }
    };
    (!matches).then(|| format!("must match {pattern}"))
}

fn as_text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("")
}

fn bytes_rules(rules: &[u8], value: &[u8]) -> Option<String> {
    let length = value.len() as u64;
    Reader::new(rules).flatten().find_map(|rule| match (rule.number, rule.value) {
        (2, RawValue::Varint(1)) if value.is_empty() => Some("must not be empty".to_owned()),
        (2, RawValue::Varint(min)) if length < min => Some(format!("needs at least {min} bytes, has {length}")),
        (3, RawValue::Varint(max)) if length > max => Some(format!("takes at most {max} bytes, has {length}")),
        _ => None,
    })
}

fn enum_rules(rules: &[u8], kind: Kind, node: &Node) -> Option<String> {
    let Kind::Enum(kind) = kind else { return None };
    let number = match &node.value {
        Value::String(name) => kind.value_by_name(name)?.number(),
        Value::Int(number) => i32::try_from(*number).ok()?,
        _ => return None,
    };
    let name = |number: i32| kind.value_by_number(number).map_or("", |v| v.name());
    // Int32 rules share their encoding with these.
    let list = |rule: u32| {
        Reader::new(rules)
            .flatten()
            .filter(move |r| r.number == rule)
            .flat_map(|r| numbers(3, r.value))
            .filter_map(|b| if let Bound::Whole(n) = b { i32::try_from(n).ok() } else { None })
    };
    if list(4).any(|refused| refused == number) {
        return Some(format!("must not be {}", name(number)));
    }
    let allowed: Vec<_> = list(1).chain(list(3)).collect();
    (!allowed.is_empty() && !allowed.contains(&number)).then(|| {
        let allowed: Vec<_> = allowed.iter().map(|n| name(*n)).collect();
        format!("must be one of {}, got {}", allowed.join(", "), name(number))
    })
}

fn duration_rules(rules: &[u8], node: &Node) -> Option<String> {
    let Value::Duration { seconds, nanos } = node.value else { return None };
    let as_nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let bound = |number: u32| {
        // Numbers of DurationRules are one above those of the number rules.
        let rule = Reader::new(rules).flatten().find(|r| r.number == number + 1)?;
        let (mut seconds, mut nanos) = (0, 0);
        for part in Reader::new(rule.value.bytes()?).flatten() {
            match (part.number, part.value) {
                (1, RawValue::Varint(n)) => seconds = n.cast_signed(),
                (2, RawValue::Varint(n)) => nanos = n.cast_signed(),
                _ => {}
            }
        }
        Some(Bound::Whole(as_nanos(seconds, nanos)))
    };
    let show = |bound: Bound| {
        let Bound::Whole(nanos) = bound else { return String::new() };
        let seconds = i64::try_from(nanos / 1_000_000_000).unwrap_or(0);
        let rest = i32::try_from(nanos % 1_000_000_000).unwrap_or(0);
        crate::well_known::format_duration(seconds, rest)
    };
    let value = Bound::Whole(as_nanos(seconds, nanos.into()));
    range_problem(value, &show(value), bound, show)
}

fn any_rules(rules: &[u8], node: &Node) -> Option<String> {
    let url = node.str(super::TYPE_KEY);
    let list = |number: u32| {
        Reader::new(rules).flatten().filter(move |r| r.number == number).filter_map(|r| r.value.bytes()).map(as_text)
    };
    if list(3).any(|refused| refused == url) {
        return Some(format!("must not be of the type \"{url}\""));
    }
    let allowed: Vec<_> = list(2).collect();
    (!allowed.is_empty() && !allowed.contains(&url)).then(|| format!("must be of the type {}", allowed.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::{
        BOOL, BYTES, DURATION, ENUM, FLOAT, MAP, MESSAGE, REPEATED, Regex, SFIXED64, STRING, as_text, header_problem,
        string_rules,
    };
    use crate::{table::Message, wire::Reader};

    /// Which rules are read above, by the member of `FieldRules`.
    fn is_known(member: u32, rule: u32) -> bool {
        match member {
            FLOAT..=SFIXED64 => (1..=8).contains(&rule),
            BOOL => rule == 1,
            STRING => matches!(rule, 1..=8 | 10 | 11 | 24..=26),
            BYTES => matches!(rule, 2 | 3),
            ENUM => (1..=4).contains(&rule),
            // `skip` (1) would leave the inside of a message unchecked; we check it all the same.
            MESSAGE => matches!(rule, 1 | 2),
            REPEATED => (1..=5).contains(&rule),
            MAP => matches!(rule, 1 | 2 | 4..=6),
            super::ANY => (1..=3).contains(&rule),
            DURATION => (1..=6).contains(&rule),
            _ => false,
        }
    }

    fn walk(place: &str, rules: &[u8]) {
        for member in Reader::new(rules) {
            let member = member.expect("rules are well-formed");
            for rule in Reader::new(member.value.bytes().expect("a message of rules")) {
                let rule = rule.expect("rules are well-formed");
                assert!(is_known(member.number, rule.number), "{place}: rule {}.{}", member.number, rule.number);
                match (member.number, rule.number, rule.value.bytes()) {
                    (REPEATED, 4, Some(each)) | (MAP, 4 | 5, Some(each)) => walk(place, each),
                    (STRING, 6, Some(pattern)) => {
                        Regex::new(as_text(pattern)).unwrap_or_else(|e| panic!("{place}: {e}"));
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn every_rule_of_every_message_is_read() {
        let mut count = 0;
        for message in Message::all() {
            for field in message.fields().filter(|f| !f.rules().is_empty()) {
                walk(&format!("{}.{}", message.name(), field.name()), field.rules());
                count += 1;
            }
        }
        assert!(count > 1_000, "{count}");
    }

    #[test]
    fn header_names_and_values() {
        for (known, strict, text, good) in [
            (1, true, "x-a", true),
            (1, true, ":path", true),
            (1, true, "", false),
            (1, true, "a b", false),
            (1, true, "a:b", false),
            (1, false, "a b", true),
            (1, false, "", true),
            (1, false, "a\nb", false),
            (2, true, "a\tb é", true),
            (2, true, "a\u{1}b", false),
            (2, false, "a\u{1}b", true),
            (2, false, "a\0b", false),
        ] {
            assert_eq!(header_problem(known, strict, text).is_none(), good, "{known} {strict} {text:?}");
        }
    }

    #[test]
    fn lengths_count_characters_and_bytes() {
        assert!(string_rules(&[0x18, 2], "éé").is_none());
        assert!(string_rules(&[0x18, 1], "éé").is_some());
        assert!(string_rules(&[0x28, 3], "éé").is_some());
        assert!(string_rules(&[0x10, 1], "").is_some_and(|problem| problem == "must not be empty"));
        assert!(string_rules(&[0x10, 1, 0xd0, 1, 1], "").is_none(), "ignore_empty");
    }
}
