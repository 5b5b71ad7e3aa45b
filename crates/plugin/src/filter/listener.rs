//! Listener filters: they look at the first bytes of a connection before anybody owns it.

use crate::{cx::WorkerCx, info::ConnectionInfo};
use std::{net::SocketAddr, rc::Rc};

/// A configured listener filter, shared by all threads.
pub trait ListenerFilterConfig: Send + Sync {
    /// The worker's part: makes one filter for each connection.
    fn for_worker(&self, cx: &WorkerCx) -> Rc<dyn Fn() -> Box<dyn ListenerFilter>>;
}

/// A listener filter of one connection.
pub trait ListenerFilter {
    /// Looks at the connection. Called with no bytes first; then, as long as the answer is [`Peek::More`], with all
    /// bytes that have arrived (at most [`Self::max_bytes`]). `end`: the peer sends no more.
    fn on_peek(&mut self, bytes: &[u8], end: bool, cx: &mut ListenerCx<'_>) -> Peek;

    /// The most bytes this filter ever wants to see; 0: it needs none and is called once.
    fn max_bytes(&self) -> usize;
}

/// What a listener filter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peek {
    /// Done; the next filter.
    Continue,
    /// Done, and so many bytes are taken away: nobody behind sees them.
    Consume(usize),
    /// More bytes are needed.
    More,
    /// Close the connection at once. The filter has counted why.
    Close,
}

/// What a listener filter may read and change.
pub struct ListenerCx<'a> {
    /// The connection's facts.
    pub info: &'a mut ConnectionInfo,
    /// The destination before redirection by the system (`SO_ORIGINAL_DST`), when asked for and known.
    pub original_destination: &'a dyn Fn() -> Option<SocketAddr>,
}

impl ListenerCx<'_> {
    /// Whether an earlier filter saw that the bytes are those of another transport, such as TLS: what is inside cannot
    /// be seen from here.
    pub fn is_inside_transport(&self) -> bool {
        let transport = self.info.transport_protocol;
        !transport.is_empty() && transport != "raw_buffer"
    }
}
