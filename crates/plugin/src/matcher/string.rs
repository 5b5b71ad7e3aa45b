//! Matching strings.

use super::Regex;
use memchr::memmem::Finder;
use sota_config::{
    ConfigError,
    matcher::{StringMatcher as Config, StringPattern},
};

/// A compiled [`sota_config::matcher::StringMatcher`].
#[derive(Debug, Clone)]
pub struct StringMatcher(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Contains(Box<Finder<'static>>),
    /// Without regard to the case of ASCII letters.
    IgnoreCase(Part, Box<[u8]>),
    Regex(Regex),
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Whole,
    Start,
    End,
    Any,
}

impl StringMatcher {
    /// Fails for a regular expression that cannot be compiled.
    pub fn build(config: &Config) -> Result<Self, ConfigError> {
        let (part, text) = match &config.pattern {
            StringPattern::Exact(text) => (Part::Whole, text),
            StringPattern::Prefix(text) => (Part::Start, text),
            StringPattern::Suffix(text) => (Part::End, text),
            StringPattern::Contains(text) => (Part::Any, text),
            StringPattern::Regex(pattern) => return Ok(Self(Kind::Regex(Regex::build(pattern)?))),
        };
        let bytes = text.as_bytes();
        Ok(Self(match part {
            _ if config.ignore_case => Kind::IgnoreCase(part, bytes.into()),
            Part::Whole => Kind::Exact(bytes.into()),
            Part::Start => Kind::Prefix(bytes.into()),
            Part::End => Kind::Suffix(bytes.into()),
            Part::Any => Kind::Contains(Box::new(Finder::new(bytes).into_owned())),
        }))
    }

    /// A matcher of exactly this text.
    pub fn exact(text: &str) -> Self {
        Self(Kind::Exact(text.as_bytes().into()))
    }

    /// Whether the value matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        match &self.0 {
            Kind::Exact(text) => value == &**text,
            Kind::Prefix(text) => value.starts_with(text),
            Kind::Suffix(text) => value.ends_with(text),
            Kind::Contains(finder) => finder.find(value).is_some(),
            Kind::IgnoreCase(part, text) => match part {
                Part::Whole => value.eq_ignore_ascii_case(text),
                Part::Start => value.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text)),
                Part::End => {
                    let start = value.len().checked_sub(text.len());
                    start.and_then(|start| value.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(text))
                }
                Part::Any => text.is_empty() || value.windows(text.len()).any(|part| part.eq_ignore_ascii_case(text)),
            },
            Kind::Regex(regex) => regex.matches(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(pattern: StringPattern, ignore_case: bool) -> StringMatcher {
        StringMatcher::build(&Config { pattern, ignore_case }).unwrap()
    }

    #[test]
    fn each_kind() {
        use StringPattern::{Contains, Exact, Prefix, Regex, Suffix};
        let cases: &[(StringPattern, bool, &[&str], &[&str])] = &[
            (Exact("aB".into()), false, &["aB"], &["ab", "aBc", ""]),
            (Exact("aB".into()), true, &["aB", "AB", "ab"], &["abc", "", "a"]),
            (Exact("".into()), false, &[""], &["a"]),
            (Prefix("aB".into()), false, &["aB", "aBc"], &["a", "abc", "xaB"]),
            (Prefix("aB".into()), true, &["ABC", "ab"], &["a", "xab"]),
            (Suffix("aB".into()), false, &["aB", "xaB"], &["B", "xab", "aBx"]),
            (Suffix("aB".into()), true, &["xAb", "ab"], &["b", "abx"]),
            (Contains("aB".into()), false, &["aB", "xaBx"], &["a", "xabx"]),
            (Contains("aB".into()), true, &["xABx", "ab"], &["a", "axb"]),
            (Contains("".into()), true, &["", "x"], &[]),
            (Regex("a+|b".into()), false, &["aaa", "b"], &["", "ab", "xa", "b\n"]),
            // `ignore_case` does not reach regular expressions.
            (Regex("a".into()), true, &["a"], &["A"]),
        ];
        for (pattern, ignore_case, good, bad) in cases {
            let matcher = matcher(pattern.clone(), *ignore_case);
            for text in *good {
                assert!(matcher.matches(text.as_bytes()), "{pattern:?} {ignore_case} {text:?}");
            }
            for text in *bad {
                assert!(!matcher.matches(text.as_bytes()), "{pattern:?} {ignore_case} {text:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn ignoring_case_is_comparing_in_lower_case(text in "[abAB]{0,4}", value in "[abAB]{0,12}") {
            let lower = (text.to_ascii_lowercase(), value.to_ascii_lowercase());
            let whether = |pattern| matcher(pattern, true).matches(value.as_bytes());
            prop_assert_eq!(whether(StringPattern::Exact(text.clone())), lower.1 == lower.0);
            prop_assert_eq!(whether(StringPattern::Prefix(text.clone())), lower.1.starts_with(&lower.0));
            prop_assert_eq!(whether(StringPattern::Suffix(text.clone())), lower.1.ends_with(&lower.0));
            prop_assert_eq!(whether(StringPattern::Contains(text)), lower.1.contains(&lower.0));
        }
    }
}
