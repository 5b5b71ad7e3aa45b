//! `envoy.filters.network.connection_limit`: no more connections at once through a filter chain than this.

use crate::{lazy_stats::LazyStats, matchers, matchers::Switch};
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::WorkerCx,
    filter::{
        ConnectionCx, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory, NetworkFilterInstance, NetworkStatus,
    },
    info::ConnectionInfo,
    stat_group,
};
use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "envoy.filters.network.connection_limit",
    short_name: "connection_limit",
    type_urls: &["envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit"],
    build,
    build_route: None,
    route_type_urls: &[],
};

stat_group! {
    /// `connection_limit.<stat_prefix>.`
    struct Stats {
        /// Connections that are open, those included that wait to be closed.
        active_connections: shared_gauge,
        /// Connections that were too many.
        limited_connections: shared_counter,
    }
}

/// `envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit`
struct Limit {
    most: u64,
    /// How long a connection that is one too many is kept, unread.
    delay: Option<Duration>,
    enabled: Switch,
    /// On all workers.
    open: AtomicU64,
    stats: LazyStats<Stats>,
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error(
            "",
            cx.mark,
            "the filter needs a configuration with \"stat_prefix\" and \"max_connections\"",
        ));
    };
    let most = node.uint("max_connections").filter(|most| *most > 0);
    let mark = node.get("max_connections").map_or(node.mark, |field| field.mark);
    let most = most.ok_or_else(|| cx.error("max_connections", mark, "a number above 0 is needed here"))?;
    Ok(Arc::new(Shared(Arc::new(Limit {
        most,
        delay: node.duration("delay").filter(|delay| !delay.is_zero()),
        enabled: matchers::switch(node, "runtime_enabled", cx),
        open: AtomicU64::new(0),
        stats: LazyStats::new(format!("connection_limit.{}.", node.str("stat_prefix"))),
    }))))
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
        NetworkFilterInstance::Filter(Box::new(Filter { limit: Arc::clone(&self.0), counted: None }))
    }
}

struct Filter {
    limit: Arc<Limit>,
    counted: Option<Counted>,
}

/// Counts a connection until it is gone.
struct Counted {
    limit: Arc<Limit>,
    worker: WorkerCx,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.limit.open.fetch_sub(1, Relaxed);
        self.limit.stats.get(&self.worker).active_connections.dec();
    }
}

impl NetworkFilter for Filter {
    fn on_new_connection(&mut self, cx: &mut ConnectionCx<'_>) -> NetworkStatus {
        let limit = &self.limit;
        if !limit.enabled.is_on() {
            return NetworkStatus::Continue;
        }
        let stats = limit.stats.get(cx.worker);
        stats.active_connections.inc();
        let before = limit.open.fetch_add(1, Relaxed);
        // Compat: one that waits to be closed counts as long as it is there.
        self.counted = Some(Counted { limit: Arc::clone(limit), worker: cx.worker.clone() });
        if before < limit.most {
            return NetworkStatus::Continue;
        }
        stats.limited_connections.inc();
        limit.delay.map_or(NetworkStatus::Close, NetworkStatus::CloseAfter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, building, config, connection};

    fn open(factory: &dyn NetworkFilterFactory, worker: &FakeWorker) -> (NetworkStatus, Box<dyn NetworkFilter>) {
        let info = Rc::new(connection());
        let NetworkFilterInstance::Filter(mut filter) = factory.new_filter(&info) else { unreachable!() };
        let worker = worker.cx();
        let status = filter.on_new_connection(&mut ConnectionCx { info: &info, worker: &worker });
        (status, filter)
    }

    #[test]
    fn there_is_room_again_when_one_is_gone() {
        for (yaml, refused) in [
            ("{stat_prefix: p, max_connections: 2}", NetworkStatus::Close),
            ("{stat_prefix: p, max_connections: 2, delay: 3s}", NetworkStatus::CloseAfter(Duration::from_secs(3))),
        ] {
            let worker = FakeWorker::default();
            let built = building(|cx| build(&config(EXTENSION.type_urls[0], yaml), cx)).unwrap();
            let factory = built.for_worker(&worker.cx());
            let (first, one) = open(&*factory, &worker);
            let (second, two) = open(&*factory, &worker);
            assert_eq!([first, second], [NetworkStatus::Continue; 2]);
            let (third, three) = open(&*factory, &worker);
            assert_eq!(third, refused);
            drop((two, three));
            assert_eq!(open(&*factory, &worker).0, NetworkStatus::Continue);
            drop(one);
            assert_eq!(worker.counters(), [("connection_limit.p.limited_connections".to_owned(), 1)]);
        }
    }

    #[test]
    fn it_may_be_off() {
        let worker = FakeWorker::default();
        let yaml = "{stat_prefix: p, max_connections: 1, runtime_enabled: {default_value: false, runtime_key: k}}";
        let built = building(|cx| build(&config(EXTENSION.type_urls[0], yaml), cx)).unwrap();
        let factory = built.for_worker(&worker.cx());
        let all: Vec<_> = (0..3).map(|_| open(&*factory, &worker)).collect();
        assert!(all.iter().all(|(status, _)| *status == NetworkStatus::Continue));
    }
}
