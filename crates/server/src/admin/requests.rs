//! `/requests`: the last requests of each worker, from their flight recorders.

use super::{Reply, Request, state::json_reply};
use crate::server::Server;
use serde_json::{Map, Value, json};
use sota_plugin::{http::StatusCode, info::ResponseFlag};
use sota_proxy::recorder::{Phases, Recorded, Wanted};
use std::{
    fmt::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How long workers may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Without `limit` so many are shown.
const DEFAULT_LIMIT: usize = 100;

pub(super) async fn requests(server: &Server, request: &Request<'_>) -> Reply {
    let wanted = match wanted(request) {
        Ok(wanted) => wanted,
        Err(text) => return Reply::error(StatusCode::BAD_REQUEST, text),
    };
    let limit = wanted.limit;
    let question = move |context: &std::rc::Rc<sota_proxy::context::WorkerContext>| {
        (context.local.id, context.recorder.read(&wanted))
    };
    let answers = server.workers.ask(PATIENCE, question).await;
    let mut shown: Vec<(usize, Recorded)> =
        answers.into_iter().flat_map(|(worker, list)| list.into_iter().map(move |one| (worker, one))).collect();
    shown.sort_by_key(|(_, recorded)| std::cmp::Reverse((recorded.start, recorded.stream_id)));
    shown.truncate(limit);
    match request.parameter("format").as_deref() {
        Some("json") => {
            let list: Vec<_> = shown.iter().map(|(worker, recorded)| as_json(*worker, recorded)).collect();
            json_reply(&json!({ "requests": list }))
        }
        Some("text") | None => Reply::text(shown.iter().fold(String::new(), |mut out, (_, recorded)| {
            as_text(recorded, &mut out);
            out
        })),
        Some(other) => Reply::error(StatusCode::BAD_REQUEST, format!("format is text or json, not {other:?}\n")),
    }
}

/// Reads the parameters; one that is unknown is an error.
fn wanted(request: &Request<'_>) -> Result<Wanted, String> {
    let mut wanted = Wanted { limit: DEFAULT_LIMIT, ..Wanted::default() };
    for (name, value) in request.parameters() {
        match name.as_str() {
            "flag" => {
                let flag = ResponseFlag::from_short(&value);
                wanted.flag = Some(flag.ok_or_else(|| format!("{value:?} is no response flag, such as UF\n"))?);
            }
            "failed" => wanted.failed = true,
            "cluster" => wanted.cluster = Some(value),
            "slow" => {
                wanted.slow =
                    Some(duration(&value).ok_or_else(|| format!("{value:?} is no time, such as 100ms or 2s\n"))?);
            }
            "status" => {
                wanted.status =
                    Some(status(&value).ok_or_else(|| format!("{value:?} is no status, such as 503 or 5xx\n"))?);
            }
            "path" => wanted.path = Some(value),
            "limit" => wanted.limit = value.parse().map_err(|_| format!("{value:?} is no number\n"))?,
            "format" => {}
            _ => return Err(format!("unknown parameter {name:?}\n")),
        }
    }
    Ok(wanted)
}

/// `100ms`, `2s`, `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    let (number, factor) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s')?, 1.0),
    };
    let seconds = number.parse::<f64>().ok()? * factor;
    Duration::try_from_secs_f64(seconds).ok()
}

/// `503`, `5xx`.
fn status(text: &str) -> Option<(u16, u16)> {
    match text.strip_suffix("xx") {
        Some(class) => {
            let class = class.parse::<u16>().ok().filter(|class| (1..=5).contains(class))?;
            Some((class * 100, class * 100 + 99))
        }
        None => text.parse().ok().map(|code| (code, code)),
    }
}

fn as_json(worker: usize, recorded: &Recorded) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        if !(value.is_null() || value == "") {
            out.insert(name.to_owned(), value);
        }
    };
    put("start_time", timestamp(recorded.start).into());
    put("worker", worker.into());
    put("stream_id", recorded.stream_id.into());
    put("method", recorded.method.as_str().into());
    put("authority", recorded.authority.as_str().into());
    put("path", recorded.path.as_str().into());
    put("protocol", recorded.protocol.map(|protocol| protocol.as_str()).into());
    put("status", recorded.status.into());
    let flags: Vec<_> = recorded.flags.iter().map(|flag| flag.short()).collect();
    put("flags", flags.into());
    put("details", recorded.details.as_deref().into());
    put("cause", recorded.cause.as_deref().into());
    put("route", recorded.route.as_str().into());
    put("cluster", recorded.cluster.as_str().into());
    put("host", recorded.host.as_ref().map(ToString::to_string).into());
    put("attempts", recorded.attempts.into());
    put("bytes_received", recorded.bytes_received.into());
    put("bytes_sent", recorded.bytes_sent.into());
    put("request_id", recorded.request_id.as_str().into());
    let phases = recorded.phases();
    put("duration_us", phases.total.into());
    put("phases_us", phases_json(&phases));
    Value::Object(out)
}

/// Since the beginning of the request; `connect` is the length of that.
fn phases_json(phases: &Phases) -> Value {
    let all = [
        ("request_received", phases.request_received),
        ("connect", phases.connect),
        ("upstream_sent", phases.upstream_sent),
        ("response_begun", phases.response_begun),
        ("response_received", phases.response_received),
    ];
    Value::Object(all.into_iter().filter_map(|(name, at)| Some((name.to_owned(), at?.into()))).collect())
}

/// One line, and a second one for the cause. Control characters of clients are escaped.
fn as_text(recorded: &Recorded, out: &mut String) {
    let details = recorded.details.as_deref().unwrap_or("-");
    let host = recorded.host.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.escape_debug().to_string() };
    let _ = writeln!(
        out,
        "{} {} {} {} {} {} {:.3}ms {} {host} {}",
        timestamp(recorded.start),
        or_dash(recorded.method.as_str()),
        or_dash(recorded.authority.as_str()),
        or_dash(recorded.path.as_str()),
        recorded.status,
        recorded.flags,
        recorded.duration().as_secs_f64() * 1000.0,
        or_dash(recorded.cluster.as_str()),
        details.escape_debug(),
    );
    if let Some(cause) = &recorded.cause {
        let _ = writeln!(out, "    {}", cause.escape_debug());
    }
}

fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = jiff::Timestamp::from_millisecond(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    at.map_or_else(|_| String::new(), |at| format!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_unknown_ones_told() {
        let read = |query| wanted(&Request { is_post: false, path: "/requests", query, body: "" });
        let all = read("flag=UF&cluster=x&slow=100ms&status=5xx&path=/a&limit=5&failed&format=json").unwrap();
        assert_eq!(all.flag, Some(ResponseFlag::UpstreamConnectionFailure));
        assert_eq!((all.cluster.as_deref(), all.path.as_deref(), all.limit), (Some("x"), Some("/a"), 5));
        assert_eq!((all.slow, all.status, all.failed), (Some(Duration::from_millis(100)), Some((500, 599)), true));
        assert_eq!(read("slow=1.5s").unwrap().slow, Some(Duration::from_millis(1500)));
        assert_eq!(read("status=404").unwrap().status, Some((404, 404)));
        for bad in ["flag=no", "slow=5", "slow=-1s", "slow=1e300s", "status=9xx", "status=a", "limit=x", "color=red"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
