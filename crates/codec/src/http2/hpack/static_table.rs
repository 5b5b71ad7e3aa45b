//! The static table (RFC 7541 appendix A).

use super::{Name, Pseudo};
use sota_plugin::http::HeaderId;

/// Name and value of an entry. The name has its classified form, so that a reference to it costs no comparison.
#[derive(Debug, Clone, Copy)]
pub(super) struct StaticEntry {
    pub(super) name: Name<'static>,
    pub(super) value: &'static str,
}

/// How many entries there are; their indices are `1..=LEN`.
pub(super) const LEN: usize = 61;

const TEXT: [(&str, &str); LEN] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler: a bad index would be a compile error")]
static ENTRIES: [StaticEntry; LEN] = {
    let mut entries = [StaticEntry { name: Name::Other(b""), value: "" }; LEN];
    let mut at = 0;
    while at < LEN {
        entries[at] = StaticEntry { name: Name::classify(TEXT[at].0.as_bytes()), value: TEXT[at].1 };
        at += 1;
    }
    entries
};

/// Id -> index of the first entry of this name, 0 when there is none.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler: a bad index would be a compile error")]
static BY_ID: [u8; HeaderId::COUNT] = {
    let mut table = [0; HeaderId::COUNT];
    let mut at = LEN;
    while at > 0 {
        at -= 1;
        if let Name::Known(id) = Name::classify(TEXT[at].0.as_bytes()) {
            table[id as usize] = at as u8 + 1;
        }
    }
    table
};

/// The entry at a 1-based index.
#[inline]
pub(super) fn entry(index: usize) -> Option<&'static StaticEntry> {
    ENTRIES.get(index.checked_sub(1)?)
}

/// Index of an entry with this name; 0 when there is none.
#[inline]
pub(super) fn name_index(name: Name<'_>) -> usize {
    match name {
        Name::Known(id) => BY_ID.get(id as usize).copied().unwrap_or_default().into(),
        Name::Pseudo(Pseudo::Authority) => 1,
        Name::Pseudo(Pseudo::Method) => 2,
        Name::Pseudo(Pseudo::Path) => 4,
        Name::Pseudo(Pseudo::Scheme) => 6,
        Name::Pseudo(Pseudo::Status) => 8,
        Name::Other(text) => other_index(text),
        Name::Pseudo(Pseudo::Protocol) | Name::Invalid(_) => 0,
    }
}

/// Names of the table that have no id.
fn other_index(text: &[u8]) -> usize {
    match text {
        b"accept-charset" => 15,
        b"content-disposition" => 25,
        b"content-language" => 27,
        b"content-location" => 29,
        b"from" => 37,
        b"if-range" => 42,
        b"if-unmodified-since" => 43,
        b"link" => 45,
        b"refresh" => 52,
        b"strict-transport-security" => 56,
        _ => 0,
    }
}

/// Index of the entry with this name and value; 0 when there is none.
#[inline]
pub(super) fn field_index(name: Name<'_>, value: &[u8]) -> usize {
    match (name, value) {
        (Name::Pseudo(Pseudo::Method), b"GET") => 2,
        (Name::Pseudo(Pseudo::Method), b"POST") => 3,
        (Name::Pseudo(Pseudo::Path), b"/") => 4,
        (Name::Pseudo(Pseudo::Path), b"/index.html") => 5,
        (Name::Pseudo(Pseudo::Scheme), b"http") => 6,
        (Name::Pseudo(Pseudo::Scheme), b"https") => 7,
        (Name::Pseudo(Pseudo::Status), b"200") => 8,
        (Name::Pseudo(Pseudo::Status), b"204") => 9,
        (Name::Pseudo(Pseudo::Status), b"206") => 10,
        (Name::Pseudo(Pseudo::Status), b"304") => 11,
        (Name::Pseudo(Pseudo::Status), b"400") => 12,
        (Name::Pseudo(Pseudo::Status), b"404") => 13,
        (Name::Pseudo(Pseudo::Status), b"500") => 14,
        (Name::Known(HeaderId::AcceptEncoding), b"gzip, deflate") => 16,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ups_agree_with_the_table() {
        for (at, (name, value)) in TEXT.iter().enumerate() {
            let index = at + 1;
            let name = Name::classify(name.as_bytes());
            assert!(!matches!(name, Name::Invalid(_)));
            let first = name_index(name);
            assert!(first > 0 && first <= index && TEXT[first - 1].0 == TEXT[at].0, "{name:?}");
            if !value.is_empty() {
                assert_eq!(field_index(name, value.as_bytes()), index);
            }
        }
        assert_eq!(name_index(Name::Pseudo(Pseudo::Protocol)), 0);
        assert_eq!(name_index(Name::Other(b"x-a")), 0);
        assert!(entry(0).is_none() && entry(LEN).is_some() && entry(LEN + 1).is_none());
    }
}
