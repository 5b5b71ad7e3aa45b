//! The Huffman code (RFC 7541 §5.2, appendix B), by tables that the compiler makes from the lengths: the code is
//! canonical, so lengths say everything.

/// Bits of each octet's code; the last one is the end-of-string symbol.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, //
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, //
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, //
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, //
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const MAX_LEN: usize = 30;
const EOS: u16 = 256;
/// Codes of up to so many bits, which are all that text usually has, are found at once.
const SHORT: u32 = 10;

struct Tables {
    /// Symbol -> code, aligned to the right.
    codes: [u32; 257],
    /// Next ten bits -> symbol and length; length 0 where the code is longer.
    short: [(u8, u8); 1 << SHORT],
    /// Symbols in the order of their codes.
    symbols: [u16; 257],
    /// For each length: one behind its last code, aligned to the left of 32 bits (0 when there is none), its first
    /// code, aligned to the right, and the place of its first symbol.
    lengths: [(u64, u32, u16); MAX_LEN + 1],
}

static TABLES: Tables = build();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler: a bad index would be a compile error")]
const fn build() -> Tables {
    let mut tables =
        Tables { codes: [0; 257], short: [(0, 0); 1 << SHORT], symbols: [0; 257], lengths: [(0, 0, 0); MAX_LEN + 1] };
    let (mut code, mut place, mut len) = (0u32, 0usize, 1usize);
    while len <= MAX_LEN {
        tables.lengths[len].1 = code;
        tables.lengths[len].2 = place as u16;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == len {
                tables.codes[symbol] = code;
                tables.symbols[place] = symbol as u16;
                place += 1;
                if len <= SHORT as usize {
                    let spread = SHORT as usize - len;
                    let mut low = 0;
                    while low < 1 << spread {
                        tables.short[((code as usize) << spread) | low] = (symbol as u8, len as u8);
                        low += 1;
                    }
                }
                code += 1;
            }
            symbol += 1;
        }
        tables.lengths[len].0 = (code as u64) << (32 - len);
        code <<= 1;
        len += 1;
    }
    assert!(place == 257 && tables.lengths[MAX_LEN].0 == 1 << 32, "the code must be complete");
    tables
}

/// Appends what `input` decodes to: at most 1.6 times its length. `None` for the end-of-string symbol, and for
/// padding that is not ones or longer than seven bits (RFC 7541 §5.2).
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    // The shortest code has five bits.
    out.resize(start + input.len() * 8 / 5, 0);
    let room = out.get_mut(start..)?.iter_mut();
    let unused = decode_into(input, room)?;
    out.truncate(out.len() - unused);
    Some(())
}

/// Fills `room`; says how much of it was not needed.
fn decode_into<'a>(mut input: &[u8], mut room: impl ExactSizeIterator<Item = &'a mut u8>) -> Option<usize> {
    // The next `have` bits, aligned to the left.
    let (mut bits, mut have) = (0u64, 0u32);
    loop {
        if have > 32 {
            // Enough for any code.
        } else if let Some((octets, rest)) = input.split_first_chunk::<4>() {
            bits |= u64::from(u32::from_be_bytes(*octets)) << (32 - have);
            have += 32;
            input = rest;
        } else {
            for octet in std::mem::take(&mut input) {
                bits |= u64::from(*octet) << (56 - have);
                have += 8;
            }
        }
        // Text is decoded here, several symbols for each time that bits are fetched.
        while have >= SHORT {
            let Some((octet, len)) = short(bits) else { break };
            *room.next()? = octet;
            bits <<= len;
            have -= len;
        }
        if have >= MAX_LEN as u32 {
            continue_long(&mut bits, &mut have, &mut room)?;
        } else if input.is_empty() {
            break;
        }
    }
    // The last bits: symbols as long as there are enough, then padding.
    while let Some((octet, len)) = short(bits).or_else(|| long(bits)).filter(|(_, len)| *len <= have) {
        *room.next()? = octet;
        bits <<= len;
        have -= len;
    }
    is_padding(bits, have).then(|| room.len())
}

/// One symbol with a long code.
fn continue_long<'a>(bits: &mut u64, have: &mut u32, room: &mut impl Iterator<Item = &'a mut u8>) -> Option<()> {
    let (octet, len) = long(*bits)?;
    *room.next()? = octet;
    *bits <<= len;
    *have -= len;
    Some(())
}

/// A code of up to `SHORT` bits.
#[inline]
fn short(bits: u64) -> Option<(u8, u32)> {
    let (octet, len) = *TABLES.short.get((bits >> (64 - SHORT)) as usize)?;
    (len > 0).then_some((octet, u32::from(len)))
}

/// A code of more than `SHORT` bits; `None` for the end-of-string symbol.
#[cold]
fn long(bits: u64) -> Option<(u8, u32)> {
    let next = bits >> 32;
    let (len, (_, first, place)) =
        TABLES.lengths.iter().enumerate().skip(SHORT as usize + 1).find(|(_, (end, ..))| next < *end)?;
    let nth = (next >> (32 - len)) as u32 - first;
    let symbol = TABLES.symbols.get(usize::from(*place) + nth as usize).filter(|symbol| **symbol != EOS)?;
    Some((u8::try_from(*symbol).ok()?, u32::try_from(len).ok()?))
}

fn is_padding(bits: u64, have: u32) -> bool {
    have < 8 && bits.leading_ones() >= have
}

/// Octets that `text` takes when encoded.
#[inline]
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits = text.iter().map(|c| LENGTHS.get(usize::from(*c)).copied().unwrap_or_default() as usize).sum::<usize>();
    bits.div_ceil(8)
}

/// Appends the code of `text`, padded with ones.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    // The last `have` bits, aligned to the right; fewer than 32 between two symbols.
    let (mut bits, mut have) = (0u64, 0u32);
    for c in text {
        let at = usize::from(*c);
        let (Some(code), Some(len)) = (TABLES.codes.get(at), LENGTHS.get(at)) else { continue };
        bits = (bits << *len) | u64::from(*code);
        have += u32::from(*len);
        if have >= 32 {
            have -= 32;
            out.extend_from_slice(&((bits >> have) as u32).to_be_bytes());
        }
    }
    if have > 0 {
        let aligned = ((bits << (32 - have)) as u32) | (u32::MAX >> have);
        let octets = aligned.to_be_bytes();
        out.extend_from_slice(octets.get(..have.div_ceil(8) as usize).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_rfc() {
        for (symbol, code, len) in [
            (0, 0x1ff8, 13),
            (usize::from(b'0'), 0x0, 5),
            (usize::from(b'a'), 0x3, 5),
            (usize::from(b'%'), 0x15, 6),
            (usize::from(b'&'), 0xf8, 8),
            (usize::from(b'\\'), 0x7fff0, 19),
            (255, 0x3ff_ffee, 26),
            (256, 0x3fff_ffff, 30),
        ] {
            assert_eq!((TABLES.codes[symbol], LENGTHS[symbol]), (code, len), "{symbol}");
        }
    }

    #[test]
    fn every_octet_in_every_neighbourhood() {
        for a in 0..=255u8 {
            for b in [0, b'a', b'&', b'~', 0x80, 0xff, a] {
                let text = [b, a, a, b, b'0', a];
                let (mut coded, mut again) = (Vec::new(), Vec::new());
                encode(&text, &mut coded);
                assert_eq!(coded.len(), encoded_len(&text));
                assert_eq!(decode(&coded, &mut again), Some(()));
                assert_eq!(again, text);
            }
        }
    }

    #[test]
    fn padding_and_end_of_string() {
        let decode = |octets: &[u8]| {
            let mut out = Vec::new();
            decode(octets, &mut out).map(|()| out)
        };
        assert_eq!(decode(&[]), Some(vec![]));
        // 'a' is 00011, then three ones.
        assert_eq!(decode(&[0b0001_1111]), Some(b"a".to_vec()));
        assert_eq!(decode(&[0b0001_1110]), None, "padding with a zero");
        assert_eq!(decode(&[0b0001_1111, 0xff]), None, "eleven bits of padding");
        assert_eq!(decode(&[0xff]), None, "eight bits of padding");
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xfc]), None, "end of string");
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
