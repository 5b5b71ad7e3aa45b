//! The HTTP connection manager (`envoy.extensions.filters.network.http_connection_manager.v3`).

use crate::{
    access_log::{AccessLog, AccessLogFilter, FormatString},
    address::CidrRange,
    config_source::ConfigSource,
    extension::ExtensionConfig,
    matcher::StringMatcher,
    route::{HeaderMutations, RouteConfiguration},
    tracing::Tracing,
    upgrade::UpgradeConfig,
};
use std::{sync::Arc, time::Duration};

/// The connection manager of a filter chain. Times: `None` switches a timeout off; defaults are Envoy's.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpConnectionManager {
    /// Stats are below `http.<stat_prefix>.`.
    pub stat_prefix: String,
    /// Which protocol to speak.
    pub codec_type: CodecType,
    /// Where the routes are from.
    pub routes: RouteSource,
    /// HTTP filters in order, the router last.
    pub http_filters: Vec<HttpFilter>,
    /// Limits and timeouts of connections and streams.
    pub common: HttpProtocolOptions,
    /// HTTP/1.1.
    pub http1: Http1Options,
    /// HTTP/2.
    pub http2: Http2Options,
    /// Without activity on a stream; default 5 min.
    pub stream_idle_timeout: Option<Duration>,
    /// For the whole request to arrive; default none.
    pub request_timeout: Option<Duration>,
    /// For the request's head to arrive; default none.
    pub request_headers_timeout: Option<Duration>,
    /// Between the notice that a connection is draining and its close; default 5 s.
    pub drain_timeout: Duration,
    /// How long a connection that we close may still send; default 1 s.
    pub delayed_close_timeout: Option<Duration>,
    /// Largest head that is accepted, in KiB; default 60.
    pub max_request_headers_kb: u32,
    /// What the `server` field says; default `envoy`.
    pub server_name: String,
    /// What happens to an upstream's `server` field.
    pub server_header_transformation: ServerHeaderTransformation,
    /// Whether the peer's address is the client's.
    pub use_remote_address: bool,
    /// Proxies in front of us whose `x-forwarded-for` entries are trusted.
    pub xff_num_trusted_hops: u32,
    /// Leave `x-forwarded-for` as it is.
    pub skip_xff_append: bool,
    /// Where else the client's address is looked for; the first that finds one counts. Empty: `x-forwarded-for`, with
    /// `xff_num_trusted_hops`. Not with `use_remote_address`.
    pub original_ip_detection: Vec<OriginalIpDetection>,
    /// Changes to requests before anything is decided by them.
    pub early_header_mutations: Vec<HeaderMutation>,
    /// Which peers are internal; `None`: Envoy's default (none but Unix sockets since 1.33… see the translator).
    pub internal_address_config: InternalAddressConfig,
    /// Write IPv4 addresses in IPv6 form.
    pub represent_ipv4_remote_address_as_ipv4_mapped_ipv6: bool,
    /// Make `x-request-id`; default true.
    pub generate_request_id: bool,
    /// Keep an `x-request-id` from outside.
    pub preserve_external_request_id: bool,
    /// Answer with `x-request-id` always.
    pub always_set_request_id_in_response: bool,
    /// Tell hosts that want a PROXY header who the client's connection is from, also where no such header has told us;
    /// default true.
    pub add_proxy_protocol_connection_state: bool,
    /// The text of the `via` field to append; empty: none.
    pub via: String,
    /// Remove dot segments (RFC 3986 §5.2.4) before routing.
    pub normalize_path: bool,
    /// Make `//` one slash.
    pub merge_slashes: bool,
    /// What to do with `%2F` and `%5C`.
    pub path_with_escaped_slashes_action: EscapedSlashes,
    /// Take the port off the host.
    pub strip_port: StripPort,
    /// Take a trailing dot off the host.
    pub strip_trailing_host_dot: bool,
    /// Whether an invalid message ends the stream only (true) or the connection.
    pub stream_error_on_invalid_http_message: bool,
    /// Forward `Expect: 100-continue` instead of answering it.
    pub proxy_100_continue: bool,
    /// `x-forwarded-proto` by force.
    pub scheme_override: Option<String>,
    /// The scheme upstream is that of the connection there (`scheme_header_transformation.match_upstream`).
    pub scheme_matches_upstream: bool,
    /// Set `user-agent` to the node's cluster where it is missing, and `x-envoy-downstream-service-cluster`.
    pub add_user_agent: bool,
    /// Append the port to `x-forwarded-host` (`append_x_forwarded_port`).
    pub append_x_forwarded_port: bool,
    /// What becomes of `x-forwarded-client-cert`.
    pub forward_client_cert: ForwardClientCert,
    /// What it says of the client's certificate beside its hash.
    pub client_cert_details: ClientCertDetails,
    /// Access logs.
    pub access_log: Vec<AccessLog>,
    /// Log at this interval while a stream lasts.
    pub access_log_flush_interval: Option<Duration>,
    /// Log when a stream begins too.
    pub flush_access_log_on_new_request: bool,
    /// Tracing; `None`: requests are not traced.
    pub tracing: Option<Box<Tracing>>,
    /// `x-request-id` says why a request is traced (`pack_trace_reason`); default true.
    pub pack_trace_reason: bool,
    /// Changes to local replies.
    pub local_reply: LocalReplyConfig,
    /// Which upgrades pass, where routes do not say.
    pub upgrades: Vec<UpgradeConfig>,
}

/// What becomes of `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardClientCert {
    /// It is removed.
    #[default]
    Sanitize,
    /// It is kept where the client has shown a certificate.
    ForwardOnly,
    /// What this proxy knows is appended where the client has shown a certificate.
    AppendForward,
    /// It is replaced by what this proxy knows.
    SanitizeSet,
    /// It is kept in any case.
    AlwaysForwardOnly,
}

/// `SetCurrentClientCertDetails`: what is said of the client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientCertDetails {
    /// Its subject.
    pub subject: bool,
    /// It as a whole.
    pub cert: bool,
    /// It and those of authorities that came with it.
    pub chain: bool,
    /// Its host names.
    pub dns: bool,
    /// Its URIs.
    pub uri: bool,
}

/// Which protocol a connection manager speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CodecType {
    /// By ALPN or by the first bytes.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Where a connection manager's routes are from.
#[derive(Debug, Clone, PartialEq)]
pub enum RouteSource {
    /// In the document.
    Inline(Arc<RouteConfiguration>),
    /// A named route configuration that a control plane brings.
    Rds {
        /// Its name.
        name: String,
        /// Who is asked.
        source: Arc<ConfigSource>,
    },
}

/// An HTTP filter of the chain.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpFilter {
    /// Its name, by which routes configure it.
    pub name: String,
    /// The extension, or the router that ends the chain.
    pub kind: HttpFilterKind,
    /// Skipped unless a route enables it.
    pub disabled: bool,
    /// Left out, with a warning, when no such extension is known.
    pub is_optional: bool,
}

/// What an HTTP filter is.
#[derive(Debug, Clone, PartialEq)]
pub enum HttpFilterKind {
    /// `envoy.filters.http.router`.
    Router(RouterConfig),
    /// Any other.
    Extension(ExtensionConfig),
}

/// `envoy.extensions.filters.http.router.v3.Router`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouterConfig {
    /// Count per response code and by zone (default true).
    pub dynamic_stats: bool,
    /// Believe `x-envoy-expected-rq-timeout-ms` of a proxy before this one.
    pub respect_expected_rq_timeout: bool,
    /// Add no `x-envoy-*` field of our own.
    pub suppress_envoy_headers: bool,
    /// Logs of each upstream attempt.
    pub upstream_log: Vec<AccessLog>,
}

/// `envoy.config.core.v3.HttpProtocolOptions`: downstream and upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpProtocolOptions {
    /// Without a request on the connection; default 1 h.
    pub idle_timeout: Option<Duration>,
    /// For the whole connection.
    pub max_connection_duration: Option<Duration>,
    /// For a stream.
    pub max_stream_duration: Option<Duration>,
    /// Fields in a head; default 100.
    pub max_headers_count: u32,
    /// Requests on a connection; `None`: no limit.
    pub max_requests_per_connection: Option<u32>,
    /// What to do with names that have an underscore.
    pub headers_with_underscores_action: UnderscoreAction,
    /// Largest response head in KiB (upstream); default 60.
    pub max_response_headers_kb: u32,
}

impl Default for HttpProtocolOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_stream_duration: None,
            max_headers_count: 100,
            max_requests_per_connection: None,
            headers_with_underscores_action: UnderscoreAction::Allow,
            max_response_headers_kb: 60,
        }
    }
}

/// What to do with header names that have an underscore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnderscoreAction {
    /// Take them.
    #[default]
    Allow,
    /// Answer 400.
    RejectRequest,
    /// Leave the field out.
    DropHeader,
}

/// `envoy.config.core.v3.Http1ProtocolOptions`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Http1Options {
    /// Take absolute-form targets (default true).
    pub allow_absolute_url: bool,
    /// Take HTTP/1.0 and answer in it.
    pub accept_http_10: bool,
    /// The host of an HTTP/1.0 request without one.
    pub default_host_for_http_10: String,
    /// How names are written.
    pub header_key_format: HeaderKeyFormat,
    /// Forward trailers.
    pub enable_trailers: bool,
    /// Take `Content-Length` beside `Transfer-Encoding: chunked` (the length is dropped).
    pub allow_chunked_length: bool,
    /// Overrides `stream_error_on_invalid_http_message`.
    pub override_stream_error_on_invalid_http_message: Option<bool>,
    /// Send the absolute form to the upstream.
    pub send_fully_qualified_url: bool,
}

/// `envoy.config.core.v3.Http2ProtocolOptions`; defaults are Envoy's.
#[derive(Debug, Clone, PartialEq)]
pub struct Http2Options {
    /// Octets of the HPACK tables; default 4096.
    pub hpack_table_size: u32,
    /// Streams at once; default 1024.
    pub max_concurrent_streams: u32,
    /// Octets that the peer may send on a stream before some are taken; default 16 MiB.
    pub initial_stream_window: u32,
    /// The same for all streams of a connection; default 24 MiB.
    pub initial_connection_window: u32,
    /// Take extended CONNECT (RFC 8441).
    pub allow_connect: bool,
    /// Frames that wait to be written; default 10,000.
    pub max_outbound_frames: u32,
    /// PING, SETTINGS and RST_STREAM that wait to be written; default 1000.
    pub max_outbound_control_frames: u32,
    /// Frames in a row without payload and without an end; default 1.
    pub max_consecutive_inbound_frames_with_empty_payload: u32,
    /// PRIORITY frames for each stream; default 100.
    pub max_inbound_priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames for each DATA frame sent; default 10.
    pub max_inbound_window_update_frames_per_data_frame_sent: u32,
    /// Whether an invalid message ends the stream only (true) or the connection (false, the default); `None` leaves it
    /// to the connection manager's option of the same meaning.
    pub stream_error_on_invalid_http_message: Option<bool>,
    /// Pings.
    pub keepalive: Option<Http2Keepalive>,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window: 16 * 1024 * 1024,
            initial_connection_window: 24 * 1024 * 1024,
            allow_connect: false,
            max_outbound_frames: 10_000,
            max_outbound_control_frames: 1000,
            max_consecutive_inbound_frames_with_empty_payload: 1,
            max_inbound_priority_frames_per_stream: 100,
            max_inbound_window_update_frames_per_data_frame_sent: 10,
            stream_error_on_invalid_http_message: None,
            keepalive: None,
        }
    }
}

/// `envoy.config.core.v3.KeepaliveSettings`.
#[derive(Debug, Clone, PartialEq)]
pub struct Http2Keepalive {
    /// Between two pings; `None`: only when a connection that was idle is used again (upstream).
    pub interval: Option<Duration>,
    /// For the answer; without it the connection is closed.
    pub timeout: Duration,
    /// The interval is longer by up to so many percent of it, at random; default 15.
    pub jitter: f64,
    /// A connection on which nothing came for so long is asked before it is used again (upstream).
    pub idle_interval: Option<Duration>,
}

/// How field names are written on HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderKeyFormat {
    /// As they came; names that we add in lower case.
    #[default]
    Preserve,
    /// `Proper-Case`.
    ProperCase,
}

/// What happens to the `server` field of responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerHeaderTransformation {
    /// Ours replaces it.
    #[default]
    Overwrite,
    /// Ours where it is missing.
    AppendIfAbsent,
    /// Left alone.
    PassThrough,
}

/// Which peers count as internal.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InternalAddressConfig {
    /// Peers on Unix sockets.
    pub unix_sockets: bool,
    /// Ranges of internal addresses.
    pub cidr_ranges: Vec<CidrRange>,
}

/// Where the client's address stands (`envoy.http.original_ip_detection.*`).
#[derive(Debug, Clone, PartialEq)]
pub enum OriginalIpDetection {
    /// In `x-forwarded-for`.
    ForwardedFor {
        /// So many of its last addresses are left out.
        trusted_hops: u32,
        /// Where the peer is in one of these, the last address that is in none.
        trusted_ranges: Vec<CidrRange>,
        /// Append the peer to the field.
        append: bool,
    },
    /// In a field of its own.
    Header {
        /// Its name in lower case.
        name: String,
        /// Whether that address may count as internal.
        is_trusted: bool,
        /// The answer to requests without an address there; `None`: go on.
        reject_status: Option<u16>,
    },
}

/// `envoy.config.common.mutation_rules.v3.HeaderMutation`.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderMutation {
    /// Fields of one name are removed, or one is added.
    Field(HeaderMutations),
    /// Removes the fields whose names match, in lower case.
    RemoveMatching(StringMatcher),
}

/// `path_with_escaped_slashes_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    /// Left alone.
    #[default]
    KeepUnchanged,
    /// 400.
    RejectRequest,
    /// Redirect to the path with slashes.
    UnescapeAndRedirect,
    /// Route and forward the path with slashes.
    UnescapeAndForward,
}

/// Which ports are taken off the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StripPort {
    /// None.
    #[default]
    None,
    /// The listener's own port.
    Matching,
    /// Any.
    Any,
}

/// `LocalReplyConfig`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalReplyConfig {
    /// The first that matches changes the reply.
    pub mappers: Vec<LocalReplyMapper>,
    /// The format of the body; `None`: the plain text.
    pub body_format: Option<FormatString>,
}

/// One mapping of local replies.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalReplyMapper {
    /// Which replies.
    pub filter: AccessLogFilter,
    /// The new status.
    pub status_code: Option<u16>,
    /// The new body (what `%LOCAL_REPLY_BODY%` says).
    pub body: Option<Vec<u8>>,
    /// The format of the body.
    pub body_format: Option<FormatString>,
    /// Fields to add.
    pub headers: HeaderMutations,
}
