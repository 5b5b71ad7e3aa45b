//! `envoy.filters.network.redis_proxy`: Redis commands to the hosts of clusters, by prefix and hash of their keys.
//!
//! Commands with one key go to one host. `MGET`, `MSET`, `DEL` and their kin are sent key by key and put together
//! again. What is about the connection (`PING`, `AUTH`, `HELLO`, ...) is answered here. A transaction has a connection
//! to the host of its first key for itself. Words and counters are Envoy's.

mod commands;
mod config;
mod hash;
mod protocol;
mod routes;
mod session;
mod split;
mod stats;
#[cfg(test)]
mod tests;
mod transaction;

use config::Config;
use protocol::Redis;
use session::Session;
use sota_plugin::{
    Extension, LocalFuture,
    cx::WorkerCx,
    filter::{Connection, NetworkFilterConfig, NetworkFilterFactory, NetworkFilterInstance, TerminalNetworkFilter},
    info::ConnectionInfo,
    protocol::{Client, End, Options, serve},
};
use stats::Stats;
use std::{rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "envoy.filters.network.redis_proxy",
    short_name: "redis_proxy",
    type_urls: &["envoy.extensions.filters.network.redis_proxy.v3.RedisProxy"],
    build: |config, cx| Ok(Arc::new(RedisProxy(Arc::new(Config::read(config, cx)?)))),
    build_route: None,
    route_type_urls: &[],
};

/// Commands of one connection that are under way; beyond it nothing is read.
const MOST_IN_FLIGHT: usize = 1024;

struct RedisProxy(Arc<Config>);

impl NetworkFilterConfig for RedisProxy {
    fn is_terminal(&self) -> bool {
        true
    }

    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn NetworkFilterFactory> {
        let options = Options { timeout: self.0.op_timeout, heartbeat: None, limited: false };
        Box::new(Factory(Rc::new(Worker {
            config: Arc::clone(&self.0),
            client: Client::new(&Rc::new(Redis), cx, options),
            stats: Stats::new(cx.stats(), &self.0),
        })))
    }
}

struct Factory(Rc<Worker>);

impl NetworkFilterFactory for Factory {
    fn new_filter(&self, _: &Rc<ConnectionInfo>) -> NetworkFilterInstance {
        NetworkFilterInstance::Terminal(Box::new(Filter(Rc::clone(&self.0))))
    }
}

/// What all connections of a worker have in common.
struct Worker {
    config: Arc<Config>,
    client: Rc<Client<Redis>>,
    stats: Stats,
}

struct Filter(Rc<Worker>);

impl TerminalNetworkFilter for Filter {
    fn serve(self: Box<Self>, mut connection: Connection) -> LocalFuture<()> {
        Box::pin(async move {
            let worker = self.0;
            let _open = worker.stats.begin_connection(&mut connection);
            let session = Session::new(&worker, connection.info());
            match serve(&mut connection, &Redis, MOST_IN_FLIGHT, |request| session.answer(request)).await {
                End::Malformed(_) => {
                    worker.stats.proxy.downstream_cx_protocol_error.inc();
                    // A client that does not take it has closed: there is nobody to tell.
                    let _ = connection.write_all(b"-downstream protocol error\r\n").await;
                }
                End::Drained => worker.stats.proxy.downstream_cx_drain_close.inc(),
                End::Finished | End::Closed | End::Failed(_) => {}
            }
        })
    }
}
