//! The hash of a key, by which a cluster's policy chooses the host: the same as Envoy's.

use sota_plugin::hash::murmur_hash_2;

/// What of a key is hashed: the whole of it, or what stands in its first braces, so that keys of one tag go to one
/// host.
pub(super) fn hash(key: &[u8], tags: bool) -> u64 {
    murmur_hash_2(if tags { tag(key) } else { key })
}

fn tag(key: &[u8]) -> &[u8] {
    let within = || {
        let start = memchr(b'{', key)? + 1;
        let rest = key.get(start..)?;
        rest.get(..memchr(b'}', rest)?).filter(|tag| !tag.is_empty())
    };
    within().unwrap_or(key)
}

fn memchr(octet: u8, bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|other| *other == octet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_stand_in_the_first_braces() {
        for (key, tagged) in
            [("{a}b", "a"), ("x{a}y{b}", "a"), ("{}b", "{}b"), ("{a", "{a"), ("a}{b}", "b"), ("plain", "plain")]
        {
            assert_eq!(tag(key.as_bytes()), tagged.as_bytes(), "{key}");
        }
        assert_eq!(hash(b"{a}b", true), hash(b"a", false));
        assert_ne!(hash(b"{a}b", false), hash(b"a", false));
    }
}
