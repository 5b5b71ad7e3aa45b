//! Short forms of access logs.

use super::{
    filter::any,
    lower::{Fields, Lower, Place, list_of, text, wrap},
};
use sota_config::{Node, Value};

const MESSAGE: &str = "envoy.config.accesslog.v3.AccessLog";
const SHORT_FORMS: [&str; 2] = ["path", "format"];
const FILE: (&str, &str) =
    ("envoy.access_loggers.file", "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog");
const STDOUT: (&str, &str) =
    ("envoy.access_loggers.stdout", "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog");
const STDERR: (&str, &str) =
    ("envoy.access_loggers.stderr", "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog");

/// One access log or a list of them.
pub(super) fn access_logs(lower: &mut Lower<'_>, value: &Node, place: &Place) -> Node {
    match value.value {
        Value::String(_) | Value::Map(_) => {
            let at = lower.at(&place.written, format!("{}[0]", place.made));
            list_of(access_log(lower, value, &at))
        }
        _ => lower.list(value, place, access_log),
    }
}

/// `stdout`, `stderr` or a path; or a map with `path` and `format`; or Envoy's form.
fn access_log(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Node {
    if let Some(path) = node.as_str() {
        return logger(lower, node, place, path, None);
    }
    let Some(path) = node.get("path").and_then(Node::as_str) else {
        return node.clone();
    };
    let mut out = Fields::new(node);
    for (key, value) in node.pairs() {
        if !SHORT_FORMS.contains(&&**key)
            && let Some(name) = lower.known(key, value, MESSAGE, &SHORT_FORMS, place)
        {
            out.push(name, value.clone());
        }
    }
    let Node { value: Value::Map(entries), .. } = logger(lower, node, place, path, node.get("format")) else {
        return out.build();
    };
    for (key, value) in entries {
        out.push(&key, value);
    }
    out.build()
}

fn logger(lower: &mut Lower<'_>, node: &Node, place: &Place, path: &str, format: Option<&Node>) -> Node {
    let (name, url) = match path {
        "stdout" => STDOUT,
        "stderr" => STDERR,
        _ => FILE,
    };
    let at = lower.below(place, "typed_config");
    let mut config = Fields::new(node);
    if path != "stdout" && path != "stderr" {
        config.push("path", text(path, node.get("path").map_or(node.mark, |path| path.mark)));
    }
    if let Some(format) = format {
        let written = format!("{}.format", place.written);
        for made in ["log_format", "log_format.text_format_source.inline_string", "log_format.json_format"] {
            lower.at(&written, format!("{}.{made}", at.made));
        }
        let inner = match format.value {
            Value::Map(_) => wrap("json_format", format.clone()),
            _ => wrap("text_format_source", wrap("inline_string", format.clone())),
        };
        config.push("log_format", inner);
    }
    let mut out = Fields::new(node);
    out.push_text("name", name);
    out.push("typed_config", any(node, url, Some(&config.build())));
    out.build()
}
