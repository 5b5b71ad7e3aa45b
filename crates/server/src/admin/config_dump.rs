//! `/config_dump`: what is served, one resource after the other, with secrets removed.
//!
//! `resource` picks one list of one message, `mask` parts of what is shown, `name_regex` resources by name.

use super::{
    Body, JSON, Reply, Request,
    dumped::{Entry, List, SECTIONS, Section, Wanted},
};
use crate::server::Server;
use jiff::Timestamp;
use regex::Regex;
use sota_config::bootstrap::Bootstrap;
use sota_envoy::FieldMask;
use sota_plugin::http::StatusCode;
use std::{fmt::Write, sync::Arc, time::SystemTime};

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// A piece of the dump: text, or a resource that is written when its turn comes.
enum Piece {
    Text(String),
    Bootstrap(Arc<Bootstrap>, FieldMask),
    /// In its list.
    Item(Entry, &'static List),
    /// By itself.
    Single(Entry, &'static Section, &'static List, FieldMask),
}

pub(super) fn answer(server: &Server, request: &Request<'_>) -> Reply {
    let parameter = |name: &str| request.parameter(name).filter(|value| !value.is_empty());
    let filter = match parameter("name_regex").map(|pattern| whole_name(&pattern)).transpose() {
        Ok(filter) => filter,
        Err(text) => return refused(StatusCode::BAD_REQUEST, text),
    };
    let wanted = |name: &str| filter.as_ref().is_none_or(|filter| filter.is_match(name));
    let mask = parameter("mask").unwrap_or_default();
    let has_endpoints = request.parameter("include_eds").is_some();
    let pieces = match parameter("resource") {
        Some(resource) => one_list(server, &resource, &mask, has_endpoints, &wanted),
        None => everything(server, &mask, has_endpoints, &wanted),
    };
    match pieces {
        Ok(pieces) => {
            let bodies = pieces.into_iter().map(|piece| piece.text().into_bytes());
            Reply { status: StatusCode::OK, content_type: JSON, body: Body::Pieces(Box::new(bodies)) }
        }
        Err(reply) => reply,
    }
}

fn whole_name(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|error| format!("INVALID_ARGUMENT: Error while parsing name_regex from {pattern}: {error}"))
}

fn refused(status: StatusCode, text: String) -> Reply {
    Reply { content_type: "text/plain", ..Reply::error(status, text) }
}

fn sections(has_endpoints: bool) -> impl Iterator<Item = &'static Section> {
    SECTIONS.iter().filter(move |section| has_endpoints || section.message != "EndpointsConfigDump")
}

/// Every message that the mask fits.
fn everything(server: &Server, mask: &str, has_endpoints: bool, wanted: &Wanted<'_>) -> Result<Vec<Piece>, Reply> {
    let fields = FieldMask::parse(mask);
    let mut pieces = Vec::new();
    for section in sections(has_endpoints).filter(|section| fits(section, &fields)) {
        let before = if pieces.is_empty() { "{\n \"configs\": [\n" } else { ",\n" };
        let message = section.message;
        pieces
            .push(Piece::Text(format!("{before}  {{\n   \"@type\": \"type.googleapis.com/envoy.admin.v3.{message}\"")));
        if message == "BootstrapConfigDump" {
            if let Some(below) = fields.below("bootstrap") {
                pieces.push(Piece::Bootstrap(Arc::clone(&server.bootstrap.borrow()), below));
            }
            if fields.below("last_updated").is_some() {
                let started = timestamp(server.start_time());
                pieces.push(Piece::Text(format!(",\n   \"last_updated\": \"{started}\"")));
            }
        }
        for list in section.lists.iter().filter(|list| fields.below(list.name).is_some()) {
            let mut separator = format!(",\n   \"{}\": [\n    ", list.name);
            let entries = (list.entries)(server, wanted);
            let is_empty = entries.is_empty();
            for entry in entries {
                pieces.push(Piece::Text(std::mem::replace(&mut separator, ",\n    ".to_owned())));
                pieces.push(Piece::Item(entry, list));
            }
            if !is_empty {
                pieces.push(Piece::Text("\n   ]".to_owned()));
            }
        }
        pieces.push(Piece::Text("\n  }".to_owned()));
    }
    if pieces.is_empty() {
        let text = format!("FieldMask {mask} could not be successfully applied to any configs.");
        return Err(refused(StatusCode::BAD_REQUEST, text));
    }
    pieces.push(Piece::Text("\n ]\n}\n".to_owned()));
    Ok(pieces)
}

/// Whether each path leads to a field of the message. None leads through a list.
fn fits(section: &Section, mask: &FieldMask) -> bool {
    mask.paths().all(|path| match path.strip_prefix("bootstrap.") {
        Some(below) if section.message == "BootstrapConfigDump" => FieldMask::parse(below).fits(BOOTSTRAP),
        _ => section.fields.contains(&path) || section.lists.iter().any(|list| list.name == path),
    })
}

/// The resources of one list.
fn one_list(
    server: &Server,
    resource: &str,
    mask: &str,
    has_endpoints: bool,
    wanted: &Wanted<'_>,
) -> Result<Vec<Piece>, Reply> {
    for section in sections(has_endpoints) {
        if section.fields.contains(&resource) {
            let text = format!("{resource} is not a repeated field. Use ?mask={resource} to get only this field");
            return Err(refused(StatusCode::BAD_REQUEST, text));
        }
        let Some(list) = section.lists.iter().find(|list| list.name == resource) else { continue };
        let entries = (list.entries)(server, wanted);
        if entries.is_empty() {
            return Ok(vec![Piece::Text("{}\n".to_owned())]);
        }
        let fields = FieldMask::parse(mask);
        if !fits_entry(list, &fields) {
            let text = format!("FieldMask {mask} could not be successfully used.");
            return Err(refused(StatusCode::BAD_REQUEST, text));
        }
        let mut pieces = Vec::new();
        for entry in entries {
            let before = if pieces.is_empty() { "{\n \"configs\": [\n  " } else { ",\n  " };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Single(entry, section, list, fields.clone()));
        }
        pieces.push(Piece::Text("\n ]\n}\n".to_owned()));
        return Ok(pieces);
    }
    Err(refused(StatusCode::NOT_FOUND, format!("{resource} not found in config dump")))
}

/// Whether each path leads to a field of an entry, or of the resource in it.
fn fits_entry(list: &List, mask: &FieldMask) -> bool {
    mask.paths().all(|path| match path.strip_prefix(list.key).and_then(|rest| rest.strip_prefix('.')) {
        Some(below) => FieldMask::parse(below).fits(list.message),
        None => matches!(path, "last_updated" | "version_info"),
    })
}

impl Piece {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Bootstrap(bootstrap, mask) => {
                let mut out = ",\n   \"bootstrap\": ".to_owned();
                match &bootstrap.source {
                    Some(source) => {
                        // Writing to a string does not fail.
                        let _ = sota_envoy::dump_json(&mask.trim(&source.node(), BOOTSTRAP), BOOTSTRAP, 3, &mut out);
                    }
                    None => out.push_str("{}"),
                }
                out
            }
            Self::Item(entry, list) => entry_text(&entry, list, &FieldMask::default(), 4, None),
            Self::Single(entry, section, list, mask) => {
                let kind = format!("{}.{}", section.message, list.element);
                entry_text(&entry, list, &mask, 2, Some(&kind))
            }
        }
    }
}

/// An entry as an object that begins at this indentation.
fn entry_text(entry: &Entry, list: &List, mask: &FieldMask, indent: usize, kind: Option<&str>) -> String {
    let mut out = String::new();
    let mut separator = "{";
    let mut field = |name: &str, out: &mut String| {
        let _ = write!(out, "{separator}\n{:indent$} \"{name}\": ", "");
        separator = ",";
    };
    if let Some(kind) = kind {
        field("@type", &mut out);
        let _ = write!(out, "\"type.googleapis.com/envoy.admin.v3.{kind}\"");
    }
    let Some(name) = &entry.name else {
        fields_text(entry, list, mask, indent, separator, &mut out);
        return out;
    };
    field("name", &mut out);
    let _ = write!(out, "{}", serde_json::Value::from(name.as_str()));
    field("active_state", &mut out);
    fields_text(entry, list, mask, indent + 1, "{", &mut out);
    let _ = write!(out, "\n{:indent$}}}", "");
    out
}

/// Version, resource and time, to the end of their object.
fn fields_text(
    entry: &Entry,
    list: &List,
    mask: &FieldMask,
    indent: usize,
    mut separator: &'static str,
    out: &mut String,
) {
    let mut field = |name: &str, out: &mut String| {
        let _ = write!(out, "{separator}\n{:indent$} \"{name}\": ", "");
        separator = ",";
    };
    if let (Some(_), Some(version)) = (mask.below("version_info"), entry.version.as_ref().filter(|of| !of.is_empty())) {
        field("version_info", out);
        let _ = write!(out, "{}", serde_json::Value::from(version.as_str()));
    }
    if let (Some(below), Some(source)) = (mask.below(list.key), &entry.resource) {
        field(list.key, out);
        let _ = sota_envoy::dump_json_any(&below.trim(&source.node(), list.message), list.message, indent + 1, out);
    }
    if let (Some(_), Some(time)) = (mask.below("last_updated"), entry.last_updated) {
        field("last_updated", out);
        let _ = write!(out, "\"{}\"", timestamp(time));
    }
    let _ = write!(out, "\n{:indent$}}}", "");
}

fn timestamp(time: SystemTime) -> String {
    Timestamp::try_from(time).map(|time| time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()).unwrap_or_default()
}
