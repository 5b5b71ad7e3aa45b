//! The buckets of a rate limit: one for all requests, and those of descriptors.

use sota_config::{ConfigError, Node};
use sota_plugin::{FactoryContext, rate_limit::Descriptor, token_bucket::TokenBucket};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// No bucket is filled in shorter intervals.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// Buckets that a descriptor with values left open may have.
const DEFAULT_DYNAMIC: usize = 20;

type Entries = Vec<(String, String)>;

/// What makes the buckets.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    default: Option<Fill>,
    descriptors: Vec<(Entries, Fill)>,
    /// The bucket for all requests counts those that a descriptor counts.
    always_consume_default: bool,
    max_dynamic: usize,
}

/// `envoy.type.v3.TokenBucket`
#[derive(Debug, Clone, Copy)]
struct Fill {
    max: u64,
    per_fill: u64,
    interval: Duration,
    is_shadow: bool,
}

/// A bucket. One in shadow mode refuses nothing.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) tokens: TokenBucket,
    pub(super) is_shadow: bool,
}

/// The buckets.
#[derive(Debug)]
pub(super) struct Limiter {
    default: Default,
    exact: HashMap<Entries, Arc<Bucket>>,
    open: Vec<Open>,
    always_consume_default: bool,
}

#[derive(Debug)]
enum Default {
    /// Only descriptors count.
    None,
    Deny,
    Bucket(Arc<Bucket>),
}

/// A descriptor with values left open: each combination of values has a bucket, as long as it is used.
#[derive(Debug)]
struct Open {
    entries: Entries,
    fill: Fill,
    max: usize,
    /// The most recently used one last.
    buckets: Mutex<Vec<(Entries, Arc<Bucket>)>>,
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) is_allowed: bool,
    /// The bucket that decided, or else counts most closely.
    pub(super) bucket: Option<Arc<Bucket>>,
    /// What the descriptor says of `x-ratelimit-*`.
    pub(super) x_ratelimit_headers: Option<bool>,
}

impl Limits {
    pub(super) fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let default = match node.get("token_bucket") {
            Some(bucket) => Some(Fill::read(bucket, "token_bucket", false, cx)?),
            None => None,
        };
        let mut descriptors: Vec<(Entries, Fill)> = Vec::new();
        for (at, item) in node.list("descriptors").iter().enumerate() {
            let path = format!("descriptors[{at}]");
            let entries = item.list("entries").iter();
            let entries: Entries =
                entries.map(|entry| (entry.str("key").to_owned(), entry.str("value").to_owned())).collect();
            if descriptors.iter().any(|(known, _)| *known == entries) {
                return Err(cx.error(&path, item.mark, "duplicate descriptor"));
            }
            let bucket = item.field("token_bucket");
            let fill = Fill::read(bucket, &format!("{path}.token_bucket"), item.bool("shadow_mode"), cx)?;
            descriptors.push((entries, fill));
        }
        Ok(Self {
            default,
            descriptors,
            always_consume_default: node.bool_or("always_consume_default_token_bucket", true),
            max_dynamic: node
                .uint("max_dynamic_descriptors")
                .map_or(DEFAULT_DYNAMIC, |max| usize::try_from(max).unwrap_or(usize::MAX)),
        })
    }

    /// Whether requests are told apart.
    pub(super) fn has_descriptors(&self) -> bool {
        !self.descriptors.is_empty()
    }
}

impl Fill {
    fn read(node: &Node, path: &str, is_shadow: bool, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let interval = node.duration("fill_interval").unwrap_or_default();
        let max = node.uint("max_tokens").unwrap_or(0);
        if interval < MIN_INTERVAL && max > 0 {
            let mark = node.field("fill_interval").mark;
            return Err(cx.error(&format!("{path}.fill_interval"), mark, "the interval must not be below 50 ms"));
        }
        Ok(Self { max, per_fill: node.uint("tokens_per_fill").unwrap_or(1), interval, is_shadow })
    }

    fn bucket(&self) -> Arc<Bucket> {
        let tokens = TokenBucket::new(self.max, self.per_fill, self.interval);
        Arc::new(Bucket { tokens, is_shadow: self.is_shadow })
    }
}

impl Limiter {
    pub(super) fn new(limits: &Limits) -> Self {
        let is_open = |entries: &Entries| entries.iter().any(|(_, value)| value.is_empty());
        let (open, exact): (Vec<_>, Vec<_>) = limits.descriptors.iter().partition(|(entries, _)| is_open(entries));
        Self {
            default: match &limits.default {
                None => Default::None,
                Some(fill) if fill.max == 0 => Default::Deny,
                Some(fill) => Default::Bucket(fill.bucket()),
            },
            exact: exact.into_iter().map(|(entries, fill)| (entries.clone(), fill.bucket())).collect(),
            open: open
                .into_iter()
                .map(|(entries, fill)| Open {
                    entries: entries.clone(),
                    fill: *fill,
                    max: limits.max_dynamic,
                    buckets: Mutex::default(),
                })
                .collect(),
            always_consume_default: limits.always_consume_default,
        }
    }

    /// Counts a request. Of several buckets the slowest is asked first; those behind one that refuses lose nothing. One
    /// in shadow mode has the last word only where the others allow the request.
    pub(super) fn check(&self, descriptors: &[Descriptor], now: Instant) -> Verdict {
        let mut matched: Vec<(Arc<Bucket>, &Descriptor)> =
            descriptors.iter().filter_map(|descriptor| Some((self.find(&descriptor.entries)?, descriptor))).collect();
        matched.sort_by(|(a, _), (b, _)| a.tokens.rate().total_cmp(&b.tokens.rate()));
        let mut shadow = None;
        for (bucket, descriptor) in &matched {
            let is_allowed = match descriptor.hits {
                Some(hits) if descriptor.is_negative => {
                    bucket.tokens.give_back(hits, now);
                    true
                }
                hits => bucket.tokens.take(hits.unwrap_or(1), now),
            };
            if !is_allowed {
                let x_ratelimit_headers = descriptor.x_ratelimit_headers;
                let verdict = Verdict { is_allowed, bucket: Some(Arc::clone(bucket)), x_ratelimit_headers };
                if !bucket.is_shadow {
                    return verdict;
                }
                shadow.get_or_insert(verdict);
            }
        }
        let first = matched.into_iter().next();
        let (bucket, x_ratelimit_headers) =
            first.map_or((None, None), |(bucket, descriptor)| (Some(bucket), descriptor.x_ratelimit_headers));
        let allowed = Verdict { is_allowed: true, bucket, x_ratelimit_headers };
        let denied = |bucket| Verdict { is_allowed: false, bucket, x_ratelimit_headers: None };
        let skips_default = allowed.bucket.is_some() && !self.always_consume_default;
        let verdict = match &self.default {
            _ if skips_default => allowed,
            Default::None => allowed,
            Default::Deny => return denied(None),
            Default::Bucket(default) if default.tokens.take(1, now) => {
                Verdict { bucket: allowed.bucket.or_else(|| Some(Arc::clone(default))), ..allowed }
            }
            Default::Bucket(default) => return denied(Some(Arc::clone(default))),
        };
        shadow.unwrap_or(verdict)
    }

    fn find(&self, entries: &Entries) -> Option<Arc<Bucket>> {
        self.exact.get(entries).cloned().or_else(|| self.open.iter().find_map(|open| open.bucket(entries)))
    }
}

impl Open {
    fn bucket(&self, entries: &Entries) -> Option<Arc<Bucket>> {
        let matches = entries.len() == self.entries.len()
            && self
                .entries
                .iter()
                .zip(entries)
                .all(|((key, value), (given_key, given))| key == given_key && (value.is_empty() || value == given));
        if !matches {
            return None;
        }
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let found = buckets.iter().position(|(known, _)| known == entries).map(|at| buckets.remove(at));
        let found = found.unwrap_or_else(|| (entries.clone(), self.fill.bucket()));
        let bucket = Arc::clone(&found.1);
        buckets.push(found);
        if buckets.len() > self.max {
            buckets.remove(0);
        }
        Some(bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{building, config};
    use sota_config::TypedConfig;

    fn limiter(yaml: &str) -> Limiter {
        let yaml = format!("stat_prefix: s\n{yaml}");
        let TypedConfig::Value { node, .. } = config(super::super::EXTENSION.type_urls[0], &yaml) else {
            unreachable!("tests make trees")
        };
        Limiter::new(&building(|cx| Limits::read(&node, cx)).unwrap())
    }

    fn descriptor(entries: &[(&str, &str)]) -> Descriptor {
        let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Descriptor { entries, hits: None, is_negative: false, x_ratelimit_headers: None }
    }

    /// How many of ten requests pass.
    fn passing(limiter: &Limiter, descriptors: &[Descriptor]) -> usize {
        let now = Instant::now();
        (0..10).filter(|_| limiter.check(descriptors, now).is_allowed).count()
    }

    const SLOW: &str = "fill_interval: 3600s";

    #[test]
    fn the_bucket_for_all() {
        assert_eq!(passing(&limiter(&format!("token_bucket: {{max_tokens: 3, {SLOW}}}")), &[]), 3);
        assert_eq!(passing(&limiter(&format!("token_bucket: {{max_tokens: 0, {SLOW}}}")), &[]), 0);
        assert_eq!(passing(&limiter(""), &[]), 10);
    }

    #[test]
    fn descriptors_have_buckets_of_their_own() {
        let yaml = format!(
            "token_bucket: {{max_tokens: 100, {SLOW}}}\ndescriptors:\n\
             - {{entries: [{{key: a, value: x}}], token_bucket: {{max_tokens: 2, {SLOW}}}}}\n\
             - {{entries: [{{key: u}}], token_bucket: {{max_tokens: 4, {SLOW}}}}}\n\
             - {{entries: [{{key: s, value: x}}], token_bucket: {{max_tokens: 1, {SLOW}}}, shadow_mode: true}}"
        );
        let limiter = limiter(&yaml);
        assert_eq!(passing(&limiter, &[descriptor(&[("a", "x")])]), 2);
        assert_eq!(passing(&limiter, &[descriptor(&[("a", "y")])]), 10, "only the bucket for all counts");
        assert_eq!(passing(&limiter, &[descriptor(&[("u", "1")])]), 4);
        assert_eq!(passing(&limiter, &[descriptor(&[("u", "2")])]), 4, "each value has its own");
        assert_eq!(passing(&limiter, &[descriptor(&[("u", "1")])]), 0);
        let Verdict { bucket, .. } = limiter.check(&[descriptor(&[("s", "x")])], Instant::now());
        assert!(bucket.unwrap().is_shadow);
        let mut hits = descriptor(&[("u", "3")]);
        hits.hits = Some(3);
        assert_eq!(passing(&limiter, &[hits.clone()]), 1);
        hits.is_negative = true;
        assert_eq!(passing(&limiter, &[hits]), 10);
        assert_eq!(passing(&limiter, &[descriptor(&[("u", "3")])]), 4);
    }

    #[test]
    fn few_of_the_values_are_remembered() {
        let yaml = format!(
            "max_dynamic_descriptors: 2\ndescriptors:\n\
             - {{entries: [{{key: u}}], token_bucket: {{max_tokens: 1, {SLOW}}}}}"
        );
        let limiter = limiter(&yaml);
        let is_allowed = |value| limiter.check(&[descriptor(&[("u", value)])], Instant::now()).is_allowed;
        assert!(is_allowed("1") && is_allowed("2") && !is_allowed("1"));
        assert!(is_allowed("3"), "the place of 2, which was used least recently");
        assert!(!is_allowed("1") && is_allowed("2"));
    }

    #[test]
    fn the_bucket_for_all_may_be_spared() {
        let yaml = |always| {
            format!(
                "always_consume_default_token_bucket: {always}\ntoken_bucket: {{max_tokens: 1, {SLOW}}}\ndescriptors:\n\
                 - {{entries: [{{key: a, value: x}}], token_bucket: {{max_tokens: 3, {SLOW}}}}}"
            )
        };
        assert_eq!(passing(&limiter(&yaml(true)), &[descriptor(&[("a", "x")])]), 1);
        assert_eq!(passing(&limiter(&yaml(false)), &[descriptor(&[("a", "x")])]), 3);
    }
}
