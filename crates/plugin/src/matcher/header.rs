//! Matching fields of heads.

use super::{StringMatcher, error};
use crate::http::{HeaderName, Headers, RequestHead, ResponseHead};
use sota_config::{
    ConfigError,
    matcher::{HeaderCondition, HeaderMatcher as Config},
};
use std::{borrow::Cow, ops::Range};

/// A compiled [`sota_config::matcher::HeaderMatcher`]. Each value of a repeated field is compared for itself.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    name: HeaderName,
    condition: Condition,
    invert: bool,
    treat_missing_as_empty: bool,
}

#[derive(Debug, Clone)]
enum Condition {
    String(StringMatcher),
    Range(Range<i64>),
    Present(bool),
}

impl HeaderMatcher {
    /// Fails for a name that cannot be a field's or pseudo-header field's, and for an invalid regular expression.
    pub fn build(config: &Config) -> Result<Self, ConfigError> {
        let name = HeaderName::parse_any(config.name.as_bytes())
            .map_err(|reason| error(format!("header name {:?}: {reason}", config.name)))?;
        let condition = match &config.condition {
            HeaderCondition::String(string) => Condition::String(
                StringMatcher::build(string).map_err(|e| error(format!("header {}: {}", config.name, e.reason)))?,
            ),
            HeaderCondition::Range(range) => Condition::Range(range.clone()),
            HeaderCondition::Present(present) => Condition::Present(*present),
        };
        Ok(Self { name, condition, invert: config.invert, treat_missing_as_empty: config.treat_missing_as_empty })
    }

    /// Builds each; the first error counts.
    pub fn build_all(configs: &[Config]) -> Result<Vec<Self>, ConfigError> {
        configs.iter().map(Self::build).collect()
    }

    /// The field's name.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// Whether a request matches; the name may be `:method`, `:path`, `:authority` (or `host`), `:scheme`.
    pub fn matches(&self, head: &RequestHead) -> bool {
        self.matches_repeated(&head.headers).unwrap_or_else(|| self.matches_value(head.get(&self.name)))
    }

    /// Whether a response matches; the name may be `:status`.
    pub fn matches_response(&self, head: &ResponseHead) -> bool {
        self.matches_repeated(&head.headers).unwrap_or_else(|| self.matches_value(head.get(&self.name)))
    }

    /// Of a repeated field one value has to match (inverted: none may), each for itself, as in Envoy 1.40. `None` when
    /// the field is not repeated.
    fn matches_repeated(&self, headers: &Headers) -> Option<bool> {
        headers.get_all(&self.name).nth(1)?;
        let misses = |value| self.matches_value(Some(value)) == self.invert;
        Some(headers.get_all(&self.name).all(misses) == self.invert)
    }

    /// Whether the value that `lookup` finds matches.
    pub fn matches_with<'a>(&self, lookup: impl FnOnce(&HeaderName) -> Option<Cow<'a, [u8]>>) -> bool {
        self.matches_value(lookup(&self.name).as_deref())
    }

    fn matches_value(&self, value: Option<&[u8]>) -> bool {
        let value = match value {
            Some(value) => value,
            None if self.treat_missing_as_empty => b"",
            // Compat: an absent field fails every condition on its value, inverted or not.
            None => return matches!(self.condition, Condition::Present(present) if present == self.invert),
        };
        let matches = match &self.condition {
            Condition::String(matcher) => matcher.matches(value),
            Condition::Range(range) => integer(value).is_some_and(|number| range.contains(&number)),
            Condition::Present(present) => *present,
        };
        matches != self.invert
    }
}

/// A decimal number as Envoy reads it: white space around it and a sign are allowed.
fn integer(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Method, StatusCode};
    use sota_config::matcher::{StringMatcher as StringConfig, StringPattern};

    fn config(name: &str, condition: HeaderCondition) -> Config {
        Config { name: name.into(), condition, invert: false, treat_missing_as_empty: false }
    }

    fn exact(text: &str) -> HeaderCondition {
        HeaderCondition::String(StringConfig { pattern: StringPattern::Exact(text.into()), ignore_case: false })
    }

    /// Results for: absent, empty, `5`, `a`; each with the four combinations of invert (second half) and
    /// treat-missing-as-empty (every other).
    #[test]
    fn present_inverted_and_missing() {
        let values: [Option<&[u8]>; 4] = [None, Some(b""), Some(b"5"), Some(b"a")];
        let cases: [(HeaderCondition, [[bool; 4]; 4]); 5] = [
            (
                exact("a"),
                [
                    [false, false, false, true],
                    [false, false, false, true],
                    [false, true, true, false],
                    [true, true, true, false],
                ],
            ),
            (
                exact(""),
                [
                    [false, true, false, false],
                    [true, true, false, false],
                    [false, false, true, true],
                    [false, false, true, true],
                ],
            ),
            (
                HeaderCondition::Range(0..10),
                [
                    [false, false, true, false],
                    [false, false, true, false],
                    [false, true, false, true],
                    [true, true, false, true],
                ],
            ),
            (
                HeaderCondition::Present(true),
                [
                    [false, true, true, true],
                    [true, true, true, true],
                    [true, false, false, false],
                    [false, false, false, false],
                ],
            ),
            (
                HeaderCondition::Present(false),
                [
                    [true, false, false, false],
                    [false, false, false, false],
                    [false, true, true, true],
                    [true, true, true, true],
                ],
            ),
        ];
        for (condition, expected) in cases {
            for (flags, expected) in expected.into_iter().enumerate() {
                let config = Config {
                    invert: flags & 2 != 0,
                    treat_missing_as_empty: flags & 1 != 0,
                    ..config("x", condition.clone())
                };
                let matcher = HeaderMatcher::build(&config).unwrap();
                for (value, expected) in values.into_iter().zip(expected) {
                    assert_eq!(matcher.matches_with(|_| value.map(Cow::Borrowed)), expected, "{config:?} {value:?}");
                }
            }
        }
    }

    #[test]
    fn numbers() {
        let cases: [(&[u8], Option<i64>); 8] = [
            (b"12", Some(12)),
            (b" +12\t", Some(12)),
            (b"-9223372036854775808", Some(i64::MIN)),
            (b"9223372036854775808", None),
            (b"", None),
            (b"0x1", None),
            (b"1 2", None),
            (b"\xff", None),
        ];
        for (text, number) in cases {
            assert_eq!(integer(text), number);
        }
    }

    #[test]
    fn repeated_fields_and_pseudo_fields() {
        let mut head = RequestHead::new(Method::Get, "h:1", "/p?q").unwrap();
        head.headers.append("x-a", "1").unwrap();
        head.headers.append("x-a", "2").unwrap();
        let request = |name: &str, text| HeaderMatcher::build(&config(name, exact(text))).unwrap().matches(&head);
        assert!(request("x-a", "1") && request("x-a", "2") && !request("x-a", "1,2"));
        let inverted = |text| {
            let config = Config { invert: true, ..config("x-a", exact(text)) };
            HeaderMatcher::build(&config).unwrap().matches(&head)
        };
        assert!(!inverted("1") && !inverted("2") && inverted("3") && inverted("1,2"));
        assert!(request(":path", "/p?q") && request(":method", "GET") && request(":authority", "h:1"));
        assert!(request("host", "h:1") && request(":scheme", "http") && !request(":status", "200"));
        let response = ResponseHead::new(StatusCode::OK);
        assert!(HeaderMatcher::build(&config(":status", exact("200"))).unwrap().matches_response(&response));
    }

    #[test]
    fn errors_name_the_header_and_the_pattern() {
        let reason = |config: &Config| HeaderMatcher::build(config).unwrap_err().reason;
        assert_eq!(reason(&config("a b", exact(""))), "header name \"a b\": not a valid field name");
        let regex = StringConfig { pattern: StringPattern::Regex("(".into()), ignore_case: false };
        let reason = reason(&config("x-a", HeaderCondition::String(regex)));
        assert!(reason.starts_with("header x-a: regex \"(\": "), "{reason}");
    }
}
