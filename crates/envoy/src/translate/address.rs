//! Addresses, ranges, socket options (`envoy.config.core.v3`).

use super::context::Cx;
use sota_config::{
    Node,
    address::{Address, BindConfig, CidrRange, SocketOption, SocketState, TcpKeepalive},
};
use std::{net::IpAddr, path::PathBuf};

/// The size of `sun_path` on Linux, its final zero included.
const MAX_PIPE_PATH: usize = 108;

/// What an address is for: whether it may be a name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressUse {
    /// A socket is bound to it: IP addresses and Unix sockets.
    Bind,
    /// The host of a cluster that resolves nothing: IP addresses and Unix sockets.
    Host,
    /// A name service is asked for it: names and IP addresses.
    Dns,
    /// Datagrams are sent to it: IP addresses, of which UDP is the protocol, and Unix sockets.
    Datagrams,
}

/// `envoy.config.core.v3.Address`, as the field `key` of `node`.
pub(super) fn address(cx: &mut Cx<'_>, node: &Node, key: &str, usage: AddressUse) -> Option<Address> {
    cx.optional(node, key, |cx, node| {
        if let Some(pipe) = node.get("pipe") {
            if usage == AddressUse::Dns {
                cx.field_error(node, "pipe", "a cluster of a DNS type has host names, no Unix sockets");
                return None;
            }
            return cx.with("pipe", |cx| self::pipe(cx, pipe));
        }
        cx.optional(node, "socket_address", |cx, node| socket_address(cx, node, usage))
    })
}

/// `envoy.config.core.v3.SocketAddress`.
pub(super) fn socket_address(cx: &mut Cx<'_>, node: &Node, usage: AddressUse) -> Option<Address> {
    if node.str("protocol") == "UDP" && usage != AddressUse::Datagrams {
        cx.field_error(node, "protocol", "there is no UDP");
        return None;
    }
    // The rules of the message hold the port to 16 bits; a number above them was told already.
    let port = u16::try_from(node.uint("port_value").unwrap_or(0)).ok()?;
    let text = node.str("address");
    if text.is_empty() {
        return None;
    }
    match text.parse::<IpAddr>() {
        Ok(ip) => Some(Address::Ip { ip, port, ipv4_compat: node.bool("ipv4_compat") && ip.is_ipv6() }),
        Err(_) if usage != AddressUse::Dns => {
            let hint = if text.starts_with('[') {
                "; write an IPv6 address without brackets"
            } else if text.contains('%') {
                "; scopes of IPv6 addresses are not supported"
            } else if usage == AddressUse::Host {
                "; for host names set the cluster's type to STRICT_DNS or LOGICAL_DNS"
            } else {
                ""
            };
            cx.field_error(node, "address", format!("malformed IP address \"{}\"{hint}", text.escape_debug()));
            None
        }
        Err(_) if !is_host_name(text) => {
            cx.field_error(node, "address", format!("\"{}\" is no host name", text.escape_debug()));
            None
        }
        Err(_) => Some(Address::Name { host: text.to_owned(), port }),
    }
}

/// Letters, digits, hyphens, underscores and dots, up to 253 of them: what can be asked of a name service.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_') || !b.is_ascii())
        })
}

fn pipe(cx: &mut Cx<'_>, node: &Node) -> Option<Address> {
    let path = node.str("path");
    let is_abstract = path.starts_with('@');
    if path.len() + usize::from(!is_abstract) > MAX_PIPE_PATH {
        cx.field_error(node, "path", format!("the path exceeds the maximum of {MAX_PIPE_PATH} bytes of a Unix socket"));
        return None;
    }
    if path.contains('\0') {
        cx.field_error(node, "path", "the path of a Unix socket must not hold a zero byte");
        return None;
    }
    let mode = node.u32("mode").unwrap_or(0);
    if is_abstract && mode != 0 {
        cx.field_error(node, "mode", "a Unix socket in the abstract namespace has no mode");
    }
    (!path.is_empty()).then(|| Address::Pipe { path: PathBuf::from(path), mode })
}

/// `envoy.config.core.v3.CidrRange`. Bits beyond the prefix are cleared, as in Envoy.
pub(super) fn cidr_range(cx: &mut Cx<'_>, node: &Node) -> Option<CidrRange> {
    let text = node.str("address_prefix");
    let Ok(ip) = text.parse::<IpAddr>() else {
        if !text.is_empty() {
            cx.field_error(node, "address_prefix", format!("malformed IP address \"{}\"", text.escape_debug()));
        }
        return None;
    };
    let length = node.u32("prefix_len").unwrap_or(0);
    match u8::try_from(length).ok().and_then(|length| CidrRange::new(ip, length).ok()) {
        Some(range) => Some(range.trunc()),
        None => {
            let most = if ip.is_ipv4() { 32 } else { 128 };
            cx.field_error(node, "prefix_len", format!("a prefix of {ip} has at most {most} bits, not {length}"));
            None
        }
    }
}

/// `envoy.config.core.v3.SocketOption`.
pub(super) fn socket_option(cx: &mut Cx<'_>, node: &Node) -> Option<SocketOption> {
    let level = number(cx, node, "level")?;
    let name = number(cx, node, "name")?;
    let value = match (node.get("int_value"), node.get("buf_value")) {
        (Some(_), _) => number(cx, node, "int_value")?.to_ne_bytes().to_vec(),
        (None, Some(bytes)) => bytes.as_bytes()?.to_vec(),
        (None, None) => return None,
    };
    let state = match node.str("state") {
        "STATE_BOUND" => SocketState::Bound,
        "STATE_LISTENING" => SocketState::Listening,
        _ => SocketState::Prebind,
    };
    Some(SocketOption { level, name, value, state })
}

/// A number of 64 bits that the system call takes in 32.
fn number(cx: &mut Cx<'_>, node: &Node, key: &str) -> Option<i32> {
    let Some(field) = node.get(key) else { return Some(0) };
    let number = field.as_i64()?;
    let fits = i32::try_from(number).ok();
    if fits.is_none() {
        cx.field_error(node, key, format!("{number} does not fit 32 bits"));
    }
    fits
}

/// `envoy.config.core.v3.TcpKeepalive`.
pub(super) fn tcp_keepalive(node: &Node) -> TcpKeepalive {
    TcpKeepalive {
        probes: node.u32("keepalive_probes"),
        time_s: node.u32("keepalive_time"),
        interval_s: node.u32("keepalive_interval"),
    }
}

/// `envoy.config.core.v3.BindConfig`.
pub(super) fn bind_config(cx: &mut Cx<'_>, node: &Node) -> BindConfig {
    let source_address = cx.optional(node, "source_address", |cx, node| socket_address(cx, node, AddressUse::Bind));
    BindConfig {
        source_address,
        freebind: node.bool("freebind"),
        socket_options: cx.each(node, "socket_options", socket_option),
    }
}
