//! The TCP proxy: bytes both ways between a connection and one to a host of a cluster.

use crate::{
    access_log::{AccessLogs, WorkerAccessLogs},
    buffer::{LARGE, SMALL},
    cause,
    context::WorkerContext,
    downstream::Downstream,
    socket::{Socket, Splice, SpliceError, Spliced},
    timer::Timer,
    upstream::{Cluster, HashPolicies, HostResult, LbContext, MetadataMatch, TcpConnection},
};
use sota_config::{
    ConfigErrors,
    tcp_proxy::{TcpProxy as Model, WeightedCluster},
};
use sota_plugin::{
    FactoryContext,
    access_log::{LogEntry, LogKind},
    info::{ConnectionSummary, ResponseFlag, StreamInfo},
    stat_group,
    stats::Group,
};
use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// The filter state by which a filter before chooses the cluster.
const CLUSTER: &str = "envoy.tcp_proxy.cluster";

stat_group! {
    /// `tcp.<stat_prefix>.`
    struct TcpStats {
        /// Connections.
        downstream_cx_total: counter,
        /// Connections without a cluster to go to.
        downstream_cx_no_route: counter,
        /// Octets from clients.
        downstream_cx_rx_bytes_total: counter,
        /// Octets to clients.
        downstream_cx_tx_bytes_total: counter,
        /// Connections that were closed as nothing moved.
        idle_timeout: counter,
        /// Connections that were closed as they lasted too long.
        max_downstream_connection_duration: counter,
    }
}

/// A TCP proxy, built and shared by all workers.
pub struct TcpProxyConfig {
    model: Arc<Model>,
    total_weight: u64,
    hash_policies: Option<HashPolicies>,
    /// For each cluster: the metadata that its hosts must have.
    metadata_match: Box<[Option<MetadataMatch>]>,
    access_logs: Arc<AccessLogs>,
}

impl TcpProxyConfig {
    /// Builds it, with every error there is.
    pub fn build(model: &Arc<Model>, cx: &FactoryContext<'_>) -> Result<Arc<Self>, ConfigErrors> {
        let hash_policies = match &*model.hash_policy {
            [] => None,
            policies => Some(HashPolicies::build(policies).map_err(|error| cx.place(error))?),
        };
        let metadata_match = |cluster: &WeightedCluster| {
            let pairs = [&*model.metadata_match, &*cluster.metadata_match].concat();
            (!pairs.is_empty()).then(|| MetadataMatch::new(pairs))
        };
        Ok(Arc::new(Self {
            hash_policies,
            metadata_match: model.clusters.iter().map(metadata_match).collect(),
            total_weight: model.clusters.iter().map(|cluster| u64::from(cluster.weight)).sum(),
            access_logs: AccessLogs::build(&model.access_log, cx)?,
            model: Arc::clone(model),
        }))
    }

    /// Each cluster with its share in tenths of a percent, and whether a random number means it.
    pub(crate) fn shares(&self, random: u64) -> Vec<(String, u64, bool)> {
        let picked = self.pick_cluster(random).map(|(name, _)| name);
        let share = |weight: u32| (u64::from(weight) * 1000).checked_div(self.total_weight).unwrap_or(0);
        let clusters = self.model.clusters.iter();
        clusters.map(|of| (of.name.clone(), share(of.weight), picked == Some(of.name.as_str()))).collect()
    }

    /// What is hashed, for clusters that choose by a hash.
    pub(crate) fn hash_policies(&self) -> Option<&HashPolicies> {
        self.hash_policies.as_ref()
    }

    /// The cluster of a connection, by weight.
    fn pick_cluster(&self, random: u64) -> Option<(&str, Option<&MetadataMatch>)> {
        let mut left = random.checked_rem(self.total_weight)?;
        for (cluster, metadata) in self.model.clusters.iter().zip(&self.metadata_match) {
            match left.checked_sub(u64::from(cluster.weight)) {
                Some(rest) => left = rest,
                None => return Some((&cluster.name, metadata.as_ref())),
            }
        }
        None
    }
}

/// A TCP proxy on one worker.
pub struct TcpProxy {
    config: Arc<TcpProxyConfig>,
    context: Rc<WorkerContext>,
    stats: Group<TcpStats>,
    access_logs: WorkerAccessLogs,
}

/// Why a connection ended before both sides had said so.
enum End {
    Failed(Side),
    Idle,
    TooLong,
    Draining,
    /// The host fails its health checks.
    HostFailed,
}

/// One side of a proxied connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Downstream,
    Upstream,
}

impl TcpProxy {
    /// The worker's part.
    pub fn for_worker(config: &Arc<TcpProxyConfig>, context: &Rc<WorkerContext>) -> Rc<Self> {
        Rc::new(Self {
            stats: context.local.stats.child(&format!("tcp.{}.", config.model.stat_prefix)).group(),
            access_logs: config.access_logs.for_worker(&context.cx),
            config: Arc::clone(config),
            context: Rc::clone(context),
        })
    }

    /// Serves a connection until it is over.
    pub async fn serve(self: Rc<Self>, downstream: Downstream) {
        self.stats.downstream_cx_total.inc();
        let stream_id = self.context.local.process.next_stream_id();
        let mut info = StreamInfo::new(Rc::clone(&downstream.info), stream_id, None);
        if let Some(upstream) = Box::pin(self.connect(&downstream, &mut info)).await {
            let end = self.forward(&downstream, &upstream).await;
            info.upstream.wire_bytes_received = upstream.socket.bytes_received();
            info.upstream.wire_bytes_sent = upstream.socket.bytes_sent();
            if matches!(end, Err(End::Failed(Side::Upstream))) {
                info.response_flags.set(ResponseFlag::UpstreamRemoteReset);
            }
            self.note_end(end, &downstream, &upstream);
        }
        if !info.response_flags.is_empty() {
            let cluster = info.upstream.cluster.clone();
            cause::note_tcp(cluster.as_deref(), &mut info);
        }
        info.bytes_received = downstream.socket.bytes_received();
        info.bytes_sent = downstream.socket.bytes_sent();
        info.downstream_wire_bytes_received = info.bytes_received;
        info.downstream_wire_bytes_sent = info.bytes_sent;
        downstream.info.summary.replace(Some(Box::new(ConnectionSummary {
            bytes_received: info.bytes_received,
            bytes_sent: info.bytes_sent,
            response_flags: info.response_flags,
        })));
        info.timing.end = Some(Instant::now());
        if !self.access_logs.is_empty() {
            info.metadata.clone_from(&downstream.info.metadata.borrow());
            self.access_logs.log(&LogEntry::new(&info, LogKind::TcpConnectionEnd));
        }
        if let Some(upstream) = &mut *downstream.info.upstream.borrow_mut() {
            **upstream = info.upstream;
        }
    }

    /// Connects to a host of the cluster, or to another one when that fails, as often as configured.
    async fn connect(&self, downstream: &Downstream, info: &mut StreamInfo) -> Option<TcpConnection> {
        let chosen = downstream.info.filter_state.borrow().text(CLUSTER);
        let picked = match &chosen {
            Some(name) => Some((name.as_str(), None)),
            None => self.config.pick_cluster(fastrand::u64(..)),
        };
        let picked = picked.and_then(|(name, metadata)| Some((self.context.clusters.get(name)?, metadata)));
        let Some((cluster, metadata)) = picked else {
            self.stats.downstream_cx_no_route.inc();
            info.response_flags.set(ResponseFlag::NoClusterFound);
            return None;
        };
        info.upstream.cluster = Some(Arc::clone(cluster.name()));
        info.upstream.cluster_metadata.clone_from(&cluster.config().model().metadata);
        let policies = cluster.hash_policies(|| self.config.hash_policies.as_ref());
        let hash = policies.and_then(|policies| policies.hash(None, info).hash);
        let choice = LbContext { hash, metadata, connection: Some(&downstream.info), ..LbContext::default() };
        for _ in 0..self.config.model.max_connect_attempts.max(1) {
            match self.connect_once(&cluster, &choice, info).await {
                Attempt::Connected(connection) => return Some(connection),
                Attempt::Failed => info.upstream.connect_attempts += 1,
                Attempt::Hopeless => return None,
            }
        }
        info.response_flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
        cluster.stats().upstream_cx_connect_attempts_exceeded.inc();
        None
    }

    async fn connect_once(&self, cluster: &Cluster, choice: &LbContext<'_>, info: &mut StreamInfo) -> Attempt {
        let Some(host) = cluster.choose_host(choice) else {
            info.response_flags.set(ResponseFlag::NoHealthyUpstream);
            return Attempt::Hopeless;
        };
        info.upstream.address = Some(host.host().address().clone());
        info.upstream.hostname = Some(Arc::clone(host.host().hostname())).filter(|name| !name.is_empty());
        match cluster.tcp_connection(&host, 0, choice.connection).await {
            Ok(connection) => {
                info.upstream.local = connection.local_address;
                info.upstream.tls = connection.tls.clone();
                info.upstream.connection_id = Some(connection.id);
                info.timing.upstream_connect_start = Some(connection.connect_start);
                info.timing.upstream_connect_complete = Some(connection.connect_complete);
                cluster.note_result(&host, HostResult::ConnectedForGood);
                Attempt::Connected(connection)
            }
            Err(failure) => {
                info.response_flags.set(failure.kind.flag());
                let is_overflow = failure.kind.flag() == ResponseFlag::UpstreamOverflow;
                info.upstream.transport_failure_reason = Some(failure.reason).filter(|reason| !reason.is_empty());
                if is_overflow {
                    return Attempt::Hopeless;
                }
                cluster.note_result(&host, HostResult::ConnectFailed);
                Attempt::Failed
            }
        }
    }

    /// Moves bytes until both sides have sent their last, or something ends it before.
    async fn forward(&self, downstream: &Downstream, connection: &TcpConnection) -> Result<(), End> {
        let upstream = &connection.socket;
        let model = &self.config.model;
        let clock = Activity::new(self.context.local.timer(), model.idle_timeout);
        let deadline = self.context.local.timer();
        deadline.set(model.max_downstream_connection_duration.and_then(|time| Instant::now().checked_add(time)));
        let drain_deadline = self.context.local.timer();
        let limit = downstream.buffer_limit.max(SMALL);
        let sent = |n| self.stats.downstream_cx_rx_bytes_total.add(n);
        let returned = |n| self.stats.downstream_cx_tx_bytes_total.add(n);
        let mut up = pin!(copy(&downstream.socket, upstream, limit, &clock, sent));
        let mut down = pin!(copy(upstream, &downstream.socket, limit, &clock, returned));
        let (mut up_done, mut down_done, mut draining) = (false, false, false);
        poll_fn(|cx| {
            if !up_done && let Poll::Ready(result) = up.as_mut().poll(cx) {
                result.map_err(|failed| End::Failed(failed.of(Side::Downstream, Side::Upstream)))?;
                up_done = true;
            }
            if !down_done && let Poll::Ready(result) = down.as_mut().poll(cx) {
                result.map_err(|failed| End::Failed(failed.of(Side::Upstream, Side::Downstream)))?;
                down_done = true;
            }
            if up_done && down_done {
                return Poll::Ready(Ok(()));
            }
            if clock.timer.poll_expired(cx).is_ready() {
                return Poll::Ready(Err(End::Idle));
            }
            if deadline.poll_expired(cx).is_ready() {
                return Poll::Ready(Err(End::TooLong));
            }
            if connection.host_failure.as_ref().is_some_and(|failure| failure.poll_draining(cx).is_ready()) {
                return Poll::Ready(Err(End::HostFailed));
            }
            // A proxied connection has no place where it could be ended politely: it may go on for the drain time.
            if !draining && downstream.drain.poll_draining(cx).is_ready() {
                draining = true;
                drain_deadline.set(Instant::now().checked_add(self.context.local.process.drain_time()));
            }
            if draining && drain_deadline.poll_expired(cx).is_ready() {
                return Poll::Ready(Err(End::Draining));
            }
            Poll::Pending
        })
        .await
    }

    fn note_end(&self, end: Result<(), End>, downstream: &Downstream, upstream: &TcpConnection) {
        let details = match end {
            Ok(()) => return,
            // What one side did to its connection, we do to the other.
            Err(End::Failed(Side::Downstream)) => return upstream.socket.reset_on_close(),
            Err(End::Failed(Side::Upstream)) => {
                upstream.closed_by_peer();
                return downstream.socket.reset_on_close();
            }
            Err(End::Draining | End::HostFailed) => return,
            Err(End::Idle) => {
                // Envoy has no termination details for this.
                return self.stats.idle_timeout.inc();
            }
            Err(End::TooLong) => {
                self.stats.max_downstream_connection_duration.inc();
                "max_connection_duration_reached"
            }
        };
        *downstream.info.termination_details.borrow_mut() = Some(details.into());
    }
}

/// What came of connecting to one host.
enum Attempt {
    Connected(TcpConnection),
    /// Another host may do better.
    Failed,
    /// Another host would do no better.
    Hopeless,
}

/// Which end of a copy failed.
#[derive(Clone, Copy)]
enum Failed {
    Reading,
    Writing,
}

impl Failed {
    fn of(self, from: Side, to: Side) -> Side {
        match self {
            Self::Reading => from,
            Self::Writing => to,
        }
    }
}

/// Notes that something moved; the idle timeout follows lazily.
struct Activity {
    timer: Timer,
    idle_timeout: Option<Duration>,
}

impl Activity {
    fn new(timer: Timer, idle_timeout: Option<Duration>) -> Self {
        let activity = Self { timer, idle_timeout };
        activity.note();
        activity
    }

    fn note(&self) {
        if let Some(timeout) = self.idle_timeout {
            self.timer.set(Instant::now().checked_add(timeout));
        }
    }
}

/// Moves bytes from one socket to the other until the one has sent its last, which the other is then told.
async fn copy(from: &Socket, to: &Socket, limit: usize, clock: &Activity, moved: impl Fn(u64)) -> Result<(), Failed> {
    let mut size = SMALL;
    let mut splice = Splice::new(limit);
    let mut is_splicing = false;
    poll_fn(|cx| {
        loop {
            while from.buffered() > 0 {
                let written = ready!(poll_move(from, to, cx)).map_err(|_| Failed::Writing)?;
                moved(written as u64);
                clock.note();
            }
            if from.has_ended() {
                return to.poll_shutdown(cx).map_err(|_| Failed::Writing);
            }
            if is_splicing {
                match ready!(splice.poll_step(cx, from, to)) {
                    Ok(Spliced::Moved(written)) => {
                        moved(written as u64);
                        clock.note();
                        // For a little it is not worth its system calls: that is copied until there is more again.
                        is_splicing = splice.is_under_way() || written >= SMALL;
                    }
                    Ok(Spliced::Ended | Spliced::Refused) => is_splicing = false,
                    Err(SpliceError::Reading(_)) => return Poll::Ready(Err(Failed::Reading)),
                    Err(SpliceError::Writing(_)) => return Poll::Ready(Err(Failed::Writing)),
                }
                continue;
            }
            // What is encrypted may wait to be sent.
            let _ = to.poll_flush(cx).map_err(|_| Failed::Writing)?;
            let read = ready!(from.poll_fill(cx, size)).map_err(|_| Failed::Reading)?;
            // Whoever fills a small buffer has more to say.
            if read == size {
                size = limit.min(LARGE);
                is_splicing = splice.is_possible(from, to);
            }
        }
    })
    .await
}

/// Writes what one socket has read to the other.
fn poll_move(from: &Socket, to: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    from.with_input(|bytes| {
        let result = to.poll_write(cx, bytes);
        let used = if let Poll::Ready(Ok(n)) = &result { *n } else { 0 };
        (used, result)
    })
}
