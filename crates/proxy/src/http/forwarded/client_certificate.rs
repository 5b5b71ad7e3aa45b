//! `x-forwarded-client-cert`: who the client is by its certificate, for those behind us.

use sota_config::http::{ClientCertDetails, ForwardClientCert};
use sota_plugin::{
    http::{HeaderId, RequestHead},
    info::{CertificateInfo, ConnectionInfo, TlsInfo},
};
use std::fmt::Write as _;

/// What becomes of the field, as configured.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientCertificate {
    pub(super) mode: ForwardClientCert,
    pub(super) details: ClientCertDetails,
}

impl ClientCertificate {
    /// Removes, keeps, sets or appends to the field. Without a certificate of the client nobody is believed, except where
    /// everybody is.
    pub(super) fn apply(self, head: &mut RequestHead, connection: &ConnectionInfo) {
        let id = HeaderId::XForwardedClientCert;
        let tls = connection.tls.get().and_then(|tls| Some((&**tls, tls.peer_certificate()?)));
        match (self.mode, tls) {
            (ForwardClientCert::AlwaysForwardOnly, _) | (ForwardClientCert::ForwardOnly, Some(_)) => {}
            (ForwardClientCert::Sanitize, _) | (_, None) => {
                head.headers.remove(id);
            }
            (ForwardClientCert::AppendForward, Some((tls, peer))) => {
                let _ = head.headers.append_to(id, ",", self.element(tls, peer).as_bytes());
            }
            (ForwardClientCert::SanitizeSet, Some((tls, peer))) => {
                head.headers.set_sanitized(id, self.element(tls, peer));
            }
        }
    }

    /// What this proxy knows. It is the same for every request of a connection.
    fn element<'a>(self, tls: &'a TlsInfo, peer: &CertificateInfo) -> &'a str {
        tls.forwarded.get_or_init(|| self.write(tls, peer).into())
    }

    fn write(self, tls: &TlsInfo, peer: &CertificateInfo) -> String {
        let mut parts: Vec<String> = Vec::new();
        let own_uris = tls.local.iter().flat_map(|own| &own.uri_sans);
        parts.extend(own_uris.map(|uri| format!("By={uri}")));
        parts.push(format!("Hash={}", peer.sha256));
        if self.details.cert {
            parts.push(format!("Cert=\"{}\"", peer.url_encoded_pem()));
        }
        if self.details.chain {
            let mut chain = "Chain=\"".to_owned();
            for certificate in &tls.peer {
                // Writing to a string does not fail.
                let _ = write!(chain, "{}", certificate.url_encoded_pem());
            }
            chain.push('"');
            parts.push(chain);
        }
        if self.details.subject {
            parts.push(format!("Subject=\"{}\"", peer.subject));
        }
        if self.details.uri {
            match &*peer.uri_sans {
                [] => parts.push("URI=".to_owned()),
                uris => parts.extend(uris.iter().map(|uri| format!("URI={uri}"))),
            }
        }
        if self.details.dns {
            parts.extend(peer.dns_sans.iter().map(|name| format!("DNS={name}")));
        }
        parts.join(";")
    }
}
