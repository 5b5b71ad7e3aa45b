//! Malformed and ambiguous messages: each is refused, or goes on in exactly one reading.
//!
//! The messages are in text files beside this one, a row each: `= RULE`, the message as it is sent, and `> VERDICT`:
//!
//! - `> 400 DPE details` (any status): refused with this answer and this line in the access log;
//! - `> forwarded`, with `| lines`: what arrived at the other side, in these bytes;
//! - `> cut FLAGS details`: there is no clean end, and no answer beside what had left before;
//! - `> reset CODE FLAGS details`: the HTTP/2 stream is reset.
//!
//! Lines end in CR LF; `\` at the end of a line: there is none. Escapes are `\r`, `\n`, `\t`, `\0`, `\xHH`, `\\`. A rule that ends
//! in ` (alone)` has nothing behind it on its connection; all others are followed by a request that must be seen as
//! one of its own, or not at all. `UPDATE_ROWS=1` writes the details of verdicts anew; the kind of a verdict
//! stays, unless it is `any`, as new rows may have it.

mod http1;
mod http2;

use crate::fixture::Proxy;
use std::{fs, panic::AssertUnwindSafe, path::PathBuf, time::Duration};

/// A message and what comes of it.
struct Row {
    rule: String,
    message: Vec<u8>,
    verdict: String,
}

impl Row {
    /// Nothing follows it on its connection.
    fn is_alone(&self) -> bool {
        self.rule.ends_with(" (alone)")
    }

    /// The word that says what kind of verdict it is: a status is any refusal.
    fn kind(verdict: &str) -> &str {
        let word = verdict.split_ascii_whitespace().next().unwrap_or("");
        if word.parse::<u16>().is_ok() { "refused" } else { word }
    }
}

/// Runs `judge` on all rows of a file, of which there are at least so many.
fn run(file: &str, at_least: usize, judge: impl Fn(&Row) -> String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/http/bad_input").join(file);
    let text = fs::read_to_string(&path).unwrap();
    let (comment, rows) = parse(&text);
    assert!(rows.len() >= at_least, "{file} has {} rows", rows.len());
    let (mut wrong, mut out) = (Vec::new(), comment);
    for (source, row) in rows {
        // What a judge asserts is a finding about this row; the others are looked at all the same.
        let verdict = std::panic::catch_unwind(AssertUnwindSafe(|| judge(&row)))
            .unwrap_or_else(|_| "WRONG: see above".to_owned());
        if verdict != row.verdict {
            wrong.push(format!("= {}\nexpected {}\nbut was  {verdict}", row.rule, row.verdict));
        }
        let goes =
            if row.verdict == "any" || Row::kind(&verdict) == Row::kind(&row.verdict) { verdict } else { row.verdict };
        out.push_str(&format!("= {}\n{source}> {goes}\n\n", row.rule));
    }
    if std::env::var_os("UPDATE_ROWS").is_some() {
        fs::write(&path, out).unwrap();
    }
    assert!(wrong.is_empty(), "{} rows of {file}:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

/// What stands before the first row, and the rows, each with the text of its message.
fn parse(text: &str) -> (String, Vec<(String, Row)>) {
    let (comment, rest) = text.split_once("\n= ").expect("a row");
    let rows = rest.split("\n= ").map(|row| {
        let (rule, rest) = row.split_once('\n').expect("a rule");
        let (source, verdict) = rest.split_once("\n> ").unwrap_or_else(|| panic!("{rule}: no verdict"));
        let source = format!("{source}\n");
        let (rule, verdict) = (rule.to_owned(), verdict.trim_end().to_owned());
        (source.clone(), Row { rule, message: unescape(&source), verdict })
    });
    (format!("{comment}\n"), rows.collect())
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in text.lines() {
        let mut chars = line.chars();
        let mut ends = true;
        while let Some(c) = chars.next() {
            let special = if c == '\\' { chars.next() } else { None };
            ends &= c != '\\' || special.is_some();
            match (c, special) {
                ('\\', Some('r')) => out.push(b'\r'),
                ('\\', Some('n')) => out.push(b'\n'),
                ('\\', Some('t')) => out.push(b'\t'),
                ('\\', Some('0')) => out.push(0),
                ('\\', Some('\\')) => out.push(b'\\'),
                ('\\', Some('x')) => {
                    let digits: String = chars.by_ref().take(2).collect();
                    out.push(u8::from_str_radix(&digits, 16).unwrap());
                }
                ('\\', Some(other)) => panic!("\\{other} in {line:?}"),
                ('\\', None) => {}
                _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if ends {
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

/// A message in lines that a verdict can show, without the fields that are ours or differ each time.
fn show(bytes: &[u8]) -> String {
    const OURS: [&str; 6] = [
        "x-forwarded-proto:",
        "x-request-id:",
        "x-envoy-expected-rq-timeout-ms:",
        "x-envoy-upstream-service-time:",
        "date:",
        "server: envoy",
    ];
    let mut out = String::new();
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let text = line.strip_suffix(b"\r\n").unwrap_or(line);
        if OURS.iter().any(|ours| text.starts_with(ours.as_bytes())) {
            continue;
        }
        let text: String = text.iter().flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
        let text = text.replace("\\'", "'").replace("\\\"", "\"");
        let space = if text.is_empty() { "" } else { " " };
        out.push_str(&format!("\n|{space}{text}{}", if line.ends_with(b"\r\n") { "" } else { "\\" }));
    }
    out
}

/// What the access log says of the only stream, or of the first of two: without octets.
fn logged(proxy: &Proxy) -> String {
    let line = proxy.logged(1);
    line.rsplit_once(' ').expect("octets").0.to_owned()
}

/// An answer of ours has its cause in the access log.
fn refused(proxy: &Proxy, status: u16, rule: &str) -> String {
    let line = logged(proxy);
    let words: Vec<_> = line.split(' ').collect();
    assert_eq!((words.len(), words[0]), (3, status.to_string().as_str()), "{rule}: {line}");
    assert!(words[2] != "-" && words[2] != "via_upstream", "{rule}: no details in {line}");
    line
}

const PATIENCE: Duration = Duration::from_secs(5);
