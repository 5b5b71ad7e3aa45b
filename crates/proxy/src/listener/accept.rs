//! A worker's listeners: from an accepted socket to the filter chain that serves it.

use super::{
    ListenSocket, ListenerConfig, Seat,
    listener_filters::{self, ListenerFilterFactory, Patience},
    stats::{ListenerStats, WorkerStats, stat_name},
};
use crate::{
    access_log::WorkerAccessLogs,
    connection::WorkerChain,
    context::WorkerContext,
    downstream::Downstream,
    socket::{Io, Socket},
};
use sota_config::{address::Address, overload::ActionKind};
use sota_plugin::{
    LocalFuture,
    access_log::{LogEntry, LogKind},
    info::{ConnectionInfo, PeerAddress, ResponseFlag, StreamInfo},
    stats::Group,
};
use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::AbortHandle,
};

/// After a failed accept (no file descriptors, no memory) this long nothing is accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that another worker accepted for this one.
pub struct Adopted {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The socket, from which nothing was read.
    pub socket: std::net::TcpStream,
    /// Its peer.
    pub remote: SocketAddr,
    /// Counts it at the worker that it goes to.
    seat: Seat,
}

/// Sends a connection to another worker; gives it back when that one is gone.
type HandOver = Box<dyn Fn(usize, Adopted) -> Result<(), Adopted>>;

/// The listeners of a worker, by name.
pub struct ListenerTable {
    context: Rc<WorkerContext>,
    hand_over: HandOver,
    slots: RefCell<HashMap<Arc<str>, Rc<Slot>>>,
}

/// A listener's place: its sockets are accepted from while its generations come and go.
struct Slot {
    name: Arc<str>,
    current: RefCell<Rc<WorkerListener>>,
    accepting: RefCell<Vec<AbortHandle>>,
}

/// One generation of a listener on one worker.
struct WorkerListener {
    name: Arc<str>,
    config: Arc<ListenerConfig>,
    filters: Vec<ListenerFilterFactory>,
    patience: Patience,
    chains: Vec<Rc<WorkerChain>>,
    default_chain: Option<Rc<WorkerChain>>,
    stats: Group<ListenerStats>,
    worker_stats: Group<WorkerStats>,
    access_logs: WorkerAccessLogs,
}

impl ListenerTable {
    /// No listeners yet.
    pub fn new(
        context: Rc<WorkerContext>,
        hand_over: impl Fn(usize, Adopted) -> Result<(), Adopted> + 'static,
    ) -> Rc<Self> {
        Rc::new(Self { context, hand_over: Box::new(hand_over), slots: RefCell::default() })
    }

    /// Adds a listener, or replaces one of the same name: unchanged filter chains go on, the others drain. `sockets` are
    /// new ones to accept from; without any, those of the previous generation stay.
    pub fn set(self: &Rc<Self>, config: &Arc<ListenerConfig>, sockets: Option<&[ListenSocket]>) -> io::Result<()> {
        let name: Arc<str> = config.model.name.as_str().into();
        let previous = self.slots.borrow().get(&name).cloned();
        let old = previous.as_ref().map(|slot| Rc::clone(&slot.current.borrow()));
        let listener = Rc::new(WorkerListener::new(config, old.as_deref(), &self.context));
        let slot = previous.unwrap_or_else(|| {
            Rc::new(Slot {
                name: Arc::clone(&name),
                current: RefCell::new(Rc::clone(&listener)),
                accepting: RefCell::default(),
            })
        });
        if let Some(old) = old {
            old.drain_unless_in(&listener);
            *slot.current.borrow_mut() = listener;
        }
        if let Some(sockets) = sockets {
            slot.stop_accepting();
            for socket in sockets {
                let descriptor = socket.for_worker(self.context.local.id)?;
                let acceptor = Acceptor::new(descriptor, &socket.configured)?;
                let task = tokio::task::spawn_local(accept_loop(Rc::clone(self), Rc::clone(&slot), acceptor));
                slot.accepting.borrow_mut().push(task.abort_handle());
            }
        }
        self.slots.borrow_mut().insert(name, slot);
        Ok(())
    }

    /// Removes a listener: it accepts no more, and its connections drain.
    pub fn remove(&self, name: &str) {
        if let Some(slot) = self.slots.borrow_mut().remove(name) {
            slot.stop_accepting();
            slot.current.borrow().drain();
        }
    }

    /// Begins draining the connections of the listeners that `which` picks; they go on accepting.
    pub fn drain(&self, which: impl Fn(&ListenerConfig) -> bool) {
        for slot in self.slots.borrow().values() {
            let listener = slot.current.borrow();
            if which(&listener.config) {
                listener.drain();
            }
        }
    }

    /// Accepts no more, on the listeners that `which` picks.
    pub fn stop_accepting(&self, which: impl Fn(&ListenerConfig) -> bool) {
        for slot in self.slots.borrow().values() {
            if which(&slot.current.borrow().config) {
                slot.stop_accepting();
            }
        }
    }

    /// Takes a connection that another worker accepted.
    pub fn adopt(self: &Rc<Self>, adopted: Adopted) {
        let slot = self.slots.borrow().get(&adopted.listener).cloned();
        // Without the listener it is closed, as is every connection in the queue of a listener that was removed.
        let Some(slot) = slot else { return };
        let stream = adopted.socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(adopted.socket));
        if let Ok(stream) = stream {
            let listener = Rc::clone(&slot.current.borrow());
            self.begin(listener, Io::Tcp(stream), adopted.remote.into(), adopted.seat);
        }
    }

    /// Ends when the overload manager lets connections be accepted.
    async fn wait_for_overload(&self, slot: &Slot) {
        let local = &self.context.local;
        while local.process.is_saturated(ActionKind::StopAcceptingConnections)
            && !slot.current.borrow().config.model.ignore_global_conn_limit
        {
            local.sleep(ACCEPT_PAUSE).await;
        }
    }

    /// A connection was accepted: it is refused, given to another worker, or begun here.
    fn accepted(self: &Rc<Self>, slot: &Slot, io: Io, remote: PeerAddress) {
        let listener = Rc::clone(&slot.current.borrow());
        let config = &listener.config;
        let own = self.context.local.id;
        let process = &self.context.local.process;
        if !config.model.ignore_global_conn_limit && !process.has_room_for_connection() {
            listener.stats.downstream_global_cx_overflow.inc();
            return;
        }
        if !config.model.ignore_global_conn_limit && process.is_overloaded(ActionKind::RejectIncomingConnections) {
            listener.stats.downstream_cx_overload_reject.inc();
            return;
        }
        if config.connections() >= config.connection_limit {
            listener.stats.downstream_cx_overflow.inc();
            return;
        }
        let (stream, address) = match (io, &remote) {
            (Io::Tcp(stream), PeerAddress::Ip(address)) => (stream, *address),
            (io, _) => {
                let seat = config.load.seat_at(own);
                return self.begin(listener, io, remote, seat);
            }
        };
        let seat = config.load.seat(own, config.model.exact_balance);
        let target = seat.worker();
        if target == own {
            return self.begin(listener, Io::Tcp(stream), remote, seat);
        }
        let Ok(socket) = stream.into_std() else { return };
        let adopted = Adopted { listener: Arc::clone(&slot.name), socket, remote: address, seat };
        if let Err(adopted) = (self.hand_over)(target, adopted) {
            self.adopt(adopted);
        }
    }

    fn begin(self: &Rc<Self>, listener: Rc<WorkerListener>, io: Io, remote: PeerAddress, seat: Seat) {
        let guards = (self.context.local.guard(true), ConnectionGuard::new(&listener, &self.context, seat));
        // Each part has its memory for itself, and gives it back: most connections wait for most of their time.
        let mut preparing = Box::pin(Rc::clone(self).prepare(listener, io, remote));
        tokio::task::spawn_local(async move {
            let local = &guards.1.context.local;
            let serving = local.clocked(preparing.as_mut()).await;
            drop(preparing);
            if let Some(mut serving) = serving {
                local.clocked(serving.as_mut()).await;
            }
            drop(guards);
        });
    }

    /// Listener filters, restored destination, filter chain.
    async fn prepare(
        self: Rc<Self>,
        listener: Rc<WorkerListener>,
        io: Io,
        remote: PeerAddress,
    ) -> Option<LocalFuture<()>> {
        let local_address = match &io {
            Io::Tcp(stream) => {
                // Envoy, too, sends small writes at once on every connection.
                let _ = stream.set_nodelay(true);
                PeerAddress::from(stream.local_addr().ok()?)
            }
            _ => listener.pipe_address(),
        };
        let id = self.context.local.process.next_connection_id();
        let mut info = ConnectionInfo::new(id, remote, local_address);
        info.listener_name = Arc::clone(&listener.name);
        info.traffic_direction = listener.config.model.traffic_direction;
        let socket = Socket::new(io);
        if !listener.filters.is_empty() {
            let stats = &listener.stats;
            stats.downstream_pre_cx_active.inc();
            let local = &self.context.local;
            let run = Box::pin(listener_filters::run(
                &listener.filters,
                &listener.patience,
                &socket,
                &mut info,
                stats,
                local,
            ));
            let result = run.await;
            stats.downstream_pre_cx_active.dec();
            if result.is_err() {
                return None;
            }
        }
        let target = self.restored(&listener, &info).unwrap_or(listener);
        let Some(chain) = target.find_chain(&info) else {
            target.stats.no_filter_chain_match.inc();
            target.log_refused(info, &self.context);
            return None;
        };
        info.filter_chain_name = Arc::clone(&chain.name);
        let info = Rc::new(info);
        let log = LogAtEnd::new(&target, &info, &self.context);
        let serving = Rc::clone(&chain).serve(Downstream {
            socket,
            info,
            drain: chain.drain.watch(),
            buffer_limit: target.config.model.per_connection_buffer_limit_bytes as usize,
        });
        Some(match log {
            None => serving,
            Some(log) => Box::pin(async move {
                serving.await;
                drop(log);
            }),
        })
    }

    /// The listener of the restored destination, where this one hands over to it: at the exact address, or else at
    /// the wildcard of the same port.
    fn restored(&self, listener: &WorkerListener, info: &ConnectionInfo) -> Option<Rc<WorkerListener>> {
        if !listener.config.model.use_original_dst || !info.local_restored {
            return None;
        }
        let wanted = info.local.socket_address()?;
        let slots = self.slots.borrow();
        let at = |accepts: &dyn Fn(&Address) -> bool| {
            slots
                .values()
                .map(|slot| slot.current.borrow())
                .find(|other| other.config.model.addresses.iter().any(accepts))
                .map(|other| Rc::clone(&other))
        };
        let exact = at(
            &|address| matches!(address, Address::Ip { ip, port, .. } if *ip == wanted.ip() && *port == wanted.port()),
        );
        let found = exact.or_else(|| {
            at(&|address| match address {
                Address::Ip { ip, port, .. } => {
                    ip.is_unspecified() && *port == wanted.port() && ip.is_ipv4() == wanted.is_ipv4()
                }
                _ => false,
            })
        });
        found.filter(|found| !std::ptr::eq(&**found, listener))
    }
}

impl Slot {
    fn stop_accepting(&self) {
        for task in self.accepting.borrow_mut().drain(..) {
            task.abort();
        }
    }
}

impl WorkerListener {
    fn new(config: &Arc<ListenerConfig>, old: Option<&Self>, context: &Rc<WorkerContext>) -> Self {
        let scope = context.local.stats.child(&format!("listener.{}.", stat_name(&config.model)));
        let worker_scope = scope.child(&format!("worker_{}.", context.local.id));
        let chain = |chain: &Arc<_>| {
            let kept = old.and_then(|old| old.all_chains().find(|other| Arc::ptr_eq(&other.config, chain)));
            kept.map_or_else(|| Rc::new(WorkerChain::new(chain, context, &scope)), Rc::clone)
        };
        Self {
            filters: config
                .listener_filters
                .iter()
                .map(|(disabled, filter)| ListenerFilterFactory {
                    disabled: disabled.clone(),
                    new: filter.for_worker(&context.cx),
                })
                .collect(),
            patience: Patience {
                timeout: config.model.listener_filters_timeout,
                continue_on_timeout: config.model.continue_on_listener_filters_timeout,
            },
            chains: config.chains.iter().map(chain).collect(),
            default_chain: config.default_chain.as_ref().map(chain),
            stats: scope.group(),
            worker_stats: worker_scope.group(),
            access_logs: config.access_logs.for_worker(&context.cx),
            name: config.model.name.as_str().into(),
            config: Arc::clone(config),
        }
    }

    fn all_chains(&self) -> impl Iterator<Item = &Rc<WorkerChain>> {
        self.chains.iter().chain(&self.default_chain)
    }

    fn find_chain(&self, info: &ConnectionInfo) -> Option<Rc<WorkerChain>> {
        let found = self.config.index.find(info).and_then(|at| self.chains.get(at));
        found.or(self.default_chain.as_ref()).cloned()
    }

    fn drain(&self) {
        self.all_chains().for_each(|chain| chain.drain.begin());
    }

    fn drain_unless_in(&self, new: &Self) {
        for chain in self.all_chains() {
            if !new.all_chains().any(|other| Rc::ptr_eq(other, chain)) {
                chain.drain.begin();
            }
        }
    }

    fn pipe_address(&self) -> PeerAddress {
        let pipe = self.config.model.addresses.iter().find_map(|address| match address {
            Address::Pipe { path, .. } => Some(path.clone()),
            _ => None,
        });
        PeerAddress::Pipe(pipe.unwrap_or_default())
    }

    /// Tells the listener's own access logs of a connection that no chain took.
    fn log_refused(&self, info: ConnectionInfo, context: &WorkerContext) {
        if self.access_logs.is_empty() {
            return;
        }
        let mut info = StreamInfo::new(Rc::new(info), context.local.process.next_stream_id(), None);
        info.response_flags.set(ResponseFlag::NoRouteFound);
        info.response_code_details = Some("filter_chain_not_found".into());
        self.access_logs.log(&LogEntry::new(&info, LogKind::NotSet));
    }
}

/// Writes a connection to the listener's own access logs when it is over.
struct LogAtEnd {
    listener: Rc<WorkerListener>,
    info: StreamInfo,
}

impl LogAtEnd {
    /// `None` where there are no such logs.
    fn new(listener: &Rc<WorkerListener>, info: &Rc<ConnectionInfo>, context: &WorkerContext) -> Option<Self> {
        if listener.access_logs.is_empty() {
            return None;
        }
        let info = StreamInfo::new(Rc::clone(info), context.local.process.next_stream_id(), None);
        Some(Self { listener: Rc::clone(listener), info })
    }
}

impl Drop for LogAtEnd {
    fn drop(&mut self) {
        let info = &mut self.info;
        let ended = info.connection.summary.take().unwrap_or_default();
        (info.bytes_received, info.bytes_sent) = (ended.bytes_received, ended.bytes_sent);
        (info.downstream_wire_bytes_received, info.downstream_wire_bytes_sent) =
            (ended.bytes_received, ended.bytes_sent);
        info.response_flags = ended.response_flags;
        info.metadata.clone_from(&info.connection.metadata.borrow());
        info.timing.end = Some(Instant::now());
        self.listener.access_logs.log(&LogEntry::new(info, LogKind::NotSet));
    }
}

/// Counts a connection while it lives.
struct ConnectionGuard {
    listener: Rc<WorkerListener>,
    context: Rc<WorkerContext>,
    since: Instant,
    _seat: Seat,
}

impl ConnectionGuard {
    fn new(listener: &Rc<WorkerListener>, context: &Rc<WorkerContext>, seat: Seat) -> Self {
        listener.stats.downstream_cx_total.inc();
        listener.stats.downstream_cx_active.inc();
        listener.worker_stats.downstream_cx_total.inc();
        listener.worker_stats.downstream_cx_active.inc();
        context.local.process.connection_began();
        let since = Instant::now();
        Self { listener: Rc::clone(listener), context: Rc::clone(context), since, _seat: seat }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let lived = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let stats = &self.listener.stats;
        stats.downstream_cx_destroy.inc();
        stats.downstream_cx_active.dec();
        stats.downstream_cx_length_ms.record(lived);
        self.listener.worker_stats.downstream_cx_active.dec();
        self.context.local.process.connection_ended();
    }
}

/// A socket that is accepted from.
enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Acceptor {
    fn new(descriptor: OwnedFd, address: &Address) -> io::Result<Self> {
        match address {
            Address::Pipe { path, .. } => {
                let listener = std::os::unix::net::UnixListener::from(descriptor);
                Ok(Self::Unix(UnixListener::from_std(listener)?, path.clone()))
            }
            _ => Ok(Self::Tcp(TcpListener::from_std(std::net::TcpListener::from(descriptor))?)),
        }
    }

    async fn accept(&self) -> io::Result<(Io, PeerAddress)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, remote): (TcpStream, _) = listener.accept().await?;
                Ok((Io::Tcp(stream), remote.into()))
            }
            Self::Unix(listener, path) => {
                let (stream, remote): (UnixStream, _) = listener.accept().await?;
                // A client's end is seldom bound; Envoy then prints the listener's path.
                let remote = remote.as_pathname().map_or_else(|| path.clone(), ToOwned::to_owned);
                Ok((Io::Unix(stream), PeerAddress::Pipe(remote)))
            }
        }
    }
}

async fn accept_loop(table: Rc<ListenerTable>, slot: Rc<Slot>, acceptor: Acceptor) {
    loop {
        // Those that wait in the system's queue are served when it is over.
        table.wait_for_overload(&slot).await;
        match acceptor.accept().await {
            Ok((io, remote)) => {
                table.wait_for_overload(&slot).await;
                table.accepted(&slot, io, remote);
            }
            Err(error) if is_the_connections(&error) => {}
            Err(error) => {
                let listener = Rc::clone(&slot.current.borrow());
                listener.stats.downstream_cx_accept_error.inc();
                tracing::warn!(target: "listener", "listener \"{}\": cannot accept: {error}; pausing", slot.name);
                table.context.local.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Errors of accept(2) that are about one connection and say nothing about the next.
fn is_the_connections(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
