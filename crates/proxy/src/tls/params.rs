//! Versions, ciphers and groups, and where keys are logged.

use super::names::{CIPHERS, GROUPS};
use rustls::{
    KeyLog, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};
use sota_config::tls::{KeyLog as KeyLogConfig, TlsParams, TlsVersion};
use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt,
    sync::Arc,
};

/// The cryptography for these parameters: of the lists that are empty, the library's own.
pub(super) fn provider(params: &TlsParams) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if !params.cipher_suites.is_empty() {
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        let chosen = params.cipher_suites.iter().filter_map(|name| CIPHERS.iter().find(|(known, _)| known == name));
        provider.cipher_suites.extend(chosen.map(|(_, suite)| *suite));
    }
    if !params.ecdh_curves.is_empty() {
        let chosen = params.ecdh_curves.iter().filter_map(|name| GROUPS.iter().find(|(known, _)| known == name));
        provider.kx_groups = chosen.map(|(_, group)| *group).collect();
    }
    Arc::new(provider)
}

/// The versions; `highest` unless the parameters say.
pub(super) fn versions(params: &TlsParams, highest: TlsVersion) -> Vec<&'static SupportedProtocolVersion> {
    let range = params.min_version.unwrap_or(TlsVersion::V1_2)..=params.max_version.unwrap_or(highest);
    let all = [(TlsVersion::V1_3, &TLS13), (TlsVersion::V1_2, &TLS12)];
    all.into_iter().filter(|(version, _)| range.contains(version)).map(|(_, version)| version).collect()
}

/// Where secrets of sessions are logged.
pub(super) fn key_log(config: Option<&KeyLogConfig>) -> Result<Option<Arc<dyn KeyLog>>, String> {
    let Some(config) = config else { return Ok(None) };
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&config.path);
    let file = opened.map_err(|error| {
        format!("cannot open the key log \"{}\": {error}", config.path.display().to_string().escape_debug())
    })?;
    Ok(Some(Arc::new(KeyLogFile(file))))
}

/// Lines in the format of NSS, which analysers of traffic read.
#[derive(Debug)]
struct KeyLogFile(File);

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        for bytes in [client_random, secret] {
            for byte in bytes {
                // Writing to a string does not fail.
                let _ = write!(line, "{byte:02x}");
            }
            line.push(' ');
        }
        line.pop();
        line.push('\n');
        // One write for each line, so that those of several threads do not mix. A full disk costs the log, not the connection.
        let _ = (&self.0).write_all(line.as_bytes());
    }
}
