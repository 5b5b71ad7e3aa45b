//! `envoy.filters.http.decompressor`: decompresses requests and responses, and tells upstreams that it can.

use crate::{
    compression::{Decompressor, DecompressorLibrary, Fault},
    matchers::{self, Switch},
};
use bytes::Bytes;
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, LocalReply},
    http::{HeaderId, HeaderName, Headers, RequestHead, ResponseHead, StatusCode},
    info::StreamInfo,
    stat_group,
    stats::Group,
};
use std::{rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.decompressor",
    short_name: "decompressor",
    type_urls: &["envoy.extensions.filters.http.decompressor.v3.Decompressor"],
    build,
    build_route: None,
    route_type_urls: &[],
};

/// So much is made of a body before it is passed on, in octets: what is left waits.
const ENOUGH: usize = 64 * 1024;

stat_group! {
    /// `http.<stat_prefix>.decompressor.<name>.<library>.request.` and `response.`
    struct Stats {
        /// Bodies decompressed.
        decompressed: counter,
        /// Bodies that passed as they were.
        not_decompressed: counter,
        /// Octets after.
        total_uncompressed_bytes: counter,
        /// Octets before.
        total_compressed_bytes: counter,
        /// Bodies that were broken off: no such coding, or far too large.
        failed: counter,
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error("", cx.mark, "the decompressor needs a configuration with \"decompressor_library\""));
    };
    Ok(Arc::new(Config(Arc::new(Settings::read(node, cx)?))))
}

struct Config(Arc<Settings>);

/// `envoy.extensions.filters.http.decompressor.v3.Decompressor`
struct Settings {
    library: DecompressorLibrary,
    request: Direction,
    response: Direction,
    /// Tell the upstream that we can.
    advertise: bool,
    stat_prefix: String,
    /// The trailers that tell how large the body was and is.
    compressed: HeaderName,
    uncompressed: HeaderName,
}

struct Direction {
    enabled: Switch,
    ignore_no_transform: bool,
}

impl Settings {
    fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        const LIBRARY: &str = "decompressor_library";
        let library = DecompressorLibrary::read(node, LIBRARY, cx)?;
        let direction = |key: &str| {
            let common = node.field(key).field("common_config");
            Direction {
                enabled: matchers::switch(common, "enabled", cx),
                ignore_no_transform: common.bool("ignore_no_transform_header"),
            }
        };
        let name = node.field(LIBRARY).field("name");
        let text = name.as_str().unwrap_or_default();
        let trailer = |what: &str| {
            HeaderName::parse(format!("x-envoy-decompressor-{text}-{what}-bytes").as_bytes()).map_err(|error| {
                cx.error(&format!("{LIBRARY}.name"), name.mark, format!("trailers have this name: {error}"))
            })
        };
        Ok(Self {
            request: direction("request_direction_config"),
            response: direction("response_direction_config"),
            advertise: node.field("request_direction_config").bool_or("advertise_accept_encoding", true),
            stat_prefix: format!("{}decompressor.{text}.{}", cx.stat_prefix, library.coding().stat_prefix()),
            compressed: trailer("compressed")?,
            uncompressed: trailer("uncompressed")?,
            library,
        })
    }

    /// Begins to decompress a body, if its head says that it is ours; the head then says so no more.
    fn start(&self, direction: &Direction, headers: &mut Headers) -> Option<Decompressor> {
        let is_fixed = !direction.ignore_no_transform && has_no_transform(headers);
        if !direction.enabled.is_on() || is_fixed {
            return None;
        }
        let codings = headers.get_joined(HeaderId::ContentEncoding)?.into_owned();
        // The outermost one was applied last (RFC 9110 §8.4).
        let split = codings.iter().rposition(|c| *c == b',');
        let (inner, outer) = match split {
            Some(at) => (codings.get(..at).unwrap_or_default(), codings.get(at + 1..).unwrap_or_default()),
            None => (&b""[..], &codings[..]),
        };
        if !outer.trim_ascii().eq_ignore_ascii_case(self.library.coding().as_str().as_bytes()) {
            return None;
        }
        let decompressor = self.library.start().ok()?;
        headers.remove(HeaderId::ContentLength);
        match inner.trim_ascii() {
            b"" => drop(headers.remove(HeaderId::ContentEncoding)),
            inner => headers.set_sanitized(HeaderId::ContentEncoding, inner),
        }
        Some(decompressor)
    }

    fn tell(&self, decompressor: &Decompressor, trailers: &mut Headers) {
        trailers.set_sanitized(&self.compressed, decompressor.total_in().to_string());
        trailers.set_sanitized(&self.uncompressed, decompressor.total_out().to_string());
    }

    /// A piece of a body passes.
    fn pass(
        &self,
        decompressor: Option<&mut Decompressor>,
        stats: &Stats,
        data: &mut Bytes,
        end: bool,
        cx: &mut StreamCx<'_>,
    ) -> DataStatus {
        let Some(decompressor) = decompressor else { return DataStatus::Continue };
        let (used, made) = match decompressor.decompress(data, ENOUGH) {
            Ok(made) => made,
            Err(fault) => {
                stats.failed.inc();
                return DataStatus::Reply(Box::new(failed(fault)));
            }
        };
        stats.total_compressed_bytes.add(used as u64);
        stats.total_uncompressed_bytes.add(made.len() as u64);
        let rest = data.split_off(used.min(data.len()));
        *data = made.into();
        if end && rest.is_empty() {
            self.tell(decompressor, cx.add_trailers());
        }
        cx.keep_rest(rest);
        DataStatus::Continue
    }
}

/// What cannot be decompressed ends here: nobody behind us is to take a part for the whole.
fn failed(fault: Fault) -> LocalReply {
    LocalReply::new(StatusCode::BAD_REQUEST, fault.to_string(), "decompression_failed")
}

fn has_no_transform(headers: &Headers) -> bool {
    let values = headers.get_all(HeaderId::CacheControl).flat_map(|value| value.split(|c| *c == b','));
    values.into_iter().any(|item| item.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
}

/// `accept-encoding` with this coding at its end, and nowhere else.
fn accept(headers: &mut Headers, coding: &str) {
    let old = headers.get_joined(HeaderId::AcceptEncoding).map(|value| String::from_utf8_lossy(&value).into_owned());
    let old = old.unwrap_or_default();
    let name = |item: &str| item.split(';').next().unwrap_or_default().trim().to_owned();
    let others = old.split(',').map(str::trim).filter(|item| !item.is_empty());
    let mut all: Vec<&str> = others.filter(|item| !name(item).eq_ignore_ascii_case(coding)).collect();
    all.push(coding);
    headers.set_sanitized(HeaderId::AcceptEncoding, all.join(","));
}

impl HttpFilterConfig for Config {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        let scope = cx.stats().child(&self.0.stat_prefix);
        Box::new(Factory(Rc::new(Worker {
            settings: Arc::clone(&self.0),
            request: scope.child("request.").group(),
            response: scope.child("response.").group(),
        })))
    }
}

struct Factory(Rc<Worker>);

/// The worker's part.
struct Worker {
    settings: Arc<Settings>,
    request: Group<Stats>,
    response: Group<Stats>,
}

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        Some(Box::new(Filter { worker: Rc::clone(&self.0), request: None, response: None }))
    }
}

struct Filter {
    worker: Rc<Worker>,
    request: Option<Decompressor>,
    response: Option<Decompressor>,
}

impl HttpFilter for Filter {
    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        end_stream: bool,
        _cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        let Worker { settings, request: stats, .. } = &*self.worker;
        if settings.advertise && settings.response.enabled.is_on() {
            accept(&mut head.headers, settings.library.coding().as_str());
        }
        if !end_stream {
            self.request = settings.start(&settings.request, &mut head.headers);
            if self.request.is_some() { &stats.decompressed } else { &stats.not_decompressed }.inc();
        }
        FilterStatus::Continue
    }

    fn on_request_data(&mut self, data: &mut Bytes, end_stream: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        let Worker { settings, request: stats, .. } = &*self.worker;
        settings.pass(self.request.as_mut(), stats, data, end_stream, cx)
    }

    fn on_request_trailers(&mut self, trailers: &mut Headers, _cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        if let Some(decompressor) = &self.request {
            self.worker.settings.tell(decompressor, trailers);
        }
        FilterStatus::Continue
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        end_stream: bool,
        _cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        let Worker { settings, response: stats, .. } = &*self.worker;
        if !end_stream {
            self.response = settings.start(&settings.response, &mut head.headers);
            if self.response.is_some() { &stats.decompressed } else { &stats.not_decompressed }.inc();
        }
        FilterStatus::Continue
    }

    fn on_response_data(&mut self, data: &mut Bytes, end_stream: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        let Worker { settings, response: stats, .. } = &*self.worker;
        settings.pass(self.response.as_mut(), stats, data, end_stream, cx)
    }

    fn on_response_trailers(&mut self, trailers: &mut Headers, _cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        if let Some(decompressor) = &self.response {
            self.worker.settings.tell(decompressor, trailers);
        }
        FilterStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compression::CompressorLibrary,
        testing::{FakeWorker, Stream, building, config, lines, request},
    };
    use sota_plugin::http::Method;

    const GUNZIP: &str = "decompressor_library: {name: in, typed_config: {\"@type\": \
                          type.googleapis.com/envoy.extensions.compression.gzip.decompressor.v3.Gzip}}";

    fn gzip(body: &[u8]) -> Bytes {
        let library = CompressorLibrary::Gzip { level: 6, window_bits: 15 };
        library.start().unwrap().compress(body, true).unwrap()
    }

    struct Harness {
        worker: FakeWorker,
        factory: Box<dyn HttpFilterFactory>,
    }

    impl Harness {
        fn new(yaml: &str) -> Self {
            let worker = FakeWorker::default();
            let config = config(EXTENSION.type_urls[0], yaml);
            let factory = building(|cx| build(&config, cx)).unwrap().for_worker(&worker.cx());
            Self { worker, factory }
        }

        /// A request with these fields, body and all: its fields, its body or the answer, its trailers.
        fn send(&self, fields: &[(&str, &str)], body: Bytes) -> (Vec<String>, Result<Vec<u8>, String>, Vec<String>) {
            let mut stream = Stream::new(&self.worker, request(Method::Post, "/", fields), None);
            let mut filter = self.factory.new_filter(&stream.info).unwrap();
            stream.on_request(|head, cx| filter.on_request_headers(head, false, cx));
            let fields = lines(&stream.request.headers);
            let (mut data, mut out) = (body, Vec::new());
            loop {
                match stream.on_request(|_, cx| filter.on_request_data(&mut data, true, cx)) {
                    DataStatus::Continue => out.extend_from_slice(&data),
                    DataStatus::Reply(reply) => {
                        return (fields, Err(format!("{} {}", reply.status.as_str(), reply.details)), vec![]);
                    }
                    _ => unreachable!("nothing is held"),
                }
                match stream.effects.rest.take() {
                    Some(rest) => data = rest,
                    None => break,
                }
            }
            let trailers = stream.effects.trailers.take().map(|trailers| lines(&trailers)).unwrap_or_default();
            (fields, Ok(out), trailers)
        }
    }

    #[test]
    fn bodies_are_decompressed_bit_by_bit() {
        let body: Vec<u8> = (0..100_000_u32).flat_map(|n| format!("{n} ").into_bytes()).collect();
        let small = gzip(&body);
        let harness = Harness::new(GUNZIP);
        let fields = [("content-encoding", "GZIP"), ("content-length", "9"), ("accept-encoding", "br, gzip;q=0.1")];
        let (fields, out, trailers) = harness.send(&fields, small.clone());
        assert_eq!(fields, ["accept-encoding: br,gzip"]);
        assert!(out.unwrap() == body);
        let expected = [
            format!("x-envoy-decompressor-in-compressed-bytes: {}", small.len()),
            format!("x-envoy-decompressor-in-uncompressed-bytes: {}", body.len()),
        ];
        assert_eq!(trailers, expected);
        let counters = harness.worker.counters();
        let value = |name: &str| {
            counters
                .iter()
                .find(|(full, _)| full == &format!("http.test.decompressor.in.gzip.request.{name}"))
                .unwrap()
                .1
        };
        assert_eq!((value("decompressed"), value("total_uncompressed_bytes")), (1, body.len() as u64));
    }

    #[test]
    fn only_what_is_ours() {
        let body = gzip(b"hello");
        let passes = |yaml: &str, fields: &[(&str, &str)]| {
            let (_, out, _) = Harness::new(yaml).send(fields, body.clone());
            out.unwrap() == body
        };
        let coded = ("content-encoding", "gzip");
        assert!(!passes(GUNZIP, &[coded]));
        assert!(passes(GUNZIP, &[]) && passes(GUNZIP, &[("content-encoding", "br")]));
        assert!(passes(GUNZIP, &[("content-encoding", "gzip, br")]), "br is the outer one");
        assert!(passes(GUNZIP, &[coded, ("cache-control", "no-transform")]));
        let ignoring =
            format!("{GUNZIP}\nrequest_direction_config: {{common_config: {{ignore_no_transform_header: true}}}}");
        assert!(!passes(&ignoring, &[coded, ("cache-control", "no-transform")]));
        let off = format!(
            "{GUNZIP}\nrequest_direction_config: {{advertise_accept_encoding: false, common_config: {{enabled: \
             {{default_value: false, runtime_key: k}}}}}}"
        );
        assert!(passes(&off, &[coded]));
        assert_eq!(Harness::new(&off).send(&[], Bytes::new()).0, [""; 0]);
        let (fields, out, _) = Harness::new(GUNZIP).send(&[("content-encoding", "br, gzip")], body.clone());
        assert_eq!((&*fields[0], out.unwrap().as_slice()), ("content-encoding: br", &b"hello"[..]));
    }

    #[test]
    fn what_is_broken_is_broken_off() {
        let harness = Harness::new(GUNZIP);
        let coded = [("content-encoding", "gzip")];
        let refused = Err("400 decompression_failed".to_owned());
        assert_eq!(harness.send(&coded, Bytes::from_static(b"no gzip at all, really")).1, refused);
        assert_eq!(harness.send(&coded, gzip(&vec![0; 10_000_000])).1, refused);
        let counters = harness.worker.counters();
        assert!(counters.contains(&("http.test.decompressor.in.gzip.request.failed".to_owned(), 2)));
    }
}
