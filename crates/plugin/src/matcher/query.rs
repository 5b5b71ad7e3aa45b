//! Matching query parameters.

use super::{StringMatcher, error};
use crate::http::RequestHead;
use sota_config::{ConfigError, matcher::QueryParameterMatcher as Config};

/// A compiled [`sota_config::matcher::QueryParameterMatcher`]. Names and values are compared as they stand in the
/// path, nothing is decoded; of a parameter that is given twice the first value counts.
#[derive(Debug, Clone)]
pub struct QueryParameterMatcher {
    name: Box<[u8]>,
    /// `None`: present is enough.
    value: Option<StringMatcher>,
}

impl QueryParameterMatcher {
    /// Fails for an invalid regular expression.
    pub fn build(config: &Config) -> Result<Self, ConfigError> {
        let value = config.value.as_ref().map(StringMatcher::build).transpose();
        let value = value.map_err(|e| error(format!("query parameter {:?}: {}", config.name, e.reason)))?;
        Ok(Self { name: config.name.as_bytes().into(), value })
    }

    /// Builds each; the first error counts.
    pub fn build_all(configs: &[Config]) -> Result<Vec<Self>, ConfigError> {
        configs.iter().map(Self::build).collect()
    }

    /// Whether the request's path matches.
    pub fn matches(&self, head: &RequestHead) -> bool {
        let found = query_parameters(head.query().unwrap_or_default()).find(|(name, _)| *name == &*self.name);
        match (found, &self.value) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some((_, value)), Some(matcher)) => matcher.matches(value),
        }
    }
}

/// Names and values of a query (what follows the `?`), in order, raw. A parameter without `=` has an empty value;
/// `a&&b` has one without a name.
pub fn query_parameters(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = query;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'&', rest).unwrap_or(rest.len());
        let parameter = rest.get(..end).unwrap_or_default();
        rest = rest.get(end + 1..).unwrap_or_default();
        let equals = memchr::memchr(b'=', parameter);
        Some(
            equals
                .and_then(|at| parameter.split_at_checked(at))
                .map_or((parameter, &b""[..]), |(name, value)| (name, value.get(1..).unwrap_or_default())),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Method;
    use sota_config::matcher::{StringMatcher as StringConfig, StringPattern};

    #[test]
    fn queries_as_envoy_reads_them() {
        let parse = |query: &str| {
            let pairs = query_parameters(query.as_bytes());
            pairs.map(|(n, v)| format!("{}={}", n.escape_ascii(), v.escape_ascii())).collect::<Vec<_>>().join(" ")
        };
        for (query, expected) in [
            ("", ""),
            ("a", "a="),
            ("a=1&b=2", "a=1 b=2"),
            ("a=1=2&", "a=1=2"),
            ("&&a", "= = a="),
            ("=x&%61=%20", "=x %61=%20"),
        ] {
            assert_eq!(parse(query), expected, "{query}");
        }
    }

    #[test]
    fn first_value_counts() {
        let head = RequestHead::new(Method::Get, "h", "/p?a=1&b&a=2").unwrap();
        let matches = |name: &str, value: Option<&str>| {
            let pattern = |text: &str| StringConfig { pattern: StringPattern::Exact(text.into()), ignore_case: false };
            let config = Config { name: name.into(), value: value.map(pattern) };
            QueryParameterMatcher::build(&config).unwrap().matches(&head)
        };
        assert!(matches("a", Some("1")) && !matches("a", Some("2")) && matches("a", None));
        assert!(matches("b", Some("")) && matches("b", None) && !matches("c", None));
        let regex = StringConfig { pattern: StringPattern::Regex("[".into()), ignore_case: false };
        let error = QueryParameterMatcher::build(&Config { name: "n".into(), value: Some(regex) }).unwrap_err();
        assert!(error.reason.starts_with("query parameter \"n\": regex \"[\": "), "{error}");
    }
}
