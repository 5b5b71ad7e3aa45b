//! The server's side: what connections of clients are accepted with.

use super::{
    application_protocols,
    context::{Context, Material, State},
    params::{key_log, provider, versions},
    resolver::Certificates,
    tickets::Tickets,
    validator::Validator,
    verifier::ClientVerifier,
};
use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, ServerSessionMemoryCache},
};
use sota_config::tls::{CommonTls, DownstreamTls, TicketKeySource, TlsVersion};
use sota_plugin::{FactoryContext, info::CertificateInfo};
use std::sync::Arc;

/// Sessions that are kept in memory for clients that take no tickets.
const SESSIONS: usize = 1024;

/// What connections of clients are accepted with.
pub(crate) type ServerContext = Context<ServerState>;

/// What it is made of at the moment.
pub(crate) struct ServerState {
    pub(super) config: Arc<ServerConfig>,
    /// The same without application protocols, for a client that has none of ours: the library would refuse it.
    pub(super) without_alpn: Arc<ServerConfig>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) validator: Option<Arc<Validator>>,
}

impl ServerContext {
    /// Builds it; errors are at the field `transport_socket`.
    pub(crate) fn new(
        model: &Arc<DownstreamTls>,
        cx: &FactoryContext<'_>,
    ) -> Result<Arc<Self>, sota_config::ConfigError> {
        Self::build(model, cx.secrets).map_err(|reason| cx.error("transport_socket", Default::default(), reason))
    }

    /// Its certificates now.
    pub(crate) fn certificates(&self) -> Vec<Arc<CertificateInfo>> {
        let state = self.state();
        state
            .iter()
            .flat_map(|state| state.certificates.all())
            .map(|certificate| Arc::clone(&certificate.info))
            .collect()
    }
}

impl State for ServerState {
    type Model = DownstreamTls;

    fn common(model: &DownstreamTls) -> &CommonTls {
        &model.common
    }

    fn tickets(model: &DownstreamTls) -> Option<&TicketKeySource> {
        model.session_ticket_keys.as_ref()
    }

    fn make(model: &DownstreamTls, material: Material) -> Result<Self, String> {
        let identity = material.identity()?;
        let validator = material.validation.as_ref().map(Validator::read).transpose()?.map(Arc::new);
        let provider = provider(&model.common.params);
        let versions = versions(&model.common.params, TlsVersion::V1_3);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|error| error.to_string())?;
        let wants = validator.as_ref().is_some_and(|validator| validator.wants_certificate());
        let builder = if wants || model.require_client_certificate {
            let is_required = model.require_client_certificate;
            let validator = validator.clone();
            builder.with_client_cert_verifier(Arc::new(ClientVerifier { validator, provider, is_required }))
        } else {
            builder.with_no_client_auth()
        };
        let certificates = Arc::new(Certificates::new(material.certificates, model.full_scan_certs_on_sni_mismatch));
        let mut config = builder.with_cert_resolver(Arc::clone(&certificates) as _);
        config.ignore_client_order = !model.prefer_client_ciphers;
        if let Some(log) = key_log(model.common.key_log.as_ref())? {
            config.key_log = log;
        }
        config.session_storage = match model.disable_stateful_resumption {
            true => Arc::new(NoServerSessionStorage {}),
            false => ServerSessionMemoryCache::new(SESSIONS),
        };
        if !model.disable_stateless_resumption {
            config.ticketer = Arc::new(Tickets::new(&material.ticket_keys, identity, model.session_timeout)?);
        } else if model.disable_stateful_resumption {
            config.send_tls13_tickets = 0;
        }
        let without_alpn = Arc::new(config.clone());
        config.alpn_protocols = application_protocols(&model.common.alpn_protocols);
        Ok(Self { config: Arc::new(config), without_alpn, certificates, validator })
    }
}
