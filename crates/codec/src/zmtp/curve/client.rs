//! The client's half of the handshake: HELLO, (WELCOME), INITIATE, (READY).

use super::super::{CurveStep, RandomSource, ZmtpError};
use super::seal::{nonce, open, seal};
use super::{CurveKeyPair, CurvePublicKey, Session, expect, new_secret, random_bytes, take};
use crypto_box::{PublicKey, SalsaBox, SecretKey};

/// A handshake that is going on.
pub(in super::super) struct CurveClient {
    /// c', for this connection only.
    transient: SecretKey,
    /// Behind WELCOME: the box between c' and S'.
    session: Option<SalsaBox>,
    random: RandomSource,
}

const STEP: CurveStep = CurveStep::Welcome;

impl CurveClient {
    /// With new keys.
    pub(in super::super) fn new(random: RandomSource) -> Result<Self, ZmtpError> {
        Ok(Self { transient: new_secret(random)?, session: None, random })
    }

    /// Whether WELCOME has come.
    pub(in super::super) fn is_welcomed(&self) -> bool {
        self.session.is_some()
    }

    /// The body of HELLO, 200 octets.
    pub(in super::super) fn hello(&self, server: &CurvePublicKey) -> Vec<u8> {
        let mut body = b"\x05HELLO\x01\x00".to_vec();
        body.resize(80, 0);
        body.extend_from_slice(self.transient.public_key().as_bytes());
        let unique = 1u64.to_be_bytes();
        body.extend_from_slice(&unique);
        let cipher = SalsaBox::new(&server.key(), &self.transient);
        seal(&cipher, &nonce(b"CurveZMQHELLO---", &unique), &[&[0; 64]], &mut body);
        body
    }

    /// Takes the body of WELCOME and makes that of INITIATE.
    pub(in super::super) fn initiate(
        &mut self,
        mut welcome: &[u8],
        keys: &CurveKeyPair,
        server: &CurvePublicKey,
        metadata: &[u8],
    ) -> Result<Vec<u8>, ZmtpError> {
        expect(&mut welcome, b"\x07WELCOME", STEP)?;
        let unique: [u8; 16] = take(&mut welcome, STEP)?;
        let mut sealed: [u8; 144] = welcome.try_into().map_err(|_| ZmtpError::Curve(STEP))?;
        let cipher = SalsaBox::new(&server.key(), &self.transient);
        let opened = open(&cipher, &nonce(b"WELCOME-", &unique), &mut sealed).ok_or(ZmtpError::Curve(STEP))?;
        let mut opened = &*opened;
        let server_transient = PublicKey::from(take::<32>(&mut opened, STEP)?);
        let cookie: [u8; 96] = take(&mut opened, STEP)?;

        let mut body = b"\x08INITIATE".to_vec();
        body.extend_from_slice(&cookie);
        let unique = 2u64.to_be_bytes();
        body.extend_from_slice(&unique);
        // The vouch proves that C belongs to us: it names c' and the server, for this server only.
        let mut vouch = random_bytes::<16>(self.random)?.to_vec();
        let vouch_nonce = nonce(b"VOUCH---", &vouch);
        let vouched = [self.transient.public_key().to_bytes(), server.0];
        seal(&SalsaBox::new(&server_transient, &keys.secret), &vouch_nonce, &[vouched.as_flattened()], &mut vouch);
        let session = SalsaBox::new(&server_transient, &self.transient);
        let parts = [&keys.public.0[..], &vouch, metadata];
        seal(&session, &nonce(b"CurveZMQINITIATE", &unique), &parts, &mut body);
        self.session = Some(session);
        Ok(body)
    }

    /// Opens READY in its place: the session, and the server's metadata.
    pub(in super::super) fn ready<'a>(&mut self, body: &'a mut [u8]) -> Result<(Session, &'a [u8]), ZmtpError> {
        let failed = ZmtpError::Curve(CurveStep::Ready);
        let session = self.session.take().ok_or(ZmtpError::UnexpectedCommand)?;
        let sealed = body.strip_prefix_mut(b"\x05READY").ok_or(failed)?;
        let (unique, sealed) = sealed.split_first_chunk_mut::<8>().ok_or(failed)?;
        let metadata = open(&session, &nonce(b"CurveZMQREADY---", unique), sealed).ok_or(failed)?;
        Ok((Session::client(session, u64::from_be_bytes(*unique)), metadata))
    }
}

/// `strip_prefix` of a slice that stays mutable.
trait StripPrefixMut {
    fn strip_prefix_mut(&mut self, prefix: &[u8]) -> Option<&mut [u8]>;
}

impl StripPrefixMut for [u8] {
    fn strip_prefix_mut(&mut self, prefix: &[u8]) -> Option<&mut [u8]> {
        let (start, rest) = self.split_at_mut_checked(prefix.len())?;
        (start == prefix).then_some(rest)
    }
}
