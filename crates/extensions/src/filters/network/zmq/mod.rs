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
pub(crate) mod request_proxy;
mod routes;
mod security;
mod stats;

pub(crate) use ask::{Asker, AskerConfig, AskerSettings};
use broker::{Broker, Bus, Client};
use client::{Gate, Handshakes, note_end};
use config::Settings;
use echo::Echo;
use outbox::Outbox;
use pump::{Handler, Pump, Scratch, Surroundings};
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext, LocalFuture,
    cx::WorkerCx,
    filter::{Connection, NetworkFilterConfig, NetworkFilterFactory, NetworkFilterInstance, TerminalNetworkFilter},
    info::ConnectionInfo,
    stats::{Group, Scope},
};
use stats::ZmqStats;
use std::{
    future::ready,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

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
            broker: has_routes.then(|| Broker::start(&self.settings, &self.bus, cx, &stats, &scratch)),
            surroundings: Rc::new(Surroundings {
                worker: cx.clone(),
                options: Arc::clone(&self.settings.options),
                patience: self.settings.patience,
                scratch,
            }),
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
    surroundings: Rc<Surroundings>,
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
        serve(self.0, connection)
    }
}

/// What serves a client until its connection is over.
fn serve(worker: Rc<Worker>, connection: Connection) -> LocalFuture<()> {
    let info = connection.info();
    let Some(gate) = Gate::open(&worker.settings, &worker.handshakes, &worker.stats, info) else {
        return Box::pin(ready(()));
    };
    if let Some(cluster) = &worker.settings.passthrough_cluster {
        let cluster = Arc::clone(cluster);
        return Box::pin(async move { passthrough::serve(&worker, gate, connection, &cluster).await });
    }
    let outbox = Rc::new(Outbox::new(worker.settings.watermark));
    match &worker.broker {
        Some(broker) => {
            let client = Client::new(gate, broker, &outbox, info);
            run(worker, connection, &outbox, client)
        }
        None => {
            let echo = Echo { gate, outbox: Rc::clone(&outbox) };
            run(worker, connection, &outbox, echo)
        }
    }
}

fn run(
    worker: Rc<Worker>,
    connection: Connection,
    outbox: &Rc<Outbox>,
    handler: impl Handler + Unpin + 'static,
) -> LocalFuture<()> {
    let pump = Pump::new(connection, &worker.surroundings, outbox, handler);
    Box::pin(Running { pump, worker })
}

/// A client's connection. No `async fn`, whose future would have room for its arguments twice: ten thousands of clients
/// may wait.
struct Running<H> {
    pump: Pump<Connection, H>,
    worker: Rc<Worker>,
}

impl<H: Handler + Unpin> Future for Running<H> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let end = ready!(Pin::new(&mut self.pump).poll(cx));
        note_end(&end, &self.worker.stats, &self.worker.scope, self.pump.transport());
        Poll::Ready(())
    }
}
