//! The hash of a key, by which a cluster's policy chooses the host: the same as Envoy's.

/// What of a key is hashed: the whole of it, or what stands in its first braces, so that keys of one tag go to one
/// host.
pub(super) fn hash(key: &[u8], tags: bool) -> u64 {
    murmur2(if tags { tag(key) } else { key })
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

/// MurmurHash2 of 64 bits with the seed of the standard library that Envoy is built with.
fn murmur2(bytes: &[u8]) -> u64 {
    const SEED: u64 = 0xc70f_6907;
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |hash: u64| hash ^ hash >> 47;
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = mix(u64::from_le_bytes(*word).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
        hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |word, octet| word << 8 | u64::from(*octet));
        hash = (hash ^ last).wrapping_mul(MULTIPLIER);
    }
    mix(mix(hash).wrapping_mul(MULTIPLIER))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of libstdc++'s `std::hash<std::string>`, which is this function.
    #[test]
    fn as_the_standard_library_of_cpp() {
        for (text, value) in EXPECTED {
            assert_eq!(murmur2(text.as_bytes()), value, "{text}");
        }
    }

    const EXPECTED: [(&str, u64); 4] = [
        ("", 0x553e_9390_1e46_2a6e),
        ("a", 0x454d_dee4_88c1_ed6b),
        ("12345678", 0x8c5b_90a3_3a04_dca5),
        ("the quick brown fox", 0x2658_45dd_fb02_80cd),
    ];

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
