//! `envoy.filters.http.compressor`: compresses responses for clients that accept it, and requests.

mod negotiation;
mod settings;
#[cfg(test)]
mod tests;

use crate::compression::Compressor;
use bytes::Bytes;
use negotiation::{Candidate, Choice, Negotiation, Offer, choose};
use settings::{RouteSettings, Settings};
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, LocalReply},
    http::{HeaderId, Headers, RequestHead, ResponseHead, StatusCode},
    info::StreamInfo,
    stat_group,
    stats::Group,
};
use std::{any::Any, rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.compressor",
    short_name: "compressor",
    type_urls: &["envoy.extensions.filters.http.compressor.v3.Compressor"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.compressor.v3.CompressorPerRoute"],
};

stat_group! {
    /// `http.<stat_prefix>.compressor.<name>.<library>.request.` and `response.`
    struct DirectionStats {
        /// Bodies compressed.
        compressed: counter,
        /// Bodies that passed as they were.
        not_compressed: counter,
        /// Octets before.
        total_uncompressed_bytes: counter,
        /// Octets after.
        total_compressed_bytes: counter,
        /// Bodies that were too small.
        content_length_too_small: counter,
    }
}

stat_group! {
    /// `http.<stat_prefix>.compressor.<name>.<library>.`
    struct ResponseStats {
        /// Requests without `accept-encoding`.
        no_accept_header: counter,
        /// Requests that want it uncompressed.
        header_identity: counter,
        /// Requests whose choice was this compressor.
        header_compressor_used: counter,
        /// Requests whose choice was another compressor.
        header_compressor_overshadowed: counter,
        /// Requests that take anything.
        header_wildcard: counter,
        /// Requests that take nothing of what there is.
        header_not_valid: counter,
        /// Responses that were left alone because of their `etag`.
        not_compressed_etag: counter,
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error("", cx.mark, "the compressor needs a configuration with \"compressor_library\""));
    };
    Ok(Arc::new(Config(Arc::new(Settings::read(node, cx)?))))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    match config {
        TypedConfig::Value { node, .. } => Ok(Arc::new(RouteSettings::read(node))),
        _ => Err(cx.error("", cx.mark, "either \"disabled: true\" or \"overrides\" is needed here")),
    }
}

struct Config(Arc<Settings>);

impl HttpFilterConfig for Config {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        let scope = cx.stats().child(&self.0.stat_prefix);
        let responses = if self.0.has_response_config { "response." } else { "" };
        Box::new(Factory(Rc::new(Worker {
            settings: Arc::clone(&self.0),
            request: scope.child("request.").group(),
            response: scope.child(responses).group(),
            choices: scope.group(),
        })))
    }
}

struct Factory(Rc<Worker>);

/// The worker's part.
struct Worker {
    settings: Arc<Settings>,
    request: Group<DirectionStats>,
    response: Group<DirectionStats>,
    choices: Group<ResponseStats>,
}

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        let worker = Rc::clone(&self.0);
        Some(Box::new(Filter { worker, negotiation: None, accept_encoding: None, request: None, response: None }))
    }
}

impl Candidate for Worker {
    fn offer(&self, content_type: Option<&[u8]>) -> Option<Offer> {
        let settings = &self.settings;
        settings
            .response
            .takes(content_type)
            .then(|| Offer { coding: settings.library.coding().as_str(), choose_first: settings.choose_first })
    }
}

struct Filter {
    worker: Rc<Worker>,
    negotiation: Option<Rc<Negotiation>>,
    accept_encoding: Option<String>,
    request: Option<Compressor>,
    response: Option<Compressor>,
}

impl Filter {
    /// Whether the response is to be compressed here, by what the client accepts.
    fn is_chosen(&self, head: &ResponseHead) -> bool {
        let stats = &self.worker.choices;
        let Some(accepted) = &self.accept_encoding else {
            stats.no_accept_header.inc();
            return false;
        };
        let coding = self.worker.settings.library.coding().as_str();
        let content_type = head.headers.get(HeaderId::ContentType);
        let offers = || -> Vec<Offer> {
            let candidates = self.negotiation.as_ref().map(|negotiation| negotiation.offers.borrow());
            candidates.iter().flat_map(|all| all.iter()).filter_map(|one| one.offer(content_type)).collect()
        };
        let choice = match &self.negotiation {
            Some(negotiation) => *negotiation.choice.get_or_init(|| choose(accepted, &offers())),
            None => Choice::NotValid,
        };
        let is_ours = choice.coding() == Some(coding);
        match choice {
            Choice::Coding(_) if is_ours => stats.header_compressor_used.inc(),
            Choice::Coding(_) => stats.header_compressor_overshadowed.inc(),
            Choice::Wildcard(_) => stats.header_wildcard.inc(),
            Choice::Identity => stats.header_identity.inc(),
            Choice::NotValid => stats.header_not_valid.inc(),
        }
        is_ours
    }

    /// Whether the response itself is one that is compressed.
    fn is_compressible(&self, head: &ResponseHead) -> bool {
        let settings = &self.worker.settings;
        let headers = &head.headers;
        if head.status == StatusCode::SWITCHING_PROTOCOLS
            || settings.uncompressible_codes.contains(&u32::from(head.status.as_u16()))
            || !settings.response.takes(headers.get(HeaderId::ContentType))
            || has_token(headers, HeaderId::CacheControl, "no-transform")
        {
            return false;
        }
        if settings.disable_on_etag && headers.contains(HeaderId::Etag) {
            self.worker.choices.not_compressed_etag.inc();
            return false;
        }
        !headers.contains(HeaderId::ContentEncoding)
    }
}

impl HttpFilter for Filter {
    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        let settings = &self.worker.settings;
        let negotiation = Negotiation::of(&mut cx.info.filter_state);
        negotiation.offers.borrow_mut().push(Rc::clone(&self.worker) as _);
        self.negotiation = Some(negotiation);
        let accepted = head.headers.get_joined(HeaderId::AcceptEncoding);
        self.accept_encoding = accepted.map(|value| String::from_utf8_lossy(&value).into_owned());
        let route: Option<&RouteSettings> = cx.route_config();
        let enabled = route.and_then(|route| route.enabled).unwrap_or_else(|| settings.response.is_enabled());
        let removes = route.and_then(|route| route.remove_accept_encoding).unwrap_or(settings.remove_accept_encoding);
        if enabled && removes {
            head.headers.remove(HeaderId::AcceptEncoding);
        }
        let stats = &self.worker.request;
        let wanted = settings.request.as_ref().filter(|direction| !end_stream && direction.is_enabled());
        let is_long_enough = wanted.is_some_and(|direction| {
            let is_long_enough = direction.is_long_enough(&head.headers);
            if !is_long_enough {
                stats.content_length_too_small.inc();
            }
            is_long_enough
        });
        let compressor = wanted
            .filter(|direction| {
                is_long_enough
                    && direction.takes(head.headers.get(HeaderId::ContentType))
                    && !head.headers.contains(HeaderId::ContentEncoding)
                    && !head.headers.contains(HeaderId::Upgrade)
            })
            .and_then(|_| settings.library.start().ok());
        if compressor.is_some() {
            head.headers.remove(HeaderId::ContentLength);
            head.headers.set_sanitized(HeaderId::ContentEncoding, settings.library.coding().as_str());
        }
        if compressor.is_some() { &stats.compressed } else { &stats.not_compressed }.inc();
        self.request = compressor;
        FilterStatus::Continue
    }

    fn on_request_data(&mut self, data: &mut Bytes, end_stream: bool, _cx: &mut StreamCx<'_>) -> DataStatus {
        pass(self.request.as_mut(), &self.worker.request, data, end_stream)
    }

    fn on_request_trailers(&mut self, _trailers: &mut Headers, cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        finish(self.request.as_mut(), &self.worker.request, cx)
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        let settings = &self.worker.settings;
        let stats = &self.worker.response;
        let route: Option<&RouteSettings> = cx.route_config();
        let enabled = route.and_then(|route| route.enabled).unwrap_or_else(|| settings.response.is_enabled());
        let is_long_enough = enabled && {
            let is_long_enough = settings.response.is_long_enough(&head.headers);
            if !is_long_enough {
                stats.content_length_too_small.inc();
            }
            is_long_enough
        };
        let is_compressible = is_long_enough && self.is_compressible(head);
        if !end_stream && is_long_enough && self.is_chosen(head) && is_compressible {
            self.response = settings.library.start().ok();
        }
        if self.response.is_some() {
            adapt_etag(&mut head.headers, settings.weaken_etag);
            head.headers.remove(HeaderId::ContentLength);
            head.headers.set_sanitized(HeaderId::ContentEncoding, settings.library.coding().as_str());
            stats.compressed.inc();
        } else {
            stats.not_compressed.inc();
        }
        if is_compressible {
            // Also where it was not compressed: another client may get it so.
            vary(&mut head.headers);
        }
        FilterStatus::Continue
    }

    fn on_response_data(&mut self, data: &mut Bytes, end_stream: bool, _cx: &mut StreamCx<'_>) -> DataStatus {
        pass(self.response.as_mut(), &self.worker.response, data, end_stream)
    }

    fn on_response_trailers(&mut self, _trailers: &mut Headers, cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        finish(self.response.as_mut(), &self.worker.response, cx)
    }
}

fn pass(compressor: Option<&mut Compressor>, stats: &DirectionStats, data: &mut Bytes, end: bool) -> DataStatus {
    let Some(compressor) = compressor else { return DataStatus::Continue };
    if data.is_empty() && !end {
        return DataStatus::Continue;
    }
    stats.total_uncompressed_bytes.add(data.len() as u64);
    match compressor.compress(data, end) {
        Ok(compressed) => {
            stats.total_compressed_bytes.add(compressed.len() as u64);
            *data = compressed;
            DataStatus::Continue
        }
        Err(_) => DataStatus::Reply(Box::new(failed())),
    }
}

/// The end of the body, before trailers.
fn finish(compressor: Option<&mut Compressor>, stats: &DirectionStats, cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
    let Some(compressor) = compressor else { return FilterStatus::Continue };
    match compressor.compress(b"", true) {
        Ok(end) => {
            stats.total_compressed_bytes.add(end.len() as u64);
            cx.buffered.extend_from_slice(&end);
            FilterStatus::Continue
        }
        Err(_) => FilterStatus::reply(failed()),
    }
}

fn failed() -> LocalReply {
    LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, "", "compression_failed")
}

/// Whether a list has a token, in any case.
fn has_token(headers: &Headers, name: HeaderId, token: &str) -> bool {
    headers
        .get_all(name)
        .flat_map(|value| value.split(|c| *c == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// A strong `etag` speaks of the octets, which are others now.
fn adapt_etag(headers: &mut Headers, weaken: bool) {
    let Some(etag) = headers.get(HeaderId::Etag).map(<[u8]>::to_vec) else { return };
    if etag.len() <= 2 || etag.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(b"w/")) {
        return;
    }
    if weaken {
        headers.set_sanitized(HeaderId::Etag, [b"W/", &etag[..]].concat());
    } else {
        headers.remove(HeaderId::Etag);
    }
}

fn vary(headers: &mut Headers) {
    if !has_token(headers, HeaderId::Vary, "accept-encoding") {
        let value = headers.get_joined(HeaderId::Vary).map(|value| value.into_owned()).unwrap_or_default();
        let separator = if value.is_empty() { &b""[..] } else { b", " };
        headers.set_sanitized(HeaderId::Vary, [&value, separator, b"Accept-Encoding"].concat());
    }
}
