//! Virtual clusters: kinds of requests of a virtual host that are counted for themselves.

use sota_config::{ConfigError, route::VirtualCluster as Config};
use sota_plugin::{http::RequestHead, matcher::HeaderMatcher};
use std::sync::Arc;

/// The virtual clusters of a virtual host. The last one takes what no other does.
#[derive(Debug)]
pub(super) struct VirtualClusters(Box<[VirtualCluster]>);

#[derive(Debug)]
struct VirtualCluster {
    name: Arc<str>,
    headers: Box<[HeaderMatcher]>,
}

/// The name of the one that takes the rest.
const OTHER: &str = "other";

impl VirtualClusters {
    /// `None` when there are none. Fails for invalid names and patterns.
    pub(super) fn build(configs: &[Config]) -> Result<Option<Self>, ConfigError> {
        if configs.is_empty() {
            return Ok(None);
        }
        let build = |config: &Config| {
            let headers = HeaderMatcher::build_all(&config.headers)?.into();
            Ok(VirtualCluster { name: config.name.as_str().into(), headers })
        };
        let mut all = configs.iter().map(build).collect::<Result<Vec<_>, ConfigError>>()?;
        all.push(VirtualCluster { name: OTHER.into(), headers: Box::default() });
        Ok(Some(Self(all.into())))
    }

    /// The number of the one that counts this request.
    pub(super) fn find(&self, head: &RequestHead) -> usize {
        let matches = |cluster: &VirtualCluster| cluster.headers.iter().all(|matcher| matcher.matches(head));
        self.0.iter().position(matches).unwrap_or_default()
    }

    /// Its name in access logs. Compat: the one that takes the rest has none.
    pub(super) fn logged_name(&self, number: usize) -> Option<Arc<str>> {
        (number + 1 < self.0.len()).then(|| self.name(number))
    }

    /// Its name in stats.
    pub(super) fn name(&self, number: usize) -> Arc<str> {
        self.0.get(number).map_or_else(|| OTHER.into(), |cluster| Arc::clone(&cluster.name))
    }
}
