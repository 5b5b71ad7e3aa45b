//! The commands: which paths there are, what they are for, and who answers.

use super::{Body, Reply, Request, certs, config_dump, hosts, requests, state};
use crate::{
    server::Server,
    stats::{Format, StatsQuery},
};
use sota_plugin::http::StatusCode;
use std::{fmt::Write, rc::Rc};

/// A command: path, whether it changes something and so wants POST, what `/help` says, parameters.
struct Command {
    path: &'static str,
    is_post: bool,
    help: &'static str,
    parameters: &'static [(&'static str, &'static str)],
}

const fn get(path: &'static str, help: &'static str, parameters: &'static [(&'static str, &'static str)]) -> Command {
    Command { path, is_post: false, help, parameters }
}

const fn post(path: &'static str, help: &'static str, parameters: &'static [(&'static str, &'static str)]) -> Command {
    Command { path, is_post: true, help, parameters }
}

const COMMANDS: &[Command] = &[
    get("/", "Admin home page", &[]),
    get("/certs", "print certs on machine", &[]),
    get(
        "/clusters",
        "upstream cluster status",
        &[("filter", "clusters whose name has a match of this expression"), ("format", "text or json")],
    ),
    get(
        "/config_dump",
        "dump the current configuration, secrets removed",
        &[
            ("resource", "only this list, such as static_clusters"),
            ("mask", "only these fields: paths with commas between them; with resource, fields of each entry"),
            ("name_regex", "only resources whose name matches the whole of this expression"),
            ("include_eds", "the hosts of each cluster too"),
        ],
    ),
    post(
        "/drain_listeners",
        "drain listeners",
        &[
            ("graceful", "listeners go on for the drain time"),
            ("inboundonly", "only listeners whose traffic_direction is INBOUND"),
            ("skip_exit", "connections drain, listeners go on"),
        ],
    ),
    get(
        "/explain",
        "say what would become of a request, step by step and with reasons",
        &[
            ("url", "the request's URL"),
            ("method", "its method; default GET"),
            ("header", "a field, NAME: VALUE; may be given several times"),
            ("sni", "the server name; default: the URL's host"),
            ("alpn", "application protocols with commas between them"),
            ("source", "the client's address"),
            ("destination", "the address that the client connects to"),
            ("listener", "the listener's name, instead of the destination"),
            ("random", "decides on parts of the requests and among weighted clusters"),
            ("format", "text or json"),
        ],
    ),
    post("/healthcheck/fail", "cause the server to fail health checks", &[]),
    post("/healthcheck/ok", "cause the server to pass health checks", &[]),
    get("/help", "print out list of admin commands", &[]),
    get("/init_dump", "dump what is awaited before the process is ready", &[]),
    get("/listeners", "print listener info", &[("format", "text or json")]),
    post(
        "/logging",
        "query/change logging levels",
        &[
            ("level", "the level of every component"),
            ("paths", "levels of single components: name1:level1,name2:level2"),
            ("NAME", "the level of the component of this name"),
        ],
    ),
    get("/memory", "print current allocation/heap usage", &[]),
    post("/quitquitquit", "exit the server", &[]),
    get(
        "/ready",
        "print server state, return 200 if LIVE, otherwise return 503",
        &[("verbose", "say what is awaited, and what is served as it is remembered")],
    ),
    post("/reopen_logs", "reopen access logs", &[]),
    get(
        "/requests",
        "print the last requests of each worker, the last one first",
        &[
            ("flag", "only with this response flag, such as UF"),
            ("failed", "only with a flag, a cause, or a status from 500 on"),
            ("cluster", "only of this cluster"),
            ("slow", "only those that took at least so long, such as 100ms"),
            ("status", "only of this status or class, such as 503 or 5xx"),
            ("path", "only whose path begins so"),
            ("limit", "at most so many; default 100"),
            ("format", "text or json"),
        ],
    ),
    post("/reset_counters", "reset all counters to zero", &[]),
    get("/runtime", "print runtime values", &[]),
    post("/runtime_modify", "add or change runtime values given as parameters; an empty value takes one away", &[]),
    get("/server_info", "print server version/status information", &[]),
    get(
        "/stats",
        "print server stats",
        &[
            ("usedonly", "only stats that were ever written"),
            ("filter", "only stats in whose name this expression is found"),
            ("format", "text or json"),
            ("type", "All, Counters, Gauges, Histograms or TextReadouts"),
            ("histogram_buckets", "cumulative, disjoint, detailed or summary"),
        ],
    ),
    get(
        "/stats/prometheus",
        "print server stats in prometheus format",
        &[
            ("usedonly", "only stats that were ever written"),
            ("filter", "only stats in whose name this expression is found"),
            ("text_readouts", "text readouts too, as gauges of value 0"),
            ("histogram_buckets", "cumulative or summary"),
        ],
    ),
];

/// Answers a request.
pub(super) async fn answer(server: &Rc<Server>, request: &Request<'_>) -> Reply {
    let Some(command) = COMMANDS.iter().find(|command| command.path == request.path) else {
        return Reply::error(StatusCode::NOT_FOUND, format!("invalid path. {}", help()));
    };
    if command.is_post && !request.is_post {
        return Reply::error(StatusCode::METHOD_NOT_ALLOWED, "Method GET not allowed, POST required.");
    }
    match request.path {
        "/" => home(),
        "/certs" => certs::certs(server),
        "/clusters" => hosts::clusters(server, request),
        "/explain" => super::explain::explain(server, request),
        "/config_dump" => config_dump::answer(server, request),
        "/drain_listeners" => state::drain_listeners(server, request).await,
        "/healthcheck/fail" => state::set_failing(server, true),
        "/healthcheck/ok" => state::set_failing(server, false),
        "/init_dump" => state::init_dump(server),
        "/listeners" => hosts::listeners(server, request),
        "/logging" => state::logging(server, request),
        "/memory" => state::memory(),
        "/quitquitquit" => {
            server.quit();
            Reply::text("OK\n")
        }
        "/ready" => state::ready(server, request),
        "/reopen_logs" => {
            server.reopen_logs();
            Reply::text("OK\n")
        }
        "/requests" => requests::requests(server, request).await,
        "/reset_counters" => {
            server.stats.reset_counters();
            Reply::text("OK\n")
        }
        "/runtime" => state::runtime(server),
        "/runtime_modify" => state::runtime_modify(server, request),
        "/server_info" => state::server_info(server),
        "/stats" => stats(server, request, Format::Text),
        "/stats/prometheus" => stats(server, request, Format::Prometheus),
        _ => Reply::text(help()),
    }
}

fn stats(server: &Server, request: &Request<'_>, format: Format) -> Reply {
    match StatsQuery::parse(request.query, format) {
        Ok(query) => {
            match server.bootstrap.borrow().stats_flush_on_admin {
                true => server.flush_stats(),
                false => server.refresh_stats(),
            }
            let output = server.stats.output(query);
            Reply { status: StatusCode::OK, content_type: output.content_type(), body: Body::Pieces(Box::new(output)) }
        }
        Err(text) => Reply::error(StatusCode::BAD_REQUEST, text),
    }
}

fn help() -> String {
    let mut out = String::from("admin commands are:\n");
    for command in COMMANDS {
        let post = if command.is_post { " (POST)" } else { "" };
        let _ = writeln!(out, "  {}{post}: {}", command.path, command.help);
        for (name, help) in command.parameters {
            let _ = writeln!(out, "      {name}: {help}");
        }
    }
    out
}

/// A page with a link to each command that only shows something.
fn home() -> Reply {
    let mut out = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><title>sota-mesh admin</title></head>\n<body>\n<table>\n",
    );
    for command in COMMANDS {
        let link = if command.is_post {
            format!("<form method=\"post\" action=\"{0}\"><button>{0}</button></form>", command.path)
        } else {
            format!("<a href=\"{0}\">{0}</a>", command.path)
        };
        let _ = writeln!(out, "<tr><td>{link}</td><td>{}</td></tr>", command.help);
    }
    out.push_str("</table>\n</body>\n</html>\n");
    Reply { content_type: "text/html; charset=UTF-8", ..Reply::text(out) }
}
