//! URI templates of paths: `/api/{version}/{rest=**}` (`envoy.path.match.uri_template.uri_template_matcher` and its
//! rewriter). They become regular expressions, each variable a group.

use super::{Regex, RegexSubstitution};
use sota_config::ConfigError;
use std::fmt::Write;

/// What a glob takes of a path segment, as a character class: `pchar` of RFC 3986. Literals may have the same but `*`
/// and `=`.
const SEGMENT: &str = "-a-zA-Z0-9._~%!$&'()*+,;=:@";
const MAX_VARIABLES: usize = 5;
const MAX_NAME: usize = 16;

/// A template, parsed.
#[derive(Debug)]
pub struct UriTemplate {
    /// Its regular expression, without anchors.
    pattern: String,
    /// Its variables in the order of their groups.
    variables: Vec<String>,
}

impl UriTemplate {
    /// Fails with the reason for which this is no template.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix('/').ok_or("a template begins with \"/\"")?;
        if !text.bytes().all(|c| c.is_ascii_graphic()) {
            return Err("a template holds only printable ASCII characters".to_owned());
        }
        let mut template = Self { pattern: "/".to_owned(), variables: Vec::new() };
        let mut globs = Globs::default();
        let mut rest = rest;
        while let Some(first) = rest.chars().next() {
            rest = match first {
                '/' => {
                    template.pattern.push('/');
                    let after = rest.get(1..).unwrap_or_default();
                    if after.starts_with('/') {
                        return Err("there is nothing between two slashes".to_owned());
                    }
                    after
                }
                '{' => template.variable(rest, &mut globs)?,
                '*' => template.glob(rest, &mut globs)?,
                _ => template.literal(rest, &['/', '{', '*'])?,
            };
        }
        Ok(template)
    }

    /// The matcher of whole paths.
    pub fn matcher(&self) -> Result<Regex, ConfigError> {
        Regex::build(&self.pattern)
    }

    /// What makes a new path of one that matches: `rewrite` is text with variables in braces.
    pub fn rewriter(&self, rewrite: &str) -> Result<RegexSubstitution, String> {
        if !rewrite.starts_with('/') || rewrite.contains("//") {
            return Err("it has to begin with a slash and must not have two in a row".to_owned());
        }
        let mut substitution = String::new();
        let mut rest = rewrite;
        while !rest.is_empty() {
            let (literal, variable) = rest.split_once('{').map_or((rest, None), |(text, after)| (text, Some(after)));
            if !literal.bytes().all(|c| c == b'/' || is_literal(c)) {
                return Err(format!("\"{literal}\" has characters that cannot stand in a path"));
            }
            substitution.push_str(literal);
            let Some(variable) = variable else { break };
            let (name, after) = variable.split_once('}').ok_or("a brace is not closed")?;
            let group = self.variables.iter().position(|known| known == name);
            let group = group.ok_or_else(|| format!("the path's template has no variable \"{name}\""))?;
            // At most five variables: one digit.
            let _ = write!(substitution, "\\{}", group + 1);
            rest = after;
        }
        RegexSubstitution::build(&format!("\\A(?:{})\\z", self.pattern), &substitution).map_err(|error| error.reason)
    }

    fn literal<'a>(&mut self, text: &'a str, ends: &[char]) -> Result<&'a str, String> {
        let end = text.find(ends).unwrap_or(text.len());
        let (literal, rest) = text.split_at_checked(end).unwrap_or((text, ""));
        if literal.is_empty() || !literal.bytes().all(is_literal) {
            return Err(format!("\"{literal}\" cannot stand in a path"));
        }
        for c in literal.chars() {
            if "$().+".contains(c) {
                self.pattern.push('\\');
            }
            self.pattern.push(c);
        }
        Ok(rest)
    }

    /// `*`: one segment. `**`: any number of them, after which no other glob may stand.
    fn glob<'a>(&mut self, text: &'a str, globs: &mut Globs) -> Result<&'a str, String> {
        let is_text = text.starts_with("**");
        globs.add(is_text)?;
        self.push_glob(is_text);
        Ok(text.get(1 + usize::from(is_text)..).unwrap_or_default())
    }

    fn push_glob(&mut self, is_text: bool) {
        // Writing into a string does not fail.
        let _ = match is_text {
            true => write!(self.pattern, "[{SEGMENT}/]*"),
            false => write!(self.pattern, "[{SEGMENT}]+"),
        };
    }

    /// `{name}` or `{name=pattern}`.
    fn variable<'a>(&mut self, text: &'a str, globs: &mut Globs) -> Result<&'a str, String> {
        let (inside, rest) = text.get(1..).and_then(|text| text.split_once('}')).ok_or("a brace is not closed")?;
        let (name, pattern) = inside.split_once('=').map_or((inside, None), |(name, text)| (name, Some(text)));
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
            && name.len() <= MAX_NAME;
        if !is_name {
            return Err(format!("\"{name}\" is no name of a variable"));
        }
        if self.variables.iter().any(|known| known == name) {
            return Err(format!("the variable \"{name}\" stands there twice"));
        }
        if self.variables.len() == MAX_VARIABLES {
            return Err(format!("there are more than {MAX_VARIABLES} variables"));
        }
        self.variables.push(name.to_owned());
        self.pattern.push('(');
        match pattern {
            None => {
                globs.add(false)?;
                self.push_glob(false);
            }
            Some(pattern) => self.variable_pattern(pattern, globs)?,
        }
        self.pattern.push(')');
        Ok(rest)
    }

    fn variable_pattern(&mut self, pattern: &str, globs: &mut Globs) -> Result<(), String> {
        for (number, segment) in pattern.split('/').enumerate() {
            if number > 0 {
                self.pattern.push('/');
            }
            let rest = match segment.starts_with('*') {
                true => self.glob(segment, globs)?,
                false => self.literal(segment, &['/'])?,
            };
            if !rest.is_empty() {
                return Err(format!("\"{pattern}\" is no pattern of a variable"));
            }
        }
        Ok(())
    }
}

/// The globs so far.
#[derive(Default)]
struct Globs {
    has_text: bool,
}

impl Globs {
    fn add(&mut self, is_text: bool) -> Result<(), String> {
        if self.has_text {
            return Err("no other glob may follow \"**\"".to_owned());
        }
        self.has_text = is_text;
        Ok(())
    }
}

fn is_literal(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@".contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_a_template_can_be_matched(text in "/[a{}=*/.(+$~%]{0,12}", rewrite in "/[a{}/.]{0,8}") {
            if let Ok(template) = UriTemplate::parse(&text) {
                let regex = template.matcher().unwrap();
                if let Ok(rewriter) = template.rewriter(&rewrite)
                    && regex.matches(text.as_bytes())
                {
                    let new = rewriter.replace_all(text.as_bytes()).unwrap();
                    assert!(new.starts_with(b"/"), "{text} {rewrite}");
                }
            }
        }
    }

    #[test]
    fn paths_that_match() {
        for (template, path, expected) in [
            ("/api/users/{id}", "/api/users/7", true),
            ("/api/users/{id}", "/api/users/7/x", false),
            ("/api/users/{id}", "/api/users/", false),
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a/b/b/c", false),
            ("/a/**", "/a/b/b/c", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/a", false),
            ("/{lang=*}/{rest=**}", "/en/x/y", true),
            ("/{path=v1/*}/x.y", "/v1/abc/x.y", true),
            ("/{path=v1/*}/x.y", "/v1/abc/xzy", false),
            ("/a/", "/a/", true),
            ("/a/", "/a", false),
            ("/*.png", "/cat.png", true),
            ("/", "/", true),
        ] {
            let regex = UriTemplate::parse(template).unwrap().matcher().unwrap();
            assert_eq!(regex.matches(path.as_bytes()), expected, "{template} {path}");
        }
    }

    #[test]
    fn what_is_no_template() {
        for text in [
            "",
            "a",
            "/a b",
            "/a//b",
            "/{a",
            "/{}",
            "/{1}",
            "/{a}/{a}",
            "/**/*",
            "/**/{a}",
            "/{a=}",
            "/{a=*x}",
            "/a?b",
            "/{a=b=c}",
            "/{abcdefghijklmnopq}",
            "/{a}/{b}/{c}/{d}/{e}/{f}",
        ] {
            assert!(UriTemplate::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rewrites_with_variables() {
        let template = UriTemplate::parse("/{lang}/{rest=**}").unwrap();
        for (rewrite, expected) in [
            ("/{rest}/{lang}", Some("/x/y/en")),
            ("/new", Some("/new")),
            ("/a-{lang}.b", Some("/a-en.b")),
            ("x", None),
            ("//x", None),
            ("/{other}", None),
            ("/{lang", None),
            ("/a?b", None),
        ] {
            let made = template.rewriter(rewrite).ok().and_then(|rewriter| rewriter.replace_all(b"/en/x/y"));
            assert_eq!(made.as_deref(), expected.map(str::as_bytes), "{rewrite}");
        }
    }
}
