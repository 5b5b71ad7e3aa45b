//! NaCl's boxes: 16 octets of tag, then what is sealed.

use crypto_box::aead::AeadInPlace;
use crypto_box::aead::consts::{U0, U16, U24};
use crypto_box::{Nonce, Tag};

/// Octets of a tag.
pub(super) const TAG: usize = 16;

/// A nonce of a text and what makes it unique.
pub(super) fn nonce(prefix: &[u8], unique: &[u8]) -> Nonce {
    let mut nonce = Nonce::default();
    for (place, octet) in nonce.iter_mut().zip(prefix.iter().chain(unique)) {
        *place = *octet;
    }
    nonce
}

/// Appends a box of what `parts` are together.
pub(super) fn seal<A>(cipher: &A, nonce: &Nonce, parts: &[&[u8]], out: &mut Vec<u8>)
where
    A: AeadInPlace<NonceSize = U24, TagSize = U16, CiphertextOverhead = U0>,
{
    let start = out.len();
    out.extend_from_slice(&[0; TAG]);
    for part in parts {
        out.extend_from_slice(part);
    }
    let Some((tag, text)) = out.get_mut(start..).and_then(|sealed| sealed.split_at_mut_checked(TAG)) else { return };
    match cipher.encrypt_in_place_detached(nonce, &[], text) {
        Ok(made) => tag.copy_from_slice(&made),
        // Over 2^64 octets, which no slice has. Nothing in clear may stay behind.
        Err(_) => out.truncate(start),
    }
}

/// Opens a box in its place; `None` if it does not open.
pub(super) fn open<'a, A>(cipher: &A, nonce: &Nonce, sealed: &'a mut [u8]) -> Option<&'a mut [u8]>
where
    A: AeadInPlace<NonceSize = U24, TagSize = U16, CiphertextOverhead = U0>,
{
    let (tag, text) = sealed.split_at_mut_checked(TAG)?;
    cipher.decrypt_in_place_detached(nonce, &[], text, Tag::from_slice(tag)).ok()?;
    Some(text)
}
