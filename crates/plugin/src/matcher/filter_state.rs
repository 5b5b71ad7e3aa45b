//! Matching filter state.

use super::{StringMatcher, error};
use crate::info::{ConnectionInfo, StreamInfo};
use sota_config::{
    ConfigError,
    address::CidrRange,
    matcher::{FilterStateMatcher as Config, FilterStatePattern},
};
use std::net::{IpAddr, SocketAddr};

/// A compiled [`sota_config::matcher::FilterStateMatcher`]. An object that is not there, or has no text, never matches.
#[derive(Debug, Clone)]
pub struct FilterStateMatcher {
    key: Box<str>,
    pattern: Pattern,
}

#[derive(Debug, Clone)]
enum Pattern {
    String(StringMatcher),
    Address { ranges: Box<[CidrRange]>, invert: bool },
}

impl FilterStateMatcher {
    /// Fails for an invalid regular expression.
    pub fn build(config: &Config) -> Result<Self, ConfigError> {
        let pattern = match &config.pattern {
            FilterStatePattern::String(matcher) => Pattern::String(
                StringMatcher::build(matcher)
                    .map_err(|e| error(format!("filter state {:?}: {}", config.key, e.reason)))?,
            ),
            FilterStatePattern::Address { ranges, invert } => {
                Pattern::Address { ranges: ranges.as_slice().into(), invert: *invert }
            }
        };
        Ok(Self { key: config.key.as_str().into(), pattern })
    }

    /// Builds each; the first error counts.
    pub fn build_all(configs: &[Config]) -> Result<Vec<Self>, ConfigError> {
        configs.iter().map(Self::build).collect()
    }

    /// Whether the stream's state, or else its connection's, matches.
    pub fn matches(&self, info: &StreamInfo) -> bool {
        match info.filter_state.text(&self.key) {
            Some(text) => self.matches_text(&text),
            None => self.matches_connection(&info.connection),
        }
    }

    /// Whether the state of a connection matches.
    pub fn matches_connection(&self, connection: &ConnectionInfo) -> bool {
        connection.filter_state.borrow().text(&self.key).is_some_and(|text| self.matches_text(&text))
    }

    fn matches_text(&self, text: &str) -> bool {
        match &self.pattern {
            Pattern::String(matcher) => matcher.matches(text.as_bytes()),
            Pattern::Address { ranges, invert } => {
                address(text).is_some_and(|ip| ranges.iter().any(|range| range.contains(&ip)) != *invert)
            }
        }
    }
}

/// An address with or without port.
fn address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    text.parse().or_else(|_| with_port()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::PeerAddress;
    use sota_config::matcher::{StringMatcher as StringConfig, StringPattern};
    use std::rc::Rc;

    #[test]
    fn text_and_addresses_of_stream_and_connection() {
        let end = PeerAddress::from(SocketAddr::from(([127, 0, 0, 1], 80)));
        let connection = Rc::new(ConnectionInfo::new(1, end.clone(), end));
        connection.filter_state.borrow_mut().set("ip", Rc::new("10.0.0.1:80".to_owned()));
        connection.filter_state.borrow_mut().set("key", Rc::new("connection".to_owned()));
        let mut info = StreamInfo::new(connection, 1, None);
        info.filter_state.set("key", Rc::new("stream".to_owned()));
        let matches = |key: &str, pattern: FilterStatePattern| {
            FilterStateMatcher::build(&Config { key: key.into(), pattern }).unwrap().matches(&info)
        };
        let exact = |text: &str| {
            FilterStatePattern::String(StringConfig { pattern: StringPattern::Exact(text.into()), ignore_case: false })
        };
        let within = |range: &str, invert| FilterStatePattern::Address { ranges: vec![range.parse().unwrap()], invert };
        assert!(matches("key", exact("stream")) && !matches("key", exact("connection")));
        assert!(!matches("nothing", exact("")));
        assert!(matches("ip", within("10.0.0.0/8", false)) && !matches("ip", within("11.0.0.0/8", false)));
        assert!(!matches("ip", within("10.0.0.0/8", true)) && matches("ip", within("11.0.0.0/8", true)));
        assert!(!matches("key", within("10.0.0.0/8", true)), "no address");
    }
}
