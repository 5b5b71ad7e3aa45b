//! Handshakes: from a socket to one with TLS, and what was agreed on.

use super::{
    application_protocols,
    certificate::info,
    client::{ClientContext, ClientState},
    names,
    server::{ServerContext, ServerState},
    validator::Failure,
};
use crate::{
    buffer::ReadBuffer,
    proxy_header::ToldClient,
    socket::{Io, Socket, TlsStream, Wire},
};
use rustls::{
    CertificateError, ClientConnection, Connection, Error, HandshakeKind,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{Accepted, Acceptor, ClientHello},
};
use sota_plugin::info::{CertificateInfo, PeerCertificate, TlsInfo};
use std::{
    fmt,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    task::Poll,
};
use webpki::KeyUsage;

/// A connection whose handshake is done.
pub(crate) struct Secured {
    /// It.
    pub(crate) io: Io,
    /// What was agreed on.
    pub(crate) info: TlsInfo,
    /// What the peer's certificate is worth.
    pub(crate) peer: PeerCertificate,
}

/// Why a handshake has failed.
#[derive(Debug)]
pub(crate) enum HandshakeFailure {
    /// The peer has gone.
    Closed,
    /// A secret of this side has not come yet.
    NotReady {
        /// Whether a client has waited for it.
        is_server: bool,
    },
    /// The peer's certificate is not good.
    Certificate(Reason),
    /// The peer has none.
    NoCertificate,
    /// Nothing could be agreed on, or what came is no TLS.
    Protocol(String),
}

/// Which counter counts a certificate that is not good.
#[derive(Debug)]
pub(crate) enum Reason {
    Chain(String),
    Names(String),
    Hash(String),
}

impl From<Error> for HandshakeFailure {
    fn from(error: Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(error) => {
                let named = match &error {
                    CertificateError::Other(other) => other.0.downcast_ref::<Failure>().cloned(),
                    _ => None,
                };
                let failure = named.unwrap_or(Failure::Chain(error));
                let text = failure.to_string();
                Self::Certificate(match failure {
                    Failure::Chain(_) | Failure::Depth => Reason::Chain(text),
                    Failure::Names(_) => Reason::Names(text),
                    Failure::Hash => Reason::Hash(text),
                })
            }
            other => Self::Protocol(other.to_string()),
        }
    }
}

impl From<io::Error> for HandshakeFailure {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => error.into(),
            Err(_) => Self::Closed,
        }
    }
}

/// In the form of Envoy's `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`.
impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verify = "268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED";
        match self {
            // Envoy's words.
            Self::NotReady { .. } => f.write_str("TLS error: Secret is not supplied by SDS"),
            Self::Closed => f.write_str("TLS_error:|connection closed by the peer:TLS_error_end"),
            Self::Certificate(Reason::Chain(text) | Reason::Names(text) | Reason::Hash(text)) => {
                write!(f, "TLS_error:|{verify}:{text}:TLS_error_end")
            }
            Self::NoCertificate => f.write_str(
                "TLS_error:|268435655:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE:TLS_error_end",
            ),
            Self::Protocol(text) => write!(f, "TLS_error:|{text}:TLS_error_end"),
        }
    }
}

/// Accepts a client. The server's certificate and the application protocol follow from its hello.
pub(crate) async fn accept(socket: Socket, context: &ServerContext) -> Result<Secured, HandshakeFailure> {
    let (io, early) = socket.into_parts();
    let mut wire = Wire::new(io, early);
    let state = context.state().ok_or(HandshakeFailure::NotReady { is_server: true })?;
    let accepted = hello(&mut wire).await?;
    let hello = accepted.client_hello();
    if context.model.require_sni && hello.server_name().is_none() {
        return Err(HandshakeFailure::Protocol("the client names no server".to_owned()));
    }
    let local = state.certificates.choose(hello.server_name(), hello.signature_schemes());
    let local = local.map(|certificate| Arc::clone(&certificate.info));
    let config = if shares_protocol(&hello, &state) { &state.config } else { &state.without_alpn };
    let connection = match accepted.into_connection(Arc::clone(config)) {
        Ok(connection) => connection,
        Err((error, mut alert)) => {
            let _ = poll_fn(|cx| wire.poll(cx, |wire| alert.write(wire))).await;
            return Err(error.into());
        }
    };
    let server_name = connection.server_name().map(Into::into);
    let mut session = Connection::from(connection);
    finish(&mut wire, &mut session).await?;
    let info = describe(&session, server_name.unwrap_or_default(), local);
    let peer = worth(&session, &state);
    Ok(Secured { io: Io::Tls(Box::new(TlsStream::new(wire, session))), info, peer })
}

/// How a connection differs from what is configured: connections with other options are others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TransportOptions {
    /// Application protocols to offer; empty: those of the configuration.
    pub(crate) protocols: Arc<[String]>,
    /// The server's name or address; `None`: as configured.
    pub(crate) server_name: Option<Box<str>>,
    /// Whom a host is told that the connection is for, where it is told.
    pub(crate) client: Option<Arc<ToldClient>>,
}

/// Makes a connection to a host that is called `hostname`; empty when it has no name. `spoken` is what may be spoken on it:
/// the application protocols to offer, unless the configuration or the `options` have others.
pub(crate) async fn connect(
    io: Io,
    context: &ClientContext,
    hostname: &str,
    address: Option<IpAddr>,
    spoken: &[&[u8]],
    options: &TransportOptions,
) -> Result<Secured, HandshakeFailure> {
    let state: Arc<ClientState> = context.state().ok_or(HandshakeFailure::NotReady { is_server: false })?;
    let model = &context.model;
    let name = match &options.server_name {
        Some(name) => Some(&**name),
        None if model.auto_host_sni && !hostname.is_empty() => Some(hostname),
        None => Some(&*model.sni).filter(|sni| !sni.is_empty()),
    };
    let wanted = name.map(|name| ServerName::try_from(name.to_owned()));
    let wanted = wanted.transpose().map_err(|_| HandshakeFailure::Protocol("the host's name is not one".to_owned()))?;
    let (config, server_name) = match wanted {
        // RFC 6066 §3: an address is no server name.
        Some(name @ ServerName::IpAddress(_)) => (&state.without_name, name),
        Some(name) => (&state.config, name),
        None => {
            (&state.without_name, ServerName::IpAddress(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).into()))
        }
    };
    let protocols = if !options.protocols.is_empty() {
        application_protocols(&options.protocols)
    } else if config.alpn_protocols.is_empty() {
        spoken.iter().map(|protocol| protocol.to_vec()).collect()
    } else {
        config.alpn_protocols.clone()
    };
    let mut wire = Wire::new(io, ReadBuffer::new());
    let mut session = Connection::from(ClientConnection::new_with_alpn(Arc::clone(config), server_name, protocols)?);
    finish(&mut wire, &mut session).await?;
    let own = state.certificate.as_ref().map(|own| Arc::clone(&own.info));
    let info = describe(&session, name.unwrap_or_default().into(), own);
    Ok(Secured { io: Io::Tls(Box::new(TlsStream::new(wire, session))), info, peer: PeerCertificate::Presented })
}

/// The client's hello, which the library bounds at 64 KiB.
async fn hello(wire: &mut Wire) -> Result<Accepted, HandshakeFailure> {
    let mut acceptor = Acceptor::default();
    loop {
        let read = poll_fn(|cx| wire.poll(cx, |wire| acceptor.read_tls(wire))).await?;
        if read == 0 {
            return Err(HandshakeFailure::Closed);
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let _ = poll_fn(|cx| wire.poll(cx, |wire| alert.write(wire))).await;
                return Err(error.into());
            }
        }
    }
}

/// Whether client and server have an application protocol in common. Without one none is agreed on.
fn shares_protocol(hello: &ClientHello<'_>, state: &ServerState) -> bool {
    let ours = &state.config.alpn_protocols;
    hello.alpn().is_some_and(|mut theirs| theirs.any(|name| ours.iter().any(|our| our == name)))
}

async fn finish(wire: &mut Wire, session: &mut Connection) -> Result<(), HandshakeFailure> {
    loop {
        while session.wants_write() {
            poll_fn(|cx| wire.poll(cx, |wire| session.write_tls(wire))).await?;
        }
        if !session.is_handshaking() {
            return Ok(());
        }
        if poll_fn(|cx| wire.poll(cx, |wire| session.read_tls(wire))).await? == 0 {
            return Err(HandshakeFailure::Closed);
        }
        if let Err(error) = session.process_new_packets() {
            // The alert says why; a client that does not take it is left without.
            let _ = poll_fn(|cx| Poll::Ready(wire.poll(cx, |wire| session.write_tls(wire)))).await;
            return Err(error.into());
        }
    }
}

fn describe(session: &Connection, server_name: Box<str>, local: Option<Arc<CertificateInfo>>) -> TlsInfo {
    let alpn = session.alpn_protocol().map(String::from_utf8_lossy).unwrap_or_default();
    TlsInfo {
        version: names::version(session.protocol_version()),
        cipher: session.negotiated_cipher_suite().map_or("", |suite| names::cipher(suite.suite())),
        group: session.negotiated_key_exchange_group().map_or("", |group| names::group(group.name())),
        server_name,
        alpn: alpn.into(),
        is_resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        peer: session.peer_certificates().unwrap_or_default().iter().filter_map(info).collect(),
        local,
        forwarded: Default::default(),
    }
}

/// What the certificate of a client is worth.
fn worth(session: &Connection, state: &ServerState) -> PeerCertificate {
    let Some((leaf, others)) = session.peer_certificates().and_then(<[CertificateDer<'_>]>::split_first) else {
        return PeerCertificate::Absent;
    };
    match &state.validator {
        Some(validator) if validator.proves() => {
            let good = !validator.accepts_untrusted()
                || validator.check(leaf, others, KeyUsage::client_auth(), None, UnixTime::now()).is_ok();
            if good { PeerCertificate::Validated } else { PeerCertificate::Presented }
        }
        _ => PeerCertificate::Presented,
    }
}
