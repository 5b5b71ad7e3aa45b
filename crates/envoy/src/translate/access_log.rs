//! Access logs, their filters, and format strings.

use super::{
    context::Cx,
    data_source,
    extension::extension,
    matcher::{header_matcher, metadata_matcher, runtime_fraction},
};
use sota_config::{
    Node,
    access_log::{AccessLog, AccessLogFilter, Comparison, ComparisonOp, Format, FormatString},
    matcher::FractionalPercent,
};
use std::sync::Arc;

/// The names of gRPC's statuses, by number.
const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// `envoy.config.accesslog.v3.AccessLog`.
pub(super) fn access_log(cx: &mut Cx<'_>, node: &Node) -> Option<AccessLog> {
    let filter = match node.has("filter") {
        true => Some(cx.optional(node, "filter", filter)?),
        false => None,
    };
    Some(AccessLog { filter, logger: extension(cx, node) })
}

/// `envoy.config.accesslog.v3.AccessLogFilter`.
pub(super) fn filter(cx: &mut Cx<'_>, node: &Node) -> Option<AccessLogFilter> {
    let (kind, inner) = node.pairs().iter().find(|(_, inner)| !inner.is_null())?;
    cx.with(kind, |cx| {
        Some(match &**kind {
            "status_code_filter" => AccessLogFilter::StatusCode(comparison(inner.field("comparison"))),
            "duration_filter" => AccessLogFilter::Duration(comparison(inner.field("comparison"))),
            "not_health_check_filter" => AccessLogFilter::NotHealthCheck,
            "traceable_filter" => AccessLogFilter::Traceable,
            "runtime_filter" => AccessLogFilter::Runtime(sampled(cx, inner)),
            "and_filter" => AccessLogFilter::And(cx.each(inner, "filters", filter)),
            "or_filter" => AccessLogFilter::Or(cx.each(inner, "filters", filter)),
            "header_filter" => AccessLogFilter::Header(cx.optional(inner, "header", header_matcher)?),
            "response_flag_filter" => AccessLogFilter::ResponseFlag(inner.strings("flags")),
            "grpc_status_filter" => AccessLogFilter::GrpcStatus {
                statuses: inner.strings("statuses").iter().filter_map(|name| grpc_status(name)).collect(),
                exclude: inner.bool("exclude"),
            },
            "metadata_filter" => AccessLogFilter::Metadata {
                matcher: match inner.get("matcher") {
                    Some(matcher) => {
                        if matcher.bool("invert") {
                            cx.field_warning(matcher, "invert", "access logs do not look at it");
                        }
                        Some(cx.optional(inner, "matcher", metadata_matcher)?)
                    }
                    None => None,
                },
                match_if_absent: inner.bool_or("match_if_key_not_found", true),
            },
            "log_type_filter" => {
                AccessLogFilter::LogType { types: inner.strings("types"), exclude: inner.bool("exclude") }
            }
            _ => {
                if !cx.is_refused_field(inner.mark) {
                    cx.error(inner.mark, "this filter is not supported, and without it too much would be logged");
                }
                return None;
            }
        })
    })
}

fn grpc_status(name: &str) -> Option<u32> {
    GRPC_STATUSES.iter().position(|known| *known == name).and_then(|number| u32::try_from(number).ok())
}

fn comparison(node: &Node) -> Comparison {
    let value = node.field("value");
    Comparison {
        op: match node.str("op") {
            "GE" => ComparisonOp::Ge,
            "LE" => ComparisonOp::Le,
            "NE" => ComparisonOp::Ne,
            _ => ComparisonOp::Eq,
        },
        value: value.u32("default_value").unwrap_or(0),
        runtime_key: Some(value.str("runtime_key")).filter(|key| !key.is_empty()).map(str::to_owned),
    }
}

/// `RuntimeFilter`: its key stands beside the percentage, which is 0 when absent.
fn sampled(cx: &mut Cx<'_>, node: &Node) -> FractionalPercent {
    let percent = cx
        .optional(node, "percent_sampled", |cx, node| Some(super::matcher::fractional_percent(cx, node)))
        .unwrap_or(FractionalPercent { numerator: 0, denominator: 100, runtime_key: None });
    FractionalPercent { runtime_key: Some(node.str("runtime_key").to_owned()), ..percent }
}

/// A share of requests, as a field that may be absent.
pub(super) fn optional_fraction(cx: &mut Cx<'_>, node: &Node, key: &str) -> Option<FractionalPercent> {
    cx.optional(node, key, |cx, node| Some(runtime_fraction(cx, node)))
}

/// `envoy.config.core.v3.SubstitutionFormatString`. The operators are read where the format is used.
pub(super) fn format_string(cx: &mut Cx<'_>, node: &Node) -> Option<FormatString> {
    let format = if let Some(json) = node.get("json_format") {
        Format::Json(Arc::new(json.clone()))
    } else if let Some(text) = node.get("text_format") {
        Format::Text(text.as_str()?.to_owned())
    } else {
        let source = node.get("text_format_source")?;
        let text = cx.with("text_format_source", |cx| {
            let bytes = data_source::contents(cx, source).unwrap_or_default();
            String::from_utf8(bytes).map_err(|_| cx.error(source.mark, "a format is UTF-8 text")).ok()
        });
        Format::Text(text?)
    };
    Some(FormatString {
        format,
        omit_empty_values: node.bool("omit_empty_values"),
        content_type: Some(node.str("content_type")).filter(|text| !text.is_empty()).map(str::to_owned),
    })
}
