//! Route configurations that connection managers ask for by name.

use super::{Key, Manager, Named, Outcomes, known, off_thread};
use crate::xds::{
    Event, Kind,
    build::{Built, Outcome},
};
use sota_config::config_source::ConfigSource;
use sota_envoy::discovery::Response;
use sota_proxy::router::{Brought, DynamicRoutes};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Weak},
    time::SystemTime,
};

impl Manager {
    /// Gives a connection manager the table that it wants, now and whenever there is another.
    pub(super) fn use_routes(&mut self, routes: &Arc<DynamicRoutes>) {
        let key = self.routes_key(routes);
        if routes.brought().is_none()
            && let Some(brought) = self.routes.get(&key).and_then(|of| of.value.as_ref())
        {
            routes.set(brought);
        }
        let users = self.users.entry(key).or_default();
        users.retain(|user| user.strong_count() > 0);
        if !users.iter().any(|user| user.as_ptr() == Arc::as_ptr(routes)) {
            users.push(Arc::downgrade(routes));
        }
    }

    pub(super) fn routes_key(&mut self, routes: &DynamicRoutes) -> Key {
        (self.source(&routes.source().kind, Kind::Routes), routes.name().to_owned())
    }

    pub(super) fn has_routes(&mut self, listener: &str) -> bool {
        let Some(listener) = self.warming_listeners.get(listener) else { return false };
        let config = Arc::clone(&listener.config);
        config.dynamic_routes().all(|routes| {
            let key = self.routes_key(routes);
            self.routes.get(&key).is_some_and(|of| of.value.is_some() || of.is_late)
        })
    }

    /// Asks for the routes of the listeners that there are.
    pub(super) fn want_routes(&mut self) {
        let mut all = Vec::new();
        self.server.resources.each_listener(|listener| all.push(Arc::clone(&listener.config)));
        all.extend(self.warming_listeners.values().map(|listener| Arc::clone(&listener.config)));
        let mut wanted: BTreeMap<Key, Arc<ConfigSource>> = BTreeMap::new();
        for routes in all.iter().flat_map(|config| config.dynamic_routes()) {
            self.use_routes(routes);
            wanted.insert(self.routes_key(routes), Arc::clone(routes.source()));
        }
        self.routes.retain(|key, _| wanted.contains_key(key));
        self.users.retain(|key, _| wanted.contains_key(key));
        for ((id, name), source) in &wanted {
            if let Entry::Vacant(new) = self.routes.entry((*id, name.clone())) {
                new.insert(Named::default());
                self.wait(source, Event::Late(Kind::Routes, *id, name.clone()));
            }
        }
        self.tell_names(Kind::Routes, wanted.into_keys());
    }

    pub(super) async fn update_routes(&mut self, source: usize, response: Response) -> Outcomes {
        let known = known(&self.routes, source);
        let builder = self.builder();
        let built = off_thread(move || builder.routes(&response, &known)).await;
        let mut outcomes = Outcomes::default();
        for Built { name, version, fingerprint, result } in built {
            let key = (source, name.clone());
            match result {
                Outcome::Bad(reason) => {
                    outcomes.1.push(format!("Error updating route configuration {name}: {reason}"));
                    continue;
                }
                Outcome::Again => {}
                Outcome::Same => {
                    if let Some(named) = self.routes.get_mut(&key) {
                        named.fingerprint = Some(fingerprint);
                    }
                }
                Outcome::New(table) => {
                    if let Some(named) = self.routes.get_mut(&key) {
                        named.fingerprint = Some(fingerprint);
                        let version = version.as_str().into();
                        let brought = Brought { table, version, last_updated: SystemTime::now() };
                        let users = self.users.get(&key).into_iter().flatten();
                        users.filter_map(Weak::upgrade).for_each(|user| user.set(&brought));
                        named.value = Some(Arc::new(brought));
                    }
                }
            }
            outcomes.0.push((name, version));
        }
        outcomes
    }
}
