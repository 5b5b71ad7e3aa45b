//! The tags that Envoy 1.40 takes out of names by itself (`source/common/config/well_known_names.cc`), as tables and short
//! functions: compiling some twenty regular expressions would cost more memory than all the counters of a small proxy.

use super::tags::{DefaultTag, Find, Found};
use std::{borrow::Cow, net::Ipv4Addr, ops::Range};

/// The tag of stats that a cluster keeps of each endpoint.
pub(super) const ENDPOINT_ADDRESS: &str = "envoy.endpoint_address";

/// All of them, in Envoy's order.
pub(super) fn all() -> Vec<DefaultTag> {
    let any = |tag, find: fn(&str) -> Option<Found>| DefaultTag { tag, first: None, find: Find::Function(find) };
    let within = |tag, first, find: fn(&str) -> Option<Found>| DefaultTag {
        tag,
        first: Some(first),
        find: Find::Function(find),
    };
    let tokens = |tag, pattern: &'static str| {
        let first = pattern.split('.').next().filter(|first| *first != "$");
        DefaultTag { tag, first, find: Find::Tokens(pattern) }
    };
    vec![
        any("envoy.response_code", response_code),
        any("envoy.response_code_class", response_code_class),
        within("envoy.dynamo_partition_id", "http", dynamo_partition_id),
        tokens("envoy.dynamo_operation", "http.*.dynamodb.operation.$.**"),
        tokens("envoy.dynamo_operation", "http.*.dynamodb.table.*.capacity.$.**"),
        tokens("envoy.mongo_callsite", "mongo.*.collection.*.callsite.$.query.**"),
        tokens("envoy.dynamo_table", "http.*.dynamodb.table.$.*.**"),
        tokens("envoy.dynamo_table", "http.*.dynamodb.error.$.*.**"),
        tokens("envoy.mongo_collection", "mongo.*.collection.$.**.query.*"),
        tokens("envoy.mongo_cmd", "mongo.*.cmd.$.**"),
        tokens("envoy.grpc_bridge_method", "cluster.*.grpc.*.$.**"),
        tokens("envoy.http_user_agent", "http.*.user_agent.$.**"),
        tokens("envoy.virtual_cluster", "vhost.*.vcluster.$.**"),
        tokens("envoy.fault_downstream_cluster", "http.*.fault.$.**"),
        within("envoy.ssl_cipher", "listener", |name| last_token(name, ".ssl.ciphers", is_word_or_dash)),
        any("envoy.ssl_curve", |name| of_listener_or_cluster(name, ".ssl.curves", is_word_or_dash)),
        any("envoy.ssl_sigalg", |name| of_listener_or_cluster(name, ".ssl.sigalgs", is_word_or_dash)),
        any("envoy.ssl_version", ssl_version),
        any("envoy.tls_certificate", tls_certificate),
        within("envoy.ssl_cipher_suite", "cluster", |name| last_token(name, ".ssl.ciphers", is_word_or_dash)),
        tokens("envoy.grpc_bridge_service", "cluster.*.grpc.$.**"),
        within("envoy.health_check_name", "cluster", health_check_name),
        tokens("envoy.tcp_prefix", "tcp.$.**"),
        tokens("envoy.udp_prefix", "udp.$.**"),
        tokens("envoy.clientssl_prefix", "auth.clientssl.$.**"),
        tokens("envoy.ratelimit_prefix", "ratelimit.$.**"),
        tokens("envoy.cluster_name", "cluster.$.**"),
        within(ENDPOINT_ADDRESS, "cluster", endpoint_address),
        within("envoy.http_conn_manager_prefix", "listener", |name| token_after(name, ".http.")),
        tokens("envoy.ext_authz_prefix", "cluster.*.ext_authz.$.**"),
        tokens("envoy.ext_authz_prefix", "http.*.ext_authz.$.**"),
        tokens("envoy.http_conn_manager_prefix", "http.$.**"),
        any("envoy.worker_id", worker_id),
        within("envoy.listener_address", "listener", listener_address),
        tokens("envoy.virtual_host", "vhost.$.**"),
        tokens("envoy.mongo_prefix", "mongo.$.**"),
        within("envoy.rds_route_config", "http", |name| route_config(name, ".rds.")),
        within("envoy.scoped_rds_config", "http", |name| route_config(name, ".scoped_rds.")),
        tokens("envoy.route", "vhost.*.route.$.**"),
        tokens("envoy.thrift_prefix", "thrift.$.**"),
        tokens("envoy.redis_prefix", "redis.$.**"),
        tokens("envoy.local_http_ratelimit_prefix", "$.http_local_rate_limit.**"),
        tokens("envoy.local_network_ratelimit_prefix", "local_rate_limit.$.**"),
        tokens("envoy.local_listener_ratelimit_prefix", "listener_local_ratelimit.$.**"),
        tokens("envoy.dns_filter_prefix", "dns_filter.$.**"),
        tokens("envoy.connection_limit_prefix", "connection_limit.$.**"),
        tokens("envoy.rbac_prefix", "$.rbac.**"),
        within("envoy.rbac_http_prefix", "http", rbac_http_prefix),
        within("envoy.rbac_policy_name", "http", rbac_policy_name),
        within("envoy.proxy_protocol_version", "proxy_proto", proxy_protocol_version),
        within("envoy.proxy_protocol_prefix", "proxy_proto", proxy_protocol_prefix),
        tokens("envoy.google_grpc_client_prefix", "grpc.$.**"),
        tokens("envoy.xds_resource_name", "sds.$.*.**"),
    ]
}

/// The address of an endpoint with the colons that its name has not.
pub(super) fn with_colons(name: &str) -> Cow<'_, str> {
    if name.starts_with('[') {
        return name.replace('_', ":").into();
    }
    match name.rsplit_once('_') {
        Some((ip, port)) if ip.parse::<Ipv4Addr>().is_ok() => format!("{ip}:{port}").into(),
        _ => name.into(),
    }
}

/// `cluster.*.endpoint.<address>.*`: the address has dots of its own.
fn endpoint_address(name: &str) -> Option<Found> {
    let (front, _) = name.rsplit_once('.')?;
    let start = front.find(".endpoint.")? + ".endpoint.".len();
    (start < front.len()).then_some(Found { remove: start - 1..front.len(), value: start..front.len() })
}

/// `*_rq(_<code>)`
fn response_code(name: &str) -> Option<Found> {
    let (rest, code) = name.rsplit_once('_')?;
    let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    let value = name.len().checked_sub(3)?..name.len();
    (is_code && rest.ends_with("_rq")).then(|| Found { remove: value.start - 1..value.end, value })
}

/// `*_rq_(<class>)xx`
fn response_code_class(name: &str) -> Option<Found> {
    let rest = name.strip_suffix("xx")?;
    let class = rest.len().checked_sub(1)?..rest.len();
    let is_class = rest.as_bytes().get(class.start).is_some_and(u8::is_ascii_digit);
    (is_class && rest.get(..class.start)?.ends_with("_rq_")).then(|| Found { remove: class.clone(), value: class })
}

/// `http.[..].dynamodb.table.[..].capacity.[..](.__partition_id=<seven characters>)`
fn dynamo_partition_id(name: &str) -> Option<Found> {
    let (rest, id) = name.rsplit_once(".__partition_id=")?;
    let value = name.len() - id.len()..name.len();
    let is_id = id.len() == 7 && id.bytes().all(is_word);
    (is_id && rest.contains(".dynamodb.table.") && rest.contains(".capacity."))
        .then_some(Found { remove: rest.len()..name.len(), value })
}

/// `[..].ssl.versions(.TLSv1.3)`, whose value has a dot in it.
fn ssl_version(name: &str) -> Option<Found> {
    if !(name.starts_with("listener.") || name.starts_with("cluster.")) {
        return None;
    }
    let (rest, version) = name.rsplit_once(".ssl.versions.")?;
    let remove = rest.len() + ".ssl.versions".len()..name.len();
    let [major, b'.', minor] = version.strip_prefix("TLSv")?.as_bytes() else { return None };
    (major.is_ascii_digit() && minor.is_ascii_digit()).then(|| Found { value: remove.start + 1..remove.end, remove })
}

/// `listener|cluster.[..].ssl.certificate.(<name>.)*`
fn tls_certificate(name: &str) -> Option<Found> {
    let allowed = name.starts_with("listener.") || name.starts_with("cluster.");
    allowed.then(|| token_after(name, ".ssl.certificate."))?
}

fn of_listener_or_cluster(name: &str, family: &str, allowed: fn(u8) -> bool) -> Option<Found> {
    let of_those = name.starts_with("listener.") || name.starts_with("cluster.");
    of_those.then(|| last_token(name, family, allowed))?
}

/// The last token, with its dot, if it stands behind `family`.
fn last_token(name: &str, family: &str, allowed: fn(u8) -> bool) -> Option<Found> {
    let (rest, token) = name.rsplit_once('.')?;
    let fits = rest.ends_with(family) && !token.is_empty() && token.bytes().all(allowed);
    fits.then(|| Found { remove: rest.len()..name.len(), value: rest.len() + 1..name.len() })
}

/// The first token behind `before`, with the dot behind it.
fn token_after(name: &str, before: &str) -> Option<Found> {
    let start = name.find(before)? + before.len();
    let length = name.get(start..)?.find('.')?;
    (length > 0).then(|| with_dot(start..start + length))
}

/// `cluster.<name>.health_check(.name.<name>).*`
fn health_check_name(name: &str) -> Option<Found> {
    let before = name.find(".health_check.name.")? + ".health_check".len();
    let start = before + ".name.".len();
    let length = name.get(start..)?.find('.')?;
    (length > 0).then(|| Found { remove: before..start + length, value: start..start + length })
}

/// `listener.<address>.worker_(<id>.)*` and the same of three other families.
fn worker_id(name: &str) -> Option<Found> {
    let (first, _) = name.split_once('.')?;
    let worker = match first {
        "listener" => address(name)?.end + 1,
        "server" | "listener_manager" | "thread_local_cluster_manager" => first.len() + 1,
        _ => return None,
    };
    let digits = name.get(worker..)?.strip_prefix("worker_")?;
    let length = digits.bytes().take_while(u8::is_ascii_digit).count();
    let start = name.len() - digits.len();
    (length > 0 && digits.get(length..)?.starts_with('.')).then(|| with_dot(start..start + length))
}

/// `listener.(<address>.)*`, but not of the admin interface.
fn listener_address(name: &str) -> Option<Found> {
    let value = address(name)?;
    (name.get(value.clone())? != "admin").then(|| with_dot(value))
}

/// What stands between `listener.` and the next dot that is not part of an IP address.
fn address(name: &str) -> Option<Range<usize>> {
    let start = "listener.".len();
    let rest = name.strip_prefix("listener.")?;
    let length = ip_and_port(rest).map_or_else(|| rest.find('.'), Some)?;
    (length > 0).then_some(start..start + length)
}

/// How long `1.2.3.4_80` or `[__1]_80` is, if it is followed by a dot.
fn ip_and_port(text: &str) -> Option<usize> {
    let ip = if text.starts_with('[') {
        let inner = text.find(']')?;
        let fits = text.get(1..inner)?.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'_');
        (fits && inner > 1).then_some(inner + 1)?
    } else {
        let (ip, _) = text.split_once('_')?;
        let octet = |octet: &str| (1..=3).contains(&octet.len()) && octet.bytes().all(|byte| byte.is_ascii_digit());
        (ip.split('.').count() == 4 && ip.split('.').all(octet)).then_some(ip.len())?
    };
    let port = text.get(ip..)?.strip_prefix('_')?;
    let digits = port.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0 && port.get(digits..)?.starts_with('.')).then_some(ip + 1 + digits)
}

/// `http.<prefix>.rds.(<route config>.)<stat>`, where the name of the route configuration may have dots.
fn route_config(name: &str, family: &str) -> Option<Found> {
    let prefix = name.strip_prefix("http.")?.find('.')? + "http.".len();
    name.get(prefix..)?.starts_with(family).then_some(())?;
    let start = prefix + family.len();
    let (before, stat) = name.rsplit_once('.')?;
    let value = start..before.len();
    let fits = name.get(value.clone())?.bytes().all(|byte| is_word_or_dash(byte) || byte == b'.');
    (fits && !value.is_empty() && !stat.is_empty() && stat.bytes().all(is_word)).then(|| with_dot(value))
}

/// `http.<prefix>.rbac.(<rbac prefix>.)*`
fn rbac_http_prefix(name: &str) -> Option<Found> {
    let prefix = name.strip_prefix("http.")?.find('.')? + "http.".len();
    let found = name.get(prefix..)?.starts_with(".rbac.").then(|| token_after(name, ".rbac."))??;
    (name.get(found.value.clone())? != "policy").then_some(found)
}

/// `http.<prefix>.rbac.[<rbac prefix>.]policy.(<policy>.)<result>`
fn rbac_policy_name(name: &str) -> Option<Found> {
    let (before, result) = name.rsplit_once('.')?;
    let fits = matches!(result, "allowed" | "shadow_allowed" | "denied" | "shadow_denied");
    let (family, policy) = before.rsplit_once('.')?;
    let value = family.len() + 1..before.len();
    (fits && !policy.is_empty() && family.contains(".rbac.") && family.ends_with(".policy")).then(|| with_dot(value))
}

/// `proxy_proto.([<prefix>.]versions.v<version>.)<stat>`
fn proxy_protocol_version(name: &str) -> Option<Found> {
    let (before, _) = name.rsplit_once('.')?;
    let (family, version) =
        before.rsplit_once(".versions.v").filter(|(family, _)| family.starts_with("proxy_proto"))?;
    let digits = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
    let start = "proxy_proto.".len();
    (digits && family.split('.').count() <= 2)
        .then(|| Found { remove: start..before.len() + 1, value: before.len() - version.len()..before.len() })
}

/// `proxy_proto.(<prefix>.)*`
fn proxy_protocol_prefix(name: &str) -> Option<Found> {
    let found = token_after(name, "proxy_proto.")?;
    (name.get(found.value.clone())? != "versions").then_some(found)
}

fn with_dot(value: Range<usize>) -> Found {
    Found { remove: value.start..value.end + 1, value }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_word_or_dash(byte: u8) -> bool {
    is_word(byte) || byte == b'-'
}
