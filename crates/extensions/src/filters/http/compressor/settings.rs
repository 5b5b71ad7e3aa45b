//! What a compressor, or a route for it, says.

use crate::{
    compression::CompressorLibrary,
    matchers::{self, Switch},
};
use sota_config::{ConfigError, Node};
use sota_plugin::{
    FactoryContext,
    http::{HeaderId, Headers},
    matcher::StringMatcher,
};

/// What is compressed when the configuration does not say.
const CONTENT_TYPES: [&str; 20] = [
    "text/html",
    "text/plain",
    "text/css",
    "application/javascript",
    "application/x-javascript",
    "text/javascript",
    "text/x-javascript",
    "text/ecmascript",
    "text/js",
    "text/jscript",
    "text/x-js",
    "application/ecmascript",
    "application/x-json",
    "application/xml",
    "application/json",
    "image/svg+xml",
    "text/xml",
    "application/xhtml+xml",
    "application/grpc-web",
    "application/grpc-web+proto",
];
/// Smaller bodies are not worth it, in octets.
const MIN_LENGTH: u64 = 30;

/// `envoy.extensions.filters.http.compressor.v3.Compressor`
pub(super) struct Settings {
    pub(super) library: CompressorLibrary,
    /// `None`: requests are not compressed.
    pub(super) request: Option<Direction>,
    pub(super) response: Direction,
    pub(super) disable_on_etag: bool,
    pub(super) weaken_etag: bool,
    pub(super) remove_accept_encoding: bool,
    pub(super) uncompressible_codes: Vec<u32>,
    pub(super) choose_first: bool,
    /// `http.<prefix>.compressor.<name>.<library>.`
    pub(super) stat_prefix: String,
    /// The stats of responses stand below `response.`.
    pub(super) has_response_config: bool,
}

/// `envoy.extensions.filters.http.compressor.v3.Compressor.CommonDirectionConfig`
pub(super) struct Direction {
    enabled: Switch,
    min_length: u64,
    content_types: ContentTypes,
}

enum ContentTypes {
    Named(Vec<String>),
    Matching(Vec<StringMatcher>),
}

/// `envoy.extensions.filters.http.compressor.v3.CompressorPerRoute`
pub(super) struct RouteSettings {
    /// Whether responses are compressed; `None`: as the filter says.
    pub(super) enabled: Option<bool>,
    pub(super) remove_accept_encoding: Option<bool>,
}

impl Settings {
    pub(super) fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        const LIBRARY: &str = "compressor_library";
        let library = CompressorLibrary::read(node, LIBRARY, cx)?;
        let request = node.field("request_direction_config").get("common_config");
        let has_request = node.has("request_direction_config");
        let none = Node::map();
        let request = has_request
            .then(|| Direction::read(request.unwrap_or(&none), "request_direction_config.common_config", cx));
        let response = node.get("response_direction_config");
        let own = response.unwrap_or(node);
        let name = node.field(LIBRARY).str("name");
        let coding = library.coding().stat_prefix();
        Ok(Self {
            library,
            request: request.transpose()?,
            response: match response {
                Some(response) => {
                    Direction::read(response.field("common_config"), "response_direction_config.common_config", cx)?
                }
                None => Direction::read_old(node, cx),
            },
            disable_on_etag: own.bool("disable_on_etag_header"),
            weaken_etag: own.bool("weaken_etag_on_compress"),
            remove_accept_encoding: own.bool("remove_accept_encoding_header"),
            uncompressible_codes: own
                .list("uncompressible_response_codes")
                .iter()
                .filter_map(|code| u32::try_from(code.as_u64()?).ok())
                .collect(),
            choose_first: node.bool("choose_first"),
            stat_prefix: format!("{}compressor.{name}.{coding}", cx.stat_prefix),
            has_response_config: response.is_some(),
        })
    }
}

impl Direction {
    fn read(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let matching = node.list("content_type_matcher").iter().enumerate();
        let matching = matching
            .map(|(at, item)| matchers::string(item, &format!("{path}.content_type_matcher[{at}]"), cx))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            enabled: matchers::switch(node, "enabled", cx),
            min_length: min_length(node.uint("min_content_length")),
            content_types: match matching.is_empty() {
                true => named(node.strings("content_type")),
                false => ContentTypes::Matching(matching),
            },
        })
    }

    /// The fields from before there were two directions.
    fn read_old(node: &Node, cx: &FactoryContext<'_>) -> Self {
        Self {
            enabled: matchers::switch(node, "runtime_enabled", cx),
            min_length: min_length(node.uint("content_length")),
            content_types: named(node.strings("content_type")),
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled.is_on()
    }

    /// Whether the body is long enough, as far as its head says.
    pub(super) fn is_long_enough(&self, headers: &Headers) -> bool {
        let Some(length) = headers.get_str(HeaderId::ContentLength) else { return true };
        length.trim().parse::<u64>().is_ok_and(|length| length >= self.min_length)
    }

    /// Whether a body of this type is compressed; one without a type is.
    pub(super) fn takes(&self, content_type: Option<&[u8]>) -> bool {
        let Some(content_type) = content_type else { return true };
        let kind = content_type.split(|c| *c == b';').next().unwrap_or_default().trim_ascii();
        match &self.content_types {
            ContentTypes::Named(names) => names.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(kind)),
            ContentTypes::Matching(matchers) => matchers.iter().any(|matcher| matcher.matches(kind)),
        }
    }
}

fn min_length(configured: Option<u64>) -> u64 {
    configured.filter(|length| *length > 0).unwrap_or(MIN_LENGTH)
}

fn named(names: Vec<String>) -> ContentTypes {
    ContentTypes::Named(match names.is_empty() {
        true => CONTENT_TYPES.map(str::to_owned).to_vec(),
        false => names,
    })
}

impl RouteSettings {
    pub(super) fn read(node: &Node) -> Self {
        if node.bool("disabled") {
            return Self { enabled: Some(false), remove_accept_encoding: None };
        }
        let response = node.field("overrides").get("response_direction_config");
        Self {
            // That it is there is enough.
            enabled: response.map(|_| true),
            remove_accept_encoding: response
                .and_then(|response| response.field("remove_accept_encoding_header").as_bool()),
        }
    }
}
