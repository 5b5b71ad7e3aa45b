//! An accepted connection on its way to the terminal filter of its chain.

use crate::{drain::DrainWatch, socket::Socket};
use sota_plugin::info::ConnectionInfo;
use std::rc::Rc;

/// A connection with everything that its terminal filter needs.
pub struct Downstream {
    /// The socket, with what listener filters read from it and did not take.
    pub socket: Socket,
    /// Its facts, complete.
    pub info: Rc<ConnectionInfo>,
    /// Says when the filter chain, the listener or the process is draining.
    pub drain: DrainWatch,
    /// `per_connection_buffer_limit_bytes`.
    pub buffer_limit: usize,
}
