//! Lines of the process's log as a pattern says: `--log-format`, `application_log_config.log_format`.
//!
//! The flags are spdlog's (<https://github.com/gabime/spdlog/wiki/3.-Custom-formatting>) and three of Envoy's: `%_` the
//! message with its line breaks escaped, `%j` the message escaped for a JSON string, `%*` further fields, of which there
//! are none. Times are UTC.
#![allow(unsafe_code, reason = "the number of a thread is asked from the system with gettid(2)")]

use jiff::{Timestamp, tz::TimeZone};
use std::fmt::Write;

/// What a line tells.
pub(crate) struct Entry<'a> {
    pub(crate) time: Timestamp,
    pub(crate) level: &'a str,
    pub(crate) component: &'a str,
    pub(crate) file: &'a str,
    pub(crate) line: u32,
    pub(crate) message: &'a str,
}

/// A pattern that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Flag { flag: char, pad: Pad },
}

/// `%8l`, `%-8l`, `%=8l`, and with `!` behind the number what is longer is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Pad {
    width: usize,
    side: Side,
    truncate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Side {
    /// Spaces go before it.
    #[default]
    Right,
    Left,
    Center,
}

/// Flags that `strftime` knows by the same letters.
const OF_TIME: &str = "aAbhBYmdHIMSpRTD";
/// The others. `^` and `$` begin and end colours, of which there are none.
const OTHERS: &str = "vtPnlLcCxefFErXzsg#@!o%+^$_j*iuO";
/// A wider field is no use to anybody (spdlog has the same limit).
const MAX_WIDTH: usize = 64;

impl Pattern {
    /// Reads a pattern. A flag that is not known is an error.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            if c != '%' {
                literal.push(c);
                continue;
            }
            let side = match rest.peek() {
                Some('-') => Some(Side::Left),
                Some('=') => Some(Side::Center),
                _ => None,
            };
            if side.is_some() {
                rest.next();
            }
            let mut pad = Pad { side: side.unwrap_or_default(), ..Pad::default() };
            while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
                pad.width = (pad.width * 10 + digit as usize).min(MAX_WIDTH);
                rest.next();
            }
            if pad.width > 0 && rest.peek() == Some(&'!') {
                pad.truncate = true;
                rest.next();
            }
            match rest.next() {
                Some('%') => literal.push('%'),
                Some(flag) if OF_TIME.contains(flag) || OTHERS.contains(flag) => {
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Flag { flag, pad });
                }
                Some(flag) => return Err(format!("the log format has the unknown flag \"%{}\"", flag.escape_debug())),
                None => return Err("the log format ends with \"%\"".to_owned()),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }

    /// The same, with line breaks in messages escaped (`--log-format-escaped`).
    #[must_use]
    pub fn escaped(mut self) -> Self {
        for part in &mut self.0 {
            if let Part::Flag { flag: flag @ 'v', .. } = part {
                *flag = '_';
            }
        }
        self
    }

    /// A line, with its end.
    pub(crate) fn line(&self, entry: &Entry<'_>) -> String {
        let mut out = String::with_capacity(128);
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Flag { flag, pad } => {
                    let from = out.len();
                    write_flag(*flag, entry, &mut out);
                    pad.apply(&mut out, from);
                }
            }
        }
        out.push('\n');
        out
    }
}

impl Pad {
    fn apply(self, out: &mut String, from: usize) {
        if self.width == 0 {
            return;
        }
        let written = out.split_off(from);
        let length = written.chars().count();
        let missing = self.width.saturating_sub(length);
        let before = match self.side {
            Side::Right => missing,
            Side::Left => 0,
            Side::Center => missing / 2,
        };
        out.extend(std::iter::repeat_n(' ', before));
        if self.truncate && length > self.width {
            out.extend(written.chars().take(self.width));
        } else {
            out.push_str(&written);
        }
        out.extend(std::iter::repeat_n(' ', missing - before));
    }
}

fn write_flag(flag: char, entry: &Entry<'_>, out: &mut String) {
    let time = |format: &str| entry.time.to_zoned(TimeZone::UTC).strftime(format).to_string();
    let nanos = entry.time.subsec_nanosecond().unsigned_abs();
    let _ = match flag {
        'v' => out.write_str(entry.message),
        '_' => out.write_str(&entry.message.replace('\n', "\\n")),
        'j' => {
            let quoted = serde_json::Value::from(entry.message).to_string();
            out.write_str(quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default())
        }
        'n' => out.write_str(entry.component),
        'l' => out.write_str(entry.level),
        'L' => out.write_str(entry.level.get(..1).unwrap_or_default().to_ascii_uppercase().as_str()),
        't' => write!(out, "{}", thread_id()),
        'P' => write!(out, "{}", std::process::id()),
        'c' => out.write_str(&time("%a %b %e %H:%M:%S %Y")),
        'C' => out.write_str(&time("%y")),
        'x' => out.write_str(&time("%m/%d/%y")),
        'r' => out.write_str(&time("%I:%M:%S %p")),
        'X' => out.write_str(&time("%H:%M:%S")),
        'z' => out.write_str("+00:00"),
        'e' => write!(out, "{:03}", nanos / 1_000_000),
        'f' => write!(out, "{:06}", nanos / 1_000),
        'F' => write!(out, "{nanos:09}"),
        'E' => write!(out, "{}", entry.time.as_second()),
        's' => out.write_str(entry.file.rsplit('/').next().unwrap_or_default()),
        'g' => out.write_str(entry.file),
        '#' => write!(out, "{}", entry.line),
        '@' => write!(out, "{}:{}", entry.file, entry.line),
        '+' => {
            let at = time("%Y-%m-%d %H:%M:%S%.3f");
            write!(out, "[{at}] [{}] [{}] {}", entry.component, entry.level, entry.message)
        }
        // Functions have no names here, the time since the last line is not kept, and colours are not there.
        '!' | 'o' | 'i' | 'u' | 'O' | '^' | '$' | '*' => Ok(()),
        other => out.write_str(&time(&format!("%{other}"))),
    };
}

/// The number that the system knows the thread by.
fn thread_id() -> i32 {
    // SAFETY: gettid has no arguments and cannot fail.
    unsafe { libc::gettid() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pattern: &str, message: &str) -> String {
        Pattern::parse(pattern).unwrap().line(&Entry {
            time: "2026-02-03T04:05:06.007008009Z".parse().unwrap(),
            level: "warning",
            component: "http",
            file: "crates/a/src/b.rs",
            line: 7,
            message,
        })
    }

    #[test]
    fn the_pattern_that_istio_sends() {
        let text = line("%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t", "hello");
        let (before, thread) = text.split_once("thread=").unwrap();
        assert_eq!(before, "2026-02-03T04:05:06.007008Z\twarning\tenvoy http crates/a/src/b.rs:7\thello\t");
        assert!(thread.trim_end().parse::<i32>().unwrap() > 0);
    }

    #[test]
    fn flags() {
        for (pattern, expected) in [
            ("%e %f %F %E", "007 007008 007008009 1770091506"),
            (
                "%c|%C|%x|%D|%r|%R|%X|%z",
                "Tue Feb  3 04:05:06 2026|26|02/03/26|02/03/26|04:05:06 AM|04:05|04:05:06|+00:00",
            ),
            ("%L %s %@", "W b.rs crates/a/src/b.rs:7"),
            ("[%8n][%-8n][%=8n][%2!n][%2n]", "[    http][http    ][  http  ][ht][http]"),
            ("100%% %^%v%$", "100% a\n\"b\""),
            ("%_", "a\\n\"b\""),
            ("{\"m\":\"%j\"}", "{\"m\":\"a\\n\\\"b\\\"\"}"),
        ] {
            assert_eq!(line(pattern, "a\n\"b\""), format!("{expected}\n"), "{pattern}");
        }
        assert_eq!(Pattern::parse("%v").unwrap().escaped(), Pattern::parse("%_").unwrap());
    }

    #[test]
    fn what_is_no_flag_is_refused() {
        for pattern in ["%q", "%", "%-8", "%8!", "%é"] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
