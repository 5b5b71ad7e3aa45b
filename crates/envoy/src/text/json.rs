//! JSON (RFC 8259), strictly: no comments, no trailing commas, and duplicate keys are refused.

use super::builder::Builder;
use sota_config::{ConfigError, Mark, Node, Value};
use std::borrow::Cow;

/// Reads one document.
pub(super) fn parse(text: &str) -> Result<Node, ConfigError> {
    let mut reader = Reader { text, at: 0, place: Place { at: 0, line: 1, column: 1 }, builder: Builder::default() };
    reader.document()?;
    Ok(reader.builder.into_root())
}

/// The last place that was asked for; the next one is counted from there.
struct Place {
    at: usize,
    line: u32,
    column: u32,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    place: Place,
    builder: Builder,
}

/// What encloses the reader.
#[derive(Clone, Copy, PartialEq)]
enum Inside {
    Map,
    List,
}

impl<'a> Reader<'a> {
    /// A loop over values, with the open brackets on a list of their own: nesting costs no stack.
    fn document(&mut self) -> Result<(), ConfigError> {
        let mut open: Vec<Inside> = Vec::new();
        loop {
            // A value begins here, unless its map or list ends at once.
            self.skip_space();
            let mark = self.mark();
            let mut complete = true;
            match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    self.builder.begin_map(mark, 0)?;
                    open.push(Inside::Map);
                    complete = self.close_if_empty(b'}', &mut open)?;
                    if !complete {
                        self.key()?;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    self.builder.begin_list(mark, 0)?;
                    open.push(Inside::List);
                    complete = self.close_if_empty(b']', &mut open)?;
                }
                Some(b'"') => {
                    let text = self.string()?;
                    self.builder.scalar(Value::String(text.as_ref().into()), mark, 0)?;
                }
                Some(b'-' | b'0'..=b'9') => {
                    let value = self.number()?;
                    self.builder.scalar(value, mark, 0)?;
                }
                _ => {
                    let value = self.word()?;
                    self.builder.scalar(value, mark, 0)?;
                }
            }
            if complete && !self.after_value(&mut open)? {
                break;
            }
        }
        self.skip_space();
        if self.at < self.text.len() { Err(self.error("something follows the end of the document")) } else { Ok(()) }
    }

    /// After a value: closes what ends here. True when another value follows.
    fn after_value(&mut self, open: &mut Vec<Inside>) -> Result<bool, ConfigError> {
        while let Some(&inside) = open.last() {
            self.skip_space();
            match (inside, self.peek()) {
                (Inside::Map, Some(b'}')) | (Inside::List, Some(b']')) => {
                    self.at += 1;
                    self.builder.end()?;
                    open.pop();
                }
                (Inside::Map, Some(b',')) => {
                    self.at += 1;
                    self.skip_space();
                    self.key()?;
                    return Ok(true);
                }
                (Inside::List, Some(b',')) => {
                    self.at += 1;
                    return Ok(true);
                }
                (Inside::Map, _) => return Err(self.error("\",\" or \"}\" is expected here")),
                (Inside::List, _) => return Err(self.error("\",\" or \"]\" is expected here")),
            }
        }
        Ok(false)
    }

    fn close_if_empty(&mut self, bracket: u8, open: &mut Vec<Inside>) -> Result<bool, ConfigError> {
        self.skip_space();
        if self.peek() != Some(bracket) {
            return Ok(false);
        }
        self.at += 1;
        self.builder.end()?;
        open.pop();
        Ok(true)
    }

    fn key(&mut self) -> Result<(), ConfigError> {
        let mark = self.mark();
        if self.peek() != Some(b'"') {
            return Err(self.error("a key in quotes is expected here"));
        }
        let key = self.string()?;
        self.builder.key(&key, mark)?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.error("\":\" is expected here"));
        }
        self.at += 1;
        Ok(())
    }

    /// A string, from its opening quote on; borrowed when nothing in it is escaped.
    fn string(&mut self) -> Result<Cow<'a, str>, ConfigError> {
        self.at += 1;
        let mut out = Cow::Borrowed("");
        loop {
            let rest = self.text.get(self.at..).unwrap_or("");
            let Some(end) = rest.bytes().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f)) else {
                self.at = self.text.len();
                return Err(self.error("the text ends inside a string"));
            };
            let plain = rest.get(..end).unwrap_or("");
            if out.is_empty() {
                out = Cow::Borrowed(plain);
            } else {
                out.to_mut().push_str(plain);
            }
            self.at += end;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    let c = self.escape()?;
                    out.to_mut().push(c);
                }
                _ => return Err(self.error("a string must not contain a line break or tab; write \\n or \\t")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, ConfigError> {
        let c = self.text.as_bytes().get(self.at + 1).copied();
        let plain = match c {
            Some(c @ (b'"' | b'\\' | b'/')) => char::from(c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.error("there is no such escape in JSON")),
        };
        self.at += 2;
        Ok(plain)
    }

    /// `\u0041`, or a surrogate pair.
    fn unicode_escape(&mut self) -> Result<char, ConfigError> {
        let unit = |at: usize| -> Option<u32> {
            let digits = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
            if digits.bytes().all(|b| b.is_ascii_hexdigit()) { u32::from_str_radix(digits, 16).ok() } else { None }
        };
        let first = unit(self.at).ok_or_else(|| self.error("four hexadecimal digits are expected after \\u"))?;
        let (code, length) = match (first, unit(self.at + 6)) {
            (0xd800..=0xdbff, Some(second @ 0xdc00..=0xdfff)) => {
                (0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00), 12)
            }
            _ => (first, 6),
        };
        let c = char::from_u32(code).ok_or_else(|| self.error("half of a surrogate pair"))?;
        self.at += length;
        Ok(c)
    }

    fn number(&mut self) -> Result<Value, ConfigError> {
        let rest = self.text.get(self.at..).unwrap_or("");
        let end = rest
            .bytes()
            .position(|b| !matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
            .unwrap_or(rest.len());
        let text = rest.get(..end).unwrap_or("");
        let digits = text.strip_prefix('-').unwrap_or(text);
        let leading_zero =
            digits.len() > 1 && digits.starts_with('0') && digits.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        let value = if leading_zero || !digits.starts_with(|c: char| c.is_ascii_digit()) || digits.ends_with('.') {
            None
        } else if let Ok(n) = text.parse::<i64>() {
            Some(Value::Int(n))
        } else if let Ok(n) = text.parse::<u64>() {
            Some(Value::UInt(n))
        } else {
            text.parse::<f64>()
                .ok()
                .filter(|n| n.is_finite() && !text.contains(".e") && !text.contains(".E"))
                .map(Value::Float)
        };
        let value = value.ok_or_else(|| self.error("this is not a number of JSON"))?;
        self.at += end;
        Ok(value)
    }

    fn word(&mut self) -> Result<Value, ConfigError> {
        let rest = self.text.get(self.at..).unwrap_or("");
        for (word, value) in [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)] {
            if let Some(after) = rest.strip_prefix(word)
                && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_')
            {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.error(if rest.is_empty() { "the text ends too early" } else { "a value is expected here" }))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn mark(&mut self) -> Mark {
        for c in self.text.get(self.place.at..self.at).unwrap_or("").chars() {
            if c == '\n' {
                self.place.line += 1;
                self.place.column = 1;
            } else {
                self.place.column += 1;
            }
        }
        self.place.at = self.at;
        Mark { line: self.place.line, column: self.place.column }
    }

    fn error(&self, reason: &str) -> ConfigError {
        let mark = super::mark_at(self.text.as_bytes(), self.at);
        ConfigError::new(self.builder.path(), mark, format!("this is not JSON: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use sota_config::{Node, Value};

    fn value(text: &str) -> Value {
        let node = parse(&format!("{{\"a\": {text}}}")).unwrap_or_else(|e| panic!("{text}: {e}"));
        node.get("a").map_or(Value::Null, |n| n.value.clone())
    }

    #[test]
    fn reads_every_kind_of_value() {
        assert_eq!(value("-12"), Value::Int(-12));
        assert_eq!(value("18446744073709551615"), Value::UInt(u64::MAX));
        assert_eq!(value("1.5e3"), Value::Float(1500.0));
        assert_eq!(value("true"), Value::Bool(true));
        assert_eq!(value("null"), Value::Null);
        assert_eq!(value(r#""a\/\u0041\ud83d\ude00\n""#), Value::String("a/A😀\n".into()));
        assert_eq!(value("[ ]"), Value::List(Vec::new()));
        assert_eq!(value("{ }"), Value::Map(Vec::new()));
        assert_eq!(value("[1, [2, {\"b\": []}], 3]"), {
            let inner = Node::new(Value::Map(vec![("b".into(), Node::new(Value::List(Vec::new())))]));
            let pair = Node::new(Value::List(vec![Node::new(Value::Int(2)), inner]));
            Value::List(vec![Node::new(Value::Int(1)), pair, Node::new(Value::Int(3))])
        });
    }

    #[test]
    fn refuses_what_is_not_json() {
        for text in [
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,}",
            "[1,]",
            "{a:1}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":.5}",
            "{\"a\":+1}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\n\"}",
            "{\"a\":tru}",
            "{\"a\":truex}",
            "{} {}",
            "{\"a\":1 \"b\":2}",
            "[1 2]",
            "[}",
            "{]",
            "\"\\u12",
            "{\"a\":1e999}",
            "{\"a\":--1}",
            "{\"a\":1.e5}",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn duplicate_keys_are_told_with_their_place() {
        let error = parse("{\"a\": {\"b\": 1,\n \"b\": 2}}").expect_err("twice");
        assert_eq!((error.mark.line, error.mark.column), (2, 2));
        assert_eq!(error.to_string(), "a: the key \"b\" is given twice");
    }

    #[test]
    fn columns_count_characters() {
        let node = parse("{\"é\": 1, \"b\": 2}").expect("JSON");
        assert_eq!(node.field("b").mark.column, 10);
    }
}
