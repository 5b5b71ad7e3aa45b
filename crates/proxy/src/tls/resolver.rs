//! Which certificate a client gets: by the name that it asks for and the keys that it can verify.

use super::certificate::OwnCertificate;
use rustls::{
    SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{collections::HashMap, sync::Arc};

/// The certificates of a server.
#[derive(Debug)]
pub(super) struct Certificates {
    all: Vec<OwnCertificate>,
    /// Names, `*.` and a suffix among them, to positions.
    by_name: HashMap<String, Vec<usize>>,
    /// For a name that none has: look for one that the client can verify, instead of the first.
    full_scan: bool,
}

impl Certificates {
    pub(super) fn new(all: Vec<OwnCertificate>, full_scan: bool) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, certificate) in all.iter().enumerate() {
            for name in &certificate.names {
                by_name.entry(name.clone()).or_default().push(at);
            }
        }
        Self { all, by_name, full_scan }
    }

    /// Every certificate.
    pub(super) fn all(&self) -> &[OwnCertificate] {
        &self.all
    }

    /// The certificate for a client.
    pub(super) fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&OwnCertificate> {
        let fits = |certificate: &&OwnCertificate| certificate.key.key.choose_scheme(schemes).is_some();
        let any = || self.all.iter().find(fits).or_else(|| self.all.first());
        let Some(name) = name.map(str::to_ascii_lowercase) else { return any() };
        let wildcard = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let named = |name: &String| self.by_name.get(name).into_iter().flatten().filter_map(|at| self.all.get(*at));
        let found =
            named(&name).find(fits).or_else(|| wildcard.as_ref().and_then(|wildcard| named(wildcard).find(fits)));
        match found {
            None if self.full_scan => any(),
            None => self.all.first().filter(fits).or_else(any),
            found => found,
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes()).map(|certificate| Arc::clone(&certificate.key))
    }
}
