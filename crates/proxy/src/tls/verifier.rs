//! The validator as the library calls it. Signatures of the handshake are always checked.

use super::validator::Validator;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use std::sync::Arc;
use webpki::KeyUsage;

/// Checks certificates of clients.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) validator: Option<Arc<Validator>>,
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) is_required: bool,
}

/// Checks certificates of servers.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    /// None: every certificate is good, as Envoy has it without a validation context.
    pub(super) validator: Option<Arc<Validator>>,
    pub(super) provider: Arc<CryptoProvider>,
    /// The certificate must have the name that was sent.
    pub(super) checks_name: bool,
    /// Also where that is an address.
    pub(super) checks_address: bool,
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls12_signature(message, certificate, signature, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.validator.as_ref().map_or(&[], |validator| &validator.hints)
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let result = self.validator.as_ref().map_or(Ok(()), |validator| {
            let result = validator.check(leaf, others, KeyUsage::client_auth(), None, now);
            if validator.accepts_untrusted() { Ok(()) } else { result }
        });
        result.map(|()| ClientCertVerified::assertion()).map_err(Error::from)
    }

    signatures!();
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let address;
        let host = match server_name {
            ServerName::DnsName(name) if self.checks_name => Some(name.as_ref()),
            ServerName::IpAddress(ip) if self.checks_address => {
                address = std::net::IpAddr::from(*ip).to_string();
                Some(&*address)
            }
            _ => None,
        };
        let result = self.validator.as_ref().map_or(Ok(()), |validator| {
            let result = validator.check(leaf, others, KeyUsage::server_auth(), host, now);
            if validator.accepts_untrusted() { Ok(()) } else { result }
        });
        result.map(|()| ServerCertVerified::assertion()).map_err(Error::from)
    }

    signatures!();
}
