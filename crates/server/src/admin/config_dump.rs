//! `/config_dump`: what is served, one resource after the other, with secrets removed.

use super::{Body, JSON, Reply, Request};
use crate::server::Server;
use jiff::Timestamp;
use regex::Regex;
use sota_config::Node;
use sota_plugin::http::StatusCode;
use std::{sync::Arc, time::SystemTime};

/// A piece of the dump: text, or a resource that is written when its turn comes.
enum Piece {
    Text(String),
    Resource(Arc<Node>, &'static str),
}

pub(super) fn answer(server: &Server, request: &Request<'_>) -> Reply {
    for unsupported in ["resource", "mask"] {
        if request.parameter(unsupported).is_some() {
            let text = format!("{unsupported} is not supported; name_regex is\n");
            return Reply::error(StatusCode::NOT_IMPLEMENTED, text);
        }
    }
    let pattern = request.parameter("name_regex").filter(|pattern| !pattern.is_empty());
    let filter = match pattern.map(|pattern| Regex::new(&format!("^(?:{pattern})$"))).transpose() {
        Ok(filter) => filter,
        Err(error) => {
            return Reply::error(StatusCode::BAD_REQUEST, format!("Error while parsing name_regex: {error}\n"));
        }
    };
    let wanted = |name: &str| filter.as_ref().is_none_or(|filter| filter.is_match(name));

    let mut pieces = vec![Piece::Text("{\n \"configs\": [\n".to_owned())];
    if filter.is_none() {
        pieces.push(open("envoy.admin.v3.BootstrapConfigDump"));
        pieces.push(Piece::Text("   \"bootstrap\": ".to_owned()));
        pieces.push(resource(server.bootstrap.borrow().source.as_ref(), "envoy.config.bootstrap.v3.Bootstrap"));
        let started = timestamp(server.start_time());
        pieces.push(Piece::Text(format!(",\n   \"last_updated\": \"{started}\"\n  }},\n")));
    }

    pieces.push(open("envoy.admin.v3.ClustersConfigDump"));
    pieces.push(Piece::Text("   \"static_clusters\": [".to_owned()));
    let mut separator = "\n";
    server.resources.each_cluster(|cluster| {
        let model = cluster.config.model();
        if wanted(&model.name) {
            pieces.push(Piece::Text(format!("{separator}    {{\n     \"cluster\": ")));
            pieces.push(resource(model.source.as_ref(), "envoy.config.cluster.v3.Cluster"));
            pieces.push(last_updated(cluster.last_updated));
            separator = ",\n";
        }
    });
    pieces.push(Piece::Text("\n   ]\n  },\n".to_owned()));

    pieces.push(open("envoy.admin.v3.ListenersConfigDump"));
    pieces.push(Piece::Text("   \"static_listeners\": [".to_owned()));
    separator = "\n";
    server.resources.each_listener(|listener| {
        let model = &listener.config.model;
        if wanted(&model.name) {
            pieces.push(Piece::Text(format!("{separator}    {{\n     \"listener\": ")));
            pieces.push(resource(model.source.as_ref(), "envoy.config.listener.v3.Listener"));
            pieces.push(last_updated(listener.last_updated));
            separator = ",\n";
        }
    });
    pieces.push(Piece::Text("\n   ]\n  }\n ]\n}\n".to_owned()));

    let bodies = pieces.into_iter().map(|piece| match piece {
        Piece::Text(text) => text.into_bytes(),
        Piece::Resource(node, message) => {
            let mut out = String::new();
            // Writing to a string does not fail.
            let _ = sota_envoy::dump_json(&node, message, &mut out);
            out.into_bytes()
        }
    });
    Reply { status: StatusCode::OK, content_type: JSON, body: Body::Pieces(Box::new(bodies)) }
}

fn open(kind: &str) -> Piece {
    Piece::Text(format!("  {{\n   \"@type\": \"type.googleapis.com/{kind}\",\n"))
}

fn resource(source: Option<&Arc<Node>>, message: &'static str) -> Piece {
    match source {
        Some(node) => Piece::Resource(Arc::clone(node), message),
        None => Piece::Text("{}".to_owned()),
    }
}

fn last_updated(time: SystemTime) -> Piece {
    Piece::Text(format!(",\n     \"last_updated\": \"{}\"\n    }}", timestamp(time)))
}

fn timestamp(time: SystemTime) -> String {
    Timestamp::try_from(time).map(|time| time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()).unwrap_or_default()
}
