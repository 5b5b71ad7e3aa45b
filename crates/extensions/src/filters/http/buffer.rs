//! `envoy.filters.http.buffer`: holds a request until all of its body is here, and refuses a body that is too large.

use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::StreamCx,
    filter::{Bodies, DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, LocalReply, per_stream},
    http::{Protocol, RequestHead, StatusCode},
};
use std::{any::Any, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.buffer",
    short_name: "buffer",
    type_urls: &["envoy.extensions.filters.http.buffer.v3.Buffer"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.buffer.v3.BufferPerRoute"],
};

/// The details by which the connection manager counts a request as too large.
const TOO_LARGE: &str = "request_payload_too_large";

/// How many octets of a body are held; `None`: the filter is switched off.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Limit(Option<usize>);

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error("", cx.mark, "the buffer filter needs a configuration with \"max_request_bytes\""));
    };
    let limit = read_limit(node, "max_request_bytes", cx)?;
    Ok(per_stream(limit, |limit, _| Some(Buffer { configured: **limit, max: None })))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    let limit = match config {
        TypedConfig::Value { node, .. } if node.has("buffer") => {
            read_limit(node.field("buffer"), "buffer.max_request_bytes", cx)?
        }
        TypedConfig::Value { node, .. } if node.bool("disabled") => Limit(None),
        _ => return Err(cx.error("", cx.mark, "either \"disabled: true\" or \"buffer\" is needed here")),
    };
    Ok(Arc::new(limit))
}

fn read_limit(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<Limit, ConfigError> {
    let field = node.field("max_request_bytes");
    let limit = field.as_u64().filter(|limit| *limit > 0).and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.ok_or_else(|| cx.error(path, field.mark, "a number of octets above 0 is needed here"))?;
    Ok(Limit(Some(limit)))
}

struct Buffer {
    configured: Limit,
    /// What may be held of the body of this request; `None` when it passes.
    max: Option<usize>,
}

impl HttpFilter for Buffer {
    fn bodies(&self) -> Bodies {
        // Of a request that is held the data comes anyway; all others go past.
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        _head: &mut RequestHead,
        end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        if end_stream {
            return FilterStatus::Continue;
        }
        let Limit(max) = cx.route_config().copied().unwrap_or(self.configured);
        self.max = max;
        match max {
            Some(max) => {
                cx.set_buffer_limit(max);
                FilterStatus::StopIteration
            }
            None => FilterStatus::Continue,
        }
    }

    fn on_request_data(&mut self, data: &mut bytes::Bytes, end_stream: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        match self.max {
            Some(max) if cx.buffered.len().saturating_add(data.len()) > max => {
                let mut reply = LocalReply::new(StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large", TOO_LARGE);
                // Compat: Envoy learns of the end of an HTTP/1 request behind its last octet, so it closes even where
                // that octet is here already.
                reply.close = cx.info.protocol != Some(Protocol::Http2);
                DataStatus::Reply(Box::new(reply))
            }
            Some(_) if !end_stream => DataStatus::Buffer,
            _ => DataStatus::Continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Route, Stream, building, config, request, unchecked};
    use bytes::Bytes;
    use sota_plugin::http::Method;

    const ROUTE: &str = EXTENSION.route_type_urls[0];

    /// Sends a body in pieces past a filter with 10 octets, on a route with this configuration: what became of each
    /// piece, and the limit that the filter asked for.
    fn send(route: Option<&str>, pieces: &[&'static str]) -> (String, Option<usize>) {
        let worker = FakeWorker::default();
        let filters = building(|cx| build(&config(EXTENSION.type_urls[0], "{max_request_bytes: 10}"), cx)).unwrap();
        let route = route.map(|yaml| Route {
            configs: vec![building(|cx| build_route(&config(ROUTE, yaml), cx)).unwrap()],
            ..Route::default()
        });
        let mut stream = Stream::new(&worker, request(Method::Post, "/", &[]), route);
        let mut filter = filters.for_worker(&worker.cx()).new_filter(&stream.info).unwrap();
        let mut story = match stream.on_request(|head, cx| filter.on_request_headers(head, pieces.is_empty(), cx)) {
            FilterStatus::Continue => "c".to_owned(),
            FilterStatus::StopIteration => "s".to_owned(),
            _ => unreachable!("the filter neither answers nor waits here"),
        };
        for (at, piece) in pieces.iter().enumerate() {
            let mut data = Bytes::from_static(piece.as_bytes());
            let end = at + 1 == pieces.len();
            match stream.on_request(|_, cx| filter.on_request_data(&mut data, end, cx)) {
                DataStatus::Continue => story.push('c'),
                DataStatus::Buffer => {
                    stream.buffered.extend_from_slice(&data);
                    story.push('b');
                }
                DataStatus::Reply(reply) => {
                    assert!(reply.close);
                    story.push_str(&format!("{} {}", reply.status.as_str(), reply.details));
                }
                _ => unreachable!("the filter never waits"),
            }
        }
        (story, stream.effects.buffer_limit)
    }

    #[test]
    fn holds_what_fits_and_refuses_the_rest() {
        assert_eq!(send(None, &[]), ("c".into(), None));
        assert_eq!(send(None, &["0123456789", ""]), ("sbc".into(), Some(10)));
        assert_eq!(send(None, &["01234", "56789"]), ("sbc".into(), Some(10)));
        assert_eq!(send(None, &["01234", "567890"]), ("sb413 request_payload_too_large".into(), Some(10)));
        assert_eq!(send(None, &["01234567890"]).0, "s413 request_payload_too_large");
    }

    #[test]
    fn routes_have_limits_of_their_own() {
        assert_eq!(send(Some("{disabled: true}"), &["012345678901", ""]), ("ccc".into(), None));
        assert_eq!(send(Some("{buffer: {max_request_bytes: 3}}"), &["012", "3"]).0, "sb413 request_payload_too_large");
        let larger = send(Some("{buffer: {max_request_bytes: 100}}"), &["01234567890", ""]);
        assert_eq!(larger, ("sbc".into(), Some(100)));
    }

    #[test]
    fn a_limit_is_needed() {
        let error = |config: &TypedConfig| building(|cx| build(config, cx).err()).unwrap().to_string();
        assert_eq!(error(&unchecked("{}")), "here.max_request_bytes: a number of octets above 0 is needed here");
        assert!(error(&TypedConfig::Empty).contains("max_request_bytes"));
        let error = |yaml| building(|cx| build_route(&unchecked(yaml), cx)).unwrap_err().to_string();
        assert_eq!(
            error("{buffer: {max_request_bytes: 0}}"),
            "here.buffer.max_request_bytes: a number of octets above 0 is needed here"
        );
        assert_eq!(error("{}"), "here: either \"disabled: true\" or \"buffer\" is needed here");
    }
}
