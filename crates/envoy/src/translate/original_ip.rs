//! Where the client's address is looked for (`envoy.http.original_ip_detection.*`).

use super::{
    address::cidr_range,
    context::Cx,
    extension::message_name,
    matcher::{Pseudo, header_name},
};
use sota_config::{Node, http::OriginalIpDetection};

const XFF: &str = "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig";
const CUSTOM_HEADER: &str = "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig";
/// What answers a request without an address when the configured status is no error.
const DEFAULT_REJECT_STATUS: u16 = 403;

/// `original_ip_detection_extensions` of a connection manager.
pub(super) fn original_ip_detection(cx: &mut Cx<'_>, node: &Node) -> Vec<OriginalIpDetection> {
    const KEY: &str = "original_ip_detection_extensions";
    if !node.list(KEY).is_empty() {
        for (other, is_set) in [
            ("use_remote_address", node.bool("use_remote_address")),
            ("xff_num_trusted_hops", node.u32("xff_num_trusted_hops").unwrap_or(0) > 0),
        ] {
            if is_set {
                cx.field_error(node, KEY, format!("{KEY} and {other} may not be mixed"));
            }
        }
    }
    cx.each(node, KEY, detection)
}

fn detection(cx: &mut Cx<'_>, node: &Node) -> Option<OriginalIpDetection> {
    let config = node.field("typed_config");
    match message_name(node) {
        Some(XFF) => {
            let trusted = config.field("xff_trusted_cidrs");
            let trusted_hops = config.u32("xff_num_trusted_hops").unwrap_or(0);
            if trusted_hops > 0 && !trusted.is_null() {
                cx.field_error(node, "typed_config", "xff_num_trusted_hops and xff_trusted_cidrs exclude each other");
            }
            Some(OriginalIpDetection::ForwardedFor {
                trusted_hops,
                trusted_ranges: cx.with("typed_config.xff_trusted_cidrs", |cx| cx.each(trusted, "cidrs", cidr_range)),
                append: !config.bool_or("skip_xff_append", true),
            })
        }
        Some(CUSTOM_HEADER) => {
            let name = cx.with("typed_config", |cx| header_name(cx, config, "header_name", Pseudo::Refused));
            let reject_status = config.get("reject_with_status").map(|status| reject_status(status.str("code")));
            let is_trusted = config.bool("allow_extension_to_set_address_as_trusted");
            Some(OriginalIpDetection::Header { name: name?, is_trusted, reject_status })
        }
        _ => {
            if !cx.is_refused() {
                cx.error(node.mark, format!("the client's address is found by {XFF} or by {CUSTOM_HEADER}"));
            }
            None
        }
    }
}

/// The number of a status that the enum names: an error, or 403.
fn reject_status(name: &str) -> u16 {
    const ERRORS: [(&str, u16); 20] = [
        ("BadRequest", 400),
        ("Unauthorized", 401),
        ("PaymentRequired", 402),
        ("NotFound", 404),
        ("MethodNotAllowed", 405),
        ("NotAcceptable", 406),
        ("ProxyAuthenticationRequired", 407),
        ("RequestTimeout", 408),
        ("Conflict", 409),
        ("Gone", 410),
        ("PreconditionFailed", 412),
        ("ExpectationFailed", 417),
        ("MisdirectedRequest", 421),
        ("UnprocessableEntity", 422),
        ("TooManyRequests", 429),
        ("InternalServerError", 500),
        ("NotImplemented", 501),
        ("BadGateway", 502),
        ("ServiceUnavailable", 503),
        ("GatewayTimeout", 504),
    ];
    ERRORS.iter().find(|(known, _)| *known == name).map_or(DEFAULT_REJECT_STATUS, |(_, code)| *code)
}
