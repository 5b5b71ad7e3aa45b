//! `/explain?url=...`: what would become of a request on this proxy, now.

use super::{Body, JSON, Reply, Request, TEXT};
use crate::{
    explain::{self, ExplainOptions},
    server::Server,
};
use sota_plugin::http::StatusCode;
use sota_proxy::explain::Served;

pub(super) fn explain(server: &Server, request: &Request<'_>) -> Reply {
    let Some(url) = request.parameter("url") else {
        let usage = "usage: /explain?url=URL, and as wanted method, header (several), sni, alpn, source, destination, \
                     listener, random, format=json\n";
        return Reply::error(StatusCode::BAD_REQUEST, usage);
    };
    let all =
        |name: &str| request.parameters().filter(|(key, _)| key == name).map(|(_, value)| value).collect::<Vec<_>>();
    let protocols = request.parameter("alpn").unwrap_or_else(|| "h2,http/1.1".to_owned());
    let options = ExplainOptions {
        url,
        method: request.parameter("method").unwrap_or_else(|| "GET".to_owned()),
        headers: all("header"),
        server_name: request.parameter("sni"),
        application_protocols: protocols.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        source: request.parameter("source"),
        destination: request.parameter("destination"),
        listener: request.parameter("listener"),
        random: request.parameter("random").and_then(|number| number.parse().ok()).unwrap_or(0),
        json: request.parameter("format").as_deref() == Some("json"),
    };
    let question = match options.question() {
        Ok(question) => question,
        Err(reason) => return Reply::error(StatusCode::BAD_REQUEST, format!("{reason}\n")),
    };
    let clusters = |name: &str| server.resources.cluster(name);
    let text =
        explain::answer(&options, &question, &Served { listeners: server.resources.listeners(), clusters: &clusters });
    Reply { status: StatusCode::OK, content_type: if options.json { JSON } else { TEXT }, body: Body::Whole(text) }
}
