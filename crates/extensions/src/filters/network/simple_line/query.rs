//! Query strings as Go's `url.ParseQuery` reads them, and as Go prints the result.

use super::quote::quote;
use std::{collections::BTreeMap, fmt};

/// Values by key, keys in the order of their bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Values(BTreeMap<Vec<u8>, Vec<Vec<u8>>>);

impl Values {
    /// The first value of a key.
    pub(super) fn into_first(mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.remove(key)?.into_iter().next()
    }
}

/// Why a query cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ParseError {
    /// `%` without two hexadecimal digits; up to three octets of what stands there.
    Escape(Vec<u8>),
    /// `;` separated pairs once and is refused now.
    Semicolon,
}

/// As Go words them.
impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Escape(text) => write!(f, "invalid URL escape {}", quote(text)),
            Self::Semicolon => f.write_str("invalid semicolon separator in query"),
        }
    }
}

/// As Go's `%#v` prints `url.Values`.
impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("url.Values{")?;
        for (at, (key, values)) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{}:[]string{{", quote(key))?;
            for (at, value) in values.iter().enumerate() {
                let comma = if at > 0 { ", " } else { "" };
                write!(f, "{comma}{}", quote(value))?;
            }
            f.write_str("}")?;
        }
        f.write_str("}")
    }
}

/// Reads a query. The first bad pair is the error, whatever else is good.
pub(super) fn parse_query(query: &[u8]) -> Result<Values, ParseError> {
    let mut values = Values::default();
    let mut first_error = None;
    for pair in query.split(|c| *c == b'&').filter(|pair| !pair.is_empty()) {
        match parse_pair(pair) {
            Ok((key, value)) => values.0.entry(key).or_default().push(value),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(values), Err)
}

fn parse_pair(pair: &[u8]) -> Result<(Vec<u8>, Vec<u8>), ParseError> {
    if pair.contains(&b';') {
        return Err(ParseError::Semicolon);
    }
    let (key, value) = match pair.iter().position(|c| *c == b'=') {
        Some(at) => (pair.get(..at).unwrap_or_default(), pair.get(at + 1..).unwrap_or_default()),
        None => (pair, &[][..]),
    };
    Ok((unescape(key)?, unescape(value)?))
}

/// `+` is a space, `%XX` an octet.
fn unescape(text: &[u8]) -> Result<Vec<u8>, ParseError> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&c, tail)) = rest.split_first() {
        rest = tail;
        match c {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |at: usize| tail.get(at).and_then(|c| char::from(*c).to_digit(16));
                let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                    let shown = tail.get(..2).unwrap_or(tail);
                    return Err(ParseError::Escape([b"%", shown].concat()));
                };
                out.push((high * 16 + low) as u8);
                rest = tail.get(2..).unwrap_or_default();
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(query: &[u8]) -> String {
        match parse_query(query) {
            Ok(values) => values.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn as_the_original_answered() {
        for (query, expected) in [
            (&b"a=1&b=2"[..], r#"url.Values{"a":[]string{"1"}, "b":[]string{"2"}}"#),
            (b"", "url.Values{}"),
            (b"&&", "url.Values{}"),
            (b"a=1&a=2&c", r#"url.Values{"a":[]string{"1", "2"}, "c":[]string{""}}"#),
            (b"z=1&a=2", r#"url.Values{"a":[]string{"2"}, "z":[]string{"1"}}"#),
            (b"a=b+c%20d&=v&x=", r#"url.Values{"":[]string{"v"}, "a":[]string{"b c d"}, "x":[]string{""}}"#),
            (b"a=%E4%BD%A0%00%ff\"\\", r#"url.Values{"a":[]string{"你\x00\xff\"\\"}}"#),
            (b"a=b=c", r#"url.Values{"a":[]string{"b=c"}}"#),
            (b"a=%zz", r#"invalid URL escape "%zz""#),
            (b"a=%z", r#"invalid URL escape "%z""#),
            (b"a=%", r#"invalid URL escape "%""#),
            (b"b=1&a=%zzy&c=;", r#"invalid URL escape "%zz""#),
            (b"a=1;b=2", "invalid semicolon separator in query"),
        ] {
            assert_eq!(shown(query), expected, "{}", query.escape_ascii());
        }
    }
}
