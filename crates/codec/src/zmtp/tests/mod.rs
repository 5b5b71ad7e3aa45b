//! Connections against scripted bytes and against each other.

mod limits;
mod pairs;
pub(super) mod splits;
mod vectors;

use super::{
    Assembler, Command, Connection, Credentials, CurveKeyPair, Event, Mechanism, Options, Peer, Security, SocketType,
    ZmtpError,
};
use std::{cell::Cell, sync::Arc, time::Duration};

/// An event that outlives its bytes; frames are put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Ready(Peer),
    Message(Vec<Vec<u8>>),
    Subscribe(Vec<u8>),
    Cancel(Vec<u8>),
    Ping(bool, Duration),
    Pong(Vec<u8>),
    Command(String),
    Authenticate(String),
    Refused(Vec<u8>),
    Failed(ZmtpError),
}

/// A connection with what a caller has beside it.
pub(super) struct Side {
    pub connection: Connection,
    pub out: Vec<u8>,
    pub told: Vec<Told>,
    pub assembler: Assembler,
    /// What to say to credentials.
    pub allows: bool,
}

impl Side {
    pub(super) fn new(options: Options) -> Self {
        let mut out = Vec::new();
        let connection = Connection::new(Arc::new(options), &mut out);
        Self { connection, out, told: Vec::new(), assembler: Assembler::default(), allows: true }
    }

    /// Takes bytes of the peer in pieces of `size`.
    pub(super) fn take(&mut self, bytes: &[u8], size: usize) {
        for piece in bytes.chunks(size.max(1)) {
            self.take_piece(piece);
        }
    }

    fn take_piece(&mut self, piece: &[u8]) {
        let mut at = 0;
        loop {
            let (taken, event) = match self.connection.recv(&piece[at..], &mut self.out) {
                Ok(found) => found,
                Err(error) => {
                    if self.told.last() != Some(&Told::Failed(error)) {
                        self.told.push(Told::Failed(error));
                    }
                    return;
                }
            };
            at += taken;
            let told = match event {
                Event::NeedMore => {
                    assert_eq!(at, piece.len(), "a remainder was left");
                    return;
                }
                Event::Blocked => panic!("the verdict was given"),
                Event::Frame(frame) => {
                    assert!(!frame.payload.is_empty() || frame.length == 0);
                    let whole = self.assembler.push(&frame);
                    whole.map(|message| Told::Message(message.frames().map(<[u8]>::to_vec).collect()))
                }
                Event::Ready(peer) => Some(Told::Ready(peer.clone())),
                Event::Subscribe(topic) => Some(Told::Subscribe(topic.to_vec())),
                Event::Cancel(topic) => Some(Told::Cancel(topic.to_vec())),
                Event::Ping { answered, ttl } => Some(Told::Ping(answered, ttl)),
                Event::Pong(context) => Some(Told::Pong(context.to_vec())),
                Event::Command(command) => Some(Told::Command(format!("{command:?}"))),
                Event::Refused(reason) => Some(Told::Refused(reason.to_vec())),
                Event::Authenticate(credentials) => {
                    let said = match credentials {
                        Credentials::Plain { username, password } => {
                            format!("{} {}", username.escape_ascii(), password.escape_ascii())
                        }
                        Credentials::Curve(key) => key.to_z85(),
                    };
                    if self.allows {
                        self.connection.allow(&mut self.out).unwrap();
                    } else {
                        self.connection.deny(b"400", &mut self.out).unwrap();
                    }
                    Some(Told::Authenticate(said))
                }
            };
            self.told.extend(told);
        }
    }

    pub(super) fn peer(&self) -> &Peer {
        self.connection.peer().unwrap_or_else(|| panic!("no handshake: {:?}", self.told))
    }

    pub(super) fn failure(&self) -> Option<ZmtpError> {
        self.told.iter().find_map(|told| if let Told::Failed(error) = told { Some(*error) } else { None })
    }

    /// What was told since the handshake.
    pub(super) fn traffic(&self) -> &[Told] {
        let ready = self.told.iter().position(|told| matches!(told, Told::Ready(_)));
        &self.told[ready.unwrap_or_else(|| panic!("no handshake: {:?}", self.told)) + 1..]
    }
}

/// Carries bytes both ways until neither has any; returns what each side sent.
pub(super) fn exchange(a: &mut Side, b: &mut Side, size: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut from_a, mut from_b) = (Vec::new(), Vec::new());
    while !a.out.is_empty() || !b.out.is_empty() {
        let (sent_a, sent_b) = (std::mem::take(&mut a.out), std::mem::take(&mut b.out));
        b.take(&sent_a, size);
        a.take(&sent_b, size);
        from_a.extend(sent_a);
        from_b.extend(sent_b);
    }
    (from_a, from_b)
}

thread_local! {
    static CLIENT: Cell<u8> = const { Cell::new(0) };
    static SERVER: Cell<u8> = const { Cell::new(128) };
}

/// Begins the sequences of [`client_random`] and [`server_random`] anew.
pub(super) fn reset_random() {
    CLIENT.set(0);
    SERVER.set(128);
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of a source of random bytes")]
pub(super) fn client_random(bytes: &mut [u8]) -> Result<(), ZmtpError> {
    CLIENT.set(CLIENT.get() + 1);
    bytes.fill(CLIENT.get());
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of a source of random bytes")]
pub(super) fn server_random(bytes: &mut [u8]) -> Result<(), ZmtpError> {
    SERVER.set(SERVER.get().wrapping_add(1));
    bytes.fill(SERVER.get());
    Ok(())
}

pub(super) fn server_keys() -> CurveKeyPair {
    CurveKeyPair::from_secret([0x5e; 32])
}

pub(super) fn client_keys() -> CurveKeyPair {
    CurveKeyPair::from_secret([0xc1; 32])
}

/// Options of a client and a server of a mechanism, DEALER and ROUTER.
pub(super) fn both(mechanism: Mechanism) -> (Options, Options) {
    let (client, server) = match mechanism {
        Mechanism::Null => (Security::Null, Security::Null),
        Mechanism::Plain => {
            let (username, password) = (b"me"[..].into(), b"secret"[..].into());
            (Security::PlainClient { username, password }, Security::PlainServer)
        }
        Mechanism::Curve => (
            Security::CurveClient { keys: client_keys(), server: server_keys().public },
            Security::CurveServer { keys: server_keys() },
        ),
    };
    let client = Options { security: client, random: client_random, identity: b"id"[..].into(), ..Options::default() };
    let socket_type = SocketType::Router;
    (client, Options { security: server, random: server_random, socket_type, ..Options::default() })
}

/// A greeting of a 3.x peer.
pub(super) fn greeting(minor: u8, mechanism: &[u8]) -> Vec<u8> {
    let mut bytes = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03".to_vec();
    bytes.push(minor);
    bytes.extend_from_slice(mechanism);
    bytes.resize(64, 0);
    bytes
}

/// A command frame.
pub(super) fn command(body: &[u8]) -> Vec<u8> {
    [&[4, u8::try_from(body.len()).unwrap()], body].concat()
}

/// What a 3.x peer of a type sends before its first message, with NULL.
pub(super) fn null_peer(minor: u8, socket_type: SocketType) -> Vec<u8> {
    let mut ready = b"\x05READY\x0bSocket-Type\0\0\0".to_vec();
    ready.push(u8::try_from(socket_type.name().len()).unwrap());
    ready.extend_from_slice(socket_type.name().as_bytes());
    [greeting(minor, b"NULL"), command(&ready)].concat()
}

/// A server of a type, behind the handshake with such a peer; its output so far is forgotten.
pub(super) fn ready_side(options: Options, peer: SocketType) -> Side {
    let mut side = Side::new(options);
    side.take(&null_peer(1, peer), 1000);
    side.peer();
    side.out.clear();
    side
}

/// A command as told.
pub(super) fn told(command: Command<'_>) -> Told {
    Told::Command(format!("{command:?}"))
}
