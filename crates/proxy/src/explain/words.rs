//! Conditions, policies and times in words.

use crate::router::Mismatch;
use sota_config::{
    load_balancer::LbPolicy,
    matcher::{FractionalPercent, HeaderCondition, StringMatcher, StringPattern},
    retry::RetryPolicy,
    route::{PathMatcher, RouteMatch},
};
use sota_plugin::{http::RequestHead, matcher::query_parameters};
use std::time::Duration;

/// Why a route does not take a request.
pub(super) fn mismatch(what: Mismatch, config: &RouteMatch, head: &RequestHead) -> String {
    match what {
        Mismatch::Path => path(&config.path, config.case_sensitive, head),
        Mismatch::Fraction => {
            let part = config.runtime_fraction.as_ref().map(fraction).unwrap_or_default();
            format!("it takes {part} of the requests at random, and not this one")
        }
        Mismatch::Header(number) => config.headers.get(number).map_or_else(String::new, |matcher| {
            let found = head.get(matcher.name.as_str()).map(|value| String::from_utf8_lossy(value).into_owned());
            let found = found.map_or_else(|| "is missing".to_owned(), |value| format!("is \"{value}\""));
            let not = if matcher.invert { " not" } else { "" };
            format!("header {} {found}; it must{not} {}", matcher.name, condition(&matcher.condition))
        }),
        Mismatch::QueryParameter(number) => config.query_parameters.get(number).map_or_else(String::new, |matcher| {
            let mut all = query_parameters(head.query().unwrap_or_default());
            let found = all.find(|(name, _)| *name == matcher.name.as_bytes());
            let found = found.map_or_else(
                || "is missing".to_owned(),
                |(_, value)| format!("is \"{}\"", String::from_utf8_lossy(value)),
            );
            let wanted = matcher.value.as_ref().map_or_else(|| "be there".to_owned(), string);
            format!("query parameter {} {found}; it must {wanted}", matcher.name)
        }),
        Mismatch::Grpc => "it takes gRPC calls only".to_owned(),
        Mismatch::Cookie(number) => config.cookies.get(number).map_or_else(String::new, |matcher| {
            let not = if matcher.invert { " not" } else { "" };
            format!("cookie {} must{not} {}", matcher.name, string(&matcher.value))
        }),
        Mismatch::TlsContext => "the client's certificate is not as it asks (tls_context)".to_owned(),
        Mismatch::DynamicMetadata(number) => config.dynamic_metadata.get(number).map_or_else(String::new, |matcher| {
            format!("metadata {}: {} is set by filters that do not run here", matcher.namespace, matcher.path.join("."))
        }),
        Mismatch::FilterState(number) => config.filter_state.get(number).map_or_else(String::new, |matcher| {
            format!("filter state {} is set by filters that do not run here", matcher.key)
        }),
    }
}

fn path(matcher: &PathMatcher, case_sensitive: bool, head: &RequestHead) -> String {
    let path = String::from_utf8_lossy(head.path_only()).into_owned();
    let case = if case_sensitive { "" } else { " (in any case)" };
    match matcher {
        PathMatcher::Exact(wanted) => format!("the path {path} is not {wanted}{case}"),
        PathMatcher::Prefix(wanted) => format!("the path {path} does not begin with {wanted}{case}"),
        PathMatcher::PathSeparatedPrefix(wanted) => format!("the path {path} is not {wanted} or below it{case}"),
        PathMatcher::Regex(wanted) => format!("the path {path} does not match {wanted}"),
        PathMatcher::Template(wanted) => format!("the path {path} does not fit the template {wanted}"),
        PathMatcher::Connect => "it takes CONNECT only".to_owned(),
    }
}

/// What a route takes, in short.
pub(super) fn route_match(config: &RouteMatch) -> String {
    let mut text = match &config.path {
        PathMatcher::Exact(path) => format!("path {path}"),
        PathMatcher::Prefix(path) => format!("prefix {path}"),
        PathMatcher::PathSeparatedPrefix(path) => format!("path-separated prefix {path}"),
        PathMatcher::Regex(regex) => format!("regex {regex}"),
        PathMatcher::Template(template) => format!("template {template}"),
        PathMatcher::Connect => "CONNECT".to_owned(),
    };
    for matcher in &config.headers {
        text.push_str(&format!(", header {}", matcher.name));
    }
    for matcher in &config.query_parameters {
        text.push_str(&format!(", query parameter {}", matcher.name));
    }
    if let Some(part) = &config.runtime_fraction {
        text.push_str(&format!(", {} of the requests", fraction(part)));
    }
    text
}

fn fraction(fraction: &FractionalPercent) -> String {
    let percent = f64::from(fraction.numerator) * 100.0 / f64::from(fraction.denominator.max(1));
    format!("{percent} %")
}

fn condition(condition: &HeaderCondition) -> String {
    match condition {
        HeaderCondition::String(matcher) => string(matcher),
        HeaderCondition::Range(range) => format!("be a number from {} to {}", range.start, range.end - 1),
        HeaderCondition::Present(true) => "be there".to_owned(),
        HeaderCondition::Present(false) => "be absent".to_owned(),
    }
}

fn string(matcher: &StringMatcher) -> String {
    let case = if matcher.ignore_case { " in any case" } else { "" };
    match &matcher.pattern {
        StringPattern::Exact(text) => format!("be \"{text}\"{case}"),
        StringPattern::Prefix(text) => format!("begin with \"{text}\"{case}"),
        StringPattern::Suffix(text) => format!("end with \"{text}\"{case}"),
        StringPattern::Contains(text) => format!("contain \"{text}\"{case}"),
        StringPattern::Regex(text) => format!("match {text}"),
    }
}

/// A time, or that there is no limit.
pub(super) fn time(time: Option<Duration>) -> String {
    time.filter(|time| !time.is_zero()).map_or_else(|| "none".to_owned(), |time| format!("{time:?}"))
}

/// A retry policy; a policy without conditions does nothing.
pub(super) fn retries(policy: Option<&RetryPolicy>) -> Vec<(&'static str, String)> {
    let Some(policy) = policy.filter(|policy| !policy.retry_on.is_empty()) else { return Vec::new() };
    let mut all = vec![("on", policy.retry_on.join(", ")), ("at most", policy.num_retries.to_string())];
    if !policy.retriable_status_codes.is_empty() {
        let codes: Vec<_> = policy.retriable_status_codes.iter().map(u16::to_string).collect();
        all.push(("statuses", codes.join(", ")));
    }
    if policy.per_try_timeout.is_some() {
        all.push(("per try", time(policy.per_try_timeout)));
    }
    all.push(("back-off", format!("{:?} to {:?}", policy.base_interval, policy.max_interval)));
    all
}

/// How a host is chosen.
pub(super) fn policy(policy: &LbPolicy) -> String {
    match policy {
        LbPolicy::RoundRobin => "round robin by weight, all workers together".to_owned(),
        LbPolicy::LeastRequest(options) if options.full_scan => "the host with the fewest requests".to_owned(),
        LbPolicy::LeastRequest(options) => {
            format!("the host with the fewest requests of {} random ones", options.choice_count)
        }
        LbPolicy::Random => "at random".to_owned(),
        LbPolicy::RingHash(_) => "ring hash".to_owned(),
        LbPolicy::Maglev(_) => "Maglev".to_owned(),
        LbPolicy::Extension(config) => format!("the extension {}", config.name),
        LbPolicy::ClusterProvided => "the destination of the connection or of a header".to_owned(),
    }
}
