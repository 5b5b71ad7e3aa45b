//! What a context is built from, and how it is built anew when that changes.

use super::certificate::{OwnCertificate, sha256};
use sota_config::{
    secret::{DataSource, Secret, SecretKind, SecretRef, TlsCertificate},
    tls::{CertificateSource, CommonTls, TicketKeySource, ValidationContext},
};
use sota_plugin::{
    file_version::FileVersion,
    secrets::{Refreshed, SecretSlot, SecretUser, Secrets},
};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

/// What connections of one side are made with.
pub(crate) trait State: Send + Sync + Sized + 'static {
    /// What configures it.
    type Model: Send + Sync;

    /// The part that both sides have.
    fn common(model: &Self::Model) -> &CommonTls;

    /// Where the keys of tickets are from.
    fn tickets(model: &Self::Model) -> Option<&TicketKeySource>;

    /// Builds it.
    fn make(model: &Self::Model, material: Material) -> Result<Self, String>;
}

/// What was read from secrets and files.
pub(crate) struct Material {
    pub(super) certificates: Vec<OwnCertificate>,
    pub(super) validation: Option<ValidationContext>,
    pub(super) ticket_keys: Vec<Vec<u8>>,
}

/// Where it was read from, as it looked then.
#[derive(Default, PartialEq)]
struct Seen {
    secrets: Vec<usize>,
    files: Vec<(PathBuf, Option<FileVersion>)>,
}

/// A context: shared by all threads; what it is at the moment can change.
pub(crate) struct Context<S: State> {
    pub(super) model: Arc<S::Model>,
    slots: Slots,
    /// `None` until every secret has come.
    state: RwLock<Option<Arc<S>>>,
    seen: Mutex<Seen>,
}

/// The secrets that the configuration names.
#[derive(Default)]
struct Slots {
    certificates: Vec<Option<Arc<SecretSlot>>>,
    validation: Option<Arc<SecretSlot>>,
    tickets: Option<Arc<SecretSlot>>,
}

impl Slots {
    /// The secrets that have not come.
    fn missing<'a, S: State>(&'a self, model: &'a S::Model) -> impl Iterator<Item = &'a SecretRef> {
        let common = S::common(model);
        let certificates = common.certificates.iter().map(|source| match source {
            CertificateSource::Inline(_) => None,
            CertificateSource::Secret(secret) => Some(secret),
        });
        let tickets = match S::tickets(model) {
            Some(TicketKeySource::Secret(secret)) => Some(secret),
            _ => None,
        };
        let others = [(common.validation_secret.as_ref(), &self.validation), (tickets, &self.tickets)];
        let all = certificates.zip(&self.certificates).chain(others);
        all.filter_map(|(secret, slot)| secret.filter(|_| slot.as_ref().is_some_and(|slot| slot.get().is_none())))
    }
}

impl<S: State> Context<S> {
    /// Builds it, and registers it with the secrets.
    pub(super) fn build(model: &Arc<S::Model>, secrets: &Secrets) -> Result<Arc<Self>, String> {
        let common = S::common(model);
        let mut slots = Slots::default();
        for source in &common.certificates {
            slots.certificates.push(match source {
                CertificateSource::Inline(_) => None,
                CertificateSource::Secret(secret) => Some(secrets.find(secret)?),
            });
        }
        slots.validation = common.validation_secret.as_ref().map(|secret| secrets.find(secret)).transpose()?;
        if let Some(TicketKeySource::Secret(secret)) = S::tickets(model) {
            slots.tickets = Some(secrets.find(secret)?);
        }
        let (state, seen) = match slots.missing::<S>(model).next() {
            // It has seen nothing: what comes before it is registered is taken over at the next refresh.
            Some(_) => (None, Seen::default()),
            None => {
                let (material, seen) = read::<S>(model, &slots);
                (Some(Arc::new(S::make(model, material?)?)), seen)
            }
        };
        let context =
            Arc::new(Self { state: RwLock::new(state), model: Arc::clone(model), slots, seen: Mutex::new(seen) });
        secrets.register(&(Arc::clone(&context) as Arc<dyn SecretUser>));
        Ok(context)
    }

    /// What new connections are made with; `None` while a secret is missing.
    pub(super) fn state(&self) -> Option<Arc<S>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The secrets that it waits for; none once it can be used.
    pub(crate) fn missing(&self) -> Vec<SecretRef> {
        match self.state() {
            Some(_) => Vec::new(),
            None => self.slots.missing::<S>(&self.model).cloned().collect(),
        }
    }
}

impl<S: State> SecretUser for Context<S> {
    /// Secrets that cannot be used leave what there is.
    fn refresh(&self) -> Refreshed {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == look::<S>(&self.model, &self.slots) {
            return Refreshed::Unchanged;
        }
        if self.state().is_none() && self.slots.missing::<S>(&self.model).next().is_some() {
            return Refreshed::Unchanged;
        }
        let (material, now) = read::<S>(&self.model, &self.slots);
        *seen = now;
        match material.and_then(|material| S::make(&self.model, material)) {
            Ok(state) => {
                *self.state.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(state));
                Refreshed::Updated
            }
            Err(reason) => Refreshed::Rejected(reason),
        }
    }

    fn uses(&self, slot: &Arc<SecretSlot>) -> bool {
        let Slots { certificates, validation, tickets } = &self.slots;
        certificates.iter().chain([validation, tickets]).flatten().any(|own| Arc::ptr_eq(own, slot))
    }
}

impl<S: State> std::fmt::Debug for Context<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

/// The certificates and rules that count now, with the secrets in their places.
struct Current {
    certificates: Vec<Result<TlsCertificate, String>>,
    validation: Result<Option<ValidationContext>, String>,
    tickets: Result<Vec<DataSource>, String>,
    seen: Seen,
}

fn current<S: State>(model: &S::Model, slots: &Slots) -> Current {
    let common = S::common(model);
    let mut seen = Seen::default();
    let mut take = |slot: &Option<Arc<SecretSlot>>| -> Option<Arc<Secret>> {
        let secret = slot.as_ref()?.get();
        seen.secrets.push(secret.as_ref().map_or(0, |secret| Arc::as_ptr(secret) as usize));
        secret
    };
    let mut certificates = Vec::new();
    for (source, slot) in common.certificates.iter().zip(&slots.certificates) {
        let secret = take(slot);
        certificates.push(match (source, secret.as_ref().map(|secret| &secret.kind)) {
            (CertificateSource::Inline(certificate), _) => {
                Ok((certificate.clone(), certificate.watched_directory.is_some()))
            }
            (_, Some(SecretKind::Certificate(certificate))) => Ok((certificate.clone(), true)),
            _ => Err("the secret has no certificate".to_owned()),
        });
    }
    let secret = take(&slots.validation);
    let own = common.validation.clone();
    let watched = own.as_ref().is_some_and(|own| own.watched_directory.is_some());
    let validation = match (&slots.validation, secret.as_ref().map(|secret| &secret.kind)) {
        (None, _) => Ok((own, watched)),
        (Some(_), Some(SecretKind::Validation(more))) => Ok((Some(own.unwrap_or_default().merged(more)), true)),
        _ => Err("the secret has no validation context".to_owned()),
    };
    let secret = take(&slots.tickets);
    let tickets = match (S::tickets(model), secret.as_ref().map(|secret| &secret.kind)) {
        (None, _) => Ok(Vec::new()),
        (Some(TicketKeySource::Inline(keys)), _) => Ok(keys.clone()),
        (_, Some(SecretKind::TicketKeys(keys))) => Ok(keys.clone()),
        _ => Err("the secret has no keys of session tickets".to_owned()),
    };
    let mut watch = |source: &DataSource| {
        if let DataSource::File(path) = source {
            seen.files.push((path.clone(), FileVersion::of(path)));
        }
    };
    for (certificate, _) in certificates.iter().flatten().filter(|(_, is_watched)| *is_watched) {
        watch(&certificate.chain);
        watch(&certificate.key);
    }
    if let Ok((Some(rules), true)) = &validation {
        rules.trusted_ca.iter().chain(&rules.crl).for_each(&mut watch);
        rules.spiffe.iter().flatten().for_each(|domain| watch(&domain.bundle));
    }
    if slots.tickets.is_some() {
        tickets.iter().flatten().for_each(&mut watch);
    }
    Current {
        certificates: certificates.into_iter().map(|made| made.map(|(certificate, _)| certificate)).collect(),
        validation: validation.map(|(rules, _)| rules),
        tickets,
        seen,
    }
}

fn look<S: State>(model: &S::Model, slots: &Slots) -> Seen {
    current::<S>(model, slots).seen
}

/// Reads everything. What was seen is from before: a change while it is read is seen the next time.
fn read<S: State>(model: &S::Model, slots: &Slots) -> (Result<Material, String>, Seen) {
    let Current { certificates, validation, tickets, seen } = current::<S>(model, slots);
    let material = || {
        let own = |certificate: Result<TlsCertificate, String>| {
            certificate.and_then(|certificate| OwnCertificate::read(&certificate.chain, &certificate.key))
        };
        Ok(Material {
            certificates: certificates.into_iter().map(own).collect::<Result<_, String>>()?,
            validation: validation?,
            ticket_keys: tickets?.iter().map(DataSource::read).collect::<Result<_, _>>()?,
        })
    };
    (material(), seen)
}

impl Material {
    /// Tells contexts apart: their certificates, authorities and rules.
    pub(super) fn identity(&self) -> Result<[u8; 32], String> {
        let mut all = Vec::new();
        for certificate in &self.certificates {
            all.extend_from_slice(certificate.info.sha256.as_bytes());
        }
        if let Some(rules) = &self.validation {
            for source in
                rules.trusted_ca.iter().chain(&rules.crl).chain(rules.spiffe.iter().flatten().map(|d| &d.bundle))
            {
                all.extend_from_slice(&sha256(&source.read()?));
            }
            let shown = ValidationContext { trusted_ca: None, crl: None, ..rules.clone() };
            all.extend_from_slice(format!("{shown:?}").as_bytes());
        }
        Ok(sha256(&all))
    }
}
