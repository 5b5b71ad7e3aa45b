//! Long-term keys, and the text they are written in (Z85, RFC 32).

use super::super::{RandomSource, ZmtpError};
use crypto_box::{PublicKey, SecretKey};
use std::fmt;

/// A key that everybody may know.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CurvePublicKey(pub [u8; 32]);

impl CurvePublicKey {
    /// From 40 characters of Z85.
    pub fn from_z85(text: &str) -> Result<Self, KeyError> {
        decode(text.as_bytes()).map(Self)
    }

    /// As 40 characters of Z85.
    pub fn to_z85(&self) -> String {
        encode(&self.0)
    }

    pub(super) fn key(&self) -> PublicKey {
        PublicKey::from(self.0)
    }
}

impl fmt::Debug for CurvePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurvePublicKey")
    }
}

/// A secret key with the public one that belongs to it. The secret is wiped from memory at the end, and is not in
/// `Debug` output.
#[derive(Clone)]
pub struct CurveKeyPair {
    /// What others may know.
    pub public: CurvePublicKey,
    pub(super) secret: SecretKey,
}

impl CurveKeyPair {
    /// The pair of a secret key.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let secret = SecretKey::from(secret);
        Self { public: CurvePublicKey(secret.public_key().to_bytes()), secret }
    }

    /// The pair of a secret key in 40 characters of Z85.
    pub fn from_secret_z85(text: &str) -> Result<Self, KeyError> {
        decode(text.as_bytes()).map(Self::from_secret)
    }

    /// A new pair.
    pub fn generate(random: RandomSource) -> Result<Self, ZmtpError> {
        super::random_bytes(random).map(Self::from_secret)
    }

    /// The secret key in Z85, to be written where secrets are kept.
    pub fn secret_to_z85(&self) -> String {
        encode(&self.secret.to_bytes())
    }
}

impl fmt::Debug for CurveKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurveKeyPair")
    }
}

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a CURVE key is 40 characters of Z85")]
pub struct KeyError;

const ALPHABET: &[u8; 85] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

fn encode(key: &[u8; 32]) -> String {
    let mut text = String::with_capacity(40);
    let (words, _) = key.as_chunks::<4>();
    for word in words {
        let word = u32::from_be_bytes(*word);
        for power in [85u32.pow(4), 85u32.pow(3), 85u32.pow(2), 85, 1] {
            let digit = (word / power % 85) as usize;
            text.push(ALPHABET.get(digit).copied().unwrap_or_default().into());
        }
    }
    text
}

fn decode(text: &[u8]) -> Result<[u8; 32], KeyError> {
    let mut key = [0; 32];
    let (groups, rest) = text.as_chunks::<5>();
    if groups.len() != 8 || !rest.is_empty() {
        return Err(KeyError);
    }
    let (words, _) = key.as_chunks_mut::<4>();
    for (group, word) in groups.iter().zip(words) {
        let mut value = 0u32;
        for c in group {
            let digit = ALPHABET.iter().position(|of| of == c).ok_or(KeyError)?;
            let digit = u32::try_from(digit).map_err(|_| KeyError)?;
            value = value.checked_mul(85).and_then(|value| value.checked_add(digit)).ok_or(KeyError)?;
        }
        *word = value.to_be_bytes();
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_vector_of_rfc_32_and_26() {
        assert_eq!(encode(&[0; 32]), "0".repeat(40));
        let hello = [0x86, 0x4f, 0xd2, 0x6f, 0xb5, 0x59, 0xf7, 0x5b];
        let key: [u8; 32] = hello.repeat(4).try_into().unwrap();
        assert_eq!(encode(&key), "HelloWorld".repeat(4));
        assert_eq!(decode("HelloWorld".repeat(4).as_bytes()), Ok(key));
        // The client's keys in the documentation of libzmq's zmq_curve.
        let pair = CurveKeyPair::from_secret_z85("D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs").unwrap();
        assert_eq!(pair.public.to_z85(), "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID");
        assert_eq!(pair.secret_to_z85(), "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs");
    }

    #[test]
    fn what_is_no_key() {
        for text in ["", "0", &"0".repeat(39), &"0".repeat(41), &"~".repeat(40), &"#".repeat(40)] {
            assert_eq!(CurvePublicKey::from_z85(text), Err(KeyError), "{text}");
        }
        assert_eq!(format!("{:?}", CurveKeyPair::from_secret([1; 32])), "CurveKeyPair");
    }
}
