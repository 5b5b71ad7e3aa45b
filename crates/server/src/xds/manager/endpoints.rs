//! Endpoints of clusters of the type `EDS`.

use super::{DiscoveryKind, Key, Manager, Named, Outcomes, known, off_thread};
use crate::xds::{
    Event, Kind,
    build::{Built, Outcome},
};
use sota_config::config_source::ConfigSource;
use sota_envoy::discovery::Response;
use sota_proxy::upstream::{ClusterConfig, DiscoveryNote};
use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::Arc,
};

impl Manager {
    /// Where the endpoints of a cluster come from, if from a source.
    pub(super) fn endpoints_key(&mut self, config: &ClusterConfig) -> Option<Key> {
        let DiscoveryKind::Eds { service_name, source } = &config.model().discovery else { return None };
        Some((self.source(&source.kind, Kind::Endpoints), service_name.clone()))
    }

    /// All clusters with endpoints, served or warming.
    pub(super) fn all_eds_clusters(&self) -> Vec<Arc<ClusterConfig>> {
        let mut all = self.server.resources.eds_clusters();
        let is_eds = |config: &ClusterConfig| matches!(config.model().discovery, DiscoveryKind::Eds { .. });
        let warming = self.warming_clusters.values().map(|cluster| &cluster.config);
        all.extend(warming.filter(|config| is_eds(config)).cloned());
        all
    }

    /// Those of them that use endpoints of a source, by the endpoints' name.
    pub(super) fn eds_clusters(&mut self, source: usize) -> HashMap<String, Vec<Arc<ClusterConfig>>> {
        let mut by_name: HashMap<String, Vec<_>> = HashMap::new();
        for config in self.all_eds_clusters() {
            if let Some((_, name)) = self.endpoints_key(&config).filter(|(of, _)| *of == source) {
                by_name.entry(name).or_default().push(config);
            }
        }
        by_name
    }

    /// Asks for the endpoints of the clusters that there are.
    pub(super) fn want_endpoints(&mut self) {
        let all = self.all_eds_clusters();
        let mut wanted: BTreeMap<Key, Arc<ConfigSource>> = BTreeMap::new();
        for config in all {
            if let (Some(key), DiscoveryKind::Eds { source, .. }) =
                (self.endpoints_key(&config), &config.model().discovery)
            {
                if let Some(endpoints) = self.endpoints.get(&key).and_then(|of| of.value.as_ref())
                    && config.hosts().hosts().is_empty()
                {
                    config.set_endpoints(endpoints);
                }
                if !self.endpoints.contains_key(&key) {
                    config.note_discovery(DiscoveryNote::Attempt);
                }
                wanted.insert(key, Arc::clone(source));
            }
        }
        self.endpoints.retain(|key, _| wanted.contains_key(key));
        for ((id, name), source) in &wanted {
            if let Entry::Vacant(new) = self.endpoints.entry((*id, name.clone())) {
                new.insert(Named::default());
                self.wait(source, Event::Late(Kind::Endpoints, *id, name.clone()));
            }
        }
        self.tell_names(Kind::Endpoints, wanted.into_keys());
    }

    pub(super) async fn update_endpoints(&mut self, source: usize, response: Response) -> Outcomes {
        let known = known(&self.endpoints, source);
        let builder = self.builder();
        let built = off_thread(move || builder.endpoints(&response, &known)).await;
        let users = self.eds_clusters(source);
        let mut outcomes = Outcomes::default();
        for Built { name, version, fingerprint, result } in built {
            let key = (source, name.clone());
            match result {
                Outcome::Bad(reason) => {
                    let users = users.get(&name).into_iter().flatten();
                    users.for_each(|config| config.note_discovery(DiscoveryNote::Rejected));
                    outcomes.1.push(format!("Error updating endpoints of {name}: {reason}"));
                    continue;
                }
                Outcome::Again => {}
                Outcome::Same => {
                    if let Some(named) = self.endpoints.get_mut(&key) {
                        named.fingerprint = Some(fingerprint);
                    }
                }
                Outcome::New(endpoints) => {
                    if let Some(named) = self.endpoints.get_mut(&key) {
                        named.fingerprint = Some(fingerprint);
                        named.value = Some(Arc::clone(&endpoints));
                        for config in users.get(&name).into_iter().flatten() {
                            config.set_endpoints(&endpoints);
                        }
                    }
                }
            }
            outcomes.0.push((name, version));
        }
        outcomes
    }
}
