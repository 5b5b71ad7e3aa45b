//! `sota.filters.listener.zmq_inspector`: whether a connection begins with ZMTP, for the filter chain match. With it
//! HTTP, TLS and ZeroMQ can share a port.

use super::per_connection;
use sota_codec::zmtp::{Inspection, inspect};
use sota_config::{ConfigError, Mark, TypedConfig};
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
    name: "sota.filters.listener.zmq_inspector",
    short_name: "zmq_inspector",
    type_urls: &["sota.filters.listener.zmq_inspector"],
    build,
    build_route: None,
    route_type_urls: &[],
};

/// What a ZMTP connection has as its application protocol.
const PROTOCOL: &str = "zmtp";
/// The signature. A peer may wait for ours before it sends more, so that the version is not to be had.
const MAX_INSPECT_BYTES: usize = 10;

stat_group! {
    /// `zmq_inspector.`
    struct Stats {
        /// Connections that began with ZMTP.
        zmtp_found: counter,
        /// Connections that began with something else.
        zmtp_not_found: counter,
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn ListenerFilterConfig>, ConfigError> {
    match config {
        TypedConfig::Value { node, .. } if !node.pairs().is_empty() => {
            Err(cx.error("", node.mark, "zmq_inspector has no fields"))
        }
        TypedConfig::Proto { bytes, .. } if !bytes.is_empty() => {
            Err(cx.error("", Mark::NONE, "zmq_inspector has no fields"))
        }
        _ => Ok(Arc::new(ZmqInspector)),
    }
}

struct ZmqInspector;

impl ListenerFilterConfig for ZmqInspector {
    fn for_worker(&self, cx: &WorkerCx) -> Rc<dyn Fn() -> Box<dyn ListenerFilter>> {
        per_connection(cx, "zmq_inspector.", |stats| Filter { stats })
    }
}

struct Filter {
    stats: Group<Stats>,
}

impl ListenerFilter for Filter {
    fn on_peek(&mut self, bytes: &[u8], end: bool, cx: &mut ListenerCx<'_>) -> Peek {
        if cx.is_inside_transport() {
            return Peek::Continue;
        }
        match inspect(bytes) {
            Inspection::NeedMore if !end => return Peek::More,
            Inspection::Zmtp(_) => {
                self.stats.zmtp_found.inc();
                cx.info.application_protocols = Box::new([PROTOCOL.into()]);
            }
            Inspection::NeedMore | Inspection::Other(_) => self.stats.zmtp_not_found.inc(),
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
    fn finds_zmtp_as_soon_as_it_can_be_told() {
        let new = ZmqInspector.for_worker(&worker());
        for (bytes, answer, found) in [
            (&b""[..], Peek::More, None),
            (b"\xff\0\0\0\0\0\0\0\x01", Peek::More, None),
            (b"\xff\0\0\0\0\0\0\0\x01\x7f", Peek::Continue, Some("zmtp")),
            (b"\xff\0\0\0\0\0\0\0\x01\x7e", Peek::Continue, None),
            (b"GET / HTTP", Peek::Continue, None),
            (b"\x16\x03\x01\x02\0", Peek::Continue, None),
        ] {
            let (result, info) = peek(&mut *new(), bytes, |_| ());
            assert_eq!((result, info.application_protocols.first().map(|name| &**name)), (answer, found), "{bytes:?}");
        }
        let zmtp = b"\xff\0\0\0\0\0\0\0\x01\x7f";
        let (result, info) = peek(&mut *new(), zmtp, |info| info.transport_protocol = "tls");
        assert_eq!((result, info.application_protocols.len()), (Peek::Continue, 0));
    }
}
