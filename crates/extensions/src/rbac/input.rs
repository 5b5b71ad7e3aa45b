//! What the matcher of an RBAC filter looks at.

use super::Subject;
use crate::match_tree;
use sota_config::Node;
use sota_plugin::{
    http::HeaderName,
    info::{PeerAddress, TlsInfo},
};
use std::{borrow::Cow, net::IpAddr};

#[derive(Debug)]
pub(super) enum Input {
    RequestHeader(HeaderName),
    DestinationIp,
    DestinationPort,
    /// As far as trusted.
    SourceIp,
    SourcePort,
    DirectSourceIp,
    ServerName,
    FilterState(Box<str>),
    UriSan,
    DnsSan,
    SubjectName,
}

impl Input {
    /// Whether a connection alone has no such value.
    pub(super) fn is_of_request(&self) -> bool {
        matches!(self, Self::RequestHeader(_))
    }
}

impl match_tree::Input for Input {
    type Subject<'a> = Subject<'a>;

    fn read(message: &str, config: &Node) -> Result<Option<Self>, String> {
        if message == "envoy.type.matcher.v3.HttpRequestHeaderMatchInput" {
            let name = HeaderName::parse_any(config.str("header_name").as_bytes()).map_err(|e| e.to_string())?;
            return Ok(Some(Self::RequestHeader(name)));
        }
        let Some(name) = message.strip_prefix("envoy.extensions.matching.common_inputs.") else { return Ok(None) };
        Ok(Some(match name {
            "network.v3.DestinationIPInput" => Self::DestinationIp,
            "network.v3.DestinationPortInput" => Self::DestinationPort,
            "network.v3.SourceIPInput" => Self::SourceIp,
            "network.v3.SourcePortInput" => Self::SourcePort,
            "network.v3.DirectSourceIPInput" => Self::DirectSourceIp,
            "network.v3.ServerNameInput" => Self::ServerName,
            "network.v3.FilterStateInput" => Self::FilterState(config.str("key").into()),
            "ssl.v3.UriSanInput" => Self::UriSan,
            "ssl.v3.DnsSanInput" => Self::DnsSan,
            "ssl.v3.SubjectInput" => Self::SubjectName,
            _ => return Ok(None),
        }))
    }

    fn value<'a>(&self, subject: &Self::Subject<'a>) -> Option<Cow<'a, [u8]>> {
        let connection = subject.connection;
        let text = |text: String| Some(text.into_bytes().into());
        let port = |address: &PeerAddress| address.port().and_then(|port| text(port.to_string()));
        match self {
            Self::RequestHeader(name) => subject.request?.0.get_joined(name),
            Self::DestinationIp | Self::SourceIp | Self::DirectSourceIp => text(self.ip(subject)?.to_string()),
            Self::DestinationPort => port(&connection.local),
            Self::SourcePort => port(subject.remote()),
            Self::ServerName => connection.server_name.as_deref().map(|name| name.as_bytes().into()),
            Self::FilterState(key) => {
                let own = subject.request.and_then(|(_, info)| info.filter_state.text(key));
                own.or_else(|| connection.filter_state.borrow().text(key)).and_then(text)
            }
            Self::UriSan => joined(connection.tls.get().map(|tls| &**tls), |certificate| &certificate.uri_sans),
            Self::DnsSan => joined(connection.tls.get().map(|tls| &**tls), |certificate| &certificate.dns_sans),
            Self::SubjectName => {
                let subject = &connection.tls.get()?.peer_certificate()?.subject;
                (!subject.is_empty()).then(|| subject.as_bytes().into())
            }
        }
    }

    fn ip(&self, subject: &Self::Subject<'_>) -> Option<IpAddr> {
        match self {
            Self::DestinationIp => subject.connection.local.ip(),
            Self::SourceIp => subject.remote().ip(),
            Self::DirectSourceIp => subject.connection.direct_remote().ip(),
            _ => None,
        }
    }
}

/// Names of the peer's certificate: one as it is, more of them joined by commas.
fn joined(
    tls: Option<&TlsInfo>,
    names: impl Fn(&sota_plugin::info::CertificateInfo) -> &[Box<str>],
) -> Option<Cow<'_, [u8]>> {
    match names(tls?.peer_certificate()?) {
        [] => None,
        [one] => Some(one.as_bytes().into()),
        more => Some(more.join(",").into_bytes().into()),
    }
}
