//! Layers of runtime values (RTDS). They are asked for before everything else.

use super::{Key, Manager, Named, Outcomes, known, off_thread};
use crate::xds::{
    Event, Kind,
    build::{Built, Outcome},
};
use sota_config::{bootstrap::RuntimeSource, config_source::ConfigSource};
use sota_envoy::discovery::Response;
use std::{collections::BTreeMap, sync::Arc};

impl Manager {
    /// Asks for the layers of the bootstrap.
    pub(super) fn want_runtimes(&mut self) {
        let bootstrap = Arc::clone(&self.server.bootstrap.borrow());
        let mut wanted: BTreeMap<Key, Arc<ConfigSource>> = BTreeMap::new();
        for layer in &bootstrap.layered_runtime {
            if let RuntimeSource::Rtds { name, source } = &layer.source {
                wanted.insert((self.source(&source.kind, Kind::Runtimes), name.clone()), Arc::clone(source));
            }
        }
        for ((id, name), source) in &wanted {
            self.runtimes.insert((*id, name.clone()), Named::default());
            self.server.runtime_updates().update_attempt.inc();
            self.wait(source, Event::Late(Kind::Runtimes, *id, name.clone()));
        }
        self.tell_names(Kind::Runtimes, wanted.into_keys());
    }

    /// Whether each layer has come, or has been waited for long enough.
    pub(super) fn has_runtimes(&self) -> bool {
        self.runtimes.values().all(|layer| layer.value.is_some() || layer.is_late)
    }

    pub(super) fn late_runtime(&mut self, key: &Key) {
        if let Some(layer) = self.runtimes.get_mut(key)
            && layer.value.is_none()
        {
            layer.is_late = true;
            self.server.runtime_updates().init_fetch_timeout.inc();
        }
    }

    pub(super) fn note_lost_runtimes(&self, source: usize) {
        let of_it = self.runtimes.keys().filter(|(id, _)| *id == source);
        of_it.for_each(|_| self.server.runtime_updates().update_failure.inc());
    }

    /// A layer that is removed has no values any more; one that is left out stays.
    pub(super) async fn update_runtimes(&mut self, source: usize, response: Response, removed: &[String]) -> Outcomes {
        let known = known(&self.runtimes, source);
        let builder = self.builder();
        let built = off_thread(move || builder.runtimes(&response, &known)).await;
        let mut outcomes = Outcomes::default();
        for name in removed {
            if let Some(layer) = self.runtimes.get_mut(&(source, name.clone())) {
                *layer = Named { is_late: true, ..Named::default() };
                self.server.set_runtime_layer(name, None);
            }
        }
        for Built { name, version, fingerprint, result } in built {
            let updates = self.server.runtime_updates();
            updates.update_attempt.inc();
            let layer = self.runtimes.get_mut(&(source, name.clone()));
            match (result, layer) {
                (Outcome::Bad(reason), layer) => {
                    updates.update_rejected.inc();
                    if let Some(layer) = layer {
                        layer.is_late = true;
                    }
                    outcomes.1.push(format!("Error updating runtime layer {name}: {reason}"));
                    continue;
                }
                // More may be sent than is wanted.
                (_, None) => continue,
                (Outcome::Again, Some(_)) => {}
                (Outcome::Same, Some(layer)) => layer.fingerprint = Some(fingerprint),
                (Outcome::New(values), Some(layer)) => {
                    layer.fingerprint = Some(fingerprint);
                    self.server.set_runtime_layer(&name, Some(&values));
                    layer.value = Some(values);
                }
            }
            updates.note_success();
            outcomes.0.push((name, version));
        }
        outcomes
    }
}
