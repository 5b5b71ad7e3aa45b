//! The hash that routes and balancers use, so that the same key means the same host in every proxy of a fleet.

/// xxHash64, as Envoy uses it, with its seed (0 unless there is a reason).
pub fn xx_hash64(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, seed)
}

/// xxHash64 of several values as if they stood behind each other.
pub fn xx_hash64_all<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut state = xxhash_rust::xxh64::Xxh64::new(0);
    values.into_iter().for_each(|value| state.update(value));
    state.digest()
}

/// MurmurHash2 of 64 bits with the seed of GCC's C++ library, as Envoy uses it.
pub fn murmur_hash_2(text: &[u8]) -> u64 {
    const SEED: u64 = 0xc70f_6907;
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |value: u64| value ^ (value >> 47);
    let mut hash = SEED ^ (text.len() as u64).wrapping_mul(FACTOR);
    let (words, rest) = text.as_chunks::<8>();
    for word in words {
        let data = mix(u64::from_le_bytes(*word).wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
        hash = (hash ^ data).wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let data = rest.iter().rev().fold(0, |data, byte| (data << 8) + u64::from(*byte));
        hash = (hash ^ data).wrapping_mul(FACTOR);
    }
    mix(mix(hash).wrapping_mul(FACTOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(xx_hash64(b"", 0), 0xef46_db37_51d8_e999);
        assert_eq!(xx_hash64(b"foo", 0), 0x33bf_00a8_59c4_ba3f);
        assert_eq!(xx_hash64_all([&b"f"[..], b"oo"]), xx_hash64(b"foo", 0));
    }

    /// Values of `std::hash<std::string>` of GCC's library.
    #[test]
    fn murmur() {
        for (text, hash) in [
            ("", 6_142_509_188_972_423_790),
            ("hello", 2_762_169_579_135_187_400),
            ("abcdefgh", 8_664_279_048_047_335_611),
            ("10.0.0.1:80_0", 13_659_246_566_588_789_388),
            ("10.0.0.1:8080_17", 14_014_034_734_899_239_605),
        ] {
            assert_eq!(murmur_hash_2(text.as_bytes()), hash, "{text}");
        }
    }
}
