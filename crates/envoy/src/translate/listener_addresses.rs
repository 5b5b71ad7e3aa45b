//! Listeners of one file beside each other: names and addresses are taken once.

use super::context::Cx;
use sota_config::{Mark, address::Address, listener::Listener};
use std::collections::HashMap;

/// Tells each listener whose name or address an earlier one has.
pub(super) fn check(cx: &mut Cx<'_>, listeners: &[(usize, Mark, &Listener)]) {
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut addresses: HashMap<&Address, &str> = HashMap::new();
    for (index, mark, listener) in listeners {
        cx.with(&format!("static_resources.listeners[{index}]"), |cx| {
            if let Some(other) = names.insert(&listener.name, *index) {
                // Compat: Envoy leaves the second one out, in silence.
                cx.error(
                    *mark,
                    format!("the name \"{}\" is that of listeners[{other}] already", listener.name.escape_debug()),
                );
            }
            for address in listener.addresses.iter().filter(|address| is_taken_by_one(address, listener)) {
                if let Some(other) = addresses.insert(address, &listener.name) {
                    let reason =
                        format!("the address {address} is that of listener \"{}\" already", other.escape_debug());
                    cx.error(*mark, reason);
                }
            }
        });
    }
}

/// The kernel gives each listener on port 0 a port of its own. Without a socket the address is how connections are
/// handed over, so it has to be of one listener whatever its port is.
fn is_taken_by_one(address: &Address, listener: &Listener) -> bool {
    !listener.bind_to_port || !matches!(address, Address::Ip { port: 0, .. })
}
