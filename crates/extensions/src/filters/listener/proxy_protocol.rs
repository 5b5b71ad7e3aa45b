//! `envoy.filters.listener.proxy_protocol`: the real client of a connection, from the header that a proxy in front of
//! us puts before it.

use base64::Engine;
use sota_codec::proxy_protocol::{Addresses, Command, Parsed, ProxyHeader, Version, parse};
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::WorkerCx,
    filter::{ListenerCx, ListenerFilter, ListenerFilterConfig, Peek},
    info::{ConnectionInfo, ProxyTlv},
    stat_group,
    stats::Group,
};
use std::{rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn ListenerFilterConfig> = Extension {
    name: "envoy.filters.listener.proxy_protocol",
    short_name: "proxy_protocol",
    type_urls: &["envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"],
    build,
    build_route: None,
    route_type_urls: &[],
};

/// Where the values of TLVs are put when a rule names no namespace.
const NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";
/// 16 octets and what two octets of length can say.
const MAX_HEADER: usize = 16 + u16::MAX as usize;

stat_group! {
    /// `proxy_proto.[<stat_prefix>.]versions.vN.`
    struct VersionStats {
        /// Headers that were taken.
        found: counter,
        /// Headers of a version that is not allowed.
        disallowed: counter,
        /// Headers that were malformed.
        error: counter,
    }
}

stat_group! {
    /// `proxy_proto.[<stat_prefix>.]`
    struct Stats {
        /// Connections without a header that were let through.
        not_found_allowed: counter,
        /// Connections without a header that were closed.
        not_found_disallowed: counter,
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn ListenerFilterConfig>, ConfigError> {
    Ok(Arc::new(match config {
        TypedConfig::Value { node, .. } => ProxyProtocol::read(node, cx)?,
        _ => ProxyProtocol::default(),
    }))
}

/// `envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol`
#[derive(Debug, Clone, Default)]
struct ProxyProtocol {
    rules: Vec<Rule>,
    /// Connections that begin with something else are let through.
    is_optional: bool,
    kept_tlvs: KeptTlvs,
    disallowed: Vec<Version>,
    stat_prefix: String,
}

/// What to do with a TLV.
#[derive(Debug, Clone)]
struct Rule {
    kind: u8,
    namespace: String,
    key: String,
    /// Write the value in base64, as it is no text.
    as_base64: bool,
}

/// The TLVs that are kept for whoever speaks the protocol to an upstream.
#[derive(Debug, Clone, Default)]
enum KeptTlvs {
    #[default]
    None,
    All,
    Some(Vec<u8>),
}

impl ProxyProtocol {
    fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let kind = |node: &Node, key: &str| {
            let kind = node.field(key).as_u64().unwrap_or(0);
            u8::try_from(kind)
                .map_err(|_| cx.error(key, node.field(key).mark, format!("a TLV type is below 256, not {kind}")))
        };
        let mut rules = Vec::new();
        for rule in node.list("rules") {
            let present = rule.field("on_tlv_present");
            rules.push(Rule {
                kind: kind(rule, "tlv_type")?,
                namespace: Some(present.str("metadata_namespace"))
                    .filter(|name| !name.is_empty())
                    .unwrap_or(NAMESPACE)
                    .into(),
                key: present.str("key").into(),
                as_base64: present.str("value_string_encoding") == "BASE64",
            });
        }
        let kept_tlvs = match node.get("pass_through_tlvs") {
            None => KeptTlvs::None,
            Some(pass) if pass.str("match_type") == "INCLUDE" => {
                let kinds = pass.list("tlv_type").iter().filter_map(Node::as_u64);
                KeptTlvs::Some(kinds.filter_map(|kind| u8::try_from(kind).ok()).collect())
            }
            Some(_) => KeptTlvs::All,
        };
        let version = |node: &Node| if node.as_str() == Some("V2") { Version::V2 } else { Version::V1 };
        Ok(Self {
            rules,
            is_optional: node.bool("allow_requests_without_proxy_protocol"),
            kept_tlvs,
            disallowed: node.list("disallowed_versions").iter().map(version).collect(),
            stat_prefix: node.str("stat_prefix").into(),
        })
    }

    /// Puts what the header says into the connection's facts.
    fn apply(&self, header: ProxyHeader, info: &mut ConnectionInfo) {
        if let Command::Proxy(Addresses::Ip { source, destination, .. }) = header.command {
            info.restore_remote(source.into());
            let destination = destination.into();
            // Only one that differs was restored: Envoy then may look for another listener.
            if info.local != destination {
                info.restore_local(destination);
            }
        }
        let mut kept = Vec::new();
        for tlv in header.tlvs {
            for rule in self.rules.iter().filter(|rule| rule.kind == tlv.kind) {
                let value = if rule.as_base64 {
                    base64::engine::general_purpose::STANDARD.encode(&tlv.value)
                } else {
                    sanitized(&tlv.value)
                };
                info.metadata.borrow_mut().set(&rule.namespace, &rule.key, Node::string(value));
            }
            let is_kept = match &self.kept_tlvs {
                KeptTlvs::None => false,
                KeptTlvs::All => true,
                KeptTlvs::Some(kinds) => kinds.contains(&tlv.kind),
            };
            if is_kept {
                kept.push(ProxyTlv { kind: tlv.kind, value: tlv.value });
            }
        }
        info.proxy_tlvs = kept.into();
    }
}

/// The value as text: each octet that is not UTF-8 becomes an exclamation mark, as from Envoy.
fn sanitized(value: &[u8]) -> String {
    value.utf8_chunks().fold(String::with_capacity(value.len()), |mut text, chunk| {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
        text
    })
}

/// The worker's part.
struct Shared {
    config: ProxyProtocol,
    stats: Group<Stats>,
    v1: Group<VersionStats>,
    v2: Group<VersionStats>,
}

impl ListenerFilterConfig for ProxyProtocol {
    fn for_worker(&self, cx: &WorkerCx) -> Rc<dyn Fn() -> Box<dyn ListenerFilter>> {
        let dot = if self.stat_prefix.is_empty() { "" } else { "." };
        let scope = cx.stats().child(&format!("proxy_proto.{}{dot}", self.stat_prefix));
        let shared = Rc::new(Shared {
            config: self.clone(),
            stats: scope.group(),
            v1: scope.child("versions.v1.").group(),
            v2: scope.child("versions.v2.").group(),
        });
        Rc::new(move || Box::new(Filter(Rc::clone(&shared))))
    }
}

struct Filter(Rc<Shared>);

impl ListenerFilter for Filter {
    fn on_peek(&mut self, bytes: &[u8], _end: bool, cx: &mut ListenerCx<'_>) -> Peek {
        let shared = &*self.0;
        match parse(bytes) {
            Ok(Parsed::NeedMore(_)) => Peek::More,
            Ok(Parsed::NotProxy) if shared.config.is_optional => {
                shared.stats.not_found_allowed.inc();
                Peek::Continue
            }
            Ok(Parsed::NotProxy) => {
                shared.stats.not_found_disallowed.inc();
                Peek::Close
            }
            Ok(Parsed::Header(length, header)) => {
                let stats = if header.version == Version::V1 { &shared.v1 } else { &shared.v2 };
                if shared.config.disallowed.contains(&header.version) {
                    stats.disallowed.inc();
                    return Peek::Close;
                }
                stats.found.inc();
                shared.config.apply(header, cx.info);
                Peek::Consume(length)
            }
            Err(_) => {
                if bytes.starts_with(b"PROXY") { &shared.v1 } else { &shared.v2 }.error.inc();
                Peek::Close
            }
        }
    }

    fn max_bytes(&self) -> usize {
        MAX_HEADER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{peek, worker};

    fn filter(config: &ProxyProtocol) -> Box<dyn ListenerFilter> {
        config.for_worker(&worker())()
    }

    #[test]
    fn the_real_client_and_destination() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\nGET /";
        let (result, info) = peek(&mut *filter(&ProxyProtocol::default()), line, |_| ());
        assert_eq!(result, Peek::Consume(line.len() - 5));
        assert_eq!(
            (info.remote.to_string(), info.local.to_string()),
            ("192.0.2.1:1000".into(), "192.0.2.2:443".into())
        );
        assert_eq!(info.direct_remote().to_string(), "127.0.0.1:1");
        assert!(info.local_restored);
    }

    #[test]
    fn connections_without_a_header() {
        let (strict, optional) =
            (ProxyProtocol::default(), ProxyProtocol { is_optional: true, ..ProxyProtocol::default() });
        assert_eq!(peek(&mut *filter(&strict), b"GET / HTTP/1.1\r\n", |_| ()).0, Peek::Close);
        assert_eq!(peek(&mut *filter(&optional), b"GET / HTTP/1.1\r\n", |_| ()).0, Peek::Continue);
        assert_eq!(peek(&mut *filter(&optional), b"PRO", |_| ()).0, Peek::More);
        assert_eq!(peek(&mut *filter(&optional), b"PROXY TCP9 x\r\n", |_| ()).0, Peek::Close);
        let no_v1 = ProxyProtocol { disallowed: vec![Version::V1], ..ProxyProtocol::default() };
        assert_eq!(peek(&mut *filter(&no_v1), b"PROXY UNKNOWN\r\n", |_| ()).0, Peek::Close);
    }

    #[test]
    fn values_of_the_second_version() {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x0a".to_vec();
        header.extend_from_slice(b"\xea\0\x03a\xffb\x02\0\x01h");
        let rule = |kind, as_base64| Rule { kind, namespace: "n".into(), key: kind.to_string(), as_base64 };
        let config = ProxyProtocol {
            rules: vec![rule(0xea, false), rule(2, true)],
            kept_tlvs: KeptTlvs::Some(vec![2]),
            ..ProxyProtocol::default()
        };
        let (result, info) = peek(&mut *filter(&config), &header, |_| ());
        assert_eq!(result, Peek::Consume(header.len()));
        let metadata = info.metadata.borrow();
        let value = |key: &str| metadata.path("n", [key]).and_then(|node| node.as_str().map(str::to_owned));
        assert_eq!((value("234").as_deref(), value("2").as_deref()), (Some("a!b"), Some("aA==")));
        assert_eq!(*info.proxy_tlvs, [ProxyTlv { kind: 2, value: b"h"[..].into() }]);
        assert_eq!(info.remote.to_string(), "127.0.0.1:1");
    }
}
