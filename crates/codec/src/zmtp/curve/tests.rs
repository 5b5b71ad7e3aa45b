//! What must not get through.

use super::super::tests::{Side, Told, both, client_keys, client_random, exchange, server_keys, server_random};
use super::super::{CurveStep, Mechanism, Options, Security, ZmtpError};
use super::{CurveClient, CurveKeyPair, CurvePublicKey, CurveServer};
use crypto_box::SalsaBox;

fn established() -> (Side, Side) {
    let (client, server) = both(Mechanism::Curve);
    let (mut client, mut server) = (Side::new(client), Side::new(server));
    exchange(&mut client, &mut server, 1000);
    (client, server)
}

#[test]
fn a_client_with_another_server_key() {
    let (client, server) = both(Mechanism::Curve);
    let security = Security::CurveClient { keys: client_keys(), server: client_keys().public };
    let (mut client, mut server) = (Side::new(Options { security, ..client }), Side::new(server));
    exchange(&mut client, &mut server, 1000);
    assert_eq!(server.failure(), Some(ZmtpError::Curve(CurveStep::Hello)));
    assert!(!client.connection.is_ready());
}

#[test]
fn the_client_proves_its_key() {
    let (client, server) = established();
    assert_eq!(server.told[0], Told::Authenticate(client_keys().public.to_z85()));
    assert_eq!(client.peer().public_key, Some(server_keys().public));
    // Another's public key beside one's own secret.
    let keys = CurveKeyPair { public: CurvePublicKey([9; 32]), secret: client_keys().secret };
    assert_eq!(initiated(&keys, |_| {}), Err(ZmtpError::Curve(CurveStep::Vouch)));
    // A point of small order, for which every secret makes the same box.
    for low in [[0; 32], {
        let mut one = [0; 32];
        one[0] = 1;
        one
    }] {
        let keys = CurveKeyPair { public: CurvePublicKey(low), secret: client_keys().secret };
        assert_eq!(initiated(&keys, |_| {}), Err(ZmtpError::Curve(CurveStep::Vouch)));
        assert_eq!(forged(low), Err(ZmtpError::Curve(CurveStep::Vouch)));
    }
    assert_eq!(initiated(&client_keys(), |_| {}), Ok(b"metadata".to_vec()));
}

/// What a server says to the INITIATE of a client with these keys, changed on its way.
fn initiated(keys: &CurveKeyPair, change: impl Fn(&mut Vec<u8>)) -> Result<Vec<u8>, ZmtpError> {
    let mut client = CurveClient::new(client_random)?;
    let mut server = CurveServer::default();
    let hello = client.hello(&server_keys().public);
    assert_eq!(hello.len(), 200);
    let welcome = server.welcome(&hello, &server_keys(), server_random)?;
    assert_eq!(welcome.len(), 168);
    let mut initiate = client.initiate(&welcome, keys, &server_keys().public, b"metadata")?;
    assert_eq!(initiate.len(), 257 + 8);
    change(&mut initiate);
    server.initiate(&mut initiate, &server_keys()).map(<[u8]>::to_vec)
}

/// An INITIATE whose vouch is made without the secret key of `public`, which works if that is of small order.
fn forged(public: [u8; 32]) -> Result<Vec<u8>, ZmtpError> {
    use super::seal::{nonce, open, seal};
    let transient = crypto_box::SecretKey::from([0x77; 32]);
    let mut hello = b"\x05HELLO\x01\0".to_vec();
    hello.resize(80, 0);
    hello.extend_from_slice(transient.public_key().as_bytes());
    hello.extend_from_slice(&[0; 8]);
    let long = SalsaBox::new(&server_keys().public.key(), &transient);
    seal(&long, &nonce(b"CurveZMQHELLO---", &[0; 8]), &[&[0; 64]], &mut hello);
    let mut server = CurveServer::default();
    let mut welcome = server.welcome(&hello, &server_keys(), server_random)?;
    let (head, sealed) = welcome.split_at_mut(24);
    let opened = open(&long, &nonce(b"WELCOME-", &head[8..]), sealed).unwrap();
    let server_transient = CurvePublicKey(opened[..32].try_into().unwrap()).key();
    let mut vouch = vec![1; 16];
    let anybody = SalsaBox::new(&CurvePublicKey(public).key(), &crypto_box::SecretKey::from([0x55; 32]));
    let named = [transient.public_key().to_bytes(), server_keys().public.0];
    seal(&anybody, &nonce(b"VOUCH---", &[1; 16]), &[named.as_flattened()], &mut vouch);
    let mut initiate = b"\x08INITIATE".to_vec();
    initiate.extend_from_slice(&opened[32..]);
    initiate.extend_from_slice(&[0; 8]);
    let session = SalsaBox::new(&server_transient, &transient);
    seal(&session, &nonce(b"CurveZMQINITIATE", &[0; 8]), &[&public, &vouch], &mut initiate);
    server.initiate(&mut initiate, &server_keys()).map(<[u8]>::to_vec)
}

#[test]
fn every_octet_of_initiate_counts() {
    for at in (0..265).step_by(16) {
        let end = initiated(&client_keys(), |initiate| initiate[at] ^= 1);
        let expected = match at {
            0..9 => CurveStep::Initiate,
            9..105 => CurveStep::Cookie,
            _ => CurveStep::Initiate,
        };
        assert_eq!(end, Err(ZmtpError::Curve(expected)), "{at}");
    }
    for length in [0, 8, 112, 113, 256] {
        assert!(initiated(&client_keys(), |initiate| initiate.truncate(length)).is_err(), "{length}");
    }
}

#[test]
fn cookies_work_once_and_for_their_connection() {
    let hello_of = |client: &CurveClient| client.hello(&server_keys().public);
    let mut client = CurveClient::new(client_random).unwrap();
    let (mut first, mut second) = (CurveServer::default(), CurveServer::default());
    let welcome = first.welcome(&hello_of(&client), &server_keys(), server_random).unwrap();
    second.welcome(&hello_of(&client), &server_keys(), server_random).unwrap();
    let initiate = client.initiate(&welcome, &client_keys(), &server_keys().public, b"").unwrap();
    let replayed = second.initiate(&mut initiate.clone(), &server_keys()).map(<[u8]>::to_vec);
    assert_eq!(replayed, Err(ZmtpError::Curve(CurveStep::Cookie)));
    assert_eq!(first.initiate(&mut initiate.clone(), &server_keys()), Ok(&[][..]));
    assert!(first.client().is_some());
    let again = first.initiate(&mut initiate.clone(), &server_keys()).map(<[u8]>::to_vec);
    assert_eq!(again, Err(ZmtpError::UnexpectedCommand));
}

#[test]
fn hello_and_welcome_are_exact() {
    let client = CurveClient::new(client_random).unwrap();
    let hello = client.hello(&server_keys().public);
    for at in [0, 6, 7, 80, 112, 120, 199] {
        let mut hello = hello.clone();
        hello[at] ^= 1;
        let end = CurveServer::default().welcome(&hello, &server_keys(), server_random);
        assert_eq!(end, Err(ZmtpError::Curve(CurveStep::Hello)), "{at}");
    }
    for length in [0, 199, 201] {
        let mut hello = hello.clone();
        hello.resize(length, 0);
        assert!(CurveServer::default().welcome(&hello, &server_keys(), server_random).is_err());
    }
    let welcome = CurveServer::default().welcome(&hello, &server_keys(), server_random).unwrap();
    for at in [0, 8, 24, 167] {
        let mut welcome = welcome.clone();
        welcome[at] ^= 1;
        let mut client = CurveClient::new(client_random).unwrap();
        let end = client.initiate(&welcome, &client_keys(), &server_keys().public, b"");
        assert_eq!(end, Err(ZmtpError::Curve(CurveStep::Welcome)), "{at}");
    }
}

#[test]
fn messages_are_neither_changed_nor_repeated() {
    let (mut client, mut server) = established();
    client.connection.send_frame(b"one", false, &mut client.out).unwrap();
    let one = std::mem::take(&mut client.out);
    client.connection.send_frame(b"two", true, &mut client.out).unwrap();
    let mut two = std::mem::take(&mut client.out);
    server.take(&one, 100);
    assert_eq!(server.traffic(), [Told::Message(vec![b"one".to_vec()])]);
    // RFC 37 has MESSAGE as a command.
    two[0] = 4;
    server.take(&two, 100);
    assert!(server.assembler.is_within());
    server.take(&one, 100);
    assert_eq!(server.failure(), Some(ZmtpError::Nonce));

    for at in 2..one.len() {
        let (mut client, mut server) = established();
        client.connection.send_frame(b"one", false, &mut client.out).unwrap();
        client.out[at] ^= 0x40;
        let changed = std::mem::take(&mut client.out);
        server.take(&changed, 100);
        let expected = if at < 10 { ZmtpError::UnexpectedCommand } else { ZmtpError::Curve(CurveStep::Message) };
        assert_eq!(server.failure(), Some(expected), "{at}");
        assert!(server.traffic().iter().all(|told| !matches!(told, Told::Message(_))));
    }
    for (bytes, expected) in [
        (&b"\x01\x22\x07MESSAGE"[..], ZmtpError::UnexpectedMessage),
        (b"\0\x05hello", ZmtpError::Curve(CurveStep::Message)),
    ] {
        let (_, mut server) = established();
        server.take(bytes, 100);
        assert_eq!(server.failure(), Some(expected), "in clear");
    }
}
