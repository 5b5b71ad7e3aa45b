//! Secrets and data sources.

use std::path::PathBuf;

/// `envoy.config.core.v3.DataSource`.
#[derive(Clone, PartialEq, Eq)]
pub enum DataSource {
    /// A file, read when the resource is built.
    File(PathBuf),
    /// The bytes themselves.
    Inline(Vec<u8>),
    /// An environment variable, read when the resource is built.
    Environment(String),
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

/// A named secret (`envoy.extensions.transport_sockets.tls.v3.Secret`). TLS brings its kinds.
#[derive(Debug, Clone, PartialEq)]
pub struct Secret {
    /// Its name.
    pub name: String,
}
