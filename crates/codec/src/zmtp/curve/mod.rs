//! CurveZMQ (RFC 26) as the mechanism CURVE (RFC 25): X25519 and XSalsa20-Poly1305, NaCl's `crypto_box`.
//!
//! Both sides have long-term keys and make new ones for each connection; the server's are known to the client
//! beforehand. HELLO is larger than WELCOME, so that nothing is amplified; the server's new secret key travels in a
//! cookie that only this connection's cookie key opens, so that a cookie can't be used a second time.

mod client;
mod keys;
mod seal;
mod server;
mod session;

#[cfg(test)]
mod tests;

pub(super) use client::CurveClient;
pub use keys::{CurveKeyPair, CurvePublicKey, KeyError};
pub(super) use server::CurveServer;
pub(super) use session::{OVERHEAD, Session};

use super::{CurveStep, RandomSource, ZmtpError};
use crypto_box::SecretKey;
use crypto_box::aead::{OsRng, rand_core::RngCore};

/// Random bytes of the operating system.
pub(super) fn system_random(bytes: &mut [u8]) -> Result<(), ZmtpError> {
    OsRng.try_fill_bytes(bytes).map_err(|_| ZmtpError::Random)
}

/// A new secret key.
fn new_secret(random: RandomSource) -> Result<SecretKey, ZmtpError> {
    Ok(SecretKey::from(random_bytes::<32>(random)?))
}

fn random_bytes<const N: usize>(random: RandomSource) -> Result<[u8; N], ZmtpError> {
    let mut bytes = [0; N];
    random(&mut bytes)?;
    Ok(bytes)
}

/// The next `N` octets of `bytes`, which it loses.
fn take<const N: usize>(bytes: &mut &[u8], step: CurveStep) -> Result<[u8; N], ZmtpError> {
    let (first, rest) = bytes.split_first_chunk().ok_or(ZmtpError::Curve(step))?;
    *bytes = rest;
    Ok(*first)
}

/// Cuts `prefix` from the beginning of `bytes`, where it must be.
fn expect(bytes: &mut &[u8], prefix: &[u8], step: CurveStep) -> Result<(), ZmtpError> {
    *bytes = bytes.strip_prefix(prefix).ok_or(ZmtpError::Curve(step))?;
    Ok(())
}
