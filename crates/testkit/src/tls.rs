//! Certificates, and a client with TLS.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// An authority that issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Certificate {
    /// The certificate.
    pub chain: String,
    /// The key.
    pub key: String,
}

/// What a certificate says.
#[derive(Default, Clone)]
pub struct Subject {
    /// Its common name.
    pub common_name: String,
    /// Host names.
    pub dns: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// Valid until yesterday.
    pub is_expired: bool,
}

impl Subject {
    /// A host.
    pub fn host(name: &str) -> Self {
        Self { common_name: name.to_owned(), dns: vec![name.to_owned()], ..Self::default() }
    }

    /// A workload of SPIFFE.
    pub fn workload(uri: &str) -> Self {
        Self { common_name: "workload".to_owned(), uris: vec![uri.to_owned()], ..Self::default() }
    }
}

impl Authority {
    /// An authority of this name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate.
    pub fn issue(&self, subject: &Subject) -> Certificate {
        let mut params = CertificateParams::new(subject.dns.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, &*subject.common_name);
        let uris = subject.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if subject.is_expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certificate { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

/// What a client wants.
#[derive(Default)]
pub struct TlsClient<'a> {
    /// The authority that it trusts, in PEM.
    pub trusts: &'a str,
    /// The server's name.
    pub server_name: &'a str,
    /// Its own certificate.
    pub certificate: Option<&'a Certificate>,
    /// Application protocols.
    pub alpn: &'a [&'a str],
}

/// A connection of a client.
pub type TlsConnection = StreamOwned<ClientConnection, TcpStream>;

impl TlsClient<'_> {
    /// What it is configured with; shared by connections, it resumes sessions.
    pub fn config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.trusts.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.certificate {
            Some(own) => {
                let chain = CertificateDer::pem_slice_iter(own.chain.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// Connects, and does its part of the handshake. A server that refuses its certificate says so later.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TlsConnection> {
        self.connect_with(&self.config(), to)
    }

    /// [`Self::connect`] with what was configured before.
    pub fn connect_with(&self, config: &Arc<ClientConfig>, to: SocketAddr) -> io::Result<TlsConnection> {
        let name = ServerName::try_from(self.server_name.to_owned()).unwrap();
        let socket = TcpStream::connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let mut connection = StreamOwned::new(session, socket);
        while connection.conn.is_handshaking() {
            connection.conn.complete_io(&mut connection.sock)?;
        }
        Ok(connection)
    }

    /// One request with `connection: close`; the answer, whole.
    pub fn get(&self, to: SocketAddr, path: &str) -> io::Result<String> {
        let mut connection = self.connect(to)?;
        exchange(
            &mut connection,
            &format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.server_name),
        )
    }
}

/// Sends a request and reads up to the end of the connection, which must be a proper one.
pub fn exchange(connection: &mut TlsConnection, request: &str) -> io::Result<String> {
    connection.write_all(request.as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}
