//! `sota.filters.network.zmq_request_proxy`: REQ and DEALER clients to REP and ROUTER workers as requests with one answer
//! each. What the broker of `sota.filters.network.zmq` does not have, requests have: retries, hosts by a hash of a frame, a
//! line in the access log for each. The fields are described in `docs/zeromq.md`.

use super::{
    broker::body_of,
    security::{Admission, ClientSecurity, ServerSecurity},
};
use bytes::{Buf, BytesMut};
use serde::Deserialize;
use sota_codec::zmtp::{Assembler, Connection, Event, Limits, Message, Options, Security, SocketType};
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    de::{read_config, split_config},
    filter::NetworkFilterConfig,
    protocol::{CallError, Malformed, Order, Protocol, Side, proxy},
};
use std::{borrow::Cow, collections::VecDeque, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "sota.filters.network.zmq_request_proxy",
    short_name: "zmq_request_proxy",
    type_urls: &["sota.filters.network.zmq_request_proxy"],
    build,
    build_route: None,
    route_type_urls: &[],
};

/// What it has besides the fields of every protocol.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    security: Option<ServerSecurity>,
    upstream_security: Option<ClientSecurity>,
    idempotent: bool,
    max_message_bytes: u64,
}

impl Default for Document {
    fn default() -> Self {
        let max_message_bytes = Limits::default().max_message_bytes;
        Self { security: None, upstream_security: None, idempotent: false, max_message_bytes }
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    let own = ["security", "upstream_security", "idempotent", "max_message_bytes"];
    let (own, others) = split_config(config, &own);
    let document: Document = read_config(&own, cx)?;
    if document.max_message_bytes == 0 {
        return Err(cx.error_in(&own, "max_message_bytes", "must be above 0"));
    }
    let (security, admission) = match &document.security {
        None => (Security::Null, Admission::Anybody),
        Some(security) => security.build().map_err(|reason| cx.error_in(&own, "security", reason))?,
    };
    let upstream_security = match &document.upstream_security {
        None => Security::Null,
        Some(security) => security.build().map_err(|reason| cx.error_in(&own, "upstream_security", reason))?,
    };
    let limits = Limits {
        max_frame_bytes: document.max_message_bytes,
        max_message_bytes: document.max_message_bytes,
        ..Limits::default()
    };
    let options = |socket_type, security| {
        Arc::new(Options { socket_type, security, limits: limits.clone(), ..Options::default() })
    };
    let protocol = Requests {
        downstream: options(SocketType::Router, security),
        upstream: options(SocketType::Dealer, upstream_security),
        admission: Arc::new(admission),
        idempotent: document.idempotent,
    };
    proxy::build(protocol, &others, cx)
}

/// The protocol: a message asks, and a message answers. Between us and a host both have the request's id in front, as
/// the address that a REP or ROUTER gives back.
#[derive(Clone)]
struct Requests {
    downstream: Arc<Options>,
    upstream: Arc<Options>,
    admission: Arc<Admission>,
    idempotent: bool,
}

/// What is asked.
enum Request {
    Message(Message),
    /// Whether the host is there.
    Ping,
}

/// What is answered.
enum Response {
    /// With the id in front.
    Message(Message),
    /// To the ping of this id.
    Pong(u64),
}

/// A connection as it runs.
#[derive(Default)]
struct Wire {
    /// From [`Protocol::begin`] on.
    connection: Option<Connection>,
    assembler: Assembler,
    /// What it has to say by itself.
    own: Vec<u8>,
    /// Pings of hosts whose version has none: that they are there is taken for granted.
    pongs: VecDeque<u64>,
}

/// What was found.
enum Found {
    Nothing,
    Other,
    Message(Message),
    Pong(u64),
    Verdict(bool),
}

impl Requests {
    /// The next message or sign of life.
    fn decode(&self, wire: &mut Wire, buffer: &mut BytesMut) -> Result<Option<Response>, Malformed> {
        let Wire { connection: Some(connection), assembler, own, .. } = wire else { return Ok(None) };
        loop {
            let (taken, event) = connection.recv(buffer, own).map_err(|error| malformed(&error))?;
            let found = match event {
                Event::NeedMore | Event::Blocked => Found::Nothing,
                Event::Frame(frame) => assembler.push(&frame).map_or(Found::Other, Found::Message),
                Event::Pong(context) => id_of(context).map_or(Found::Other, Found::Pong),
                Event::Authenticate(credentials) => Found::Verdict(self.admission.allows(credentials)),
                Event::Refused(reason) => {
                    return Err(Malformed(format!("we were refused: {}", reason.escape_ascii()).into()));
                }
                Event::Ready(_) | Event::Ping { .. } | Event::Command(_) | Event::Subscribe(_) | Event::Cancel(_) => {
                    Found::Other
                }
            };
            buffer.advance(taken);
            match found {
                Found::Nothing => return Ok(None),
                Found::Other => {}
                Found::Message(message) => return Ok(Some(Response::Message(message))),
                Found::Pong(id) => return Ok(Some(Response::Pong(id))),
                Found::Verdict(true) => connection.allow(own).map_err(|error| malformed(&error))?,
                Found::Verdict(false) => {
                    connection.deny(b"", own).map_err(|error| malformed(&error))?;
                    return Err(Malformed("the client may not come in".into()));
                }
            }
        }
    }
}

fn malformed(error: &dyn std::fmt::Display) -> Malformed {
    Malformed(error.to_string().into())
}

fn id_of(frame: &[u8]) -> Option<u64> {
    frame.try_into().ok().map(u64::from_be_bytes)
}

impl Protocol for Requests {
    type Request = Request;
    type Response = Response;
    type State = Wire;

    const NAME: &'static str = "zmq_request_proxy";
    const ORDER: Order = Order::ById;

    fn begin(&self, wire: &mut Wire, side: Side, out: &mut Vec<u8>) {
        let options = if side == Side::Server { &self.downstream } else { &self.upstream };
        wire.connection = Some(Connection::new(Arc::clone(options), out));
    }

    fn is_ready(&self, wire: &Wire) -> bool {
        wire.connection.as_ref().is_some_and(Connection::is_ready)
    }

    fn take_output(&self, wire: &mut Wire, out: &mut Vec<u8>) {
        out.append(&mut wire.own);
    }

    fn decode_request(&self, wire: &mut Wire, buffer: &mut BytesMut) -> Result<Option<Request>, Malformed> {
        loop {
            match self.decode(wire, buffer)? {
                Some(Response::Message(message)) => return Ok(Some(Request::Message(message))),
                Some(Response::Pong(_)) => {}
                None => return Ok(None),
            }
        }
    }

    fn encode_request(&self, wire: &mut Wire, request: &Request, id: u64, out: &mut Vec<u8>) {
        let Some(connection) = &mut wire.connection else { return };
        let id_frame = id.to_be_bytes();
        match request {
            Request::Message(message) => {
                // It can fail only before the handshake is done.
                let _ = connection.send_frames([&id_frame[..]].into_iter().chain(message.frames()), out);
            }
            Request::Ping => {
                if connection.ping(&id_frame, out).is_err() {
                    wire.pongs.push_back(id);
                }
            }
        }
    }

    fn decode_response(&self, wire: &mut Wire, buffer: &mut BytesMut) -> Result<Option<Response>, Malformed> {
        match wire.pongs.pop_front() {
            Some(id) => Ok(Some(Response::Pong(id))),
            None => self.decode(wire, buffer),
        }
    }

    fn encode_response(&self, wire: &mut Wire, response: &Response, _: u64, out: &mut Vec<u8>) {
        if let (Some(connection), Response::Message(message)) = (&mut wire.connection, response) {
            // It can fail only before the handshake is done.
            let _ = connection.send_frames(message.frames().skip(1), out);
        }
    }

    fn response_id(&self, response: &Response) -> u64 {
        match response {
            // Nobody's: ids are counted from 0, and an answer has something behind its id.
            Response::Message(message) if message.frame_count() < 2 => u64::MAX,
            Response::Message(message) => message.frame(0).and_then(id_of).unwrap_or(u64::MAX),
            Response::Pong(id) => *id,
        }
    }

    fn heartbeat(&self) -> Option<Request> {
        Some(Request::Ping)
    }

    /// The envelope of the request, and `ERR` with the reason.
    fn failure(&self, request: &Request, error: &CallError) -> Response {
        let mut answer = Message::default();
        answer.push(b"");
        if let Request::Message(message) = request {
            message.frames().take(body_of(message)).for_each(|frame| answer.push(frame));
        }
        answer.push(format!("ERR {error}").as_bytes());
        Response::Message(answer)
    }

    /// `frame0` is the first behind the envelope.
    fn metadata<'a>(&self, request: &'a Request, name: &str) -> Option<Cow<'a, [u8]>> {
        let Request::Message(message) = request else { return None };
        let frame: usize = name.strip_prefix("frame")?.parse().ok()?;
        message.frame(body_of(message).checked_add(frame)?).map(Cow::Borrowed)
    }

    fn is_idempotent(&self, _: &Request) -> bool {
        self.idempotent
    }
}
