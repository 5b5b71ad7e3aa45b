//! Changes to header fields at all levels, in the order in which they are made.

use sota_config::{ConfigError, Mark, route::HeaderMutations as Config};
use sota_plugin::{
    http::{RequestHead, ResponseHead},
    info::StreamInfo,
    matcher::HeaderMutations,
};
use std::sync::Arc;

/// The changes of one level.
#[derive(Debug, Clone, Default)]
pub(super) struct Level {
    pub(super) request: Arc<HeaderMutations>,
    pub(super) response: Arc<HeaderMutations>,
}

impl Level {
    /// Both directions; findings go into `errors`.
    pub(super) fn build(request: &Config, response: &Config, path: &str, errors: &mut Vec<ConfigError>) -> Self {
        let mut build = |config: &Config, direction: &str| {
            let built = HeaderMutations::build(config).unwrap_or_else(|_| {
                errors.extend(faults(config, &format!("{path}.{direction}")));
                HeaderMutations::default()
            });
            Arc::new(built)
        };
        Self { request: build(request, "request_headers"), response: build(response, "response_headers") }
    }
}

/// Each part that cannot be built, with its place.
fn faults(config: &Config, path: &str) -> Vec<ConfigError> {
    let removed = Config { remove: config.remove.clone(), ..Config::default() };
    let added = config.add.iter().enumerate().map(|(at, option)| {
        let alone = Config { add: vec![option.clone()], ..Config::default() };
        (format!("{path}_to_add[{at}].header.value"), alone)
    });
    added
        .chain([(format!("{path}_to_remove"), removed)])
        .filter_map(|(path, part)| HeaderMutations::build(&part).err().map(|error| error.at(&path, Mark::NONE)))
        .collect()
}

/// The changes of several levels in the order in which they are made; levels that change nothing are left out.
#[derive(Debug, Default)]
pub(super) struct Mutations {
    request: Box<[Arc<HeaderMutations>]>,
    response: Box<[Arc<HeaderMutations>]>,
}

impl Mutations {
    /// Route configuration, virtual host and route; the later change wins. Unless `most_specific_wins`, the order is
    /// the reverse.
    pub(super) fn new(table: &Level, host: &Level, route: &Level, most_specific_wins: bool) -> Self {
        let levels = if most_specific_wins { [table, host, route] } else { [route, host, table] };
        let pick = |of: fn(&Level) -> &Arc<HeaderMutations>| {
            levels.into_iter().map(of).filter(|mutations| !mutations.is_empty()).cloned().collect()
        };
        Self { request: pick(|level| &level.request), response: pick(|level| &level.response) }
    }

    pub(super) fn apply_request(&self, head: &mut RequestHead, info: &StreamInfo) {
        for mutations in &self.request {
            mutations.apply_request(head, info);
        }
    }

    pub(super) fn apply_response(&self, head: &mut ResponseHead, request: Option<&RequestHead>, info: &StreamInfo) {
        for mutations in &self.response {
            mutations.apply_response(head, request, info);
        }
    }
}
