//! HTTP filters: they see the head, the data and the trailers of a request on its way to the upstream, and those of the
//! response on its way back, in reverse order.

use super::LocalReply;
use crate::{
    LocalFuture,
    cx::{StreamCx, WorkerCx},
    http::{Headers, RequestHead, ResponseHead},
    info::StreamInfo,
};
use bytes::Bytes;
use std::{future::Future, sync::Arc};

/// A configured HTTP filter, shared by all threads.
pub trait HttpFilterConfig: Send + Sync {
    /// The worker's part.
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory>;
}

/// Makes the filter of each stream.
pub trait HttpFilterFactory {
    /// A filter for this stream, or `None` when the stream does not need it: such a filter costs nothing. Asked once,
    /// when the first route is known.
    fn new_filter(&self, info: &StreamInfo) -> Option<Box<dyn HttpFilter>>;
}

/// Which bodies a filter looks at. A body that no filter looks at is moved without being copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bodies {
    /// None: the filter's data hooks are called only while it holds a head ([`FilterStatus::StopIteration`]).
    None,
    /// The request's.
    Request,
    /// The response's.
    Response,
    /// Both.
    Both,
}

/// A filter of one stream. Each hook has a default that continues.
pub trait HttpFilter {
    /// Which data hooks are called; asked once, when the filter is made.
    fn bodies(&self) -> Bodies {
        Bodies::Both
    }

    /// The head of the request. `end_stream`: nothing follows it.
    fn on_request_headers(
        &mut self,
        _head: &mut RequestHead,
        _end_stream: bool,
        _cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        FilterStatus::Continue
    }

    /// A piece of the request's body.
    fn on_request_data(&mut self, _data: &mut Bytes, _end_stream: bool, _cx: &mut StreamCx<'_>) -> DataStatus {
        DataStatus::Continue
    }

    /// The trailers of the request.
    fn on_request_trailers(&mut self, _trailers: &mut Headers, _cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        FilterStatus::Continue
    }

    /// An informational response (1xx other than 101).
    fn on_informational(&mut self, _head: &mut ResponseHead, _cx: &mut StreamCx<'_>) {}

    /// The head of the response.
    fn on_response_headers(
        &mut self,
        _head: &mut ResponseHead,
        _end_stream: bool,
        _cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        FilterStatus::Continue
    }

    /// A piece of the response's body.
    fn on_response_data(&mut self, _data: &mut Bytes, _end_stream: bool, _cx: &mut StreamCx<'_>) -> DataStatus {
        DataStatus::Continue
    }

    /// The trailers of the response.
    fn on_response_trailers(&mut self, _trailers: &mut Headers, _cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        FilterStatus::Continue
    }

    /// The stream is over, however it ended. Called once, before the access log is written.
    fn on_stream_complete(&mut self, _cx: &mut StreamCx<'_>) {}
}

/// What a filter says of a head or of trailers.
pub enum FilterStatus<H> {
    /// The next filter.
    Continue,
    /// Hold the head here. Data then goes to this filter only, until it answers [`DataStatus::Continue`].
    StopIteration,
    /// Answer instead. On the response side this replaces a head that has not left.
    Reply(Box<LocalReply>),
    /// Wait for the future; the other direction of the stream goes on.
    Wait(LocalFuture<Resume<H>>),
}

impl<H> FilterStatus<H> {
    /// Waits for a future, which owns what it needs.
    pub fn wait(future: impl Future<Output = Resume<H>> + 'static) -> Self {
        Self::Wait(Box::pin(future))
    }

    /// Answers instead.
    pub fn reply(reply: LocalReply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

/// What a filter says of data.
pub enum DataStatus {
    /// The next filter; a head that was held is released with it.
    Continue,
    /// Keep it (see [`StreamCx::buffered`]) up to the buffer limit; beyond, 413 for a request and 500 for a response.
    Buffer,
    /// Keep it up to the buffer limit; beyond, the peer is not read any more.
    Pause,
    /// Answer instead.
    Reply(Box<LocalReply>),
    /// Wait for the future; nothing more is read in this direction meanwhile.
    Wait(LocalFuture<Resume<Bytes>>),
}

/// An edit to what was waited over, or an answer instead.
pub type Edit<H> = Box<dyn FnOnce(&mut H, &mut StreamCx<'_>) -> Result<(), Box<LocalReply>>>;

/// How a stream goes on after a wait.
pub enum Resume<H> {
    /// As it is.
    Continue,
    /// With a change, or with an answer that only what was waited over can decide on.
    Edit(Edit<H>),
    /// With an answer instead.
    Reply(Box<LocalReply>),
}

impl<H> Resume<H> {
    /// Goes on with a change.
    pub fn edit(edit: impl FnOnce(&mut H, &mut StreamCx<'_>) + 'static) -> Self {
        Self::Edit(Box::new(move |held, cx| {
            edit(held, cx);
            Ok(())
        }))
    }

    /// Looks at what was waited over, and goes on with it or answers instead.
    pub fn decide(decide: impl FnOnce(&mut H, &mut StreamCx<'_>) -> Result<(), Box<LocalReply>> + 'static) -> Self {
        Self::Edit(Box::new(decide))
    }
}

/// For filters that need nothing but their configuration: `new` makes the filter of a stream, or declines.
pub fn per_stream<C, F>(config: C, new: fn(&Arc<C>, &StreamInfo) -> Option<F>) -> Arc<dyn HttpFilterConfig>
where
    C: Send + Sync + 'static,
    F: HttpFilter + 'static,
{
    Arc::new(PerStream { config: Arc::new(config), new })
}

struct PerStream<C, F> {
    config: Arc<C>,
    new: fn(&Arc<C>, &StreamInfo) -> Option<F>,
}

impl<C: Send + Sync + 'static, F: HttpFilter + 'static> HttpFilterConfig for PerStream<C, F> {
    fn for_worker(&self, _cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        Box::new(PerStreamFactory { config: Arc::clone(&self.config), new: self.new })
    }
}

struct PerStreamFactory<C, F> {
    config: Arc<C>,
    new: fn(&Arc<C>, &StreamInfo) -> Option<F>,
}

impl<C: 'static, F: HttpFilter + 'static> HttpFilterFactory for PerStreamFactory<C, F> {
    fn new_filter(&self, info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        (self.new)(&self.config, info).map(|filter| Box::new(filter) as Box<dyn HttpFilter>)
    }
}
