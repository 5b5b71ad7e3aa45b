//! Borrowed access: what a worker and a stream offer to the extension that is called.

use crate::{
    LocalFuture,
    future::{First, race},
    grpc::{Call, GrpcError, GrpcService},
    http::{Headers, RequestHead, ResponseHead},
    info::{RouteInfo, StreamInfo},
    stats::Scope,
    upstream::{Cluster, UpstreamError},
};
use bytes::{Bytes, BytesMut};
use std::{
    any::Any,
    fmt,
    future::{Future, ready},
    rc::Rc,
    time::Duration,
};

/// What the data plane does for extensions on a worker.
pub trait WorkerServices {
    /// Ready when so much time has passed, to about a millisecond.
    fn sleep(&self, time: Duration) -> LocalFuture<()>;
    /// Runs a task on this worker. A counted task holds up draining until it is done.
    fn spawn(&self, task: LocalFuture<()>, counted: bool);
    /// Whether the process is draining.
    fn is_draining(&self) -> bool;
    /// Whether health checks of this process are to fail (`/healthcheck/fail`, or draining).
    fn is_health_check_failing(&self) -> bool;
    /// The health of a cluster; `None` when there is none of this name.
    fn cluster_health(&self, cluster: &str) -> Option<ClusterHealth>;
    /// The cluster of this name, to send something to from `worker`, which is this one.
    fn cluster(&self, name: &str, worker: &WorkerCx) -> Option<Cluster>;
    /// A gRPC call on a host of a cluster. By default there is no cluster.
    fn grpc_call(&self, service: &GrpcService, _path: &str) -> LocalFuture<Result<Call, GrpcError>> {
        let error = GrpcError::NoCluster(service.cluster.clone());
        Box::pin(ready(Err(error)))
    }
    /// A number that no other stream of the process has.
    fn next_stream_id(&self) -> u64;
}

/// How many hosts of a cluster are healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClusterHealth {
    /// All hosts.
    pub total: usize,
    /// Hosts that may be used.
    pub healthy: usize,
    /// Hosts that may be used when nothing better is.
    pub degraded: usize,
}

/// A worker as an extension sees it. Cheap to clone.
#[derive(Clone)]
pub struct WorkerCx(Rc<Worker>);

struct Worker {
    id: usize,
    stats: Scope,
    services: Rc<dyn WorkerServices>,
}

impl WorkerCx {
    /// For the data plane.
    pub fn new(id: usize, stats: Scope, services: Rc<dyn WorkerServices>) -> Self {
        Self(Rc::new(Worker { id, stats, services }))
    }

    /// Which worker this is, from 0.
    pub fn id(&self) -> usize {
        self.0.id
    }

    /// The root of this worker's stats.
    pub fn stats(&self) -> &Scope {
        &self.0.stats
    }

    /// Ready when so much time has passed, to about a millisecond.
    pub fn sleep(&self, time: Duration) -> LocalFuture<()> {
        self.0.services.sleep(time)
    }

    /// Runs a task on this worker; draining waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.services.spawn(Box::pin(task), true);
    }

    /// Runs a task on this worker that draining does not wait for.
    pub fn spawn_background(&self, task: impl Future<Output = ()> + 'static) {
        self.0.services.spawn(Box::pin(task), false);
    }

    /// Whether the process is draining.
    pub fn is_draining(&self) -> bool {
        self.0.services.is_draining()
    }

    /// Whether health checks of this process are to fail.
    pub fn is_health_check_failing(&self) -> bool {
        self.0.services.is_health_check_failing()
    }

    /// The health of a cluster; `None` when there is none of this name.
    pub fn cluster_health(&self, cluster: &str) -> Option<ClusterHealth> {
        self.0.services.cluster_health(cluster)
    }

    /// The cluster of this name, to send something to. What is found is the cluster of now: who lives longer than a
    /// request asks again.
    pub fn cluster(&self, name: &str) -> Result<Cluster, UpstreamError> {
        self.0.services.cluster(name, self).ok_or_else(|| UpstreamError::UnknownCluster(name.into()))
    }

    /// Begins a call of the service's method at `path`.
    pub fn grpc_call(&self, service: &GrpcService, path: &str) -> LocalFuture<Result<Call, GrpcError>> {
        self.0.services.grpc_call(service, path)
    }

    /// A number that no other stream of the process has, for [`StreamInfo`].
    pub fn next_stream_id(&self) -> u64 {
        self.0.services.next_stream_id()
    }

    /// Waits for a future, but no longer than this; `None`: it was not ready in time, and is dropped.
    pub async fn timeout<T>(&self, time: Duration, future: impl Future<Output = T>) -> Option<T> {
        match race(future, self.sleep(time)).await {
            First::One(output) => Some(output),
            First::Other(()) => None,
        }
    }
}

impl fmt::Debug for WorkerCx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerCx").field("id", &self.0.id).finish_non_exhaustive()
    }
}

/// A change to the head of a response.
pub type ResponseEdit = Box<dyn FnOnce(&mut ResponseHead)>;

/// What a filter asks of its stream beyond its answer.
#[derive(Default)]
pub struct Effects {
    /// Choose the route anew before the router runs.
    pub clear_route: bool,
    /// Trailers to add behind the last data, in the direction of the hook that runs.
    pub trailers: Option<Box<Headers>>,
    /// How many octets of the body may be held for filters of this stream, instead of the connection's limit.
    pub buffer_limit: Option<usize>,
    /// What the filter keeps back of the data that it lets go.
    pub rest: Option<Bytes>,
    /// A change to the head of the response that the filter holds.
    pub response_edit: Option<ResponseEdit>,
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Effects")
            .field("clear_route", &self.clear_route)
            .field("trailers", &self.trailers)
            .field("buffer_limit", &self.buffer_limit)
            .field("rest", &self.rest)
            .finish_non_exhaustive()
    }
}

/// A stream as the filter that is called sees it.
pub struct StreamCx<'a> {
    /// The stream's facts.
    pub info: &'a mut StreamInfo,
    /// The request, in the hooks of the response and at the end of the stream; `None` in those of the request itself.
    pub request: Option<&'a RequestHead>,
    /// The worker.
    pub worker: &'a WorkerCx,
    /// The body that is held for this filter in this direction; it may be replaced, and `content-length` follows.
    pub buffered: &'a mut BytesMut,
    /// What the filter asks of the stream.
    pub effects: &'a mut Effects,
    /// The filter's name in the chain, by which routes configure it.
    pub filter_name: &'a str,
}

impl StreamCx<'_> {
    /// The route's configuration of this filter: that of the most specific level that has some. The type is what the
    /// extension's `build_route` returned.
    pub fn route_config<T: Any>(&self) -> Option<&T> {
        self.info.route.as_ref()?.filter_config(self.filter_name)?.downcast_ref()
    }

    /// The configuration of this filter at every level that has some: route configuration, virtual host, route,
    /// weighted cluster.
    pub fn route_configs<T: Any>(&self) -> impl Iterator<Item = &T> {
        let configs = self.info.route.as_ref().map(|route| route.filter_configs(self.filter_name));
        configs.into_iter().flatten().filter_map(|config| config.downcast_ref())
    }

    /// The route, once one is chosen.
    pub fn route(&self) -> Option<&Rc<dyn RouteInfo>> {
        self.info.route.as_ref()
    }

    /// Chooses the route anew before the router runs: for filters that changed what routes match.
    pub fn clear_route(&mut self) {
        self.effects.clear_route = true;
    }

    /// Lets filters of this stream hold so many octets of the body in the direction of the hook that runs, whatever the
    /// limit of the connection is. Call it in the hook for the head.
    pub fn set_buffer_limit(&mut self, bytes: usize) {
        self.effects.buffer_limit = Some(bytes);
    }

    /// Keeps a part of the data that the hook lets go, or that a wait ends with: the hook is called with it again, before
    /// anything else comes in this direction. For filters that let data pass slowly; such a hook waits before it keeps
    /// something.
    pub fn keep_rest(&mut self, rest: Bytes) {
        self.effects.rest = (!rest.is_empty()).then_some(rest);
    }

    /// Changes the head of the response that this filter holds. For the hooks of the response's data and trailers;
    /// elsewhere it does nothing.
    pub fn edit_response_head(&mut self, edit: impl FnOnce(&mut ResponseHead) + 'static) {
        self.effects.response_edit = Some(Box::new(edit));
    }

    /// Adds trailers behind the last data, in the direction of the hook that runs.
    pub fn add_trailers(&mut self) -> &mut Headers {
        self.effects.trailers.get_or_insert_default()
    }
}
