//! The connection manager: the head made ready, the route, the filters, and where it goes.

use super::{
    Explanation, FilterExplanation, ForwardExplanation, HttpExplanation, Question, Served, Share, Tried, cluster, words,
};
use crate::{
    http::HttpConnectionManagerConfig,
    router::{RequestChoice, RouteTable, Routes, Search, SelectedRoute, not_found},
    upstream::LbContext,
};
use sota_config::http::HttpConnectionManager as Model;
use sota_config::route::{ClusterSpecifier, PerFilterConfig, Route, RouteActionKind, VirtualHost};
use sota_plugin::{
    filter::LocalReply,
    http::{HeaderId, RequestHead},
    info::{RouteInfo, StreamInfo},
};
use std::{rc::Rc, sync::Arc};

pub(super) fn explain(
    question: &Question,
    manager: &HttpConnectionManagerConfig,
    mut info: StreamInfo,
    served: &Served<'_>,
    out: &mut Explanation,
) {
    let mut head = question.head.clone();
    let mut http = HttpExplanation { stat_prefix: manager.model().stat_prefix.clone(), ..HttpExplanation::default() };
    let table = manager.routes();
    let internal_only = table.map(|table| table.internal_only_headers()).unwrap_or_default();
    let ready = manager.make_ready(&mut head, &mut info, question.is_tls, internal_only);
    http.changes = changes(&question.head, &head);
    if let Err(unready) = ready {
        let reply = unready.reply(&head);
        out.outcome = answer("the connection manager", &reply);
        out.http = Some(http);
        return;
    }
    let Some(table) = table else {
        out.outcome = "the routes come from a control plane, which this configuration alone does not know".to_owned();
        out.http = Some(http);
        return;
    };
    let search = table.search(&head, &info, question.random);
    tell_search(table, &search, &head, &mut http);
    let routes = Routes::for_worker(table);
    let Some(route) = routes.route(&head, &info, question.random) else {
        out.outcome = answer("no route takes it: the connection manager", &not_found());
        out.http = Some(http);
        return;
    };
    info.route = Some(Rc::clone(&route) as Rc<dyn RouteInfo>);
    let (host, model) = search.models(table);
    http.filters = filters(manager, &route, table, host, model);
    if let Some(reply) = route.reply(&mut head, &info, true) {
        out.outcome = answer("the route", &reply);
    } else {
        let forward = forward(&route, (host, model), manager.model(), (&mut head, &mut info), served);
        out.outcome = cluster::outcome(&forward.cluster, "the request goes to");
        http.forward = Some(forward);
    }
    out.http = Some(http);
}

/// An answer of our own.
fn answer(who: &str, reply: &LocalReply) -> String {
    let location = reply.headers.get_str(HeaderId::Location).map(|to| format!(" to {to}")).unwrap_or_default();
    format!("{who} answers {}{location} ({})", reply.status.as_u16(), reply.details)
}

/// What is different in a head.
fn changes(before: &RequestHead, after: &RequestHead) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut all = Vec::new();
    if before.path() != after.path() {
        all.push(format!("path {} becomes {}", text(before.path()), text(after.path())));
    }
    if before.authority() != after.authority() {
        all.push(format!("host {} becomes {}", text(before.authority()), text(after.authority())));
    }
    for (name, value) in after.headers.iter() {
        // Made anew for each request.
        if name == b"x-request-id" || before.headers.iter().any(|(old, was)| old == name && was == value) {
            continue;
        }
        all.push(format!("{}: {}", text(name), text(value)));
    }
    for (name, value) in before.headers.iter() {
        if !after.headers.iter().any(|(new, _)| new == name) {
            all.push(format!("without {}: {}", text(name), text(value)));
        }
    }
    all
}

fn tell_search(table: &RouteTable, search: &Search, head: &RequestHead, http: &mut HttpExplanation) {
    let model = table.model();
    http.route_configuration = model.name.clone();
    for (number, host) in model.virtual_hosts.iter().enumerate() {
        let rejected = (search.host != Some(number)).then(|| {
            let asked = String::from_utf8_lossy(head.authority());
            let domains = host.domains.join(", ");
            match table.host_takes(number, head.authority()) {
                true => format!("another one has a more specific domain than {domains}"),
                false => format!("{asked} is not among its domains: {domains}"),
            }
        });
        http.virtual_hosts.push(Tried { name: host.name.clone(), rejected });
    }
    let Some(host) = search.host.and_then(|host| model.virtual_hosts.get(host)) else { return };
    if search.needs_tls {
        let name = "require_tls of the virtual host".to_owned();
        http.routes.push(Tried { name, rejected: None });
    }
    for (number, name, mismatch) in &search.tried {
        let name = if name.is_empty() { format!("#{number}") } else { name.clone() };
        http.routes.push(match host.routes.get(*number).filter(|_| !search.is_tree) {
            Some(route) => Tried {
                name: format!("{name} ({})", words::route_match(&route.matcher)),
                rejected: mismatch.map(|mismatch| words::mismatch(mismatch, &route.matcher, head)),
            },
            None => Tried {
                name: format!("{name} (of the matcher tree)"),
                rejected: mismatch.map(|mismatch| format!("its match fails: {mismatch:?}")),
            },
        });
    }
}

fn filters(
    manager: &HttpConnectionManagerConfig,
    selected: &SelectedRoute,
    table: &RouteTable,
    host: Option<&VirtualHost>,
    route: Option<&Arc<Route>>,
) -> Vec<FilterExplanation> {
    let weighted = route.and_then(|route| match &route.action {
        RouteActionKind::Forward(action) => match &action.cluster {
            ClusterSpecifier::Weighted(of) => of.clusters.iter().find(|of| *of.name == **selected.cluster()),
            _ => None,
        },
        _ => None,
    });
    let levels: [(&str, &[PerFilterConfig]); 4] = [
        ("the weighted cluster", weighted.map(|of| &*of.typed_per_filter_config).unwrap_or_default()),
        ("the route", route.map(|of| &*of.typed_per_filter_config).unwrap_or_default()),
        ("the virtual host", host.map(|of| &*of.typed_per_filter_config).unwrap_or_default()),
        ("the route configuration", &table.model().typed_per_filter_config),
    ];
    let mut all: Vec<_> = manager
        .filters()
        .map(|(name, is_disabled)| {
            let disabled = selected.filter_disabled(name);
            let level = levels.iter().find(|(_, configs)| configs.iter().any(|config| config.filter == *name));
            let has_config = selected.filter_config(name).is_some();
            let by = match (level, disabled) {
                (Some((level, _)), Some(true)) => format!("switched off by {level}"),
                (Some((level, _)), _) if has_config => format!("as configured by {level}"),
                (Some((level, _)), _) => format!("switched on by {level}"),
                (None, _) if is_disabled => "switched off in the chain".to_owned(),
                (None, _) => "as configured in the chain".to_owned(),
            };
            FilterExplanation { name: name.to_owned(), runs: !disabled.unwrap_or(is_disabled), by }
        })
        .collect();
    all.push(FilterExplanation { name: "router".to_owned(), runs: true, by: "the end of the chain".to_owned() });
    all
}

fn forward(
    route: &SelectedRoute,
    (host, model): (Option<&VirtualHost>, Option<&Arc<Route>>),
    manager: &Model,
    (head, info): (&mut RequestHead, &mut StreamInfo),
    served: &Served<'_>,
) -> ForwardExplanation {
    let mut out = ForwardExplanation::default();
    let action = model.and_then(|route| match &route.action {
        RouteActionKind::Forward(action) => Some(&**action),
        _ => None,
    });
    out.clusters = match action.map(|action| &action.cluster) {
        Some(ClusterSpecifier::Weighted(weighted)) => {
            let clusters = &weighted.clusters;
            let sum: u64 = clusters.iter().map(|of| u64::from(of.weight)).sum();
            let share = |of: &sota_config::route::WeightedCluster| Share {
                name: of.name.clone(),
                per_mille: (u64::from(of.weight) * 1000).checked_div(sum).unwrap_or(0),
                is_chosen: *of.name == **route.cluster(),
            };
            clusters.iter().map(share).collect()
        }
        _ => vec![Share { name: route.cluster().to_string(), per_mille: 1000, is_chosen: true }],
    };
    let before = head.clone();
    let config = (served.clusters)(route.cluster());
    let worker = config.as_ref().map(cluster::detached);
    let choice = worker.as_ref().map(|cluster| RequestChoice::new(route, cluster, head, info));
    route.finalize_request(head, info, true);
    if let Some(action) = route.forward() {
        let longest = action.max_stream_duration.unwrap_or(manager.common.max_stream_duration);
        out.timeouts = vec![
            ("route", words::time(action.timeout)),
            ("idle", words::time(action.idle_timeout.unwrap_or(manager.stream_idle_timeout))),
            ("stream", words::time(longest)),
        ];
    }
    let own = action.and_then(|action| action.retry_policy.as_ref());
    out.retries = words::retries(own.or_else(|| host.and_then(|host| host.retry_policy.as_ref())));
    let name = route.cluster().to_string();
    out.cluster = match (config, worker, &choice) {
        (Some(config), Some(worker), Some(choice)) => {
            let cx =
                LbContext { connection: Some(&info.connection), request: Some(head), ..choice.context(route, true) };
            out.hash = cx.hash;
            let described = cluster::describe(&config, Some((worker, &cx)));
            let chosen = config.hosts();
            let chosen = chosen.hosts().iter().find(|host| Some(host.address().to_string()) == described.chosen);
            if let Some(host) = chosen {
                let mut sent = head.clone();
                route.rewrite_host(&mut sent, host.hostname(), true);
                out.sent = sent_lines(&before, &sent);
            }
            described
        }
        _ => super::ClusterExplanation { name, ..Default::default() },
    };
    if out.sent.is_empty() {
        out.sent = sent_lines(&before, head);
    }
    out
}

fn sent_lines(before: &RequestHead, after: &RequestHead) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut lines =
        vec![format!("{} {}", after.method.as_str(), text(after.path())), format!("host: {}", text(after.authority()))];
    lines.extend(changes(before, after).into_iter().filter(|line| !line.contains(" becomes ")));
    lines
}
