//! What is counted of handshakes, by Envoy's names.

use super::handshake::{HandshakeFailure, Reason};
use sota_plugin::{
    info::TlsInfo,
    stat_group,
    stats::{Counter, Group, Scope},
};
use std::{cell::RefCell, collections::HashMap};

stat_group! {
    /// `listener.<address>.ssl.` and `cluster.<name>.ssl.`
    pub(crate) struct SslStats {
        /// Handshakes that failed for the protocol.
        connection_error: counter,
        /// Handshakes that succeeded.
        handshake: counter,
        /// Of them those that resumed a session.
        session_reused: counter,
        /// Of them those without a certificate of the client.
        no_certificate: counter,
        /// Clients without a certificate that had to have one.
        fail_verify_no_cert: counter,
        /// Certificates that nobody vouches for.
        fail_verify_error: counter,
        /// Certificates without the names.
        fail_verify_san: counter,
        /// Certificates that are none of those expected.
        fail_verify_cert_hash: counter,
    }
}

/// What one worker counts of a listener's or a cluster's handshakes.
pub(crate) struct TlsStats {
    owner: Scope,
    scope: Scope,
    ssl: Group<SslStats>,
    /// Counters of what was agreed on, by kind and name. The names are the library's, so there are few.
    agreed: RefCell<HashMap<(&'static str, &'static str), Counter>>,
}

impl TlsStats {
    /// Below the scope of a listener or cluster.
    pub(crate) fn new(owner: &Scope) -> Self {
        let scope = owner.child("ssl.");
        Self { ssl: scope.group(), owner: owner.clone(), scope, agreed: RefCell::default() }
    }

    /// A handshake has succeeded.
    pub(crate) fn succeeded(&self, info: &TlsInfo, is_server: bool) {
        self.ssl.handshake.inc();
        if info.is_resumed {
            self.ssl.session_reused.inc();
        }
        if is_server && info.peer.is_empty() {
            self.ssl.no_certificate.inc();
        }
        for (kind, name) in [("versions", info.version), ("ciphers", info.cipher), ("curves", info.group)] {
            if !name.is_empty() {
                let mut agreed = self.agreed.borrow_mut();
                let new = || self.scope.counter_dyn(&format!("{kind}.{name}"));
                agreed.entry((kind, name)).or_insert_with(new).inc();
            }
        }
    }

    /// A handshake has failed.
    pub(crate) fn failed(&self, failure: &HandshakeFailure) {
        match failure {
            HandshakeFailure::Closed => return,
            HandshakeFailure::NotReady { is_server } => {
                let name = match is_server {
                    true => "server_ssl_socket_factory.downstream_context_secrets_not_ready",
                    false => "client_ssl_socket_factory.upstream_context_secrets_not_ready",
                };
                return self.owner.counter_dyn(name).inc();
            }
            HandshakeFailure::NoCertificate => self.ssl.fail_verify_no_cert.inc(),
            HandshakeFailure::Certificate(Reason::Chain(_)) => self.ssl.fail_verify_error.inc(),
            HandshakeFailure::Certificate(Reason::Names(_)) => self.ssl.fail_verify_san.inc(),
            HandshakeFailure::Certificate(Reason::Hash(_)) => self.ssl.fail_verify_cert_hash.inc(),
            HandshakeFailure::Protocol(_) => {}
        }
        self.ssl.connection_error.inc();
    }
}
