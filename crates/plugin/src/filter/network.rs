//! Network filters: they see the bytes of a connection. The last one of a chain is terminal and owns it.

use super::Connection;
use crate::{LocalFuture, cx::WorkerCx, info::ConnectionInfo};
use bytes::BytesMut;
use std::{rc::Rc, sync::Arc, time::Duration};

/// A configured network filter, shared by all threads.
pub trait NetworkFilterConfig: Send + Sync {
    /// Whether it owns the connection, and so must be the last of its chain.
    fn is_terminal(&self) -> bool;

    /// The worker's part.
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn NetworkFilterFactory>;
}

/// Makes the filter of each connection.
pub trait NetworkFilterFactory {
    /// A filter for this connection; a terminal one exactly if the configuration says so.
    fn new_filter(&self, connection: &Rc<ConnectionInfo>) -> NetworkFilterInstance;
}

/// A filter of one connection.
pub enum NetworkFilterInstance {
    /// Looks at what passes.
    Filter(Box<dyn NetworkFilter>),
    /// Owns the connection.
    Terminal(Box<dyn TerminalNetworkFilter>),
    /// This connection needs none, which costs it nothing. Not for a terminal filter.
    None,
}

/// Looks at the bytes that pass, both ways, and may change them.
pub trait NetworkFilter {
    /// The connection begins.
    fn on_new_connection(&mut self, _cx: &mut ConnectionCx<'_>) -> NetworkStatus {
        NetworkStatus::Continue
    }

    /// Bytes from the client. What is left in `data` goes on to the next filter.
    fn on_data(&mut self, _data: &mut BytesMut, _end_stream: bool, _cx: &mut ConnectionCx<'_>) -> NetworkStatus {
        NetworkStatus::Continue
    }

    /// Bytes to the client, from the filter behind. What is left in `data` goes on towards the client.
    fn on_write(&mut self, _data: &mut BytesMut, _end_stream: bool, _cx: &mut ConnectionCx<'_>) -> NetworkStatus {
        NetworkStatus::Continue
    }
}

/// What a network filter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkStatus {
    /// The next filter.
    Continue,
    /// Keep what there is until more comes; bounded by the connection's buffer limit.
    StopIteration,
    /// Close the connection.
    Close,
    /// Read nothing more, and close the connection after this time. For [`NetworkFilter::on_data`]; elsewhere it is
    /// [`Self::Close`].
    CloseAfter(Duration),
}

/// What a network filter may use.
pub struct ConnectionCx<'a> {
    /// The connection's facts.
    pub info: &'a Rc<ConnectionInfo>,
    /// The worker.
    pub worker: &'a WorkerCx,
}

/// A terminal network filter: a protocol as sequential code. `serve` runs until it is done with the connection, which
/// is then closed; what it has written is delivered first.
pub trait TerminalNetworkFilter {
    /// Serves the connection.
    fn serve(self: Box<Self>, connection: Connection) -> LocalFuture<()>;
}

/// For terminal filters that need nothing but their configuration: each connection gets a clone of it.
pub fn terminal<F>(filter: F) -> Arc<dyn NetworkFilterConfig>
where
    F: TerminalNetworkFilter + Clone + Send + Sync + 'static,
{
    Arc::new(Terminal(filter))
}

#[derive(Clone)]
struct Terminal<F>(F);

impl<F: TerminalNetworkFilter + Clone + Send + Sync + 'static> NetworkFilterConfig for Terminal<F> {
    fn is_terminal(&self) -> bool {
        true
    }

    fn for_worker(&self, _: &WorkerCx) -> Box<dyn NetworkFilterFactory> {
        Box::new(self.clone())
    }
}

impl<F: TerminalNetworkFilter + Clone + 'static> NetworkFilterFactory for Terminal<F> {
    fn new_filter(&self, _: &Rc<ConnectionInfo>) -> NetworkFilterInstance {
        NetworkFilterInstance::Terminal(Box::new(self.0.clone()))
    }
}

/// For filters that need nothing but their configuration: `new` makes the filter of a connection.
pub fn per_connection<C, F>(config: C, new: fn(&Arc<C>) -> F) -> Arc<dyn NetworkFilterConfig>
where
    C: Send + Sync + 'static,
    F: NetworkFilter + 'static,
{
    Arc::new(PerConnection { config: Arc::new(config), new })
}

struct PerConnection<C, F> {
    config: Arc<C>,
    new: fn(&Arc<C>) -> F,
}

impl<C: Send + Sync + 'static, F: NetworkFilter + 'static> NetworkFilterConfig for PerConnection<C, F> {
    fn is_terminal(&self) -> bool {
        false
    }

    fn for_worker(&self, _: &WorkerCx) -> Box<dyn NetworkFilterFactory> {
        Box::new(Self { config: Arc::clone(&self.config), new: self.new })
    }
}

impl<C: 'static, F: NetworkFilter + 'static> NetworkFilterFactory for PerConnection<C, F> {
    fn new_filter(&self, _: &Rc<ConnectionInfo>) -> NetworkFilterInstance {
        NetworkFilterInstance::Filter(Box::new((self.new)(&self.config)))
    }
}
