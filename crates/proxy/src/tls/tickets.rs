//! Tickets of sessions: what a server must know to resume one, encrypted and given to the client.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use rustls::server::ProducesTickets;
use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// Envoy's default of `session_timeout`.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(7200);
/// Octets of a key as configured: a name, one for authentication, one for encryption.
const KEY_LEN: usize = 80;
const NAME_LEN: usize = 16;
/// Octets of the time in a ticket.
const TIME_LEN: usize = 8;

/// Makes and reads tickets.
pub(super) struct Tickets {
    /// The first one encrypts, all of them decrypt.
    keys: Vec<Key>,
    /// A ticket is good only where the same is configured: a session does not outlive the authorities that vouched for it.
    context: [u8; 32],
    lifetime: Duration,
}

struct Key {
    name: [u8; NAME_LEN],
    key: LessSafeKey,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Tickets {
    /// With these keys of 80 octets each; without any with one that is made at random.
    pub(super) fn new(keys: &[Vec<u8>], context: [u8; 32], lifetime: Option<Duration>) -> Result<Self, String> {
        let random;
        let keys = if keys.is_empty() {
            let mut key = vec![0; KEY_LEN];
            aws_lc_rs::rand::fill(&mut key).map_err(|_| "there is no randomness")?;
            random = [key];
            &random[..]
        } else {
            keys
        };
        let keys = keys.iter().map(|key| Key::new(key)).collect::<Result<_, _>>()?;
        Ok(Self { keys, context, lifetime: lifetime.unwrap_or(DEFAULT_LIFETIME) })
    }

    fn seal(&self, plain: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut sealed = seconds(now).to_be_bytes().to_vec();
        sealed.extend_from_slice(plain);
        key.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(self.context), &mut sealed)
            .ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_LEN)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let key = self.keys.iter().find(|key| key.name == name)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = key.key.open_in_place(nonce, Aad::from(self.context), &mut sealed).ok()?;
        let (time, plain) = plain.split_at_checked(TIME_LEN)?;
        let age = seconds(now).saturating_sub(u64::from_be_bytes(time.try_into().ok()?));
        (age <= self.lifetime.as_secs()).then(|| plain.to_vec())
    }
}

impl Key {
    fn new(key: &[u8]) -> Result<Self, String> {
        let wrong = || format!("a session ticket key has {KEY_LEN} octets, this one has {}", key.len());
        if key.len() != KEY_LEN {
            return Err(wrong());
        }
        let (name, secret) = key.split_at_checked(NAME_LEN).ok_or_else(wrong)?;
        let (authentication, encryption) = secret.split_at_checked(32).ok_or_else(wrong)?;
        // One key for both, made of both.
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, authentication), encryption);
        let derived = UnboundKey::new(&AES_256_GCM, derived.as_ref()).map_err(|_| wrong())?;
        Ok(Self { name: name.try_into().map_err(|_| wrong())?, key: LessSafeKey::new(derived) })
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, SystemTime::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, SystemTime::now())
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: u8) -> Vec<u8> {
        vec![name; KEY_LEN]
    }

    #[test]
    fn tickets_are_good_for_their_keys_their_context_and_their_time() {
        let tickets =
            |keys: &[Vec<u8>], context: u8| Tickets::new(keys, [context; 32], Some(Duration::from_secs(60))).unwrap();
        let now = SystemTime::now();
        let old = tickets(&[key(1)], 0);
        let ticket = old.seal(b"session", now).unwrap();
        assert_eq!(old.open(&ticket, now).as_deref(), Some(&b"session"[..]));
        let rotated = tickets(&[key(2), key(1)], 0);
        assert_eq!(rotated.open(&ticket, now).as_deref(), Some(&b"session"[..]));
        assert_eq!(old.open(&rotated.seal(b"session", now).unwrap(), now), None, "the first key encrypts");
        assert_eq!(tickets(&[key(2)], 0).open(&ticket, now), None);
        assert_eq!(tickets(&[key(1)], 1).open(&ticket, now), None);
        assert_eq!(old.open(&ticket, now + Duration::from_secs(61)), None);
        for length in 0..ticket.len() {
            assert_eq!(old.open(&ticket[..length], now), None, "{length}");
        }
        assert!(Tickets::new(&[vec![0; 48]], [0; 32], None).is_err());
    }
}
