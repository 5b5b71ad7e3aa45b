//! Field names: made once when configuration is built, compared cheaply afterwards.

use super::{HeaderId, InvalidField};
use std::{fmt, sync::Arc};

/// A field name: a known id, or lower-case text. Cloning is cheap; making one from text checks the grammar.
///
/// ```
/// use sota_plugin::http::HeaderName;
/// const USER: HeaderName = HeaderName::from_static("x-user");
/// assert_eq!(HeaderName::parse(b"X-User").unwrap(), USER);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HeaderName(Repr);

#[derive(Clone)]
enum Repr {
    Known(HeaderId),
    Static(&'static str),
    Owned(Arc<str>),
}

impl HeaderName {
    /// A name known at compile time.
    ///
    /// # Panics
    /// When `name` is not a token in lower case; in a constant that is a compile error.
    pub const fn from_static(name: &'static str) -> Self {
        if let Some(id) = HeaderId::find(name.as_bytes()) {
            return Self(Repr::Known(id));
        }
        let bytes = name.as_bytes();
        assert!(is_token(bytes), "a header name must be a token");
        let mut i = 0;
        while i < bytes.len() {
            assert!(!bytes[i].is_ascii_uppercase(), "a static header name must be in lower case");
            i += 1;
        }
        Self(Repr::Static(name))
    }

    /// A name from configuration or from the wire, in any case; must be a token (RFC 9110 §5.6.2).
    pub fn parse(name: &[u8]) -> Result<Self, InvalidField> {
        if let Some(id) = HeaderId::find(name) {
            return Ok(Self(Repr::Known(id)));
        }
        if !is_token(name) {
            return Err(InvalidField::Name);
        }
        let text = std::str::from_utf8(name).map_err(|_| InvalidField::Name)?;
        Ok(Self(Repr::Owned(text.to_ascii_lowercase().into())))
    }

    /// Like [`Self::parse`], but takes pseudo-header fields (`:path`) too, which matchers and format strings may name
    /// and [`super::RequestHead::get`] knows. A list of fields refuses to hold one.
    pub fn parse_any(name: &[u8]) -> Result<Self, InvalidField> {
        let Some(rest) = name.strip_prefix(b":") else { return Self::parse(name) };
        if !is_token(rest) {
            return Err(InvalidField::Name);
        }
        let text = std::str::from_utf8(name).map_err(|_| InvalidField::Name)?;
        Ok(Self(Repr::Owned(text.to_ascii_lowercase().into())))
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Known(id) => id.as_str(),
            Repr::Static(name) => name,
            Repr::Owned(name) => name,
        }
    }

    /// The id, where the name has one.
    pub fn id(&self) -> Option<HeaderId> {
        match &self.0 {
            Repr::Known(id) => Some(*id),
            _ => None,
        }
    }
}

impl PartialEq for Repr {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Known(a), Self::Known(b)) => a == b,
            (Self::Known(_), _) | (_, Self::Known(_)) => false,
            (a, b) => a.text() == b.text(),
        }
    }
}

impl Eq for Repr {}

impl std::hash::Hash for Repr {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Self::Known(id) => id.hash(state),
            other => other.text().hash(state),
        }
    }
}

impl Repr {
    fn text(&self) -> &str {
        match self {
            Self::Known(id) => id.as_str(),
            Self::Static(name) => name,
            Self::Owned(name) => name,
        }
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<HeaderId> for HeaderName {
    fn from(id: HeaderId) -> Self {
        Self(Repr::Known(id))
    }
}

impl std::str::FromStr for HeaderName {
    type Err = InvalidField;

    fn from_str(name: &str) -> Result<Self, InvalidField> {
        Self::parse(name.as_bytes())
    }
}

/// What [`super::Headers`] compares with: an id, or bytes that have no id.
#[derive(Debug, Clone, Copy)]
pub enum NameRef<'a> {
    /// A known name.
    Known(HeaderId),
    /// Any other text, in any case; need not be a valid name.
    Other(&'a [u8]),
}

/// What can be given where a field name is expected: [`HeaderId`] and [`HeaderName`] (cheapest), text, bytes.
pub trait AsHeaderName {
    /// The name in the form that is compared.
    fn as_name(&self) -> NameRef<'_>;
}

impl AsHeaderName for NameRef<'_> {
    #[inline]
    fn as_name(&self) -> NameRef<'_> {
        *self
    }
}

impl AsHeaderName for HeaderId {
    #[inline]
    fn as_name(&self) -> NameRef<'_> {
        NameRef::Known(*self)
    }
}

impl AsHeaderName for HeaderName {
    #[inline]
    fn as_name(&self) -> NameRef<'_> {
        match &self.0 {
            Repr::Known(id) => NameRef::Known(*id),
            Repr::Static(name) => NameRef::Other(name.as_bytes()),
            Repr::Owned(name) => NameRef::Other(name.as_bytes()),
        }
    }
}

impl AsHeaderName for [u8] {
    #[inline]
    fn as_name(&self) -> NameRef<'_> {
        HeaderId::find(self).map_or(NameRef::Other(self), NameRef::Known)
    }
}

impl AsHeaderName for str {
    #[inline]
    fn as_name(&self) -> NameRef<'_> {
        self.as_bytes().as_name()
    }
}

impl AsHeaderName for String {
    #[inline]
    fn as_name(&self) -> NameRef<'_> {
        self.as_bytes().as_name()
    }
}

impl<T: AsHeaderName + ?Sized> AsHeaderName for &T {
    #[inline]
    fn as_name(&self) -> NameRef<'_> {
        (**self).as_name()
    }
}

/// A token of RFC 9110 §5.6.2: at least one `tchar` and nothing else.
pub const fn is_token(bytes: &[u8]) -> bool {
    let mut i = 0;
    while i < bytes.len() {
        if !TOKEN[bytes[i] as usize] {
            return false;
        }
        i += 1;
    }
    !bytes.is_empty()
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut c = 0;
    while c < 256 {
        table[c] = (c as u8).is_ascii_alphanumeric();
        c += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut i = 0;
    while i < marks.len() {
        table[marks[i] as usize] = true;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compare_by_meaning() {
        const STATIC: HeaderName = HeaderName::from_static("x-user");
        assert_eq!(HeaderName::parse(b"X-USER").unwrap(), STATIC);
        assert_eq!(HeaderName::from_static("host"), HeaderName::from(HeaderId::Host));
        assert_eq!(HeaderName::parse(b"hOsT").unwrap().id(), Some(HeaderId::Host));
        assert_ne!(STATIC, HeaderName::from_static("x-users"));
        assert_eq!(STATIC.to_string(), "x-user");
    }

    #[test]
    fn bad_names_are_refused() {
        for bad in [&b""[..], b"a b", b"a:", b"\xc3\xa4", b"a\n", b"a\0", b":path"] {
            assert_eq!(HeaderName::parse(bad), Err(InvalidField::Name), "{bad:?}");
        }
        assert_eq!(HeaderName::parse_any(b":"), Err(InvalidField::Name));
        assert_eq!(HeaderName::parse_any(b":Path").map(|name| name.to_string()).as_deref(), Ok(":path"));
        assert_eq!(HeaderName::parse_any(b"Host"), Ok(HeaderName::from(HeaderId::Host)));
    }
}
