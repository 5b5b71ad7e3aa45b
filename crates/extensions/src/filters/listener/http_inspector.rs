//! `envoy.filters.listener.http_inspector`: which HTTP a connection begins with, for the filter chain match.

use super::per_connection;
use sota_codec::http_inspect::{Inspection, MAX_INSPECT_BYTES, inspect};
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::WorkerCx,
    filter::{ListenerCx, ListenerFilter, ListenerFilterConfig, Peek},
    stat_group,
    stats::Group,
};
use std::{rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn ListenerFilterConfig> = Extension {
    name: "envoy.filters.listener.http_inspector",
    short_name: "http_inspector",
    type_urls: &["envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"],
    build,
    build_route: None,
    route_type_urls: &[],
};

stat_group! {
    /// `http_inspector.`
    struct Stats {
        /// Connections that began with HTTP/1.0.
        http10_found: counter,
        /// Connections that began with HTTP/1.1.
        http11_found: counter,
        /// Connections that began with HTTP/2.
        http2_found: counter,
        /// Connections that began with something else.
        http_not_found: counter,
        /// Connections that could not be read.
        read_error: counter,
    }
}

fn build(_: &TypedConfig, _: &FactoryContext<'_>) -> Result<Arc<dyn ListenerFilterConfig>, ConfigError> {
    Ok(Arc::new(HttpInspector))
}

struct HttpInspector;

impl ListenerFilterConfig for HttpInspector {
    fn for_worker(&self, cx: &WorkerCx) -> Rc<dyn Fn() -> Box<dyn ListenerFilter>> {
        per_connection(cx, "http_inspector.", |stats| Filter { stats })
    }
}

struct Filter {
    stats: Group<Stats>,
}

impl ListenerFilter for Filter {
    fn on_peek(&mut self, bytes: &[u8], _end: bool, cx: &mut ListenerCx<'_>) -> Peek {
        if cx.is_inside_transport() {
            return Peek::Continue;
        }
        let found = inspect(bytes);
        match found {
            Inspection::NeedMore => return Peek::More,
            Inspection::Http10 => self.stats.http10_found.inc(),
            Inspection::Http11 => self.stats.http11_found.inc(),
            Inspection::Http2 => self.stats.http2_found.inc(),
            Inspection::NotHttp | Inspection::TooLarge => self.stats.http_not_found.inc(),
        }
        if let Some(protocol) = found.application_protocol() {
            cx.info.application_protocols = Box::new([protocol.into()]);
        }
        Peek::Continue
    }

    fn max_bytes(&self) -> usize {
        MAX_INSPECT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{peek, worker};

    #[test]
    fn finds_the_protocol_as_soon_as_it_can_be_told() {
        let worker = worker();
        let new = HttpInspector.for_worker(&worker);
        for (bytes, answer, found) in [
            (&b""[..], Peek::More, None),
            (b"PATCH / HT", Peek::More, None),
            (b"PATCH / HTTP/1.1\r\n", Peek::Continue, Some("http/1.1")),
            (b"GET / HTTP/1.0\r\n", Peek::Continue, Some("http/1.0")),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Peek::Continue, Some("h2c")),
            (b"\x16\x03\x01", Peek::Continue, None),
        ] {
            let (result, info) = peek(&mut *new(), bytes, |_| ());
            assert_eq!((result, info.application_protocols.first().map(|name| &**name)), (answer, found), "{bytes:?}");
        }
        let (result, info) = peek(&mut *new(), b"GET / HTTP/1.1\r\n", |info| info.transport_protocol = "tls");
        assert_eq!((result, info.application_protocols.len()), (Peek::Continue, 0));
    }
}
