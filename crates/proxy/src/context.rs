//! What everything on a worker can reach: time and tasks, clusters, and both as extensions see them.

use crate::{
    grpc::GrpcStream,
    local::Local,
    recorder::Recorder,
    upstream::{self, Clusters},
};
use sota_plugin::{
    LocalFuture,
    cx::{ClusterHealth, WorkerCx, WorkerServices},
    grpc::{Call, GrpcError, GrpcService},
    upstream::Cluster,
};
use std::{rc::Rc, time::Duration};

/// A worker's context.
pub struct WorkerContext {
    /// Time, tasks, draining.
    pub local: Rc<Local>,
    /// The clusters.
    pub clusters: Rc<Clusters>,
    /// The worker as extensions see it.
    pub cx: WorkerCx,
    /// The last requests.
    pub recorder: Recorder,
}

impl WorkerContext {
    /// The context of the worker that `local` is.
    pub fn new(local: &Rc<Local>) -> Rc<Self> {
        let clusters = Rc::new(Clusters::new(local));
        let services = Services { local: Rc::clone(local), clusters: Rc::clone(&clusters) };
        Rc::new(Self {
            local: Rc::clone(local),
            clusters,
            recorder: Recorder::new(local.process.recent_requests()),
            cx: WorkerCx::new(local.id, local.stats.clone(), Rc::new(services)),
        })
    }
}

struct Services {
    local: Rc<Local>,
    clusters: Rc<Clusters>,
}

impl WorkerServices for Services {
    fn sleep(&self, time: Duration) -> LocalFuture<()> {
        Box::pin(self.local.sleep(time))
    }

    fn spawn(&self, task: LocalFuture<()>, counted: bool) {
        self.local.spawn_boxed(counted, task);
    }

    fn is_draining(&self) -> bool {
        self.local.process.is_draining()
    }

    fn is_health_check_failing(&self) -> bool {
        self.local.process.is_health_check_failing() || self.local.process.is_draining()
    }

    fn cluster_health(&self, cluster: &str) -> Option<ClusterHealth> {
        self.clusters.get(cluster).map(|cluster| cluster.config().health())
    }

    fn cluster(&self, name: &str, worker: &WorkerCx) -> Option<Cluster> {
        self.clusters.get(name).map(|cluster| upstream::for_extensions(cluster, worker))
    }

    fn grpc_call(&self, service: &GrpcService, path: &str) -> LocalFuture<Result<Call, GrpcError>> {
        let (service, path) = (service.clone(), path.to_owned());
        let found = self.clusters.get(&service.cluster);
        Box::pin(async move {
            let cluster = found.ok_or_else(|| GrpcError::NoCluster(service.cluster.clone()))?;
            let authority = if service.authority.is_empty() { &service.cluster } else { &service.authority };
            let call = GrpcStream::open(&cluster, &path, authority, &service.metadata).await?;
            Ok(Call::new(Box::new(call)))
        })
    }

    fn next_stream_id(&self) -> u64 {
        self.local.process.next_stream_id()
    }
}
