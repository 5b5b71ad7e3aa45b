//! From text to literals and operators.

use super::operator::{Arguments, Operator};

/// Text with operators in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Template(Box<[Piece]>);

#[derive(Debug, Clone)]
pub(super) enum Piece {
    Literal(Box<[u8]>),
    Operator(Operator),
}

impl Template {
    /// `%NAME%`, `%NAME(argument)%`, `%NAME:LENGTH%` or `%NAME(argument):LENGTH%`; `%%` is a percent sign.
    pub(super) fn parse(format: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            let (before, from) = rest.split_at(at);
            literal.push_str(before);
            if let Some(behind) = from.strip_prefix("%%") {
                literal.push('%');
                rest = behind;
                continue;
            }
            let Some((name, arguments, behind)) = command(from) else {
                let position = format.len() - from.len();
                return Err(format!(
                    "{format:?}: no valid operator at position {position}; a percent sign is written %%"
                ));
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal).into_bytes().into()));
            }
            pieces.push(Piece::Operator(Operator::build(name, &arguments)?));
            rest = behind;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into_bytes().into()));
        }
        Ok(Self(pieces.into()))
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// The text, when there is no operator.
    pub(super) fn as_constant(&self) -> Option<&[u8]> {
        match &*self.0 {
            [] => Some(b""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

/// The operator at the start of `text`: its name, its arguments, what is behind it.
fn command(text: &str) -> Option<(&str, Arguments<'_>, &str)> {
    let text = text.strip_prefix('%')?;
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let (name, rest) = text.split_at(text.find(|c| !is_name(c))?);
    if name.is_empty() {
        return None;
    }
    let Some(inner) = rest.strip_prefix('(') else {
        let (max_length, behind) = end(rest)?;
        return Some((name, Arguments { text: "", max_length }, behind));
    };
    // The argument ends with the first `)` behind which the operator can end.
    let line = inner.split('\n').next().unwrap_or(inner);
    line.match_indices(')').find_map(|(at, _)| {
        let (max_length, behind) = end(inner.get(at + 1..)?)?;
        Some((name, Arguments { text: inner.get(..at)?, max_length }, behind))
    })
}

/// `:LENGTH%` or `%`.
fn end(text: &str) -> Option<(Option<usize>, &str)> {
    let Some(rest) = text.strip_prefix(':') else { return Some((None, text.strip_prefix('%')?)) };
    let (digits, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
    Some((Some(digits.parse().ok()?), rest.strip_prefix('%')?))
}

/// Older spellings that Envoy still takes in values of fields: `%DYNAMIC_METADATA(["a", "b"])%` and
/// `%UPSTREAM_METADATA(["a", "b"])%` for `(a:b)`, and `%PER_REQUEST_STATE(a)%` for `%FILTER_STATE(a:PLAIN)%`.
pub(super) fn translate_legacy(format: &str) -> String {
    let mut out = String::with_capacity(format.len());
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let (piece, behind) = match command(from) {
            _ if from.starts_with("%%") => ("%%".to_owned(), from.get(2..).unwrap_or_default()),
            Some((name, arguments, behind)) => {
                let piece = from.get(..from.len() - behind.len()).unwrap_or_default();
                (legacy(name, arguments.text).unwrap_or_else(|| piece.to_owned()), behind)
            }
            None => ("%".to_owned(), from.get(1..).unwrap_or_default()),
        };
        out.push_str(&piece);
        rest = behind;
    }
    out.push_str(rest);
    out
}

fn legacy(name: &str, argument: &str) -> Option<String> {
    match name {
        "PER_REQUEST_STATE" => Some(format!("%FILTER_STATE({argument}:PLAIN)%")),
        "DYNAMIC_METADATA" | "UPSTREAM_METADATA" => {
            let keys: Vec<String> = serde_json::from_str(argument).ok()?;
            Some(format!("%{name}({})%", keys.join(":")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let parts =
            |text| command(text).map(|(name, arguments, rest)| (name, arguments.text, arguments.max_length, rest));
        for (text, expected) in [
            ("%A%b", Some(("A", "", None, "b"))),
            ("%A_1(x)%", Some(("A_1", "x", None, ""))),
            ("%A(x):12%%", Some(("A", "x", Some(12), "%"))),
            ("%A:12%", Some(("A", "", Some(12), ""))),
            ("%A(%Y:%m)% %B(x)%", Some(("A", "%Y:%m", None, " %B(x)%"))),
            ("%A(a)b)%", Some(("A", "a)b", None, ""))),
            ("%A()%", Some(("A", "", None, ""))),
            ("%A(a\nb)%", None),
            ("%A(x%", None),
            ("%A", None),
            ("%a%", None),
            ("%A:%", None),
            ("%A:99999999999999999999999%", None),
            ("%", None),
        ] {
            assert_eq!(parts(text), expected, "{text}");
        }
    }

    #[test]
    fn older_spellings() {
        for (old, new) in [
            ("a%%b%DYNAMIC_METADATA([\"a\", \"b\"])%c", "a%%b%DYNAMIC_METADATA(a:b)%c"),
            ("%UPSTREAM_METADATA([\"a\",\"b\",\"c\"])%", "%UPSTREAM_METADATA(a:b:c)%"),
            ("%DYNAMIC_METADATA(a:b)%%PER_REQUEST_STATE(k)%", "%DYNAMIC_METADATA(a:b)%%FILTER_STATE(k:PLAIN)%"),
            ("%REQ(a)% %", "%REQ(a)% %"),
        ] {
            assert_eq!(translate_legacy(old), new);
        }
    }
}
