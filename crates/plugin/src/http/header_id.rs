//! The field names that the proxy itself reads or writes, as one-byte ids with a perfect hash.

/// The hash below has no collision among the names: checked when this file is compiled.
const SLOTS: usize = 1024;
const NO_ID: u8 = u8::MAX;

macro_rules! header_ids {
    ($($variant:ident = $name:literal,)*) => {
        /// A field name that is looked up without comparing text. The variant is the name in camel case.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum HeaderId {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        const NAMES: &[&str] = &[$($name),*];
        const IDS: &[HeaderId] = &[$(HeaderId::$variant),*];
    };
}

header_ids! {
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    AcceptLanguage = "accept-language",
    AcceptRanges = "accept-ranges",
    AccessControlAllowCredentials = "access-control-allow-credentials",
    AccessControlAllowHeaders = "access-control-allow-headers",
    AccessControlAllowMethods = "access-control-allow-methods",
    AccessControlAllowOrigin = "access-control-allow-origin",
    AccessControlAllowPrivateNetwork = "access-control-allow-private-network",
    AccessControlExposeHeaders = "access-control-expose-headers",
    AccessControlMaxAge = "access-control-max-age",
    AccessControlRequestHeaders = "access-control-request-headers",
    AccessControlRequestMethod = "access-control-request-method",
    AccessControlRequestPrivateNetwork = "access-control-request-private-network",
    Age = "age",
    Allow = "allow",
    AltSvc = "alt-svc",
    Authorization = "authorization",
    B3 = "b3",
    Baggage = "baggage",
    CacheControl = "cache-control",
    CdnLoop = "cdn-loop",
    Connection = "connection",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentRange = "content-range",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Etag = "etag",
    Expect = "expect",
    Expires = "expires",
    Forwarded = "forwarded",
    GrpcAcceptEncoding = "grpc-accept-encoding",
    GrpcEncoding = "grpc-encoding",
    GrpcMessage = "grpc-message",
    GrpcStatus = "grpc-status",
    GrpcTimeout = "grpc-timeout",
    Host = "host",
    IfMatch = "if-match",
    IfModifiedSince = "if-modified-since",
    IfNoneMatch = "if-none-match",
    KeepAlive = "keep-alive",
    LastModified = "last-modified",
    Location = "location",
    MaxForwards = "max-forwards",
    Origin = "origin",
    Priority = "priority",
    ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthorization = "proxy-authorization",
    ProxyConnection = "proxy-connection",
    ProxyStatus = "proxy-status",
    Range = "range",
    Referer = "referer",
    RetryAfter = "retry-after",
    SecWebsocketAccept = "sec-websocket-accept",
    SecWebsocketExtensions = "sec-websocket-extensions",
    SecWebsocketKey = "sec-websocket-key",
    SecWebsocketProtocol = "sec-websocket-protocol",
    SecWebsocketVersion = "sec-websocket-version",
    Server = "server",
    SetCookie = "set-cookie",
    Te = "te",
    Traceparent = "traceparent",
    Tracestate = "tracestate",
    Trailer = "trailer",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    UserAgent = "user-agent",
    Vary = "vary",
    Via = "via",
    WwwAuthenticate = "www-authenticate",
    XB3Flags = "x-b3-flags",
    XB3Parentspanid = "x-b3-parentspanid",
    XB3Sampled = "x-b3-sampled",
    XB3Spanid = "x-b3-spanid",
    XB3Traceid = "x-b3-traceid",
    XClientTraceId = "x-client-trace-id",
    XEnvoyAttemptCount = "x-envoy-attempt-count",
    XEnvoyDecoratorOperation = "x-envoy-decorator-operation",
    XEnvoyDegraded = "x-envoy-degraded",
    XEnvoyDownstreamServiceCluster = "x-envoy-downstream-service-cluster",
    XEnvoyDownstreamServiceNode = "x-envoy-downstream-service-node",
    XEnvoyExpectedRqTimeoutMs = "x-envoy-expected-rq-timeout-ms",
    XEnvoyExternalAddress = "x-envoy-external-address",
    XEnvoyForceTrace = "x-envoy-force-trace",
    XEnvoyHedgeOnPerTryTimeout = "x-envoy-hedge-on-per-try-timeout",
    XEnvoyImmediateHealthCheckFail = "x-envoy-immediate-health-check-fail",
    XEnvoyInternal = "x-envoy-internal",
    XEnvoyIpTags = "x-envoy-ip-tags",
    XEnvoyIsTimeoutRetry = "x-envoy-is-timeout-retry",
    XEnvoyLocalOverloaded = "x-envoy-local-overloaded",
    XEnvoyMaxRetries = "x-envoy-max-retries",
    XEnvoyOriginalDstHost = "x-envoy-original-dst-host",
    XEnvoyOriginalHost = "x-envoy-original-host",
    XEnvoyOriginalPath = "x-envoy-original-path",
    XEnvoyOverloaded = "x-envoy-overloaded",
    XEnvoyPeerMetadata = "x-envoy-peer-metadata",
    XEnvoyPeerMetadataId = "x-envoy-peer-metadata-id",
    XEnvoyRatelimited = "x-envoy-ratelimited",
    XEnvoyRetriableHeaderNames = "x-envoy-retriable-header-names",
    XEnvoyRetriableStatusCodes = "x-envoy-retriable-status-codes",
    XEnvoyRetryGrpcOn = "x-envoy-retry-grpc-on",
    XEnvoyRetryOn = "x-envoy-retry-on",
    XEnvoyUpstreamAltStatName = "x-envoy-upstream-alt-stat-name",
    XEnvoyUpstreamCanary = "x-envoy-upstream-canary",
    XEnvoyUpstreamHealthcheckedCluster = "x-envoy-upstream-healthchecked-cluster",
    XEnvoyUpstreamRqPerTryTimeoutMs = "x-envoy-upstream-rq-per-try-timeout-ms",
    XEnvoyUpstreamRqTimeoutAltResponse = "x-envoy-upstream-rq-timeout-alt-response",
    XEnvoyUpstreamRqTimeoutMs = "x-envoy-upstream-rq-timeout-ms",
    XEnvoyUpstreamServiceTime = "x-envoy-upstream-service-time",
    XEnvoyUpstreamStreamDurationMs = "x-envoy-upstream-stream-duration-ms",
    XForwardedClientCert = "x-forwarded-client-cert",
    XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XForwardedProto = "x-forwarded-proto",
    XOtSpanContext = "x-ot-span-context",
    XRealIp = "x-real-ip",
    XRequestId = "x-request-id",
}

/// Slot of the hash -> id, `NO_ID` where nothing is.
const TABLE: [u8; SLOTS] = build_table();

const fn build_table() -> [u8; SLOTS] {
    assert!(NAMES.len() <= 128, "ids must fit the bit set of repeated fields");
    let mut table = [NO_ID; SLOTS];
    let mut i = 0;
    while i < NAMES.len() {
        let slot = slot(NAMES[i].as_bytes());
        assert!(table[slot] == NO_ID, "two header names share a slot: choose other multipliers in `slot`");
        table[slot] = i as u8;
        i += 1;
    }
    table
}

/// Length and three letters (middle, three quarters, last), in lower case, tell all names apart. `name` is not empty.
const fn slot(name: &[u8]) -> usize {
    let len = name.len();
    let (last, middle, late) = (name[len - 1] | 0x20, name[len / 2] | 0x20, name[len * 3 / 4] | 0x20);
    (len * 406 + last as usize * 95 + middle as usize * 1017 + late as usize * 410) & (SLOTS - 1)
}

/// Whether `name` is `known`, which is in lower case: every field of every head is compared once, so by words.
#[inline]
const fn is_in_any_case(name: &[u8], known: &[u8]) -> bool {
    if name.len() != known.len() {
        return false;
    }
    if let (Some(last), Some(known_last)) = (name.last_chunk(), known.last_chunk()) {
        // What is left of the words overlaps them.
        let mut sum = difference(*last, *known_last);
        let (mut rest, mut known_rest) = (name, known);
        while let (Some((word, next)), Some((known_word, known_next))) =
            (rest.split_first_chunk(), known_rest.split_first_chunk())
        {
            sum |= difference(*word, *known_word);
            (rest, known_rest) = (next, known_next);
        }
        return sum == 0;
    }
    // So do the halves of a short name.
    if let (Some(first), Some(last), Some(known_first), Some(known_last)) =
        (name.first_chunk(), name.last_chunk(), known.first_chunk(), known.last_chunk())
    {
        return difference(halves(*first, *last), halves(*known_first, *known_last)) == 0;
    }
    name.eq_ignore_ascii_case(known)
}

/// 0 when eight letters, digits and hyphens are `known` in any case. They all have the bit of lower case but capitals,
/// which have the next one.
#[inline]
const fn difference(word: [u8; 8], known: [u8; 8]) -> u64 {
    const LOWER: u64 = u64::from_le_bytes([0x20; 8]);
    let (word, known) = (u64::from_le_bytes(word), u64::from_le_bytes(known));
    ((word | LOWER) ^ known) | (!(word | word >> 1) & LOWER)
}

const fn halves(first: [u8; 4], last: [u8; 4]) -> [u8; 8] {
    ((u32::from_le_bytes(first) as u64) << 32 | u32::from_le_bytes(last) as u64).to_le_bytes()
}

impl HeaderId {
    /// How many ids there are; ids are `0..COUNT`.
    pub const COUNT: usize = NAMES.len();

    /// The id of `name` in any case, if it has one.
    #[inline]
    pub const fn find(name: &[u8]) -> Option<Self> {
        if name.is_empty() {
            return None;
        }
        let id = TABLE[slot(name)] as usize;
        if id < NAMES.len() && is_in_any_case(name, NAMES[id].as_bytes()) { Some(IDS[id]) } else { None }
    }

    /// The name in lower case.
    #[inline]
    pub const fn as_str(self) -> &'static str {
        NAMES[self as usize]
    }

    /// Back from `id as u8`.
    #[inline]
    pub(super) fn from_u8(id: u8) -> Option<Self> {
        IDS.get(usize::from(id)).copied()
    }

    /// Every id.
    pub fn all() -> impl Iterator<Item = Self> {
        IDS.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case() {
        for id in HeaderId::all() {
            assert_eq!(HeaderId::find(id.as_str().as_bytes()), Some(id));
            assert_eq!(HeaderId::find(id.as_str().to_ascii_uppercase().as_bytes()), Some(id));
            assert_eq!(HeaderId::from_u8(id as u8), Some(id));
            assert_eq!(id.as_str(), id.as_str().to_ascii_lowercase());
        }
    }

    #[test]
    fn near_misses_are_not_found() {
        for name in ["", "h", "hosts", "x-request-i", "x-request-id ", "content_length", "content-length\0", "c\u{b}st"]
        {
            assert_eq!(HeaderId::find(name.as_bytes()), None, "{name:?}");
        }
        for id in HeaderId::all() {
            let name = id.as_str().as_bytes();
            for at in 0..name.len() {
                for octet in (0..=u8::MAX).filter(|octet| !octet.eq_ignore_ascii_case(&name[at])) {
                    let mut name = name.to_vec();
                    name[at] = octet;
                    assert_ne!(HeaderId::find(&name), Some(id), "{name:?}");
                }
            }
        }
    }
}
