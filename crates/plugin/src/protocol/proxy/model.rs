//! The configuration of the filter.

use crate::{
    FactoryContext,
    access_log::AccessLogs,
    de::{read_config, split_config},
    protocol::Protocol,
};
use serde::{Deserialize, Deserializer, de::Error};
use sota_config::{ConfigError, TypedConfig};
use std::{sync::Arc, time::Duration};

/// What a configuration says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub(super) stat_prefix: String,
    #[serde(default = "five_seconds", deserialize_with = "some_time")]
    pub(super) timeout: Duration,
    #[serde(default = "one_hour", deserialize_with = "optional_time")]
    pub(super) idle_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "optional_time")]
    pub(super) heartbeat_interval: Option<Duration>,
    #[serde(default = "hundred")]
    pub(super) max_requests_in_flight: usize,
    pub(super) routes: Vec<Route>,
}

/// A route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    #[serde(default, rename = "match")]
    matches: Vec<Match>,
    pub(super) cluster: String,
    pub(super) hash: Option<String>,
    #[serde(default)]
    pub(super) retries: u32,
}

/// What a request has to say of itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Match {
    name: String,
    exact: Option<String>,
    prefix: Option<String>,
}

impl Model {
    pub(super) fn read(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<(Self, Arc<AccessLogs>), ConfigError> {
        let (logs, config) = split_config(config, &["access_log"]);
        let access_logs = match &logs {
            TypedConfig::Value { node, .. } => node.get("access_log").map(|logs| AccessLogs::read(logs, cx)),
            _ => None,
        };
        let access_logs = access_logs.transpose()?.unwrap_or_default();
        let model: Self = read_config(&config, cx)?;
        if model.max_requests_in_flight == 0 {
            return Err(cx.error_in(&config, "max_requests_in_flight", "nothing would ever be asked"));
        }
        if model.routes.is_empty() {
            return Err(cx.error_in(&config, "routes", "a route is needed"));
        }
        for (place, route) in model.routes.iter().enumerate() {
            if cx.clusters.is_some_and(|exists| !exists(&route.cluster)) {
                let reason = format!("there is no cluster \"{}\"", route.cluster);
                return Err(cx.error_in(&config, &format!("routes[{place}].cluster"), reason));
            }
            if route.matches.iter().any(|condition| condition.exact.is_some() == condition.prefix.is_some()) {
                let field = format!("routes[{place}].match");
                return Err(cx.error_in(&config, &field, "either exact or prefix is needed"));
            }
        }
        Ok((model, access_logs))
    }

    /// The first route that fits.
    pub(super) fn route<P: Protocol>(&self, protocol: &P, request: &P::Request) -> Option<&Route> {
        self.routes.iter().find(|route| route.matches.iter().all(|condition| condition.fits(protocol, request)))
    }
}

impl Match {
    fn fits<P: Protocol>(&self, protocol: &P, request: &P::Request) -> bool {
        let Some(value) = protocol.metadata(request, &self.name) else { return false };
        self.exact.as_ref().is_none_or(|exact| *value == *exact.as_bytes())
            && self.prefix.as_ref().is_none_or(|prefix| value.starts_with(prefix.as_bytes()))
    }
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

#[expect(clippy::unnecessary_wraps, reason = "the type of the field")]
fn one_hour() -> Option<Duration> {
    Some(Duration::from_secs(3600))
}

fn hundred() -> usize {
    100
}

/// `1.5s`, `200ms`, `10m` or `1h`.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text.get(number.len()..) {
        Some("ms") => 0.001,
        Some("s") => 1.0,
        Some("m") => 60.0,
        Some("h") => 3600.0,
        _ => return Err(D::Error::custom(format!("\"{text}\" is no duration such as 1.5s"))),
    };
    let time = number.parse().ok().and_then(|number: f64| Duration::try_from_secs_f64(number * unit).ok());
    time.ok_or_else(|| D::Error::custom(format!("\"{text}\" is no duration such as 1.5s")))
}

fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let time = time(deserializer)?;
    if time.is_zero() { Err(D::Error::custom("a time is needed")) } else { Ok(time) }
}

fn optional_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    Ok(Some(time(deserializer)?).filter(|time| !time.is_zero()))
}
