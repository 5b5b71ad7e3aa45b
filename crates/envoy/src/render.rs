//! Errors as a compiler prints them: place, path, reason, the line and a mark under the column.

use sota_config::{ConfigErrors, Severity};
use std::fmt::Write;

/// The longest part of a source line that is shown, in characters; JSON often stands on a single line.
const SHOWN_WIDTH: usize = 120;

/// Every finding with its source line:
///
/// ```text
/// conf/x.yaml:14:11: static_resources.listeners[0]: unknown field "nam"; did you mean "name"?
///   14 |     - nam: main
///      |       ^
/// ```
///
/// Warnings carry the word `warning:` before the path. Findings without a place show no line. `text` is the file's
/// content as it was read; bytes that are not UTF-8 are shown as replacement characters.
pub fn render(errors: &ConfigErrors, file_name: &str, text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = if errors.0.iter().any(|e| e.mark.line > 0) { text.lines().collect() } else { Vec::new() };
    let mut out = String::new();
    for error in &errors.0 {
        let mark = error.mark;
        out.push_str(file_name);
        if mark.line > 0 {
            let _ = write!(out, ":{}:{}", mark.line, mark.column);
        }
        out.push_str(match error.severity {
            Severity::Error => ": ",
            Severity::Warning => ": warning: ",
        });
        let _ = writeln!(out, "{error}");
        let line = usize::try_from(mark.line).ok().and_then(|n| n.checked_sub(1)).and_then(|n| lines.get(n));
        if let Some(line) = line {
            show_line(&mut out, line, mark.line, mark.column as usize);
        }
    }
    out
}

/// The line, cut to a window around the column, and the mark below it.
fn show_line(out: &mut String, line: &str, number: u32, column: usize) {
    let line = line.trim_start_matches('\u{feff}');
    let column = column.max(1) - 1;
    let start = if column < SHOWN_WIDTH { 0 } else { column - SHOWN_WIDTH / 2 };
    let shown: String = line
        .chars()
        .skip(start)
        .take(SHOWN_WIDTH)
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect();
    let (before, after) =
        (if start > 0 { "…" } else { "" }, if line.chars().nth(start + SHOWN_WIDTH).is_some() { "…" } else { "" });
    let _ = writeln!(out, "{number:>4} | {before}{}{after}", shown.trim_end());
    let indent = column - start + before.chars().count();
    let _ = writeln!(out, "     | {:indent$}^", "");
}

#[cfg(test)]
mod tests {
    use super::render;
    use sota_config::{ConfigError, ConfigErrors, Mark};

    #[test]
    fn shows_place_line_and_mark() {
        let errors =
            ConfigErrors(vec![ConfigError::new("admin", Mark { line: 2, column: 3 }, "unknown field \"adress\"")]);
        assert_eq!(
            render(&errors, "conf/x.yaml", b"admin:\n  adress: 1\n"),
            "conf/x.yaml:2:3: admin: unknown field \"adress\"\n   2 |   adress: 1\n     |   ^\n"
        );
    }

    #[test]
    fn a_finding_without_a_place_shows_no_line() {
        let errors = ConfigErrors(vec![ConfigError::warning("", Mark::NONE, "odd")]);
        assert_eq!(render(&errors, "x.pb", b"\xff"), "x.pb: warning: odd\n");
    }

    #[test]
    fn a_long_line_is_cut_around_the_column() {
        let text = format!("{{\"a\": \"{}\", \"b\": 1}}", "x".repeat(10_000));
        let errors = ConfigErrors(vec![ConfigError::new("", Mark { line: 1, column: 10_011 }, "no")]);
        let shown = render(&errors, "x.json", text.as_bytes());
        assert!(shown.len() < 500, "{shown}");
        let (line, mark) = (shown.lines().nth(1).unwrap_or(""), shown.lines().nth(2).unwrap_or(""));
        let column = mark.chars().position(|c| c == '^').unwrap_or(0);
        assert_eq!(line.chars().nth(column), Some('"'), "{shown}");
    }

    #[test]
    fn a_column_beyond_the_line_does_no_harm() {
        let errors = ConfigErrors(vec![ConfigError::new("", Mark { line: 9, column: 900 }, "no")]);
        assert_eq!(render(&errors, "x", b"a\n"), "x:9:900: no\n");
    }
}
