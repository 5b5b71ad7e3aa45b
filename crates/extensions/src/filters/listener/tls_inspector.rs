//! `envoy.filters.listener.tls_inspector`: whether a connection begins with TLS, and for whom.

use super::per_connection;
use sota_codec::client_hello::{DEFAULT_MAX_BYTES, Inspection, inspect};
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
    name: "envoy.filters.listener.tls_inspector",
    short_name: "tls_inspector",
    type_urls: &["envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"],
    build,
    build_route: None,
    route_type_urls: &[],
};

stat_group! {
    /// `tls_inspector.`
    struct Stats {
        /// Hellos with application protocols.
        alpn_found: counter,
        /// Hellos without.
        alpn_not_found: counter,
        /// Hellos over the size limit.
        client_hello_too_large: counter,
        /// Hellos with a server name.
        sni_found: counter,
        /// Hellos without.
        sni_not_found: counter,
        /// Connections that began with TLS.
        tls_found: counter,
        /// Connections that began with something else.
        tls_not_found: counter,
        /// Octets that had to be looked at.
        bytes_processed: histogram(Bytes),
    }
}

fn build(_: &TypedConfig, _: &FactoryContext<'_>) -> Result<Arc<dyn ListenerFilterConfig>, ConfigError> {
    Ok(Arc::new(TlsInspector))
}

struct TlsInspector;

impl ListenerFilterConfig for TlsInspector {
    fn for_worker(&self, cx: &WorkerCx) -> Rc<dyn Fn() -> Box<dyn ListenerFilter>> {
        per_connection(cx, "tls_inspector.", |stats| Filter { stats })
    }
}

struct Filter {
    stats: Group<Stats>,
}

impl ListenerFilter for Filter {
    fn on_peek(&mut self, bytes: &[u8], _end: bool, cx: &mut ListenerCx<'_>) -> Peek {
        if bytes.is_empty() {
            return Peek::More;
        }
        let hello = match inspect(bytes, DEFAULT_MAX_BYTES) {
            Inspection::NeedMore => return Peek::More,
            Inspection::TooLarge => {
                self.stats.client_hello_too_large.inc();
                return Peek::Close;
            }
            Inspection::NotTls | Inspection::Malformed => {
                self.stats.tls_not_found.inc();
                self.stats.bytes_processed.record(bytes.len() as u64);
                cx.info.transport_protocol = "raw_buffer";
                return Peek::Continue;
            }
            Inspection::Hello(hello) => hello,
        };
        self.stats.tls_found.inc();
        self.stats.bytes_processed.record(bytes.len() as u64);
        cx.info.transport_protocol = "tls";
        match hello.server_name {
            Some(name) => {
                self.stats.sni_found.inc();
                cx.info.server_name = Some(name);
            }
            None => self.stats.sni_not_found.inc(),
        }
        if hello.alpn.is_empty() {
            self.stats.alpn_not_found.inc();
        } else {
            self.stats.alpn_found.inc();
            let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned().into_boxed_str();
            cx.info.application_protocols = hello.alpn.iter().map(|name| text(name)).collect();
        }
        Peek::Continue
    }

    fn max_bytes(&self) -> usize {
        DEFAULT_MAX_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{peek, worker};

    #[test]
    fn what_is_no_hello_is_plain() {
        let new = TlsInspector.for_worker(&worker());
        assert_eq!(peek(&mut *new(), b"", |_| ()).0, Peek::More);
        assert_eq!(peek(&mut *new(), b"\x16\x03\x01", |_| ()).0, Peek::More);
        let (result, info) = peek(&mut *new(), b"GET / HTTP/1.1\r\n", |_| ());
        assert_eq!((result, info.transport_protocol), (Peek::Continue, "raw_buffer"));
    }

    #[test]
    fn server_name_and_protocols_of_a_hello() {
        let new = TlsInspector.for_worker(&worker());
        let (result, info) = peek(&mut *new(), &hello(), |_| ());
        assert_eq!((result, info.transport_protocol), (Peek::Continue, "tls"));
        assert_eq!(info.server_name.as_deref(), Some("example.com"));
        assert_eq!(*info.application_protocols, [Box::<str>::from("h2"), "http/1.1".into()]);
    }

    /// A TLS 1.2 hello with one cipher, a server name and two protocols.
    fn hello() -> Vec<u8> {
        let with_length = |n: usize, bytes: &[u8]| [&n.to_be_bytes()[8 - 2..], bytes].concat();
        let name = [&[0][..], &with_length(11, b"Example.com")].concat();
        let sni = [&[0, 0][..], &with_length(name.len() + 2, &with_length(name.len(), &name))].concat();
        let names = b"\x02h2\x08http/1.1";
        let alpn = [&[0, 16][..], &with_length(names.len() + 2, &with_length(names.len(), names))].concat();
        let extensions = [sni, alpn].concat();
        let fixed = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
        let body = [fixed, with_length(extensions.len(), &extensions)].concat();
        let message = [&[1, 0][..], &with_length(body.len(), &body)].concat();
        [&[22, 3, 1][..], &with_length(message.len(), &message)].concat()
    }
}
