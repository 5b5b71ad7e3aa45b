//! Integers with a prefix (RFC 7541 §5.1).

/// Larger numbers are refused: no length and no index that means something comes near.
const MAX: u32 = 1 << 28;

/// Reads an integer whose first octet has `bits` bits of it; takes its octets off `input`.
#[inline]
pub(super) fn decode(input: &mut &[u8], bits: u32) -> Option<u32> {
    let (first, rest) = input.split_first()?;
    let mask = (1u32 << bits) - 1;
    let value = u32::from(*first) & mask;
    *input = rest;
    if value < mask { Some(value) } else { decode_rest(input, value) }
}

fn decode_rest(input: &mut &[u8], mut value: u32) -> Option<u32> {
    for shift in [0u32, 7, 14, 21] {
        let (octet, rest) = input.split_first()?;
        *input = rest;
        value = value.checked_add(u32::from(octet & 0x7f) << shift)?;
        if octet & 0x80 == 0 {
            return (value <= MAX).then_some(value);
        }
    }
    // Zeros that only lengthen the number are legal, but nobody sends them.
    None
}

/// Writes an integer behind the pattern `first`, which leaves `bits` bits.
#[inline]
pub(super) fn encode(value: usize, first: u8, bits: u32, out: &mut Vec<u8>) {
    let mask = (1usize << bits) - 1;
    if value < mask {
        // Less than eight bits: the mask is at most 0x7f.
        out.push(first | (value & 0x7f) as u8);
        return;
    }
    out.push(first | (mask & 0xff) as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push((rest & 0x7f) as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc() {
        for (value, bits, octets) in [
            (10, 5, &[0x0a][..]),
            (1337, 5, &[0x1f, 0x9a, 0x0a]),
            (42, 8, &[0x2a]),
            (31, 5, &[0x1f, 0]),
            (30, 5, &[30]),
        ] {
            let mut out = Vec::new();
            if bits < 8 {
                encode(value, 0, bits, &mut out);
                assert_eq!(out, octets);
            }
            let mut input = octets;
            assert_eq!(decode(&mut input, bits), Some(value as u32));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn cut_off_and_endless_numbers() {
        for bad in
            [&[][..], &[0x1f], &[0x1f, 0x80], &[0x1f, 0xff, 0xff, 0xff, 0xff, 0x0f], &[0x1f, 0x80, 0x80, 0x80, 0x80]]
        {
            assert_eq!(decode(&mut &bad[..], 5), None, "{bad:?}");
        }
        assert_eq!(decode(&mut &[0x1f, 0xff, 0xff, 0xff, 0x7e][..], 5), Some(31 + 0xfff_ffff - (1 << 21)));
    }
}
