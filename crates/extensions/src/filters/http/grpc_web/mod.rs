//! `envoy.filters.http.grpc_web`: lets browsers make gRPC calls. They send and get bodies that may be base64, and the
//! trailers as the last frame of the body (the protocol "gRPC-Web").

mod text;

use super::grpc::{
    self,
    calls::{self, Call, Calls},
    frames,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, LocalReply},
    http::{GrpcStatus, HeaderId, Headers, RequestHead, ResponseHead, StatusCode, grpc_message},
    info::StreamInfo,
};
use std::{rc::Rc, sync::Arc};
use text::{Decoder, Encoder, Malformed};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.grpc_web",
    short_name: "grpc_web",
    type_urls: &["envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"],
    build,
    build_route: None,
    route_type_urls: &[],
};

const BINARY: &[u8] = b"application/grpc-web";
const BINARY_PROTO: &[u8] = b"application/grpc-web+proto";
const TEXT: &[u8] = b"application/grpc-web-text";
const TEXT_PROTO: &[u8] = b"application/grpc-web-text+proto";
/// The flag of the frame with the trailers.
const TRAILERS: u8 = 0x80;
/// No longer text becomes a `grpc-message`, where it comes in pieces.
const MAX_MESSAGE: usize = 16 * 1024;

fn build(_config: &TypedConfig, _cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    Ok(Arc::new(Config))
}

struct Config;

impl HttpFilterConfig for Config {
    fn for_worker(&self, _cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        Box::new(Factory(Rc::default()))
    }
}

struct Factory(Rc<Calls>);

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        Some(Box::new(Filter { calls: Rc::clone(&self.0), call: None, web: None }))
    }
}

struct Filter {
    calls: Rc<Calls>,
    call: Option<Rc<Call>>,
    /// `None`: the request is none of ours.
    web: Option<Web>,
}

/// A call by gRPC-Web.
struct Web {
    /// The body of the request is base64.
    decoder: Option<Decoder>,
    /// That of the response is to be.
    encoder: Option<Encoder>,
    /// The response is no gRPC: its body becomes the message.
    is_foreign: bool,
}

impl HttpFilter for Filter {
    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        let is_text = match head.headers.get(HeaderId::ContentType) {
            Some(BINARY | BINARY_PROTO) => false,
            Some(TEXT | TEXT_PROTO) => true,
            _ => return FilterStatus::Continue,
        };
        let wants_text = matches!(head.headers.get(HeaderId::Accept), Some(TEXT | TEXT_PROTO));
        self.web = Some(Web {
            decoder: is_text.then(Decoder::default),
            encoder: wants_text.then(Encoder::default),
            is_foreign: false,
        });
        if let Some((service, method)) = calls::names(head) {
            self.call = self.calls.find("grpc-web", Some(&format!("{service}.{method}")), cx.info, cx.worker);
        }
        head.headers.remove(HeaderId::ContentLength);
        head.headers.set_sanitized(HeaderId::ContentType, grpc::CONTENT_TYPE);
        head.headers.set_sanitized(HeaderId::Te, "trailers");
        if !head.headers.contains(HeaderId::GrpcAcceptEncoding) {
            head.headers.set_sanitized(HeaderId::GrpcAcceptEncoding, "identity");
        }
        FilterStatus::Continue
    }

    fn on_request_data(&mut self, data: &mut Bytes, end_stream: bool, _cx: &mut StreamCx<'_>) -> DataStatus {
        let Some(decoder) = self.web.as_mut().and_then(|web| web.decoder.as_mut()) else { return DataStatus::Continue };
        match decoder.decode(data, end_stream) {
            Ok(decoded) => {
                *data = decoded;
                DataStatus::Continue
            }
            Err(malformed) => DataStatus::Reply(Box::new(LocalReply::new(
                StatusCode::BAD_REQUEST,
                "Bad gRPC-web request, invalid base64 data.",
                match malformed {
                    Malformed::Size => "grpc_base_64_decode_failed_bad_size",
                    Malformed::Data => "grpc_base_64_decode_failed",
                },
            ))),
        }
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        end_stream: bool,
        _cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        let Some(web) = &mut self.web else { return FilterStatus::Continue };
        if let Some(call) = &self.call {
            call.count_status(&head.headers);
        }
        web.is_foreign = !end_stream && !grpc::is_response(head, false) && !is_web_response(head);
        head.headers.remove(HeaderId::ContentLength);
        let content_type = if web.encoder.is_some() { TEXT_PROTO } else { BINARY_PROTO };
        head.headers.set_sanitized(HeaderId::ContentType, content_type);
        if web.is_foreign { FilterStatus::StopIteration } else { FilterStatus::Continue }
    }

    fn on_response_data(&mut self, data: &mut Bytes, end_stream: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        let Some(web) = &mut self.web else { return DataStatus::Continue };
        if web.is_foreign {
            if end_stream {
                web.is_foreign = false;
                become_message(std::mem::take(data), cx);
                return DataStatus::Continue;
            }
            if cx.buffered.len() >= MAX_MESSAGE {
                data.clear();
            }
            return DataStatus::Buffer;
        }
        if let Some(encoder) = &mut web.encoder {
            *data = encoder.encode(data);
        }
        DataStatus::Continue
    }

    fn on_response_trailers(&mut self, trailers: &mut Headers, cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        let Some(web) = &mut self.web else { return FilterStatus::Continue };
        if let Some(call) = &self.call {
            call.count_status(trailers);
        }
        if web.is_foreign {
            become_message(Bytes::new(), cx);
            return FilterStatus::Continue;
        }
        let mut lines = Vec::new();
        for (name, value) in trailers.iter() {
            lines.extend_from_slice(name);
            lines.push(b':');
            lines.extend_from_slice(value);
            lines.extend_from_slice(b"\r\n");
        }
        trailers.clear();
        let frame = [&frames::head(TRAILERS, lines.len())[..], &lines].concat();
        match &mut web.encoder {
            Some(encoder) => {
                cx.buffered.extend_from_slice(encoder.finish().as_bytes());
                cx.buffered.extend_from_slice(STANDARD.encode(frame).as_bytes());
            }
            None => cx.buffered.extend_from_slice(&frame),
        }
        FilterStatus::Continue
    }
}

/// Whether the upstream speaks gRPC-Web itself.
fn is_web_response(head: &ResponseHead) -> bool {
    let content_type = head.headers.get(HeaderId::ContentType).unwrap_or_default();
    let kind = content_type.split(|c| *c == b';').next().unwrap_or_default().trim_ascii_end();
    head.status == StatusCode::OK && (kind.eq_ignore_ascii_case(BINARY) || kind.eq_ignore_ascii_case(BINARY_PROTO))
}

/// Puts the body, of which this is the end, into `grpc-message`.
fn become_message(last: Bytes, cx: &mut StreamCx<'_>) {
    let mut message = cx.buffered.split();
    if message.is_empty() {
        message.extend_from_slice(&last);
    } else {
        message.extend_from_slice(&last);
        message.truncate(MAX_MESSAGE);
    }
    cx.edit_response_head(move |head| {
        let status = GrpcStatus::from_http(head.status).0;
        head.headers.set_sanitized(HeaderId::GrpcMessage, grpc_message(&message));
        head.headers.set_sanitized(HeaderId::GrpcStatus, status.to_string());
        head.headers.set_sanitized(HeaderId::ContentLength, "0");
    });
}

/// For [`crate::fuzzing`]: the first octet is the size of the pieces.
pub(crate) fn fuzz_web_text(data: &[u8]) {
    let Some((size, body)) = data.split_first() else { return };
    let size = usize::from(*size) + 1;
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let mut back = Vec::new();
    for piece in body.chunks(size) {
        match decoder.decode(&encoder.encode(piece), false) {
            Ok(decoded) => back.extend_from_slice(&decoded),
            Err(malformed) => panic!("what was encoded cannot be decoded: {malformed:?}"),
        }
    }
    match decoder.decode(encoder.finish().as_bytes(), true) {
        Ok(decoded) => back.extend_from_slice(&decoded),
        Err(malformed) => panic!("the end cannot be decoded: {malformed:?}"),
    }
    assert!(back == body, "another body came back");
    let mut decoder = Decoder::default();
    for piece in body.chunks(size) {
        match decoder.decode(piece, false) {
            Ok(decoded) => assert!(decoded.len() <= piece.len().div_ceil(4) * 3 + 3),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests;
