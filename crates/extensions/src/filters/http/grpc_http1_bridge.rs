//! `envoy.filters.http.grpc_http1_bridge`: lets clients of HTTP/1.1 make unary gRPC calls. They read the outcome in the
//! head of the response.

use super::grpc::{self, frames};
use bytes::{BufMut as _, Bytes, BytesMut};
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::StreamCx,
    filter::{DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, per_stream},
    http::{HeaderId, Headers, Protocol, RequestHead, ResponseHead, StatusCode},
};
use std::sync::Arc;

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.grpc_http1_bridge",
    short_name: "grpc_http1_bridge",
    type_urls: &["envoy.extensions.filters.http.grpc_http1_bridge.v3.Config"],
    build,
    build_route: None,
    route_type_urls: &[],
};

const PROTOBUF: &[u8] = b"application/x-protobuf";

fn build(config: &TypedConfig, _cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let bool = |key| matches!(config, TypedConfig::Value { node, .. } if node.bool(key));
    let settings = Settings {
        upgrades_protobuf: bool("upgrade_protobuf_to_grpc"),
        ignores_query: bool("ignore_query_parameters"),
    };
    Ok(per_stream(settings, |settings, _| {
        Some(Filter { settings: **settings, is_bridged: false, frames: false, cut: 0 })
    }))
}

/// `envoy.extensions.filters.http.grpc_http1_bridge.v3.Config`
#[derive(Clone, Copy)]
struct Settings {
    upgrades_protobuf: bool,
    ignores_query: bool,
}

struct Filter {
    settings: Settings,
    is_bridged: bool,
    /// The client sends a bare message, so the frame is our matter.
    frames: bool,
    /// So many octets at the beginning of the response are not for the client.
    cut: usize,
}

impl HttpFilter for Filter {
    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        if self.settings.upgrades_protobuf && head.headers.get(HeaderId::ContentType) == Some(PROTOBUF) {
            self.frames = true;
            self.cut = frames::HEAD;
            head.headers.set_sanitized(HeaderId::ContentType, grpc::CONTENT_TYPE);
            head.headers.remove(HeaderId::ContentLength);
            cx.clear_route();
        }
        self.is_bridged = head.is_grpc() && cx.info.protocol < Some(Protocol::Http2);
        self.frames &= self.is_bridged;
        if self.is_bridged && self.settings.ignores_query && head.query().is_some() {
            let path = head.path_only().to_vec();
            let _ = head.set_path(&path);
        }
        FilterStatus::Continue
    }

    fn on_request_data(&mut self, data: &mut Bytes, end_stream: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        if !self.frames {
            return DataStatus::Continue;
        }
        if !end_stream {
            return DataStatus::Buffer;
        }
        let len = cx.buffered.len() + data.len();
        let mut frame = BytesMut::with_capacity(frames::HEAD + cx.buffered.len());
        frame.put_slice(&frames::head(0, len));
        frame.put_slice(cx.buffered);
        *cx.buffered = frame;
        DataStatus::Continue
    }

    fn on_response_headers(
        &mut self,
        _head: &mut ResponseHead,
        end_stream: bool,
        _cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        if self.is_bridged && !end_stream { FilterStatus::StopIteration } else { FilterStatus::Continue }
    }

    fn on_response_data(&mut self, data: &mut Bytes, end_stream: bool, _cx: &mut StreamCx<'_>) -> DataStatus {
        if !self.is_bridged || end_stream {
            // Without trailers this is no answer to a call: it passes as it is.
            return DataStatus::Continue;
        }
        if self.frames {
            let cut = self.cut.min(data.len());
            self.cut -= cut;
            *data = data.slice(cut..);
        }
        DataStatus::Buffer
    }

    fn on_response_trailers(&mut self, trailers: &mut Headers, cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        if self.is_bridged {
            let len = cx.buffered.len();
            let status = trailers.get(HeaderId::GrpcStatus).map(<[u8]>::to_vec);
            let message = trailers.get(HeaderId::GrpcMessage).map(<[u8]>::to_vec);
            cx.edit_response_head(move |head| {
                if let Some(status) = status {
                    if status != b"0" {
                        head.status = StatusCode::SERVICE_UNAVAILABLE;
                    }
                    head.headers.set_sanitized(HeaderId::GrpcStatus, status);
                }
                if let Some(message) = message {
                    head.headers.set_sanitized(HeaderId::GrpcMessage, message);
                }
                head.headers.set_sanitized(HeaderId::ContentLength, len.to_string());
            });
        }
        FilterStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Stream, building, config, lines, request};
    use sota_plugin::http::Method;

    fn filter(yaml: &str, content_type: &str) -> (Stream, Box<dyn HttpFilter>) {
        let worker = FakeWorker::default();
        let config = config(EXTENSION.type_urls[0], yaml);
        let factory = building(|cx| build(&config, cx)).unwrap().for_worker(&worker.cx());
        let fields = [("content-type", content_type), ("content-length", "3")];
        let mut stream = Stream::new(&worker, request(Method::Post, "/s.S/M?q", &fields), None);
        let mut filter = factory.new_filter(&stream.info).unwrap();
        stream.on_request(|head, cx| filter.on_request_headers(head, false, cx));
        (stream, filter)
    }

    /// What the client gets of a response of these pieces with trailers.
    fn respond(stream: &mut Stream, filter: &mut dyn HttpFilter, pieces: &[&'static [u8]], status: &str) -> String {
        let mut head = ResponseHead::new(StatusCode::OK);
        let held = stream.on_response(|cx| filter.on_response_headers(&mut head, false, cx));
        if matches!(held, FilterStatus::Continue) {
            return "passes".to_owned();
        }
        for piece in pieces {
            let mut data = Bytes::from_static(piece);
            let status = stream.on_response(|cx| filter.on_response_data(&mut data, false, cx));
            assert!(matches!(status, DataStatus::Buffer));
            stream.buffered.extend_from_slice(&data);
        }
        let mut trailers: Headers = [("grpc-status", status), ("grpc-message", "m")].into_iter().collect();
        stream.on_response(|cx| filter.on_response_trailers(&mut trailers, cx));
        (stream.effects.response_edit.take().unwrap())(&mut head);
        format!("{} {:?} {:?}", head.status.as_str(), lines(&head.headers), stream.buffered)
    }

    #[test]
    fn the_outcome_moves_to_the_head() {
        let (mut stream, mut bridge) = filter("{}", "application/grpc");
        let story = respond(&mut stream, &mut *bridge, &[b"ab", b"c"], "0");
        assert_eq!(story, "200 [\"grpc-status: 0\", \"grpc-message: m\", \"content-length: 3\"] b\"abc\"");
        let (mut stream, mut bridge) = filter("{}", "application/grpc");
        assert!(respond(&mut stream, &mut *bridge, &[], "5").starts_with("503 [\"grpc-status: 5\""));
        let (mut stream, mut bridge) = filter("{}", "text/plain");
        assert_eq!(respond(&mut stream, &mut *bridge, &[], "0"), "passes");
    }

    #[test]
    fn bare_messages_get_frames() {
        let yaml = "upgrade_protobuf_to_grpc: true\nignore_query_parameters: true";
        let (mut stream, mut bridge) = filter(yaml, "application/x-protobuf");
        assert_eq!(lines(&stream.request.headers), ["content-type: application/grpc"]);
        assert_eq!((stream.request.path(), stream.effects.clear_route), (&b"/s.S/M"[..], true));
        stream.buffered.extend_from_slice(b"ab");
        let status = stream.on_request(|_, cx| bridge.on_request_data(&mut Bytes::from_static(b"c"), true, cx));
        assert!(matches!(status, DataStatus::Continue));
        assert_eq!(&stream.buffered[..], b"\0\0\0\0\x03ab", "and the rest follows");
        stream.buffered.clear();
        let story = respond(&mut stream, &mut *bridge, &[b"\0\0", b"\0\0\x02x", b"y"], "0");
        assert!(story.ends_with("\"content-length: 2\"] b\"xy\""), "{story}");
        let (stream, _) = filter("{}", "application/x-protobuf");
        assert_eq!(stream.request.path(), b"/s.S/M?q");
    }
}
