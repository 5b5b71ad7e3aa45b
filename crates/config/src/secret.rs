//! Secrets and data sources.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// A larger file is refused instead of read.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

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

/// A named secret (`envoy.extensions.transport_sockets.tls.v3.Secret`). TLS brings its kinds.
#[derive(Debug, Clone, PartialEq)]
pub struct Secret {
    /// Its name.
    pub name: String,
}
