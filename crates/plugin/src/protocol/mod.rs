//! Request/response protocols: what an author writes, and what comes with it.
//!
//! A dispatcher reads and writes bytes. Most protocols are requests with answers, and need the same things around them:
//! connections to hosts that many requests share, answers in their order, timeouts, retries, heartbeats, counters, a
//! line in the access log. An author who implements [`Protocol`] gets them:
//!
//! - [`Client`] sends requests to the hosts of clusters;
//! - [`serve`] reads requests from a connection and writes their answers;
//! - [`proxy`] is both with routes in between: a whole filter out of a protocol.
//!
//! `docs/writing-a-protocol.md` builds one from nothing.

mod client;
mod link;
pub mod proxy;
mod serve;

pub use client::{Call, CallError, Client, Dedicated, Options};
pub use serve::{Answer, End, serve};

use bytes::BytesMut;
use std::borrow::Cow;

/// How answers find their requests, and so how a connection to a host is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Many requests are under way on one connection, and each answer names its request.
    ById,
    /// Many requests are under way on one connection, and answers come in the order of the requests.
    InOrder,
    /// A connection has one request at a time; connections come from the host's pool.
    OneByOne,
}

/// Which end of a connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client has called us.
    Server,
    /// We have called a host.
    Client,
}

/// The peer does not speak the protocol; what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub Cow<'static, str>);

/// What an answer says of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It succeeded.
    Ok,
    /// The host did its part, and says that the request is wrong.
    Rejected,
    /// The host failed: another one may do better.
    Failed,
}

/// A protocol of requests and answers. One value serves all connections of a worker; what a connection remembers is its
/// [`Self::State`].
pub trait Protocol: 'static {
    /// A request.
    type Request: 'static;
    /// An answer.
    type Response: 'static;
    /// What is remembered of a connection. With [`Order::OneByOne`] each request to a host begins with a new one, so
    /// that such a protocol has no handshake.
    type State: Default;

    /// Its name: connections to hosts are shared by all that speak it.
    const NAME: &'static str;
    /// How answers find their requests.
    const ORDER: Order;

    /// A connection begins; writes what is said before anything was heard.
    fn begin(&self, _state: &mut Self::State, _side: Side, _out: &mut Vec<u8>) {}

    /// Whether the handshake is done. Requests to a host wait for it, and a client that is not done after ten seconds
    /// is closed.
    fn is_ready(&self, _state: &Self::State) -> bool {
        true
    }

    /// Writes what the protocol itself has to say to what was decoded last: the next step of a handshake, a sign of
    /// life. Also after [`Malformed`].
    fn take_output(&self, _state: &mut Self::State, _out: &mut Vec<u8>) {}

    /// Takes a request from the front of what a client sent. `None`: more is needed.
    fn decode_request(
        &self,
        state: &mut Self::State,
        buffer: &mut BytesMut,
    ) -> Result<Option<Self::Request>, Malformed>;

    /// Writes a request for a host. `id` is what the answer has to name, where answers do.
    fn encode_request(&self, state: &mut Self::State, request: &Self::Request, id: u64, out: &mut Vec<u8>);

    /// Takes an answer from the front of what a host sent. `None`: more is needed.
    fn decode_response(
        &self,
        state: &mut Self::State,
        buffer: &mut BytesMut,
    ) -> Result<Option<Self::Response>, Malformed>;

    /// Writes an answer for the client whose request had this id.
    fn encode_response(&self, state: &mut Self::State, response: &Self::Response, id: u64, out: &mut Vec<u8>);

    /// Writes the last words to a client that does not speak the protocol.
    fn refuse(&self, _error: &Malformed, _out: &mut Vec<u8>) {}

    /// The id of a client's request, for [`Order::ById`].
    fn request_id(&self, _request: &Self::Request) -> u64 {
        0
    }

    /// The id of the request that a host's answer names, for [`Order::ById`].
    fn response_id(&self, _response: &Self::Response) -> u64 {
        0
    }

    /// A request that only asks whether the host is there; `None`: the protocol has none.
    fn heartbeat(&self) -> Option<Self::Request> {
        None
    }

    /// The answer to a client that only asks whether we are there. `None`: the request is one for a host.
    fn answer_heartbeat(&self, _request: &Self::Request) -> Option<Self::Response> {
        None
    }

    /// What an answer says.
    fn status(&self, _response: &Self::Response) -> Status {
        Status::Ok
    }

    /// The answer to a request that no host answered.
    fn failure(&self, request: &Self::Request, error: &CallError) -> Self::Response;

    /// What routes look at and hashes are made of: the request's value of this name, such as `method` or `key`.
    fn metadata<'a>(&self, _request: &'a Self::Request, _name: &str) -> Option<Cow<'a, [u8]>> {
        None
    }

    /// Whether it may be sent a second time when nobody knows whether the first arrived.
    fn is_idempotent(&self, _request: &Self::Request) -> bool {
        false
    }
}
