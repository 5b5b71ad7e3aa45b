//! What is awaited, and what is served as it is remembered, for people; and the remembering.

use super::{Key, Kind, Manager, REMEMBERED, Source, SourceKind};
use crate::xds::{Event, Update};
use std::collections::BTreeSet;

/// What a person wants to know who waits for the process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// What is awaited before the process is ready, or was given up, in words.
    pub(crate) awaited: Vec<String>,
    /// What is served as it was remembered, and not said by the control plane yet.
    pub(crate) remembered: Vec<String>,
}

impl Source {
    /// What it is, in words that are the same in every process; `None` for files, which are there anyway.
    pub(super) fn label(&self) -> Option<String> {
        match &self.kind {
            SourceKind::Ads => Some("ads".to_owned()),
            SourceKind::Grpc(source) => Some(format!("the control plane of cluster {}", source.cluster)),
            SourceKind::File(_) => None,
        }
    }
}

impl Manager {
    /// Has what is remembered of a source happen as if the source had said it.
    pub(super) fn recall(&mut self, source: usize, kind: Kind, names: Option<&BTreeSet<String>>) {
        let Some((cache, label)) = self.cache.as_mut().zip(self.sources.get(source).and_then(Source::label)) else {
            return;
        };
        if let Some(names) = names {
            cache.want(&label, kind, names);
        }
        if let Some(response) = cache.recall(&label, kind, names) {
            tracing::info!(
                target: "config",
                "{} {} are served as remembered until {label} says more", response.resources.len(), kind.label()
            );
            self.remembered.insert((source, kind));
            let update = Update { source, kind, stream: REMEMBERED, is_whole: names.is_none(), response };
            let _ = self.events.send(Event::Update(update));
        }
    }

    pub(super) fn report(&self) -> Report {
        let mut awaited = Vec::new();
        for kind in [Kind::Clusters, Kind::Listeners] {
            let is_dynamic = match kind {
                Kind::Clusters => self.dynamic.clusters.is_some(),
                _ => self.dynamic.listeners.is_some(),
            };
            if is_dynamic && !self.arrived.contains(&kind) {
                awaited.push(format!("{}: the control plane has not sent any", kind.label()));
            }
        }
        for (name, cluster) in &self.warming_clusters {
            let what = match cluster.config.missing_secrets().is_empty() {
                false => "its secrets",
                true if cluster.awaits_checks => "the first check of its hosts",
                true => "its hosts",
            };
            awaited.push(format!("cluster {name}: {what}"));
        }
        awaited.extend(self.warming_listeners.keys().map(|name| format!("listener {name}: its routes or secrets")));
        let of = |(key, is_there): (&Key, bool)| (!is_there).then(|| key.1.clone());
        let endpoints = self.endpoints.iter().filter_map(|(key, named)| of((key, named.value.is_some())));
        let routes = self.routes.iter().filter_map(|(key, named)| of((key, named.value.is_some())));
        let secrets = self.secrets.iter().filter_map(|(key, secret)| of((key, secret.named.value.is_some())));
        awaited.extend(endpoints.map(|name| format!("endpoints {name}")));
        awaited.extend(routes.map(|name| format!("routes {name}")));
        awaited.extend(secrets.map(|name| format!("secret {name}")));
        let remembered = self.remembered.iter().filter_map(|(source, kind)| {
            let label = self.sources.get(*source)?.label()?;
            Some(format!("{} of {label}", kind.label()))
        });
        Report { awaited, remembered: remembered.collect() }
    }
}
