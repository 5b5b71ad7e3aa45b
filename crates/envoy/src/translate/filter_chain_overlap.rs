//! Two filter chains of a listener that a connection could match equally well.

use super::context::Cx;
use sota_config::{
    Mark,
    listener::{FilterChain, FilterChainMatch},
};
use std::{collections::HashMap, hash::Hash};

/// Tells each chain that takes the same connections as one before it: a chain is an entry for each combination of
/// what its nine criteria name, an absent criterion being one value of its own, and no two may share an entry.
pub(super) fn check(cx: &mut Cx<'_>, chains: &[(Mark, &FilterChain)]) {
    // The port is the criterion that tells most chains apart where there are thousands of them.
    let mut by_port: HashMap<Option<u16>, Vec<usize>> = HashMap::new();
    for (index, (mark, chain)) in chains.iter().enumerate() {
        let wanted = &chain.filter_chain_match;
        let fellows = by_port.entry(wanted.destination_port).or_default();
        let other = fellows
            .iter()
            .filter_map(|earlier| chains.get(*earlier).map(|(_, other)| (*earlier, other)))
            .find(|(_, other)| overlaps(wanted, &other.filter_chain_match));
        if let Some((earlier, other)) = other {
            let name = if other.name.is_empty() {
                format!("filter_chains[{earlier}]")
            } else {
                format!("the chain \"{}\"", other.name.escape_debug())
            };
            let reason = if *wanted == other.filter_chain_match {
                format!("it has the same match as {name}")
            } else {
                format!("its match overlaps with that of {name}")
            };
            cx.with(&format!("filter_chains[{index}]"), |cx| cx.error(*mark, reason));
        }
        fellows.push(index);
    }
}

fn overlaps(a: &FilterChainMatch, b: &FilterChainMatch) -> bool {
    a.transport_protocol == b.transport_protocol
        && a.source_type == b.source_type
        && share(&a.prefix_ranges, &b.prefix_ranges)
        && share(&a.server_names, &b.server_names)
        && share(&a.application_protocols, &b.application_protocols)
        && share(&a.direct_source_prefix_ranges, &b.direct_source_prefix_ranges)
        && share(&a.source_prefix_ranges, &b.source_prefix_ranges)
        && share(&a.source_ports, &b.source_ports)
}

/// Whether two criteria name the same value; an empty list is the value "any".
fn share<T: Hash + Eq>(a: &[T], b: &[T]) -> bool {
    match (a, b) {
        ([], []) => true,
        ([], _) | (_, []) => false,
        ([one], [other]) => one == other,
        _ => {
            let a: std::collections::HashSet<_> = a.iter().collect();
            b.iter().any(|value| a.contains(value))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::overlaps;
    use sota_config::listener::{FilterChainMatch, SourceType};

    #[test]
    fn a_shared_value_in_each_criterion_is_an_overlap() {
        let names = |names: &[&str]| FilterChainMatch {
            server_names: names.iter().map(|n| (*n).into()).collect(),
            ..<_>::default()
        };
        assert!(overlaps(&names(&[]), &names(&[])));
        assert!(!overlaps(&names(&["a"]), &names(&[])));
        assert!(overlaps(&names(&["a", "b"]), &names(&["c", "b"])));
        let external = FilterChainMatch { source_type: SourceType::External, ..names(&["b"]) };
        assert!(!overlaps(&names(&["a", "b"]), &external));
    }
}
