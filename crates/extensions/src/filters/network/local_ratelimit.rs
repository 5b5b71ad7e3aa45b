//! `envoy.filters.network.local_ratelimit`: closes connections that come faster than a token bucket allows.

use crate::{lazy_stats::LazyStats, matchers, matchers::Switch};
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::WorkerCx,
    filter::{
        ConnectionCx, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory, NetworkFilterInstance, NetworkStatus,
    },
    info::ConnectionInfo,
    stat_group,
    token_bucket::TokenBucket,
};
use std::{
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "envoy.filters.network.local_ratelimit",
    short_name: "local_ratelimit",
    type_urls: &["envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit"],
    build,
    build_route: None,
    route_type_urls: &[],
};

/// No bucket is filled in shorter intervals.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

stat_group! {
    /// `local_rate_limit.<stat_prefix>.`
    struct Stats {
        /// Connections that were closed.
        rate_limited: shared_counter,
    }
}

/// `envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit`
struct Limit {
    bucket: Arc<TokenBucket>,
    enabled: Switch,
    stats: LazyStats<Stats>,
}

/// What a bucket is made by: its key, most tokens, tokens of a filling, and the interval between fillings.
type SharedKey = (String, u64, u64, Duration);

/// The buckets that filters share, as long as one of these has it.
static SHARED: Mutex<Option<HashMap<SharedKey, Weak<TokenBucket>>>> = Mutex::new(None);

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error(
            "",
            cx.mark,
            "the filter needs a configuration with \"stat_prefix\" and \"token_bucket\"",
        ));
    };
    Ok(Arc::new(Shared(Arc::new(Limit {
        bucket: bucket(node, cx)?,
        enabled: matchers::switch(node, "runtime_enabled", cx),
        stats: LazyStats::new(format!("local_rate_limit.{}.", node.str("stat_prefix"))),
    }))))
}

fn bucket(node: &Node, cx: &FactoryContext<'_>) -> Result<Arc<TokenBucket>, ConfigError> {
    let bucket = node.field("token_bucket");
    let interval = bucket.duration("fill_interval").unwrap_or_default();
    if interval < MIN_INTERVAL {
        return Err(cx.error("token_bucket", bucket.mark, "fill_interval must be at least 50 ms"));
    }
    let (most, per_fill) = (bucket.uint("max_tokens").unwrap_or(0), bucket.uint("tokens_per_fill").unwrap_or(1));
    let new = || Arc::new(TokenBucket::new(most, per_fill, interval));
    let key = node.str("share_key");
    if key.is_empty() {
        return Ok(new());
    }
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let shared = shared.get_or_insert_default();
    shared.retain(|_, bucket| bucket.strong_count() > 0);
    let slot = shared.entry((key.to_owned(), most, per_fill, interval)).or_default();
    Ok(slot.upgrade().unwrap_or_else(|| {
        let bucket = new();
        *slot = Arc::downgrade(&bucket);
        bucket
    }))
}

#[derive(Clone)]
struct Shared(Arc<Limit>);

impl NetworkFilterConfig for Shared {
    fn is_terminal(&self) -> bool {
        false
    }

    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn NetworkFilterFactory> {
        self.0.stats.get(cx);
        Box::new(self.clone())
    }
}

impl NetworkFilterFactory for Shared {
    fn new_filter(&self, _: &Rc<ConnectionInfo>) -> NetworkFilterInstance {
        NetworkFilterInstance::Filter(Box::new(self.clone()))
    }
}

impl NetworkFilter for Shared {
    fn on_new_connection(&mut self, cx: &mut ConnectionCx<'_>) -> NetworkStatus {
        if !self.0.enabled.is_on() || self.0.bucket.take(1, Instant::now()) {
            return NetworkStatus::Continue;
        }
        self.0.stats.get(cx.worker).rate_limited.inc();
        NetworkStatus::Close
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, building, config, connection, unchecked};

    /// What becomes of so many connections through filters with these configurations, in turn.
    fn connect(yamls: &[&str], connections: usize) -> (Vec<NetworkStatus>, Vec<(String, u64)>) {
        let worker = FakeWorker::default();
        let built = |yaml: &&str| building(|cx| build(&config(EXTENSION.type_urls[0], yaml), cx)).unwrap();
        let factories: Vec<_> = yamls.iter().map(built).map(|built| built.for_worker(&worker.cx())).collect();
        let (info, cx) = (Rc::new(connection()), worker.cx());
        let connect = |factory: &dyn NetworkFilterFactory| {
            let NetworkFilterInstance::Filter(mut filter) = factory.new_filter(&info) else { unreachable!() };
            filter.on_new_connection(&mut ConnectionCx { info: &info, worker: &cx })
        };
        let statuses = factories.iter().cycle().take(connections).map(|factory| connect(&**factory)).collect();
        (statuses, worker.counters())
    }

    const SLOW: &str = "token_bucket: {max_tokens: 2, fill_interval: 3600s}";

    #[test]
    fn connections_beyond_the_bucket_are_closed() {
        use NetworkStatus::{Close, Continue};
        let (statuses, counters) = connect(&[&format!("{{stat_prefix: p, {SLOW}}}")], 4);
        assert_eq!(statuses, [Continue, Continue, Close, Close]);
        assert_eq!(counters, [("local_rate_limit.p.rate_limited".to_owned(), 2)]);
        let off = "runtime_enabled: {default_value: false, runtime_key: k}";
        let (statuses, _) = connect(&[&format!("{{stat_prefix: p, {SLOW}, {off}}}")], 3);
        assert_eq!(statuses, [Continue; 3]);
    }

    #[test]
    fn buckets_may_be_shared() {
        use NetworkStatus::{Close, Continue};
        let shared = |name: &str| format!("{{stat_prefix: {name}, {SLOW}, share_key: buckets_may_be_shared}}");
        assert_eq!(connect(&[&shared("a"), &shared("b")], 3).0, [Continue, Continue, Close]);
        assert_eq!(connect(&[&shared("a")], 3).0, [Continue, Continue, Close], "a new one, as nobody had it any more");
        let own = |name: &str| format!("{{stat_prefix: {name}, {SLOW}}}");
        assert_eq!(connect(&[&own("a"), &own("b")], 4).0, [Continue; 4]);
    }

    #[test]
    fn buckets_fill_slowly_enough() {
        let yaml = "{stat_prefix: p, token_bucket: {max_tokens: 1, fill_interval: 0.01s}}";
        let error = building(|cx| build(&unchecked(yaml), cx).err()).unwrap().to_string();
        assert!(error.contains("at least 50 ms"), "{error}");
    }
}
