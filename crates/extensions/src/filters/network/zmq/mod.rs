//! `sota.filters.network.zmq`: ZeroMQ. Without routes a ROUTER that sends every message back, as the original program
//! did; with routes a broker that takes clients of every socket type and passes their messages on to clusters.

mod ask;
mod broker;
mod client;
mod config;
mod echo;
mod outbox;
mod passthrough;
mod pump;
mod routes;
mod security;
mod stats;

pub(crate) use ask::{Asker, AskerConfig, AskerSettings};
use broker::{Broker, Bus, Client};
use client::{Gate, Handshakes, note_end};
use config::Settings;
use echo::Echo;
use outbox::Outbox;
use pump::{Scratch, Surroundings};
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext, LocalFuture,
    cx::WorkerCx,
    filter::{Connection, NetworkFilterConfig, NetworkFilterFactory, NetworkFilterInstance, TerminalNetworkFilter},
    info::ConnectionInfo,
    stats::{Group, Scope},
};
use stats::ZmqStats;
use std::{rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "sota.filters.network.zmq",
    short_name: "zmq",
    type_urls: &["sota.filters.network.zmq"],
    build,
    build_route: None,
    route_type_urls: &[],
};

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    Ok(Arc::new(Zmq {
        settings: Arc::new(Settings::read(config, cx)?),
        handshakes: Arc::default(),
        bus: Arc::default(),
    }))
}

/// What all threads share.
struct Zmq {
    settings: Arc<Settings>,
    handshakes: Arc<Handshakes>,
    bus: Arc<Bus>,
}

impl NetworkFilterConfig for Zmq {
    fn is_terminal(&self) -> bool {
        true
    }

    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn NetworkFilterFactory> {
        let scope = cx.stats().child(&self.settings.stat_prefix);
        let (stats, scratch) = (scope.group(), Rc::new(Scratch::default()));
        let has_routes = self.settings.routes.is_some();
        Box::new(Factory(Rc::new(Worker {
            broker: has_routes.then(|| Broker::new(&self.settings, &self.bus, cx, &stats, &scratch)),
            surroundings: Surroundings {
                options: Arc::clone(&self.settings.options),
                patience: self.settings.patience,
                scratch,
            },
            settings: Arc::clone(&self.settings),
            handshakes: Arc::clone(&self.handshakes),
            stats,
            scope,
        })))
    }
}

/// A worker's part.
struct Worker {
    settings: Arc<Settings>,
    handshakes: Arc<Handshakes>,
    /// `None`: messages are sent back.
    broker: Option<Rc<Broker>>,
    surroundings: Surroundings,
    stats: Group<ZmqStats>,
    scope: Scope,
}

struct Factory(Rc<Worker>);

impl NetworkFilterFactory for Factory {
    fn new_filter(&self, _: &Rc<ConnectionInfo>) -> NetworkFilterInstance {
        NetworkFilterInstance::Terminal(Box::new(Filter(Rc::clone(&self.0))))
    }
}

struct Filter(Rc<Worker>);

impl TerminalNetworkFilter for Filter {
    fn serve(self: Box<Self>, connection: Connection) -> LocalFuture<()> {
        Box::pin(serve(self.0, connection))
    }
}

/// Serves a client until its connection is over.
async fn serve(worker: Rc<Worker>, mut connection: Connection) {
    let (info, cx) = (Rc::clone(connection.info()), connection.worker().clone());
    let Some(gate) = Gate::open(&worker.settings, &worker.handshakes, &worker.stats, &info) else { return };
    if let Some(cluster) = &worker.settings.passthrough_cluster {
        return Box::pin(passthrough::serve(&worker, gate, connection, cluster)).await;
    }
    let outbox = Rc::new(Outbox::new(worker.settings.watermark));
    let end = match &worker.broker {
        Some(broker) => {
            let mut client = Client::new(gate, broker, &outbox, &info);
            Box::pin(pump::run(&mut connection, &cx, &worker.surroundings, &outbox, &mut client)).await
        }
        None => {
            let mut echo = Echo { gate, outbox: Rc::clone(&outbox) };
            pump::run(&mut connection, &cx, &worker.surroundings, &outbox, &mut echo).await
        }
    };
    note_end(&end, &worker.stats, &worker.scope, &info);
}
