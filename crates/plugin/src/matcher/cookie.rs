//! Matching cookies.

use super::{StringMatcher, error};
use crate::http::{HeaderId, RequestHead};
use sota_config::{ConfigError, matcher::CookieMatcher as Config};

/// A compiled [`sota_config::matcher::CookieMatcher`]. A cookie that is not there does not match, so that `invert` then
/// does.
#[derive(Debug, Clone)]
pub struct CookieMatcher {
    name: Box<[u8]>,
    value: StringMatcher,
    invert: bool,
}

impl CookieMatcher {
    /// Fails for an invalid regular expression.
    pub fn build(config: &Config) -> Result<Self, ConfigError> {
        let value = StringMatcher::build(&config.value);
        let value = value.map_err(|e| error(format!("cookie {:?}: {}", config.name, e.reason)))?;
        Ok(Self { name: config.name.as_bytes().into(), value, invert: config.invert })
    }

    /// Builds each; the first error counts.
    pub fn build_all(configs: &[Config]) -> Result<Vec<Self>, ConfigError> {
        configs.iter().map(Self::build).collect()
    }

    /// Whether the request matches.
    pub fn matches(&self, head: &RequestHead) -> bool {
        let found = cookies(head).find(|(name, _)| *name == &*self.name);
        found.is_some_and(|(_, value)| self.value.matches(value)) != self.invert
    }
}

/// Names and values of all cookies of a request, in order. White space before names and quotes around values are left
/// out; a part without `=` is none.
pub fn cookies(head: &RequestHead) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.headers.get_all(HeaderId::Cookie).flat_map(|field| field.split(|c| *c == b';')).filter_map(|part| {
        let equals = memchr::memchr(b'=', part)?;
        let (name, value) = (part.get(..equals)?, part.get(equals + 1..)?);
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        Some((name.trim_ascii_start(), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Method;
    use sota_config::matcher::{StringMatcher as StringConfig, StringPattern};

    #[test]
    fn cookies_of_several_fields() {
        let mut head = RequestHead::new(Method::Get, "h", "/").unwrap();
        head.headers.append("cookie", "a=1; b=\"two\";c; d=x=y ").unwrap();
        head.headers.append("cookie", "e=;a=3").unwrap();
        let all: Vec<_> = cookies(&head).map(|(n, v)| format!("{}:{}", n.escape_ascii(), v.escape_ascii())).collect();
        assert_eq!(all, ["a:1", "b:two", "d:x=y ", "e:", "a:3"]);
        let matches = |name: &str, value: &str, invert| {
            let value = StringConfig { pattern: StringPattern::Exact(value.into()), ignore_case: false };
            CookieMatcher::build(&Config { name: name.into(), value, invert }).unwrap().matches(&head)
        };
        assert!(matches("a", "1", false) && !matches("a", "3", false) && !matches("a", "1", true));
        assert!(matches("a", "3", true) && matches("none", "", true) && !matches("none", "", false));
        assert!(matches("e", "", false));
    }
}
