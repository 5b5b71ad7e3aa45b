//! From RE2's syntax to that of the `regex` crate, which is nearly the same.
//!
//! The differences that matter: RE2's `\d`, `\s`, `\w` and `\b` mean ASCII; a `{` that begins no repetition is an
//! ordinary character (paths such as `/users/{id}`); in a class `[`, `&&`, `--` and `~~` are ordinary; `\Q…\E`
//! quotes; a count is at most 1000; and there are no flags but `i`, `m`, `s` and `U`.

use std::{iter::Peekable, str::CharIndices};

type Chars<'a> = Peekable<CharIndices<'a>>;

/// RE2's largest repetition count.
const MAX_COUNT: u32 = 1000;

/// The pattern in the syntax of the `regex` crate. What is invalid in both comes out as it is.
pub(super) fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => escape(&mut chars, false, &mut out)?,
            '[' => class(&mut chars, &mut out)?,
            '{' => {
                let rest = pattern.get(at + 1..).unwrap_or_default();
                match repetition(rest)? {
                    true => out.push('{'),
                    false => out.push_str("\\{"),
                }
            }
            '(' => {
                out.push('(');
                check_flags(pattern.get(at + 1..).unwrap_or_default())?;
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

/// What follows a backslash.
fn escape(chars: &mut Chars<'_>, in_class: bool, out: &mut String) -> Result<(), String> {
    let Some((_, c)) = chars.next() else { return Err("trailing \\".to_owned()) };
    let text = match c {
        'd' if in_class => "0-9",
        's' if in_class => "\\t\\n\\f\\r ",
        'w' if in_class => "0-9A-Za-z_",
        'd' => "[0-9]",
        's' => "[\\t\\n\\f\\r ]",
        'w' => "[0-9A-Za-z_]",
        // A class within a class is fine with the `regex` crate.
        'D' => "[^0-9]",
        'S' => "[^\\t\\n\\f\\r ]",
        'W' => "[^0-9A-Za-z_]",
        'b' if !in_class => "(?-u:\\b)",
        'B' if !in_class => "(?-u:\\B)",
        // Any octet, even of what is not UTF-8.
        'C' if !in_class => "(?s-u:.)",
        '0'..='7' => return octal(c, chars, out),
        'Q' => {
            quoted(chars, out);
            return Ok(());
        }
        _ => {
            // In the `regex` crate `\<` and `\>` are anchors of words, which RE2 does not know.
            if !matches!(c, '<' | '>') {
                out.push('\\');
            }
            out.push(c);
            return Ok(());
        }
    };
    out.push_str(text);
    Ok(())
}

/// `\0`, `\01`, `\123`: a character by its number in octal. A lone digit but 0 would be a back reference, which RE2 does
/// not have either.
fn octal(first: char, chars: &mut Chars<'_>, out: &mut String) -> Result<(), String> {
    let mut number = first.to_digit(8).unwrap_or_default();
    let mut more = 0;
    while let Some(digit) = chars.peek().and_then(|(_, c)| c.to_digit(8)).filter(|_| more < 2) {
        number = number * 8 + digit;
        more += 1;
        chars.next();
    }
    if more == 0 && first != '0' {
        return Err(format!("invalid escape sequence: \\{first}"));
    }
    out.push_str(&format!("\\x{{{number:X}}}"));
    Ok(())
}

/// Literal text up to `\E` or the end.
fn quoted(chars: &mut Chars<'_>, out: &mut String) {
    while let Some((_, c)) = chars.next() {
        if c == '\\' && chars.next_if(|(_, next)| *next == 'E').is_some() {
            return;
        }
        literal(c, out);
    }
}

fn literal(c: char, out: &mut String) {
    if c.is_ascii_punctuation() {
        out.push('\\');
    }
    out.push(c);
}

/// A class, behind its `[`.
fn class(chars: &mut Chars<'_>, out: &mut String) -> Result<(), String> {
    out.push('[');
    if chars.next_if(|(_, c)| *c == '^').is_some() {
        out.push('^');
    }
    // How much of a range stands before the next item: nothing, its first character, or that and the dash.
    let mut range = Range::None;
    if chars.next_if(|(_, c)| *c == ']').is_some() {
        out.push_str("\\]");
        range = Range::Start;
    }
    while let Some((_, c)) = chars.next() {
        let mut is_character = true;
        match c {
            ']' => {
                out.push(']');
                return Ok(());
            }
            '-' if range == Range::Start && chars.peek().is_some_and(|(_, next)| *next != ']') => {
                out.push('-');
                range = Range::Dash;
                continue;
            }
            '\\' => {
                is_character = !chars.peek().is_some_and(|(_, c)| matches!(c, 'd' | 'D' | 's' | 'S' | 'w' | 'W'));
                escape(chars, true, out)?;
            }
            '[' if chars.peek().is_some_and(|(_, next)| *next == ':') => {
                is_character = false;
                out.push('[');
                // `[:alpha:]` up to its own bracket.
                for (_, c) in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            '[' | '&' | '~' | '-' => literal(c, out),
            _ => out.push(c),
        }
        range = if is_character && range != Range::Dash { Range::Start } else { Range::None };
    }
    // No end: the compiler says so.
    Ok(())
}

#[derive(PartialEq)]
enum Range {
    None,
    Start,
    Dash,
}

/// Whether what follows a `{` makes it a repetition: `n}`, `n,}` or `n,m}`.
fn repetition(rest: &str) -> Result<bool, String> {
    let Some((counts, _)) = rest.split_once('}') else { return Ok(false) };
    let (low, high) = counts.split_once(',').unwrap_or((counts, ""));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(low) || !(high.is_empty() || is_number(high)) {
        return Ok(false);
    }
    for count in [low, high] {
        if !count.is_empty() && count.parse::<u32>().map_or(true, |n| n > MAX_COUNT) {
            return Err(format!("bad repetition operator: {{{counts}}}"));
        }
    }
    Ok(true)
}

/// What follows a `(`: flags that RE2 does not know are refused.
fn check_flags(rest: &str) -> Result<(), String> {
    let Some(rest) = rest.strip_prefix('?') else { return Ok(()) };
    let Some((flags, _)) = rest.split_once([':', ')']) else { return Ok(()) };
    match flags.chars().find(|c| matches!(c, 'u' | 'x' | 'R')) {
        Some(flag) if flags.chars().all(|c| c.is_ascii_alphabetic() || c == '-') => {
            Err(format!("invalid or unsupported flag: {flag}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_translated() {
        for (re2, expected) in [
            ("/a(b|c)*[^d]+?$", "/a(b|c)*[^d]+?$"),
            ("\\d+\\w\\s\\D", "[0-9]+[0-9A-Za-z_][\\t\\n\\f\\r ][^0-9]"),
            ("[\\d\\-\\W]", "[0-9\\-[^0-9A-Za-z_]]"),
            ("\\bx\\B", "(?-u:\\b)x(?-u:\\B)"),
            ("/users/{id}", "/users/\\{id}"),
            ("a{2}b{2,}c{2,3}d{,3}e{", "a{2}b{2,}c{2,3}d\\{,3}e\\{"),
            ("\\Qa.b{\\E.c\\Q+", "a\\.b\\{.c\\+"),
            ("\\C\\0\\101[\\12-\\13]", "(?s-u:.)\\x{0}\\x{41}[\\x{A}-\\x{B}]"),
            ("[[a]", "[\\[a]"),
            ("[]a]", "[\\]a]"),
            ("[^]a]", "[^\\]a]"),
            ("[[:alpha:]&&~~--]", "[[:alpha:]\\&\\&\\~\\~-\\-]"),
            ("(?i)(?P<n>x)(?U:y)(?s-m:z)", "(?i)(?P<n>x)(?U:y)(?s-m:z)"),
        ] {
            assert_eq!(translate(re2).as_deref(), Ok(expected), "{re2}");
        }
    }

    #[test]
    fn translated_classes_mean_what_they_mean_in_re2() {
        for (re2, good, bad) in [
            ("[a&&b]+", &["a", "&&", "b"][..], &["", "c"][..]),
            ("[[a]]", &["[]", "a]"], &["[", "a"]),
            ("[--/]", &["-", ".", "/"], &[",", "0"]),
            ("[a-c-e]", &["a", "b", "-", "e"], &["d"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[\\d-x]", &["1", "-", "x"], &["a"]),
            ("[^\\d]", &["a", "٣"], &["1"]),
            ("\\d", &["1"], &["٣"]),
            ("\\w+", &["a_1"], &["ä"]),
            (".", &["ä", "a"], &["\n", "ab"]),
            ("{id}", &["{id}"], &["id"]),
            ("(?i)ä", &["Ä", "ä"], &["a"]),
            ("\\_\\/\\-", &["_/-"], &["_/"]),
        ] {
            let regex = super::super::Regex::build(re2).unwrap();
            for text in good {
                assert!(regex.matches(text.as_bytes()), "{re2} {text}");
            }
            for text in bad {
                assert!(!regex.matches(text.as_bytes()), "{re2} {text}");
            }
        }
    }

    #[test]
    fn what_re2_refuses_is_refused() {
        for (re2, reason) in [
            ("a{1001}", "bad repetition operator: {1001}"),
            ("a{1,99999999999}", "bad repetition operator: {1,99999999999}"),
            ("(?x)a b", "invalid or unsupported flag: x"),
            ("(?iu:a)", "invalid or unsupported flag: u"),
            ("a\\", "trailing \\"),
            ("\\1", "invalid escape sequence: \\1"),
        ] {
            assert_eq!(translate(re2).unwrap_err(), reason, "{re2}");
        }
        assert!(translate("(?P<user>a)").is_ok());
    }
}
