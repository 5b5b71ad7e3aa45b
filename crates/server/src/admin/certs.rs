//! `/certs`: the certificates in use.

use super::{Reply, state::json_reply};
use crate::server::Server;
use jiff::Timestamp;
use serde_json::{Value, json};
use sota_plugin::info::CertificateInfo;
use std::time::SystemTime;

const DAY: u64 = 24 * 60 * 60;

/// The certificates that listeners show to clients and clusters to hosts.
pub(super) fn certs(server: &Server) -> Reply {
    let mut shown = Vec::new();
    server.resources.each_listener(|listener| shown.extend(listener.config.certificates()));
    server.resources.each_cluster(|cluster| shown.extend(cluster.config.certificates()));
    let entries: Vec<_> =
        shown.iter().map(|certificate| json!({ "ca_cert": [], "cert_chain": [details(certificate)] })).collect();
    json_reply(&json!({ "certificates": entries }))
}

fn details(certificate: &CertificateInfo) -> Value {
    let names = |kind: &str, names: &[Box<str>]| names.iter().map(|name| json!({ kind: name })).collect::<Vec<_>>();
    let left = certificate.not_after.duration_since(SystemTime::now()).map_or(0, |left| left.as_secs() / DAY);
    let names = [
        names("dns", &certificate.dns_sans),
        names("uri", &certificate.uri_sans),
        names("ip_address", &certificate.ip_sans),
    ]
    .concat();
    json!({
        "serial_number": certificate.serial,
        "subject_alt_names": names,
        "days_until_expiration": left.to_string(),
        "valid_from": timestamp(certificate.not_before),
        "expiration_time": timestamp(certificate.not_after),
    })
}

fn timestamp(time: SystemTime) -> String {
    Timestamp::try_from(time).map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}
