//! What routes configure for HTTP filters, with what they inherit.

use sota_config::{ConfigError, Mark, route::PerFilterConfig};
use sota_plugin::{Extension, FactoryContext, filter::HttpFilterConfig};
use std::{any::Any, sync::Arc};

/// A filter's configuration of one level.
pub(super) type FilterConfig = Arc<dyn Any + Send + Sync>;

/// The settings of each filter that some level speaks of, from the route configuration down to here.
#[derive(Clone, Default)]
pub(super) struct FilterConfigs(Vec<Settings>);

#[derive(Clone)]
struct Settings {
    filter: Box<str>,
    /// From the most general level to the most specific.
    configs: Vec<FilterConfig>,
    /// What the most specific level says.
    disabled: bool,
}

impl FilterConfigs {
    /// With another, more specific level. Findings go into `errors`.
    pub(super) fn inherit(
        &self,
        level: &[PerFilterConfig],
        cx: &FactoryContext<'_>,
        path: &str,
        errors: &mut Vec<ConfigError>,
    ) -> Self {
        let mut all = self.clone();
        for entry in level {
            let config = match build(entry, cx) {
                Ok(config) => config,
                Err(error) => {
                    errors.push(if error.path.is_empty() { error.at(path, cx.mark) } else { error });
                    continue;
                }
            };
            if config.is_none() && !entry.disabled {
                // An optional filter that is not known here.
                continue;
            }
            let at = all.0.iter().position(|settings| *settings.filter == *entry.filter).unwrap_or_else(|| {
                all.0.push(Settings { filter: entry.filter.as_str().into(), configs: Vec::new(), disabled: false });
                all.0.len() - 1
            });
            all.0[at].configs.extend(config);
            all.0[at].disabled = entry.disabled;
        }
        all
    }

    /// Whether the filter is switched off (or on again) here; `None`: nobody says so.
    pub(super) fn disabled(&self, filter: &str) -> Option<bool> {
        self.find(filter).map(|settings| settings.disabled)
    }

    /// The filter's configurations, from the most general level to the most specific.
    pub(super) fn configs(&self, filter: &str) -> &[FilterConfig] {
        self.find(filter).map(|settings| &*settings.configs).unwrap_or_default()
    }

    fn find(&self, filter: &str) -> Option<&Settings> {
        self.0.iter().find(|settings| *settings.filter == *filter)
    }
}

impl std::fmt::Debug for FilterConfigs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|settings| &settings.filter)).finish()
    }
}

fn build(entry: &PerFilterConfig, cx: &FactoryContext<'_>) -> Result<Option<FilterConfig>, ConfigError> {
    let Some(config) = &entry.config else { return Ok(None) };
    let found = find_extension(config.config.type_url(), &entry.filter, cx);
    match found.and_then(|extension| extension.build_route) {
        Some(build_route) => build_route(&config.config, &cx.at(config)).map(Some),
        None if entry.is_optional => Ok(None),
        None => {
            let reason = match (found, config.config.type_url()) {
                (Some(extension), _) => {
                    format!("the filter {} takes no configuration from routes", extension.name)
                }
                (None, Some(url)) => format!("no HTTP filter takes a configuration of type \"{url}\" from routes"),
                (None, None) => format!("no HTTP filter is called \"{}\"", entry.filter),
            };
            Err(ConfigError::new(config.path.as_str(), mark_of(config.mark, cx.mark), reason))
        }
    }
}

fn mark_of(own: Mark, outer: Mark) -> Mark {
    if own == Mark::NONE { outer } else { own }
}

/// By the type of the route's configuration; without one by the filter's name.
fn find_extension(
    type_url: Option<&str>,
    filter: &str,
    cx: &FactoryContext<'_>,
) -> Option<&'static Extension<dyn HttpFilterConfig>> {
    let filters = &cx.registry.http_filters;
    let Some(url) = type_url else { return filters.find(filter) };
    let name = url.rsplit_once('/').map_or(url, |(_, name)| name);
    filters.iter().find(|extension| extension.route_type_urls.contains(&name)).or_else(|| filters.find(url))
}
