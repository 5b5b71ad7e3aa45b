//! A downstream connection as a dispatcher sees it.

use crate::{
    LocalFuture,
    cx::WorkerCx,
    info::{ConnectionInfo, ResponseFlag, StreamInfo},
    stats::Scope,
    stream::{ConnectionIo, Stream},
};
use std::{
    ops::{Deref, DerefMut},
    rc::Rc,
};

/// A connection as a dispatcher sees it: a [`Stream`], and what every protocol needs besides.
pub struct Connection {
    stream: Stream,
    info: Rc<ConnectionInfo>,
    worker: WorkerCx,
    draining: Option<LocalFuture<()>>,
}

impl Connection {
    /// For the data plane: wraps a transport. `limit` is the connection's buffer limit in octets.
    pub fn new(io: Box<dyn ConnectionIo>, info: Rc<ConnectionInfo>, worker: WorkerCx, limit: usize) -> Self {
        let draining = Some(io.draining());
        Self { stream: Stream::new(io, worker.clone(), limit), info, worker, draining }
    }

    /// The connection's facts.
    pub fn info(&self) -> &Rc<ConnectionInfo> {
        &self.info
    }

    /// A stream on it that begins now: what is known about one request or message, for access logs.
    pub fn new_stream_info(&self) -> StreamInfo {
        StreamInfo::new(Rc::clone(&self.info), self.worker.next_stream_id(), None)
    }

    /// Says what went wrong, for the access logs of the listener.
    pub fn set_response_flag(&self, flag: ResponseFlag) {
        let mut summary = self.info.summary.take().unwrap_or_default();
        summary.response_flags.set(flag);
        self.info.summary.replace(Some(summary));
    }

    /// The worker: time, tasks, clusters.
    pub fn worker(&self) -> &WorkerCx {
        &self.worker
    }

    /// The worker's stats, to make scopes of one's own. Better made once for a worker than for each connection.
    pub fn stats(&self) -> &Scope {
        self.worker.stats()
    }

    /// Ready once the process, the listener or the filter chain is draining: finish what runs and close.
    pub async fn draining(&mut self) {
        if let Some(draining) = &mut self.draining {
            draining.await;
            self.draining = None;
        }
    }

    /// The notice of [`Self::draining`] for a task that has not the connection itself. It is given once.
    pub fn take_drain_notice(&mut self) -> LocalFuture<()> {
        self.draining.take().unwrap_or_else(|| Box::pin(std::future::pending()))
    }

    /// Only the stream: for code that serves either side, and to [split](Stream::split) it.
    pub fn into_stream(self) -> Stream {
        self.stream
    }
}

impl Deref for Connection {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }
}
