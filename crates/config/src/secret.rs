//! Secrets and data sources.

use crate::{config_source::ConfigSource, tls::ValidationContext};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// A larger file is refused instead of read.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// `envoy.config.core.v3.DataSource`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum DataSource {
    /// A file, read when the resource is built.
    File(PathBuf),
    /// The bytes themselves.
    Inline(Vec<u8>),
    /// An environment variable, read when the resource is built.
    Environment(String),
}

impl DataSource {
    /// The bytes, read now; why they cannot be had. At most 16 MiB of a file.
    pub fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Inline(bytes) => Ok(bytes.clone()),
            Self::File(path) => read_file(path)
                .map_err(|error| format!("cannot read \"{}\": {error}", path.display().to_string().escape_debug())),
            Self::Environment(name) => std::env::var_os(name)
                .map(|value| value.into_encoded_bytes())
                .ok_or_else(|| format!("the environment variable \"{}\" is not set", name.escape_debug())),
        }
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

impl std::fmt::Debug for DataSource {
    /// Never shows inline bytes: they may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::Environment(name) => write!(f, "Environment({name})"),
        }
    }
}

/// `TlsCertificate`: a certificate with its key, both in PEM.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsCertificate {
    /// The certificate, and those of the authorities between it and a trusted one.
    pub chain: DataSource,
    /// The private key.
    pub key: DataSource,
    /// Files are read again when something in this directory is renamed.
    pub watched_directory: Option<PathBuf>,
}

/// Names a secret (`SdsSecretConfig`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretRef {
    /// Its name.
    pub name: String,
    /// Where it is from.
    pub source: SecretSource,
}

/// Where a secret is from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SecretSource {
    /// `static_resources.secrets`.
    Named,
    /// A file with a `DiscoveryResponse` (`path_config_source`), read again when it changes.
    File(PathBuf),
    /// A control plane brings it (SDS), and may change it at any time. Never a source of files.
    Discovered(ConfigSource),
}

/// A named secret (`envoy.extensions.transport_sockets.tls.v3.Secret`).
#[derive(Debug, Clone, PartialEq)]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: SecretKind,
}

/// What a secret is.
#[derive(Debug, Clone, PartialEq)]
pub enum SecretKind {
    /// A certificate with its key.
    Certificate(TlsCertificate),
    /// How the certificates of peers are checked.
    Validation(ValidationContext),
    /// Keys of session tickets.
    TicketKeys(Vec<DataSource>),
}
