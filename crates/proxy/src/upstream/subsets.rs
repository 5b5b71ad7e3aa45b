//! Subsets: hosts by the metadata that requests ask for (Envoy's `lb_subset_config`).

use super::{
    host::Host,
    host_set::{List, View, ViewOptions},
    metadata_match::{self, MetadataMatch, NAMESPACE},
};
use sota_config::{
    Node, Value,
    load_balancer::{SubsetFallback, SubsetSelector, Subsets},
};
use std::{borrow::Cow, collections::HashMap, sync::Arc};

/// A host stands in so many subsets of a selector at most: lists as values multiply.
const MOST_SUBSETS_OF_A_HOST: usize = 1024;

/// The subsets of a host set.
#[derive(Debug)]
pub(super) struct SubsetTable {
    config: Arc<Subsets>,
    subsets: HashMap<Box<[u8]>, Subset>,
    default: Option<View>,
    /// Hosts that were left out, as their subset has one already.
    pub(super) duplicates: usize,
}

#[derive(Debug)]
enum Subset {
    /// The one host of a subset that has one by configuration, whatever its health.
    Single(u32),
    Many(View),
}

/// How a choice among subsets came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A subset fits.
    Selected,
    /// None fits; what the selector says was done.
    Selector,
    /// None fits; what the cluster says was done.
    Fallback,
    /// That had no host either: any host.
    Panic,
}

/// Where to choose.
pub(super) enum Candidates<'a> {
    Host(usize),
    List(&'a List, bool),
}

impl SubsetTable {
    pub(super) fn new(
        config: &Arc<Subsets>,
        hosts: &[Arc<Host>],
        before: Option<&Self>,
        options: &ViewOptions<'_>,
    ) -> Self {
        let options = ViewOptions { scale_localities: config.scale_locality_weight, ..*options };
        let mut members = HashMap::<Box<[u8]>, (bool, Vec<u32>)>::new();
        let mut duplicates = 0;
        for (place, host) in (0_u32..).zip(hosts) {
            let Some(metadata) = metadata_of(host) else { continue };
            for selector in &config.selectors {
                for key in keys(selector, metadata, config.list_as_any) {
                    let (single, list) = members.entry(key).or_insert_with(|| (selector.single_host, Vec::new()));
                    if *single && !list.is_empty() {
                        duplicates += 1;
                    } else if list.last() != Some(&place) {
                        list.push(place);
                    }
                }
            }
        }
        let view = |members: Vec<u32>, old: Option<&View>| View::new(hosts, members.into_iter(), old, &options);
        let subset = |(key, (single, members)): (Box<[u8]>, (bool, Vec<u32>))| {
            let old = match before.and_then(|before| before.subsets.get(&key)) {
                Some(Subset::Many(view)) => Some(view),
                _ => None,
            };
            let subset = match (single, members.first()) {
                (true, Some(host)) => Subset::Single(*host),
                _ => Subset::Many(view(members, old)),
            };
            (key, subset)
        };
        let is_default = |fallback: SubsetFallback| fallback == SubsetFallback::DefaultSubset;
        let needs_default =
            is_default(config.fallback) || config.selectors.iter().any(|s| s.fallback.is_some_and(is_default));
        let default = needs_default.then(|| {
            let fits = |(_, host): &(u32, &Arc<Host>)| has_all(host, &config.default_subset, config.list_as_any);
            let members = (0_u32..).zip(hosts).filter(fits).map(|(place, _)| place).collect();
            view(members, before.and_then(|before| before.default.as_ref()))
        });
        Self { config: Arc::clone(config), subsets: members.into_iter().map(subset).collect(), default, duplicates }
    }

    /// How many subsets there are.
    pub(super) fn len(&self) -> usize {
        self.subsets.len()
    }

    /// How many subsets there are here and not in `other`.
    pub(super) fn not_in(&self, other: Option<&Self>) -> usize {
        other.map_or(self.len(), |other| self.subsets.keys().filter(|key| !other.subsets.contains_key(*key)).count())
    }

    /// Where to choose for a request with this metadata. `all` are all hosts; `choose` answers whether there is one.
    pub(super) fn choose<'a, T>(
        &'a self,
        wanted: Option<&MetadataMatch>,
        all: &'a View,
        avoided: u128,
        random: &dyn Fn() -> u64,
        mut choose: impl FnMut(Candidates<'a>) -> Option<T>,
    ) -> (Option<T>, Outcome) {
        let mut in_view =
            |view: &'a View| view.draw(avoided, random).and_then(|(list, panic)| choose(Candidates::List(list, panic)));
        let mut wanted = wanted.map(Cow::Borrowed);
        // Each round has fewer keys.
        while let Some(keys) = wanted.take() {
            let keys = match self.without_redundant(&keys) {
                Some(fewer) => Cow::Owned(fewer),
                None => keys,
            };
            match self.subsets.get(keys.key()) {
                Some(Subset::Single(host)) => return (choose(Candidates::Host(*host as usize)), Outcome::Selected),
                Some(Subset::Many(view)) => return (in_view(view), Outcome::Selected),
                None => {}
            }
            let selector = self.config.selectors.iter().find(|selector| keys.has_keys(&selector.keys));
            match selector.and_then(|selector| Some((selector, selector.fallback?))) {
                Some((_, SubsetFallback::NoFallback)) => return (None, Outcome::Selector),
                Some((_, SubsetFallback::AnyEndpoint)) => return (in_view(all), Outcome::Selector),
                Some((_, SubsetFallback::DefaultSubset)) => {
                    return (self.default.as_ref().and_then(in_view), Outcome::Selector);
                }
                Some((selector, SubsetFallback::KeysSubset)) if selector.fallback_keys.len() < keys.pairs().len() => {
                    wanted = Some(Cow::Owned(keys.only(&selector.fallback_keys)));
                }
                _ => {}
            }
        }
        let fallback = match self.config.fallback {
            SubsetFallback::AnyEndpoint => Some(all),
            SubsetFallback::DefaultSubset => self.default.as_ref(),
            SubsetFallback::NoFallback | SubsetFallback::KeysSubset => return (None, Outcome::Fallback),
        };
        match fallback.and_then(&mut in_view) {
            None if self.config.panic_mode_any => (in_view(all), Outcome::Panic),
            chosen => (chosen, Outcome::Fallback),
        }
    }

    fn without_redundant(&self, keys: &MetadataMatch) -> Option<MetadataMatch> {
        if !self.config.allow_redundant_keys {
            return None;
        }
        let has = |key: &Arc<str>| keys.pairs().iter().any(|(name, _)| name == key);
        let selector = self.config.selectors.iter().find(|selector| selector.keys.iter().all(has))?;
        (selector.keys.len() < keys.pairs().len()).then(|| keys.only(&selector.keys))
    }
}

fn metadata_of(host: &Host) -> Option<&Node> {
    host.spec().metadata.as_ref()?.get("filter_metadata")?.get(NAMESPACE)
}

/// The subsets of a selector in which a host with this metadata stands.
fn keys(selector: &SubsetSelector, metadata: &Node, list_as_any: bool) -> Vec<Box<[u8]>> {
    let mut rows: Vec<Vec<(&str, &Node)>> = vec![Vec::new()];
    for key in &selector.keys {
        let Some(value) = metadata.get(key) else { return Vec::new() };
        let values = match &value.value {
            Value::List(items) if list_as_any => items.iter().collect(),
            _ => vec![value],
        };
        rows = rows
            .iter()
            .flat_map(|row| values.iter().map(move |value| [&**row, &[(&**key, *value)]].concat()))
            .take(MOST_SUBSETS_OF_A_HOST)
            .collect();
    }
    rows.into_iter().map(metadata_match::key).collect()
}

/// Whether the host's metadata has all of these.
fn has_all(host: &Host, wanted: &[(Arc<str>, Node)], list_as_any: bool) -> bool {
    let Some(metadata) = metadata_of(host) else { return wanted.is_empty() };
    let same = |a: &Node, b: &Node| metadata_match::key([("", a)]) == metadata_match::key([("", b)]);
    wanted.iter().all(|(key, wanted)| {
        metadata.get(key).is_some_and(|value| match &value.value {
            Value::List(items) if list_as_any => items.iter().any(|item| same(item, wanted)),
            _ => same(value, wanted),
        })
    })
}
