//! Clusters: from an update to being served, which begins when they have their hosts and secrets.

use super::{DiscoveryKind, Manager, Outcomes, WarmingCluster, off_thread};
use crate::xds::{
    Event,
    build::{Before, Built, Outcome},
};
use sota_envoy::discovery::Response;
use sota_proxy::upstream::{ClusterConfig, DiscoveryNote};
use std::{collections::BTreeMap, sync::Arc};

impl Manager {
    pub(super) async fn update_clusters(&mut self, response: Response, is_whole: bool, removed: &[String]) -> Outcomes {
        let resources = &self.server.resources;
        let mut known = BTreeMap::new();
        resources.each_cluster(|cluster| {
            let name = cluster.config.name().to_string();
            let served = Some(Arc::clone(&cluster.config));
            known.insert(name.clone(), Before { fingerprint: self.clusters.get(&name).copied(), served });
        });
        for (name, fingerprint) in &self.clusters {
            known.entry(name.clone()).or_insert(Before { fingerprint: Some(*fingerprint), served: None });
        }
        let builder = self.builder();
        let built = off_thread(move || builder.clusters(&response, &known)).await;
        let gone: Vec<String> = match is_whole {
            true => self.clusters.keys().filter(|name| !built.iter().any(|of| of.name == **name)).cloned().collect(),
            false => removed.to_vec(),
        };
        let mut outcomes = Outcomes::default();
        for Built { name, version, fingerprint, result } in built {
            if self.server.resources.is_static_cluster(&name) {
                tracing::warn!(target: "config", "the cluster \"{name}\" of the file stays as it is");
                continue;
            }
            match result {
                Outcome::Bad(reason) => {
                    outcomes.1.push(format!("Error adding/updating cluster(s) {name}: {reason}"));
                    continue;
                }
                Outcome::Again => {}
                Outcome::Same => {
                    // What was on the way in its place is not wanted any more.
                    self.warming_clusters.remove(&name);
                    self.clusters.insert(name.clone(), fingerprint);
                }
                Outcome::New(config) => {
                    self.clusters.insert(name.clone(), fingerprint);
                    self.warm_cluster(config, &version);
                }
            }
            outcomes.0.push((name, version));
        }
        for name in gone {
            if self.clusters.remove(&name).is_some() {
                self.warming_clusters.remove(&name);
                self.server.resources.remove_cluster(&name);
            }
        }
        outcomes
    }

    pub(super) fn warm_cluster(&mut self, config: Arc<ClusterConfig>, version: &str) {
        let name = config.name().to_string();
        let discovery = self.server.resources.start_discovery(&config);
        self.generation += 1;
        let generation = self.generation;
        if matches!(config.model().discovery, DiscoveryKind::Eds { .. }) {
            let key = self.endpoints_key(&config);
            if let Some(endpoints) = key.and_then(|key| self.endpoints.get(&key)?.value.clone()) {
                config.set_endpoints(&endpoints);
            }
        } else if !discovery.is_initialized() {
            let (warm, events, of) = (discovery.initialized(), self.events.clone(), name.clone());
            tokio::task::spawn_local(async move {
                warm.await;
                let _ = events.send(Event::Warm(of, generation));
            });
        }
        let version = version.to_owned();
        self.warming_clusters
            .insert(name.clone(), WarmingCluster { config, discovery, version, generation, awaits_checks: false });
        if self.is_warm(&name) {
            self.serve_cluster(&name);
        }
    }

    pub(super) fn is_warm(&mut self, name: &str) -> bool {
        let Some(cluster) = self.warming_clusters.get(name) else { return false };
        let missing = cluster.config.missing_secrets();
        if !self.is_past_waiting(&missing) {
            return false;
        }
        let Some(cluster) = self.warming_clusters.get(name) else { return false };
        let (config, initialized) = (Arc::clone(&cluster.config), cluster.discovery.is_initialized());
        match self.endpoints_key(&config) {
            Some(key) => match self.endpoints.get(&key) {
                Some(of) if of.is_late => true,
                // Hosts that have come may have to be checked first.
                Some(of) if of.value.is_some() && !initialized => {
                    self.await_checks(name);
                    false
                }
                of => of.is_some_and(|of| of.value.is_some()),
            },
            None => initialized,
        }
    }

    /// Serves a cluster once each of its hosts was checked.
    pub(super) fn await_checks(&mut self, name: &str) {
        let Some(cluster) = self.warming_clusters.get_mut(name).filter(|cluster| !cluster.awaits_checks) else {
            return;
        };
        cluster.awaits_checks = true;
        let (warm, events) = (cluster.discovery.initialized(), self.events.clone());
        let (name, generation) = (name.to_owned(), cluster.generation);
        tokio::task::spawn_local(async move {
            warm.await;
            let _ = events.send(Event::Warm(name, generation));
        });
    }

    pub(super) fn serve_cluster(&mut self, name: &str) {
        if let Some(WarmingCluster { config, discovery, version, .. }) = self.warming_clusters.remove(name) {
            if self
                .endpoints_key(&config)
                .is_some_and(|key| self.endpoints.get(&key).is_none_or(|of| of.value.is_none()))
            {
                config.note_discovery(DiscoveryNote::Timeout);
            }
            self.server.resources.serve_cluster(&config, discovery, Some(version));
        }
    }

    pub(super) fn serve_waiting_clusters(&mut self) {
        let names: Vec<_> = self.warming_clusters.keys().cloned().collect();
        for name in names {
            if self.is_warm(&name) {
                self.serve_cluster(&name);
            }
        }
    }
}
