//! `sota.filters.http.zmq_bridge`: a POST becomes a request of ZeroMQ to a worker of a cluster, and the worker's answer
//! that of HTTP. So a web service can call ZeroMQ workers through the mesh.

use crate::filters::network::zmq::{Asker, AskerConfig, AskerSettings};
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use sota_codec::zmtp::Message;
use sota_config::{ConfigError, Mark, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    de::read_config,
    filter::{Bodies, DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, LocalReply, Resume},
    http::{HeaderId, Headers, Method, RequestHead, StatusCode},
    info::{ResponseFlag, StreamInfo},
};
use std::{rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "sota.filters.http.zmq_bridge",
    short_name: "zmq_bridge",
    type_urls: &["sota.filters.http.zmq_bridge"],
    build,
    build_route: None,
    route_type_urls: &[],
};

/// The details by which the connection manager counts a request as too large.
const TOO_LARGE: &str = "request_payload_too_large";

/// What a configuration may say; each field is described in `docs/zeromq.md`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How workers are asked: the cluster, times, security.
    workers: AskerConfig,
    #[serde(default = "everything")]
    path_prefix: String,
    #[serde(default = "a_mebibyte")]
    max_request_bytes: usize,
    #[serde(default)]
    front_frames: Vec<String>,
    #[serde(default = "octets")]
    content_type: String,
}

fn everything() -> String {
    "/".to_owned()
}

fn a_mebibyte() -> usize {
    1 << 20
}

fn octets() -> String {
    "application/octet-stream".to_owned()
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let Config { workers, path_prefix, max_request_bytes, front_frames, content_type } = read_config(config, cx)?;
    if max_request_bytes == 0 {
        return Err(cx.error("max_request_bytes", Mark::NONE, "a number of octets above 0 is needed here"));
    }
    let mut headers = Headers::new();
    headers
        .set(HeaderId::ContentType, &content_type)
        .map_err(|error| cx.error("content_type", Mark::NONE, error.to_string()))?;
    let front_frames = front_frames.into_iter().map(String::into_bytes).collect();
    let shared = Arc::new(Shared { path_prefix, max_request_bytes, front_frames, headers });
    Ok(Arc::new(ZmqBridge { shared, asking: workers.build(cx)? }))
}

/// The configured filter.
struct ZmqBridge {
    shared: Arc<Shared>,
    asking: AskerSettings,
}

/// What each stream needs to know.
struct Shared {
    path_prefix: String,
    max_request_bytes: usize,
    front_frames: Vec<Vec<u8>>,
    /// Of an answer.
    headers: Headers,
}

impl HttpFilterConfig for ZmqBridge {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        Box::new(Factory { shared: Arc::clone(&self.shared), asker: Asker::for_worker(&self.asking, cx) })
    }
}

struct Factory {
    shared: Arc<Shared>,
    asker: Rc<Asker>,
}

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        let (shared, asker) = (Arc::clone(&self.shared), Rc::clone(&self.asker));
        Some(Box::new(Filter { shared, asker, is_ours: false }))
    }
}

struct Filter {
    shared: Arc<Shared>,
    asker: Rc<Asker>,
    /// Whether this request goes to a worker.
    is_ours: bool,
}

impl Filter {
    fn message(&self, body: &[u8]) -> Message {
        let mut message = Message::default();
        message.push(b"");
        for frame in &self.shared.front_frames {
            message.push(frame);
        }
        message.push(body);
        message
    }
}

/// Asks a worker, and makes an answer of HTTP.
async fn ask(asker: Rc<Asker>, shared: Arc<Shared>, message: Message) -> Box<LocalReply> {
    Box::new(match asker.ask(message).await {
        Ok(frames) => {
            let mut reply = LocalReply::new(StatusCode::OK, frames, "zmq_reply");
            reply.headers = shared.headers.clone();
            reply.verbatim()
        }
        Err(reason @ "reply timeout") => LocalReply::new(StatusCode::GATEWAY_TIMEOUT, reason, "zmq_reply_timeout")
            .flag(ResponseFlag::UpstreamRequestTimeout),
        Err(reason @ "worker lost") => LocalReply::new(StatusCode::BAD_GATEWAY, reason, "zmq_worker_lost")
            .flag(ResponseFlag::UpstreamConnectionTermination),
        Err(reason) => LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, reason, "zmq_no_worker")
            .flag(ResponseFlag::NoHealthyUpstream),
    })
}

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        // Of a request that is held the data comes anyway; all others go past.
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        self.is_ours = head.method == Method::Post && head.path().starts_with(self.shared.path_prefix.as_bytes());
        if !self.is_ours {
            return FilterStatus::Continue;
        }
        if end_stream {
            let asking = ask(Rc::clone(&self.asker), Arc::clone(&self.shared), self.message(b""));
            return FilterStatus::wait(async move { Resume::Reply(asking.await) });
        }
        cx.set_buffer_limit(self.shared.max_request_bytes);
        FilterStatus::StopIteration
    }

    fn on_request_data(&mut self, data: &mut Bytes, end_stream: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        if !self.is_ours {
            return DataStatus::Continue;
        }
        if cx.buffered.len().saturating_add(data.len()) > self.shared.max_request_bytes {
            let reply = LocalReply::new(StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large", TOO_LARGE);
            return DataStatus::Reply(Box::new(reply.closing()));
        }
        if !end_stream {
            return DataStatus::Buffer;
        }
        let mut body = BytesMut::from(&cx.buffered[..]);
        body.extend_from_slice(data);
        let asking = ask(Rc::clone(&self.asker), Arc::clone(&self.shared), self.message(&body));
        DataStatus::Wait(Box::pin(async move { Resume::Reply(asking.await) }))
    }

    fn on_request_trailers(&mut self, _: &mut Headers, cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        if !self.is_ours {
            return FilterStatus::Continue;
        }
        let message = self.message(cx.buffered);
        let asking = ask(Rc::clone(&self.asker), Arc::clone(&self.shared), message);
        FilterStatus::wait(async move { Resume::Reply(asking.await) })
    }
}
