use super::*;
use crate::testing::{FakeWorker, Route, Stream, building, config, lines, request};
use sota_plugin::http::Method;

const GZIP: &str = "compressor_library: {name: text, typed_config: {\"@type\": \
                    type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip}}";
const BROTLI: &str = "compressor_library: {name: text, typed_config: {\"@type\": \
                      type.googleapis.com/envoy.extensions.compression.brotli.compressor.v3.Brotli}}";

/// Filters of one chain on a worker.
struct Chain {
    worker: FakeWorker,
    factories: Vec<Box<dyn HttpFilterFactory>>,
}

impl Chain {
    fn new(filters: &[&str]) -> Self {
        let worker = FakeWorker::default();
        let build = |yaml: &&str| {
            let config = config(EXTENSION.type_urls[0], yaml);
            building(|cx| build(&config, cx)).unwrap().for_worker(&worker.cx())
        };
        let factories = filters.iter().map(build).collect();
        Self { worker, factories }
    }

    /// The fields and the body that a client gets, with what it accepts.
    fn get(&self, accept: Option<&str>, mut head: ResponseHead, route: Option<Route>) -> (Vec<String>, Vec<u8>) {
        let fields: Vec<_> = accept.map(|accept| ("accept-encoding", accept)).into_iter().collect();
        let mut stream = Stream::new(&self.worker, request(Method::Get, "/", &fields), route);
        let mut filters: Vec<_> =
            self.factories.iter().map(|factory| factory.new_filter(&stream.info).unwrap()).collect();
        for filter in &mut filters {
            stream.on_request(|head, cx| filter.on_request_headers(head, true, cx));
        }
        let mut body = Vec::new();
        for filter in filters.iter_mut().rev() {
            stream.on_response(|cx| filter.on_response_headers(&mut head, false, cx));
        }
        for (piece, end) in [("hello ", false), ("world", true)] {
            let mut data = Bytes::from_static(piece.as_bytes());
            for filter in filters.iter_mut().rev() {
                stream.on_response(|cx| filter.on_response_data(&mut data, end, cx));
            }
            body.extend_from_slice(&data);
        }
        (lines(&head.headers), body)
    }

    fn counters(&self, prefix: &str) -> Vec<String> {
        let prefix = format!("http.test.compressor.{prefix}");
        let counters = self.worker.counters().into_iter();
        counters
            .filter(|(name, _)| !name.contains("_bytes"))
            .filter_map(|(name, value)| Some(format!("{} {value}", name.strip_prefix(&prefix)?)))
            .collect()
    }
}

fn text() -> ResponseHead {
    ResponseHead::new(StatusCode::OK).with("content-type", "text/plain; charset=x").with("content-length", "300")
}

fn encoding(fields: &[String]) -> Option<&str> {
    fields.iter().find_map(|line| line.strip_prefix("content-encoding: "))
}

#[test]
fn what_the_client_accepts() {
    let chain = Chain::new(&[GZIP]);
    let (fields, body) = chain.get(Some("gzip, br"), text(), None);
    assert_eq!(fields, ["content-type: text/plain; charset=x", "content-encoding: gzip", "vary: Accept-Encoding"]);
    assert!(body.starts_with(&[0x1f, 0x8b]));
    for accept in [None, Some("br"), Some("identity")] {
        let (fields, body) = chain.get(accept, text(), None);
        assert_eq!((encoding(&fields), &body[..]), (None, &b"hello world"[..]));
        assert!(fields.contains(&"vary: Accept-Encoding".to_owned()));
    }
    assert_eq!(encoding(&chain.get(Some("*"), text(), None).0), Some("gzip"));
    let expected = [
        "compressed 2",
        "header_compressor_used 1",
        "header_identity 1",
        "header_not_valid 1",
        "header_wildcard 1",
        "no_accept_header 1",
        "not_compressed 3",
        "request.not_compressed 5",
    ];
    assert_eq!(chain.counters("text.gzip."), expected);
}

#[test]
fn one_of_several() {
    let chain = Chain::new(&[GZIP, BROTLI]);
    assert_eq!(encoding(&chain.get(Some("gzip;q=0.5, br"), text(), None).0), Some("br"));
    assert_eq!(encoding(&chain.get(Some("gzip, br;q=0.5"), text(), None).0), Some("gzip"));
    assert!(chain.counters("text.gzip.").contains(&"header_compressor_overshadowed 1".to_owned()));
    assert!(chain.counters("text.brotli.").contains(&"header_compressor_used 1".to_owned()));
}

#[test]
fn what_is_left_alone() {
    let yaml = format!(
        "{GZIP}\nresponse_direction_config: {{disable_on_etag_header: true, uncompressible_response_codes: [404], \
         common_config: {{min_content_length: 100, content_type: [text/plain]}}}}"
    );
    let chain = Chain::new(&[&yaml]);
    let compresses = |head| encoding(&chain.get(Some("gzip"), head, None).0).is_some();
    assert!(compresses(text()));
    assert!(!compresses(text().with("content-length", "99")));
    assert!(!compresses(text().with("content-type", "text/html")));
    assert!(!compresses(text().with("cache-control", "max-age=1, No-Transform")));
    assert!(!compresses(text().with("etag", "\"x\"")));
    let mut missing = text();
    missing.status = StatusCode::NOT_FOUND;
    assert!(!compresses(missing));
    let mut coded = text();
    coded.headers.set_sanitized("content-encoding", "br");
    assert_eq!(encoding(&chain.get(Some("gzip"), coded, None).0), Some("br"));
    let counters = chain.counters("text.gzip.");
    for expected in ["response.compressed 1", "response.content_length_too_small 1", "not_compressed_etag 1"] {
        assert!(counters.contains(&expected.to_owned()), "{counters:?}");
    }
}

#[test]
fn entity_tags() {
    let etag = |yaml: &str, etag: &str| {
        let fields = Chain::new(&[yaml]).get(Some("gzip"), text().with("etag", etag), None).0;
        fields.iter().find_map(|line| line.strip_prefix("etag: ").map(str::to_owned))
    };
    assert_eq!((etag(GZIP, "strong"), etag(GZIP, "W/weak").as_deref()), (None, Some("W/weak")));
    let weaken = format!("{GZIP}\nresponse_direction_config: {{weaken_etag_on_compress: true}}");
    assert_eq!(etag(&weaken, "strong").as_deref(), Some("W/strong"));
    let (fields, _) = Chain::new(&[GZIP]).get(Some("gzip"), text().with("vary", "origin"), None);
    assert!(fields.contains(&"vary: origin, Accept-Encoding".to_owned()));
}

#[test]
fn routes_switch_it() {
    let off = format!(
        "{GZIP}\nresponse_direction_config: {{common_config: {{enabled: {{default_value: false, runtime_key: k}}}}}}"
    );
    let route = |yaml| {
        let config = config(EXTENSION.route_type_urls[0], yaml);
        let own = building(|cx| build_route(&config, cx)).unwrap();
        Some(Route { configs: vec![own], ..Route::default() })
    };
    let on = || route("overrides: {response_direction_config: {}}");
    let chain = Chain::new(&[&off]);
    assert_eq!(encoding(&chain.get(Some("gzip"), text(), None).0), None);
    assert_eq!(encoding(&chain.get(Some("gzip"), text(), on()).0), Some("gzip"));
    assert_eq!(encoding(&Chain::new(&[GZIP]).get(Some("gzip"), text(), route("disabled: true")).0), None);
}

#[test]
fn requests_are_compressed_if_told_so() {
    let yaml = format!(
        "{GZIP}\nrequest_direction_config: {{}}\nresponse_direction_config: {{remove_accept_encoding_header: true}}"
    );
    let chain = Chain::new(&[&yaml]);
    let fields = [("content-type", "application/json"), ("content-length", "100"), ("accept-encoding", "gzip")];
    let mut stream = Stream::new(&chain.worker, request(Method::Post, "/", &fields), None);
    let mut filter = chain.factories[0].new_filter(&stream.info).unwrap();
    stream.on_request(|head, cx| filter.on_request_headers(head, false, cx));
    assert_eq!(lines(&stream.request.headers), ["content-type: application/json", "content-encoding: gzip"]);
    let mut data = Bytes::from_static(b"{}");
    stream.on_request(|_, cx| filter.on_request_data(&mut data, false, cx));
    assert!(data.starts_with(&[0x1f, 0x8b]));
    stream.on_request(|_, cx| filter.on_request_trailers(&mut Headers::new(), cx));
    assert!(!stream.buffered.is_empty(), "the end stands before the trailers");
    assert!(chain.counters("text.gzip.").contains(&"request.compressed 1".to_owned()));
}
