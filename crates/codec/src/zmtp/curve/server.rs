//! The server's half of the handshake: (HELLO), WELCOME, (INITIATE), READY.

use super::super::{CurveStep, RandomSource, ZmtpError};
use super::seal::{nonce, open, seal};
use super::{CurveKeyPair, CurvePublicKey, Session, expect, new_secret, random_bytes, take};
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use crypto_secretbox::{KeyInit, XSalsa20Poly1305};

/// A handshake that is going on.
#[derive(Default)]
pub(in super::super) struct CurveServer {
    stage: Stage,
}

#[derive(Default)]
enum Stage {
    #[default]
    Hello,
    /// WELCOME was sent. s' is in the cookie only.
    Welcomed { client_transient: [u8; 32], cookie: Box<XSalsa20Poly1305> },
    /// INITIATE was right; whether the client may in is being asked.
    Initiated { client: CurvePublicKey, session: Box<SalsaBox>, last_nonce: u64 },
}

impl CurveServer {
    /// Takes the body of HELLO and makes that of WELCOME, 168 octets.
    pub(in super::super) fn welcome(
        &mut self,
        mut hello: &[u8],
        keys: &CurveKeyPair,
        random: RandomSource,
    ) -> Result<Vec<u8>, ZmtpError> {
        const STEP: CurveStep = CurveStep::Hello;
        expect(&mut hello, b"\x05HELLO\x01\x00", STEP)?;
        // 72 octets that are there for their size. RFC 26 wants zeros and libzmq looks at none of them.
        take::<72>(&mut hello, STEP)?;
        let client_transient: [u8; 32] = take(&mut hello, STEP)?;
        let unique: [u8; 8] = take(&mut hello, STEP)?;
        let mut sealed: [u8; 80] = hello.try_into().map_err(|_| ZmtpError::Curve(STEP))?;
        let cipher = SalsaBox::new(&PublicKey::from(client_transient), &keys.secret);
        let opened = open(&cipher, &nonce(b"CurveZMQHELLO---", &unique), &mut sealed);
        if !opened.is_some_and(|zeros| zeros.iter().all(|octet| *octet == 0)) {
            return Err(ZmtpError::Curve(STEP));
        }

        let transient = new_secret(random)?;
        let cookie = Box::new(XSalsa20Poly1305::new(&random_bytes::<32>(random)?.into()));
        let mut plain = transient.public_key().to_bytes().to_vec();
        let unique = random_bytes::<16>(random)?;
        plain.extend_from_slice(&unique);
        seal(&*cookie, &nonce(b"COOKIE--", &unique), &[&client_transient, &transient.to_bytes()], &mut plain);
        let mut body = b"\x07WELCOME".to_vec();
        let unique = random_bytes::<16>(random)?;
        body.extend_from_slice(&unique);
        seal(&cipher, &nonce(b"WELCOME-", &unique), &[&plain], &mut body);
        self.stage = Stage::Welcomed { client_transient, cookie };
        Ok(body)
    }

    /// Opens INITIATE in its place: the client's metadata. Its key is [`Self::client`] then.
    pub(in super::super) fn initiate<'a>(
        &mut self,
        body: &'a mut [u8],
        keys: &CurveKeyPair,
    ) -> Result<&'a [u8], ZmtpError> {
        const STEP: CurveStep = CurveStep::Initiate;
        let failed = ZmtpError::Curve(STEP);
        let Stage::Welcomed { client_transient, cookie } = std::mem::take(&mut self.stage) else {
            return Err(ZmtpError::UnexpectedCommand);
        };
        let (head, sealed) = body.split_at_mut_checked(113).ok_or(failed)?;
        let mut head = &*head;
        expect(&mut head, b"\x08INITIATE", STEP)?;
        let transient = open_cookie(&cookie, &mut head, &client_transient)?;
        let unique: [u8; 8] = take(&mut head, STEP)?;
        let client_transient = PublicKey::from(client_transient);
        let session = Box::new(SalsaBox::new(&client_transient, &transient));
        let opened: &[u8] = open(&*session, &nonce(b"CurveZMQINITIATE", &unique), sealed).ok_or(failed)?;
        let mut rest = opened;
        let client = CurvePublicKey(take(&mut rest, STEP)?);
        let vouch_nonce = nonce(b"VOUCH---", &take::<16>(&mut rest, STEP)?);
        let vouch: [u8; 80] = take(&mut rest, STEP)?;
        let named = [client_transient.to_bytes(), keys.public.0];
        let mut vouched = vouch;
        let says = open(&SalsaBox::new(&client.key(), &transient), &vouch_nonce, &mut vouched);
        if says.is_none_or(|says| says != named.as_flattened()) {
            return Err(ZmtpError::Curve(CurveStep::Vouch));
        }
        // A public key of small order makes the same box with every secret key, so that such a vouch proves nothing.
        if open(&SalsaBox::new(&client.key(), &keys.secret), &vouch_nonce, &mut { vouch }).is_some() {
            return Err(ZmtpError::Curve(CurveStep::Vouch));
        }
        self.stage = Stage::Initiated { client, session, last_nonce: u64::from_be_bytes(unique) };
        Ok(rest)
    }

    /// The client's long-term key, once it is proved.
    pub(in super::super) fn client(&self) -> Option<CurvePublicKey> {
        match &self.stage {
            Stage::Initiated { client, .. } => Some(*client),
            _ => None,
        }
    }

    /// Whether HELLO is to come.
    pub(in super::super) fn is_new(&self) -> bool {
        matches!(self.stage, Stage::Hello)
    }

    /// The client may in: the body of READY, and the session.
    pub(in super::super) fn ready(&mut self, metadata: &[u8]) -> Option<(Vec<u8>, Session)> {
        let Stage::Initiated { session, last_nonce, .. } = std::mem::take(&mut self.stage) else { return None };
        let mut body = b"\x05READY".to_vec();
        let unique = 1u64.to_be_bytes();
        body.extend_from_slice(&unique);
        seal(&*session, &nonce(b"CurveZMQREADY---", &unique), &[metadata], &mut body);
        Some((body, Session::server(*session, last_nonce)))
    }
}

/// s' from the cookie, which must be the one made for this client.
fn open_cookie(
    cookie: &XSalsa20Poly1305,
    head: &mut &[u8],
    client_transient: &[u8; 32],
) -> Result<SecretKey, ZmtpError> {
    const STEP: CurveStep = CurveStep::Cookie;
    let unique: [u8; 16] = take(head, STEP)?;
    let mut sealed: [u8; 80] = take(head, STEP)?;
    let opened = open(cookie, &nonce(b"COOKIE--", &unique), &mut sealed).ok_or(ZmtpError::Curve(STEP))?;
    let mut opened = &*opened;
    expect(&mut opened, client_transient, STEP)?;
    Ok(SecretKey::from(take::<32>(&mut opened, STEP)?))
}
