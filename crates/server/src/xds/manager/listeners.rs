//! Listeners: from an update to being served, which begins when they have their routes and secrets.

use super::{Manager, Outcomes, WarmingListener, off_thread};
use crate::xds::build::{Before, Built, Outcome};
use sota_envoy::discovery::Response;
use sota_proxy::listener::ListenerConfig;
use std::{collections::BTreeMap, sync::Arc};

impl Manager {
    pub(super) async fn update_listeners(
        &mut self,
        response: Response,
        is_whole: bool,
        removed: &[String],
    ) -> Outcomes {
        let mut known = BTreeMap::new();
        self.server.resources.each_listener(|listener| {
            let name = listener.config.model.name.clone();
            let served = Some(Arc::clone(&listener.config));
            known.insert(name.clone(), Before { fingerprint: self.listeners.get(&name).copied(), served });
        });
        for (name, fingerprint) in &self.listeners {
            known.entry(name.clone()).or_insert(Before { fingerprint: Some(*fingerprint), served: None });
        }
        let builder = self.builder();
        let built = off_thread(move || builder.listeners(&response, &known)).await;
        let gone: Vec<String> = match is_whole {
            true => self.listeners.keys().filter(|name| !built.iter().any(|of| of.name == **name)).cloned().collect(),
            false => removed.to_vec(),
        };
        // First, so that their addresses are free.
        for name in gone {
            if self.listeners.remove(&name).is_some() {
                self.warming_listeners.remove(&name);
                self.server.resources.remove_listener(&name);
            }
        }
        let mut outcomes = Outcomes::default();
        for Built { name, version, fingerprint, result } in built {
            if self.server.resources.is_static_listener(&name) {
                tracing::warn!(target: "config", "the listener \"{name}\" of the file stays as it is");
                continue;
            }
            let failed = match result {
                Outcome::Bad(reason) => Some(reason),
                Outcome::Again => None,
                Outcome::Same => {
                    self.warming_listeners.remove(&name);
                    self.listeners.insert(name.clone(), fingerprint);
                    None
                }
                Outcome::New(config) => match self.warm_listener(config, &version) {
                    Ok(()) => {
                        self.listeners.insert(name.clone(), fingerprint);
                        None
                    }
                    Err(reason) => Some(reason),
                },
            };
            match failed {
                Some(reason) => outcomes.1.push(format!("Error adding/updating listener(s) {name}: {reason}")),
                None => outcomes.0.push((name, version)),
            }
        }
        outcomes
    }

    pub(super) fn warm_listener(&mut self, config: Arc<ListenerConfig>, version: &str) -> Result<(), String> {
        let name = config.model.name.clone();
        // The sockets of one that never served.
        self.warming_listeners.remove(&name);
        let sockets = self.server.resources.open_listener(&config)?;
        for routes in config.dynamic_routes() {
            self.use_routes(routes);
        }
        let version = version.to_owned();
        self.warming_listeners.insert(name.clone(), WarmingListener { config, sockets, version });
        if self.is_listener_warm(&name) {
            self.serve_listener(&name);
        }
        Ok(())
    }

    fn is_listener_warm(&mut self, name: &str) -> bool {
        let Some(listener) = self.warming_listeners.get(name) else { return false };
        let missing = listener.config.missing_secrets();
        self.is_past_waiting(&missing) && self.has_routes(name)
    }

    pub(super) fn serve_listener(&mut self, name: &str) {
        if let Some(WarmingListener { config, sockets, version }) = self.warming_listeners.remove(name) {
            self.server.resources.serve_listener(&config, sockets, Some(version));
        }
    }

    pub(super) fn serve_waiting_listeners(&mut self) {
        let names: Vec<_> = self.warming_listeners.keys().cloned().collect();
        for name in names {
            if self.is_listener_warm(&name) {
                self.serve_listener(&name);
            }
        }
    }
}
