//! The security handshake of ZMTP 3: commands, until both sides have the other's metadata.

use super::command::{error_reason, split};
use super::curve::{CurveClient, CurvePublicKey, CurveServer, Session};
use super::frame::{COMMAND, Framing, write_header};
use super::metadata::{Metadata, write_metadata};
use super::{Options, Security, SocketType, ZmtpError};

/// A handshake that is going on.
pub(super) enum Handshake {
    Null { sent: bool },
    PlainClient { welcomed: bool },
    PlainServer { stage: PlainStage, username: Box<[u8]> },
    CurveClient(CurveClient),
    CurveServer { server: CurveServer, metadata: Metadata },
}

/// Where a PLAIN server is.
#[derive(PartialEq, Eq)]
pub(super) enum PlainStage {
    Hello,
    Verdict,
    Initiate,
}

/// What a command led to.
pub(super) enum Progress {
    /// The next is awaited.
    Continue,
    /// Credentials have come, and [`Handshake::allow`] or the end is awaited.
    Verdict,
    /// The peer sent ERROR.
    Refused,
    /// Both sides know each other.
    Done(Box<Done>),
}

/// What a handshake found out.
#[derive(Default)]
pub(super) struct Done {
    pub metadata: Metadata,
    pub username: Option<Box<[u8]>>,
    pub public_key: Option<CurvePublicKey>,
    pub session: Option<Box<Session>>,
}

/// What a step of the handshake works with.
pub(super) struct Scope<'a> {
    pub options: &'a Options,
    /// Our socket type; unknown while it depends on the peer's.
    pub socket_type: &'a mut Option<SocketType>,
    pub out: &'a mut Vec<u8>,
}

impl Handshake {
    /// Begins, and sends what comes first.
    pub(super) fn start(scope: &mut Scope<'_>) -> Result<Self, ZmtpError> {
        Ok(match &scope.options.security {
            Security::Null => {
                let mut handshake = Self::Null { sent: false };
                handshake.declare(scope);
                handshake
            }
            Security::PlainClient { username, password } => {
                let mut body = b"\x05HELLO".to_vec();
                for text in [username, password] {
                    let text = text.get(..255).unwrap_or(text);
                    body.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
                    body.extend_from_slice(text);
                }
                scope.send(&body);
                Self::PlainClient { welcomed: false }
            }
            Security::PlainServer => Self::PlainServer { stage: PlainStage::Hello, username: Box::default() },
            Security::CurveClient { server, .. } => {
                let client = CurveClient::new(scope.options.random)?;
                scope.send(&client.hello(server));
                Self::CurveClient(client)
            }
            Security::CurveServer { .. } => {
                Self::CurveServer { server: CurveServer::default(), metadata: Metadata::default() }
            }
        })
    }

    /// NULL: sends READY if our socket type is known and it was not sent.
    pub(super) fn declare(&mut self, scope: &mut Scope<'_>) {
        if let (Self::Null { sent }, Some(socket_type)) = (self, *scope.socket_type)
            && !std::mem::replace(sent, true)
        {
            scope.send_metadata(b"\x05READY", socket_type);
        }
    }

    /// Whether READY waits for our socket type to be known.
    pub(super) fn waits_for_socket_type(&self) -> bool {
        matches!(self, Self::Null { sent: false })
    }

    /// Whether credentials wait to be judged.
    pub(super) fn waits_for_verdict(&self) -> bool {
        match self {
            Self::PlainServer { stage, .. } => *stage == PlainStage::Verdict,
            Self::CurveServer { server, .. } => server.client().is_some(),
            _ => false,
        }
    }

    /// Takes the body of a command, which CURVE opens in its place.
    pub(super) fn on_command(&mut self, body: &mut [u8], scope: &mut Scope<'_>) -> Result<Progress, ZmtpError> {
        if refusal(body)?.is_some() {
            return Ok(Progress::Refused);
        }
        let (name, data) = split(body)?;
        let limits = &scope.options.limits;
        match (self, &scope.options.security, name) {
            (handshake @ Self::Null { .. }, _, b"READY") => {
                let metadata = Metadata::parse(data, limits)?;
                settle(metadata.socket_type, scope)?;
                handshake.declare(scope);
                Ok(Progress::Done(Box::new(Done { metadata, ..Done::default() })))
            }
            (Self::PlainClient { welcomed: welcomed @ false }, _, b"WELCOME") => {
                *welcomed = true;
                let socket_type = scope.socket_type.unwrap_or(scope.options.socket_type);
                scope.send_metadata(b"\x08INITIATE", socket_type);
                Ok(Progress::Continue)
            }
            (Self::PlainClient { welcomed: true }, _, b"READY") => {
                let metadata = Metadata::parse(data, limits)?;
                settle(metadata.socket_type, scope)?;
                Ok(Progress::Done(Box::new(Done { metadata, ..Done::default() })))
            }
            (Self::PlainServer { stage: stage @ PlainStage::Hello, username }, _, b"HELLO") => {
                *username = credentials(data)?.0.into();
                *stage = PlainStage::Verdict;
                Ok(Progress::Verdict)
            }
            (Self::PlainServer { stage: PlainStage::Initiate, username }, _, b"INITIATE") => {
                let metadata = Metadata::parse(data, limits)?;
                let ours = settle(metadata.socket_type, scope)?;
                scope.send_metadata(b"\x05READY", ours);
                let username = Some(std::mem::take(username));
                Ok(Progress::Done(Box::new(Done { metadata, username, ..Done::default() })))
            }
            (Self::CurveClient(client), Security::CurveClient { keys, server }, b"WELCOME")
                if !client.is_welcomed() =>
            {
                let mut metadata = Vec::new();
                let socket_type = scope.socket_type.unwrap_or(scope.options.socket_type);
                write_metadata(scope.options, socket_type, &mut metadata);
                let initiate = client.initiate(body, keys, server, &metadata)?;
                scope.send(&initiate);
                Ok(Progress::Continue)
            }
            (Self::CurveClient(client), Security::CurveClient { server, .. }, b"READY") => {
                let (session, metadata) = client.ready(body)?;
                let metadata = Metadata::parse(metadata, limits)?;
                settle(metadata.socket_type, scope)?;
                let (session, public_key) = (Some(Box::new(session)), Some(*server));
                Ok(Progress::Done(Box::new(Done { metadata, public_key, session, username: None })))
            }
            (Self::CurveServer { server, .. }, Security::CurveServer { keys }, b"HELLO") if server.is_new() => {
                let welcome = server.welcome(body, keys, scope.options.random)?;
                scope.send(&welcome);
                Ok(Progress::Continue)
            }
            (Self::CurveServer { server, metadata }, Security::CurveServer { keys }, b"INITIATE") => {
                *metadata = Metadata::parse(server.initiate(body, keys)?, limits)?;
                settle(metadata.socket_type, scope)?;
                Ok(Progress::Verdict)
            }
            _ => Err(ZmtpError::UnexpectedCommand),
        }
    }

    /// The peer may in. `None` if nobody asked.
    pub(super) fn allow(&mut self, scope: &mut Scope<'_>) -> Option<Progress> {
        match self {
            Self::PlainServer { stage: stage @ PlainStage::Verdict, .. } => {
                scope.send(b"\x07WELCOME");
                *stage = PlainStage::Initiate;
                Some(Progress::Continue)
            }
            Self::CurveServer { server, metadata } => {
                let public_key = Some(server.client()?);
                let mut ours = Vec::new();
                write_metadata(scope.options, scope.socket_type.unwrap_or(scope.options.socket_type), &mut ours);
                let (ready, session) = server.ready(&ours)?;
                scope.send(&ready);
                let (metadata, session) = (std::mem::take(metadata), Some(Box::new(session)));
                Some(Progress::Done(Box::new(Done { metadata, public_key, session, username: None })))
            }
            _ => None,
        }
    }
}

impl Scope<'_> {
    /// Sends a command.
    pub(super) fn send(&mut self, body: &[u8]) {
        write_header(Framing::V2, COMMAND, body.len() as u64, self.out);
        self.out.extend_from_slice(body);
    }

    fn send_metadata(&mut self, name: &[u8], socket_type: SocketType) {
        let mut body = name.to_vec();
        write_metadata(self.options, socket_type, &mut body);
        self.send(&body);
    }
}

/// The reason, if the command is ERROR. libzmq 4.3 writes PLAIN's with its length and first letter in one octet: `^RROR`.
pub(super) fn refusal(body: &[u8]) -> Result<Option<&[u8]>, ZmtpError> {
    let data = match body {
        [b'^', b'R', b'R', b'O', b'R', data @ ..] => data,
        _ => match split(body)? {
            (b"ERROR", data) => data,
            _ => return Ok(None),
        },
    };
    error_reason(data).map(Some)
}

/// Our socket type, now that the peer's is known; an error if they don't fit.
pub(super) fn settle(theirs: Option<SocketType>, scope: &mut Scope<'_>) -> Result<SocketType, ZmtpError> {
    let Some(theirs) = theirs else {
        if !scope.options.lenient {
            return Err(ZmtpError::MissingSocketType);
        }
        return Ok(*scope.socket_type.get_or_insert(scope.options.socket_type));
    };
    let ours = *scope.socket_type.get_or_insert(theirs.face());
    if ours.accepts(theirs) { Ok(ours) } else { Err(ZmtpError::IncompatibleSockets { theirs, ours }) }
}

/// User name and password in the data of HELLO (RFC 24).
pub(super) fn credentials(data: &[u8]) -> Result<(&[u8], &[u8]), ZmtpError> {
    let text = |data: &[u8]| -> Option<usize> { data.first().map(|length| usize::from(*length)) };
    let read = || {
        let (username, rest) = data.get(1..)?.split_at_checked(text(data)?)?;
        let (password, rest) = rest.get(1..)?.split_at_checked(text(rest)?)?;
        rest.is_empty().then_some((username, password))
    };
    read().ok_or(ZmtpError::Credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_credentials() {
        assert_eq!(credentials(b"\x01u\x01p"), Ok((&b"u"[..], &b"p"[..])), "as libzmq sends it");
        assert_eq!(credentials(b"\0\0"), Ok((&b""[..], &b""[..])));
        for data in [&b""[..], b"\0", b"\x01u", b"\x02u\x01p", b"\x01u\x02p", b"\x01u\x01px"] {
            assert_eq!(credentials(data), Err(ZmtpError::Credentials), "{data:?}");
        }
    }

    #[test]
    fn refusals() {
        assert_eq!(refusal(b"\x05ERROR\x03400"), Ok(Some(&b"400"[..])));
        assert_eq!(refusal(b"^RROR\x03400"), Ok(Some(&b"400"[..])), "as observed");
        assert_eq!(refusal(b"\x05READY"), Ok(None));
        assert_eq!(refusal(b"^RROR\x03"), Err(ZmtpError::Command));
        assert_eq!(refusal(b"^RRO"), Err(ZmtpError::Command));
    }

    #[test]
    fn socket_types_are_settled() {
        let settled = |options: &Options, ours: Option<SocketType>, theirs| {
            let (mut socket_type, mut out) = (ours, Vec::new());
            settle(theirs, &mut Scope { options, socket_type: &mut socket_type, out: &mut out })
        };
        let strict = Options::default();
        assert_eq!(settled(&strict, None, Some(SocketType::Sub)), Ok(SocketType::Xpub));
        assert_eq!(settled(&strict, Some(SocketType::Router), Some(SocketType::Req)), Ok(SocketType::Router));
        let (ours, theirs) = (SocketType::Router, SocketType::Sub);
        assert_eq!(settled(&strict, Some(ours), Some(theirs)), Err(ZmtpError::IncompatibleSockets { ours, theirs }));
        assert_eq!(settled(&strict, Some(ours), None), Err(ZmtpError::MissingSocketType));
        let lenient = Options { lenient: true, ..Options::default() };
        assert_eq!(settled(&lenient, None, None), Ok(SocketType::Dealer));
    }
}
