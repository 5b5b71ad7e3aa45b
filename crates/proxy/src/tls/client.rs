//! The client's side: what connections to hosts are made with.

use super::{
    application_protocols,
    certificate::OwnCertificate,
    context::{Context, Material, State},
    params::{key_log, provider, versions},
    validator::Validator,
    verifier::ServerVerifier,
};
use rustls::{
    ClientConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    pki_types::ServerName,
    sign::CertifiedKey,
};
use sota_config::tls::{CommonTls, TicketKeySource, TlsVersion, UpstreamTls};
use sota_plugin::{FactoryContext, info::CertificateInfo};
use std::sync::Arc;

/// What connections to hosts are made with.
pub(crate) type ClientContext = Context<ClientState>;

/// What it is made of at the moment.
pub(crate) struct ClientState {
    pub(super) config: Arc<ClientConfig>,
    /// The same without the server's name in the hello.
    pub(super) without_name: Arc<ClientConfig>,
    pub(super) certificate: Option<Arc<OwnCertificate>>,
}

impl ClientContext {
    /// Builds it; errors are at the field `transport_socket`.
    pub(crate) fn new(
        model: &Arc<UpstreamTls>,
        cx: &FactoryContext<'_>,
    ) -> Result<Arc<Self>, sota_config::ConfigError> {
        let built = match ServerName::try_from(model.sni.as_str()) {
            Err(_) if !model.sni.is_empty() => Err(format!("sni: \"{}\" is no host name", model.sni.escape_debug())),
            _ => Self::build(model, cx.secrets),
        };
        built.map_err(|reason| cx.error("transport_socket", Default::default(), reason))
    }

    /// Its certificates now: one at most.
    pub(crate) fn certificates(&self) -> Vec<Arc<CertificateInfo>> {
        let state = self.state();
        state.iter().flat_map(|state| &state.certificate).map(|certificate| Arc::clone(&certificate.info)).collect()
    }
}

impl State for ClientState {
    type Model = UpstreamTls;

    fn common(model: &UpstreamTls) -> &CommonTls {
        &model.common
    }

    fn tickets(_: &UpstreamTls) -> Option<&TicketKeySource> {
        None
    }

    fn make(model: &UpstreamTls, material: Material) -> Result<Self, String> {
        let validator = material.validation.as_ref().map(Validator::read).transpose()?.map(Arc::new);
        let provider = provider(&model.common.params);
        let versions = versions(&model.common.params, TlsVersion::V1_2);
        let verifier = ServerVerifier {
            validator,
            provider: Arc::clone(&provider),
            checks_name: model.auto_sni_san_validation || model.checks_request_name,
            checks_address: model.checks_request_name,
        };
        let certificate = material.certificates.into_iter().next().map(Arc::new);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &certificate {
            Some(own) => builder.with_client_cert_resolver(Arc::new(Single(Arc::clone(&own.key)))),
            None => builder.with_no_client_auth(),
        };
        if let Some(log) = key_log(model.common.key_log.as_ref())? {
            config.key_log = log;
        }
        config.alpn_protocols = application_protocols(&model.common.alpn_protocols);
        config.resumption = match model.max_session_keys {
            Some(0) => Resumption::disabled(),
            most => Resumption::in_memory_sessions(usize::try_from(most.unwrap_or(1)).unwrap_or(1)),
        };
        let mut without_name = config.clone();
        without_name.enable_sni = false;
        Ok(Self { config: Arc::new(config), without_name: Arc::new(without_name), certificate })
    }
}

/// The one certificate, whatever authorities the server names: as Envoy does.
#[derive(Debug)]
struct Single(Arc<CertifiedKey>);

impl ResolvesClientCert for Single {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
