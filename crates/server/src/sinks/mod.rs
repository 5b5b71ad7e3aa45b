//! Sinks: stats are sent away, once per `stats_flush_interval`.
//!
//! One task for each sink. It gets the snapshots of all stats as they are taken; one that comes while it still sends the one
//! before is left out, so a collector that is slow or gone costs a line in the log and nothing else.

mod metrics_service;
mod open_telemetry;
mod statsd;

use crate::{
    server::Server,
    stats::{CounterValues, Snapshot},
    xds::node_bytes,
};
use bytes::Bytes;
use sota_config::{
    address::Address,
    stats_sink::{MetricsService, OpenTelemetrySink, StatsSink, Statsd, StatsdTarget},
    tracing::Collector,
};
use sota_proxy::{
    collector::{self, Outcome},
    context::WorkerContext,
    grpc::GrpcStream,
    local::Local,
    upstream::{Cluster, LbContext, TcpConnection},
};
use statsd::{Datagrams, StatsdFormat};
use std::{
    cell::{Cell, RefCell},
    io,
    net::UdpSocket,
    os::unix::net::UnixDatagram,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// For a TCP connection to take what is written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// While more than so much waits to be sent on a stream, nothing is added.
const MOST_UNSENT: usize = 16 << 20;

/// All sinks of the process.
pub(crate) struct Sinks {
    server: Rc<Server>,
    tasks: Vec<Sender<Arc<Snapshot>>>,
    /// `None` while a snapshot is being taken.
    counters: RefCell<Option<CounterValues>>,
}

impl Sinks {
    /// Starts the tasks. Fails on an address that cannot be sent to.
    pub(crate) fn start(server: &Rc<Server>, sinks: &[StatsSink]) -> Result<Option<Rc<Self>>, String> {
        if sinks.is_empty() {
            return Ok(None);
        }
        let local = Local::new(server.concurrency, Arc::clone(&server.process), server.scope.clone());
        let context = WorkerContext::new(&local);
        let mut tasks = Vec::new();
        for sink in sinks {
            let (sender, snapshots) = channel(1);
            let task = Task {
                server: Rc::clone(server),
                context: Rc::clone(&context),
                snapshots,
                is_failing: Cell::default(),
            };
            match sink.clone() {
                StatsSink::Statsd(config) => match &config.to {
                    StatsdTarget::Datagrams(address) => {
                        let socket =
                            Socket::open(address).map_err(|error| format!("stats_sinks: {address}: {error}"))?;
                        tokio::task::spawn_local(async move { task.datagrams(&config, &socket).await });
                    }
                    StatsdTarget::Tcp(cluster) => {
                        let cluster = cluster.clone();
                        tokio::task::spawn_local(async move { task.lines(&config, &cluster).await });
                    }
                },
                StatsSink::MetricsService(config) => {
                    tokio::task::spawn_local(async move { task.metrics_service(&config).await });
                }
                StatsSink::OpenTelemetry(config) => {
                    tokio::task::spawn_local(async move { task.open_telemetry(&config).await });
                }
            }
            tasks.push(sender);
        }
        let counters = RefCell::new(Some(CounterValues::new()));
        Ok(Some(Rc::new(Self { server: Rc::clone(server), tasks, counters })))
    }

    /// Takes a snapshot, beside the thread that answers admin requests, and gives it to every sink.
    pub(crate) fn flush(self: &Rc<Self>) {
        let Some(mut counters) = self.counters.take() else { return };
        let sinks = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let store = sinks.server.stats.clone();
            let taken = tokio::task::spawn_blocking(move || (store.snapshot(&mut counters), counters)).await;
            let Ok((snapshot, counters)) = taken else { return };
            sinks.counters.replace(Some(counters));
            let snapshot = Arc::new(snapshot);
            for task in &sinks.tasks {
                let _ = task.try_send(Arc::clone(&snapshot));
            }
        });
    }
}

/// A socket for datagrams that are sent without waiting: what does not fit is lost, as datagrams are.
enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram, std::path::PathBuf),
}

impl Socket {
    fn open(address: &Address) -> io::Result<Self> {
        match address {
            Address::Pipe { path, .. } => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                // The one who reads may come later, and come again.
                Ok(Self::Unix(socket, path.clone()))
            }
            Address::Ip { ip, port, .. } => {
                let any: &str = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect((*ip, *port))?;
                socket.set_nonblocking(true)?;
                Ok(Self::Udp(socket))
            }
            Address::Name { .. } => Err(io::Error::new(io::ErrorKind::InvalidInput, "an IP address is expected here")),
        }
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(datagram),
            Self::Unix(socket, path) => socket.send_to(datagram, path),
        }
        .map(drop)
    }
}

/// The task of a sink.
struct Task {
    server: Rc<Server>,
    /// The main thread's part of clusters.
    context: Rc<WorkerContext>,
    snapshots: Receiver<Arc<Snapshot>>,
    is_failing: Cell<bool>,
}

impl Task {
    async fn datagrams(mut self, config: &Statsd, socket: &Socket) {
        let format = StatsdFormat { prefix: &config.prefix, tags: config.tags };
        while let Some(snapshot) = self.snapshots.recv().await {
            let mut datagrams = Datagrams::new(config.max_bytes_per_datagram);
            let mut result = Ok(());
            let mut send = |datagram: Option<Vec<u8>>| {
                if let Some(Err(error)) = datagram.map(|datagram| socket.send(&datagram)) {
                    result = Err(error.to_string());
                }
            };
            format.lines(&snapshot, |line| send(datagrams.push(line)));
            send(datagrams.finish());
            self.note("statsd", result);
        }
    }

    async fn lines(mut self, config: &Statsd, cluster: &str) {
        let format = StatsdFormat { prefix: &config.prefix, tags: config.tags };
        let mut open: Option<TcpConnection> = None;
        while let Some(snapshot) = self.snapshots.recv().await {
            let mut text = Vec::new();
            format.lines(&snapshot, |line| {
                text.extend_from_slice(line.as_bytes());
                text.push(b'\n');
            });
            // One that is closed meanwhile is made anew; what is said on it is not said twice.
            let usable = open.take().filter(|connection| !connection.socket.is_stale());
            let written = async {
                let connection = match usable {
                    Some(connection) => connection,
                    None => self.connect(cluster).await?,
                };
                connection.socket.write_all(&text).await.map_err(|error| error.to_string())?;
                Ok(connection)
            };
            let result = tokio::time::timeout(WRITE_TIMEOUT, written).await;
            let result = result.unwrap_or_else(|_| Err("the host takes nothing".to_owned()));
            self.note("statsd", result.map(|connection| open = Some(connection)));
        }
    }

    async fn connect(&self, cluster: &str) -> Result<TcpConnection, String> {
        let cluster = self.cluster(cluster).ok_or("there is no such cluster")?;
        let host = cluster.choose_host(&LbContext::default()).ok_or("the cluster has no healthy host")?;
        cluster.tcp_connection(&host, 0, None).await.map_err(|failure| failure.details())
    }

    async fn metrics_service(mut self, config: &MetricsService) {
        let node = node_bytes(&self.server);
        let mut stream: Option<GrpcStream> = None;
        loop {
            let answered = async {
                match &mut stream {
                    Some(stream) => stream.message().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                snapshot = self.snapshots.recv() => {
                    let Some(snapshot) = snapshot else { return };
                    if let Err(error) = self.add(config, &snapshot, &node, &mut stream).await {
                        self.note("the metrics service", Err(error));
                    }
                }
                // It answers when the stream is over, if at all.
                answer = answered => {
                    if let Err(error) = answer {
                        stream = None;
                        self.note("the metrics service", Err(error.to_string()));
                    }
                }
            }
        }
    }

    async fn add(
        &self,
        config: &MetricsService,
        snapshot: &Snapshot,
        node: &Bytes,
        stream: &mut Option<GrpcStream>,
    ) -> Result<(), String> {
        let is_new = stream.is_none();
        let open = match stream {
            Some(open) => open,
            None => {
                let Collector::Grpc { cluster: name, authority, metadata, .. } = &config.collector else {
                    return Ok(());
                };
                let cluster = self.cluster(name).ok_or("there is no such cluster")?;
                let authority = if authority.is_empty() { name } else { authority };
                let opened = GrpcStream::open(&cluster, metrics_service::METHOD, authority, metadata).await;
                stream.insert(opened.map_err(|error| error.to_string())?)
            }
        };
        if open.unsent() > MOST_UNSENT {
            return Err("it does not take what is sent".to_owned());
        }
        for message in metrics_service::encode(config, snapshot, is_new.then_some(node)) {
            open.send(&message);
        }
        self.note("the metrics service", Ok(()));
        Ok(())
    }

    async fn open_telemetry(mut self, config: &OpenTelemetrySink) {
        let start = SystemTime::now();
        let (Collector::Grpc { cluster, .. } | Collector::Http { cluster, .. }) = &config.collector;
        while let Some(snapshot) = self.snapshots.recv().await {
            let body = open_telemetry::encode(config, &snapshot, start);
            self.cluster(cluster);
            let (clusters, kind) = (&self.context.clusters, "application/x-protobuf");
            let outcome = collector::send(clusters, &config.collector, open_telemetry::METHOD, kind, body.into()).await;
            let result = match outcome {
                Outcome::Taken => Ok(()),
                Outcome::Refused => Err("it refuses the metrics".to_owned()),
                Outcome::Failed => Err("it cannot be reached".to_owned()),
                Outcome::NoCluster => Err("there is no such cluster".to_owned()),
            };
            self.note("the collector of OpenTelemetry", result);
        }
    }

    fn cluster(&self, name: &str) -> Option<Rc<Cluster>> {
        self.server.resources.own_cluster(&self.context.clusters, name)
    }

    /// Says when sending fails, and when it does not any more.
    fn note(&self, what: &str, result: Result<(), String>) {
        match result {
            Ok(()) if self.is_failing.replace(false) => {
                tracing::info!(target: "stats", "stats are sent to {what} again");
            }
            Ok(()) => {}
            Err(error) if !self.is_failing.replace(true) => {
                tracing::warn!(target: "stats", "stats cannot be sent to {what}: {error}");
            }
            Err(_) => {}
        }
    }
}
