//! Names that carry labels of their own, as Istio's metrics do: `istiocustom.istio_requests_total.reporter.source.…`.
//!
//! Such a name begins with [`LABELLED`] and the metric; then come labels with their values, those that are known here in
//! the order of [`LABELS`], each with a dot before and behind, and behind them others, which have an `@` before their name.
//! Values may have dots.

/// What such names begin with. Prometheus sees the metric without it.
pub const LABELLED: &str = "istiocustom.";

/// Labels that are known, in the order in which they stand.
pub const LABELS: [&str; 27] = [
    "component",
    "tag",
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

/// Adds a label to a name. A value that would read as further labels has its dots replaced.
pub fn push_label(name: &mut String, label: &str, value: &str) {
    let is_known = LABELS.contains(&label);
    name.push_str(if is_known { "." } else { ".@" });
    name.push_str(label);
    name.push('.');
    let around = [".", value, "."].concat();
    let is_ambiguous = around.contains(".@") || LABELS.iter().any(|label| find(&around, label).is_some());
    match is_ambiguous {
        true => name.push_str(&value.replace('.', "_")),
        false => name.push_str(value),
    }
}

/// The metric, and its labels with their values. `None`: the name is of another kind.
pub fn labels(name: &str) -> Option<(&str, Vec<(&str, &str)>)> {
    let rest = name.strip_prefix(LABELLED)?;
    let metric = rest.split_once('.').map_or(rest, |(metric, _)| metric);
    let mut rest = rest.get(metric.len()..).unwrap_or_default();
    let mut found = Vec::new();
    let mut known = &LABELS[..];
    while let Some(text) = rest.strip_prefix('.') {
        let (label, value) = match text.strip_prefix('@') {
            Some(text) => text.split_once('.')?,
            None => text.split_once('.')?,
        };
        if let Some(place) = known.iter().position(|one| *one == label) {
            known = known.get(place + 1..).unwrap_or_default();
        }
        let end = known.iter().filter_map(|label| find(value, label)).chain(value.find(".@")).min();
        let (value, behind) = value.split_at_checked(end.unwrap_or(value.len()))?;
        found.push((label, value));
        rest = behind;
    }
    Some((metric, found))
}

/// Where `.label.` begins.
fn find(text: &str, label: &str) -> Option<usize> {
    text.match_indices(label).map(|(at, _)| at).find_map(|at| {
        let begins = at.checked_sub(1).filter(|before| text.as_bytes().get(*before) == Some(&b'.'))?;
        (text.as_bytes().get(at + label.len()) == Some(&b'.')).then_some(begins)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_there_and_back() {
        let mut name = format!("{LABELLED}istio_requests_total");
        let all = [
            ("reporter", "source"),
            ("destination_service", "a.default.svc.cluster.local"),
            ("destination_service_name", ""),
            ("grpc_response_status", ""),
            ("response_flags", "-"),
            ("request_host", "a.b"),
            ("other", ""),
        ];
        for (label, value) in all {
            push_label(&mut name, label, value);
        }
        assert_eq!(labels(&name), Some(("istio_requests_total", all.to_vec())));
        assert_eq!(labels("cluster.web.upstream_rq"), None);
        assert_eq!(labels("istiocustom.metric"), Some(("metric", vec![])));
    }

    #[test]
    fn a_value_makes_no_labels() {
        for value in ["x.response_code.200", "response_code", "a.@b.c", "x.destination_principal"] {
            let mut name = format!("{LABELLED}m");
            push_label(&mut name, "reporter", value);
            push_label(&mut name, "response_flags", "UF");
            let (_, found) = labels(&name).unwrap();
            assert_eq!(found, [("reporter", &*value.replace('.', "_")), ("response_flags", "UF")], "{value}");
        }
    }
}
