//! Secrets that TLS contexts ask for by name (SDS).

use super::{Key, Manager, Named, NamedSecret, Outcomes};
use crate::xds::{
    Event, Kind,
    build::{Before, Built, Outcome},
};
use sota_config::{
    config_source::ConfigSource,
    secret::{SecretRef, SecretSource},
};
use sota_envoy::discovery::Response;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

impl Manager {
    fn secret_key(&mut self, source: &ConfigSource, name: &str) -> Key {
        (self.source_of(&source.kind, Kind::Secrets, name), name.to_owned())
    }

    /// Asks for the secrets of the listeners and clusters that there are.
    pub(super) fn want_secrets(&mut self) {
        let mut wanted: BTreeMap<Key, Vec<(SecretRef, bool)>> = BTreeMap::new();
        for (secret, has_come) in self.server.inputs.secrets.discovered() {
            if let SecretSource::Discovered(source) = &secret.source {
                let key = self.secret_key(source, &secret.name);
                wanted.entry(key).or_default().push((secret, has_come));
            }
        }
        self.secrets.retain(|key, _| wanted.contains_key(key));
        for (key, users) in &wanted {
            let names = || users.iter().map(|(user, _)| user.clone()).collect();
            match self.secrets.entry(key.clone()) {
                Entry::Vacant(new) => {
                    let stats = self.server.scope.child(&format!("sds.{}.", key.1)).group();
                    new.insert(NamedSecret { named: Named::default(), users: names(), stats })
                        .stats
                        .update_attempt
                        .inc();
                    // The longest patience of all users.
                    let sources = users.iter().filter_map(|(user, _)| match &user.source {
                        SecretSource::Discovered(source) => Some(source),
                        _ => None,
                    });
                    let longest =
                        sources.max_by_key(|of| (of.initial_fetch_timeout.is_none(), of.initial_fetch_timeout));
                    if let Some(source) = longest {
                        self.wait(source, Event::Late(Kind::Secrets, key.0, key.1.clone()));
                    }
                }
                Entry::Occupied(known) => {
                    let known = known.into_mut();
                    known.users = names();
                    let empty: Vec<_> = users.iter().filter(|(_, has)| !has).map(|(user, _)| user.clone()).collect();
                    // It was known under another time-out.
                    if let Some(value) = known.named.value.as_ref().filter(|_| !empty.is_empty())
                        && let Err(reason) = self.server.inputs.secrets.bring(&empty, value)
                    {
                        tracing::warn!(target: "config", "the secret {} cannot be used: {reason}", key.1);
                    }
                }
            }
        }
        self.tell_names(Kind::Secrets, wanted.into_keys());
    }

    /// Asks no more for what nobody uses.
    pub(super) fn forget_unused_secrets(&mut self) {
        let known: usize = self.secrets.values().map(|secret| secret.users.len()).sum();
        if self.server.inputs.secrets.discovered().len() != known {
            self.want_secrets();
        }
    }

    /// Whether each secret has come, or has been waited for long enough.
    pub(super) fn has_secrets(&self) -> bool {
        self.secrets.values().all(|secret| secret.named.value.is_some() || secret.named.is_late)
    }

    /// Whether none of these is waited for.
    pub(super) fn is_past_waiting(&mut self, missing: &[SecretRef]) -> bool {
        missing.iter().all(|secret| match &secret.source {
            SecretSource::Discovered(source) => {
                let key = self.secret_key(source, &secret.name);
                self.secrets.get(&key).is_some_and(|of| of.named.is_late)
            }
            SecretSource::Named | SecretSource::File(_) => true,
        })
    }

    pub(super) fn late_secret(&mut self, key: &Key) {
        if let Some(secret) = self.secrets.get_mut(key)
            && secret.named.value.is_none()
        {
            secret.named.is_late = true;
            secret.stats.init_fetch_timeout.inc();
        }
    }

    pub(super) fn note_lost_secrets(&self, source: usize) {
        let of_it = self.secrets.iter().filter(|((id, _), _)| *id == source);
        of_it.for_each(|(_, secret)| secret.stats.update_failure.inc());
    }

    /// What is removed or left out stays: connections could not be had without it.
    pub(super) async fn update_secrets(&mut self, source: usize, response: Response) -> Outcomes {
        let own = self.secrets.iter().filter(|((id, _), _)| *id == source);
        let known: BTreeMap<_, _> = own
            .map(|((_, name), of)| {
                let served = of.named.value.clone();
                (name.clone(), Before { fingerprint: of.named.fingerprint, served })
            })
            .collect();
        let users: BTreeMap<_, _> = known
            .keys()
            .filter_map(|name| Some((name.clone(), self.secrets.get(&(source, name.clone()))?.users.clone())))
            .collect();
        let (builder, secrets) = (self.builder(), Arc::clone(&self.server.inputs.secrets));
        let built = super::off_thread(move || {
            let mut built = builder.secrets(&response, &known);
            for Built { name, result, .. } in &mut built {
                if let (Outcome::New(secret), Some(users)) = (&*result, users.get(name))
                    && let Err(reason) = secrets.bring(users, secret)
                {
                    *result = Outcome::Bad(reason);
                }
            }
            built
        })
        .await;
        let mut outcomes = Outcomes::default();
        for Built { name, version, fingerprint, result } in built {
            let Some(secret) = self.secrets.get_mut(&(source, name.clone())) else {
                // More may be sent than is wanted.
                if let Outcome::Bad(reason) = result {
                    outcomes.1.push(format!("Error updating secret {name}: {reason}"));
                }
                continue;
            };
            secret.stats.update_attempt.inc();
            match result {
                Outcome::Bad(reason) => {
                    secret.stats.update_rejected.inc();
                    // As Envoy: what waits for a secret does not wait for a better one.
                    secret.named.is_late = true;
                    outcomes.1.push(format!("Error updating secret {name}: {reason}"));
                    continue;
                }
                Outcome::Again => {}
                Outcome::Same => secret.named.fingerprint = Some(fingerprint),
                Outcome::New(value) => {
                    secret.named.fingerprint = Some(fingerprint);
                    secret.named.value = Some(value);
                }
            }
            secret.stats.note_success();
            outcomes.0.push((name, version));
        }
        outcomes
    }
}
