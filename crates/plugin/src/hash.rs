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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(xx_hash64(b"", 0), 0xef46_db37_51d8_e999);
        assert_eq!(xx_hash64(b"foo", 0), 0x33bf_00a8_59c4_ba3f);
        assert_eq!(xx_hash64_all([&b"f"[..], b"oo"]), xx_hash64(b"foo", 0));
    }
}
