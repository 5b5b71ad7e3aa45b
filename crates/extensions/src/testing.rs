//! A worker and connections for the tests of extensions.

use sota_plugin::{
    LocalFuture,
    cx::{ClusterHealth, WorkerCx, WorkerServices},
    filter::{ListenerCx, ListenerFilter, Peek},
    info::ConnectionInfo,
    stats::Registry,
};
use std::{net::SocketAddr, rc::Rc, time::Duration};

/// A worker on which time stands still and tasks never run.
pub(crate) fn worker() -> WorkerCx {
    WorkerCx::new(0, Registry::new().shard(), Rc::new(Still))
}

struct Still;

impl WorkerServices for Still {
    fn sleep(&self, _: Duration) -> LocalFuture<()> {
        Box::pin(std::future::pending())
    }

    fn spawn(&self, _: LocalFuture<()>, _: bool) {}

    fn is_draining(&self) -> bool {
        false
    }

    fn is_health_check_failing(&self) -> bool {
        false
    }

    fn cluster_health(&self, _: &str) -> Option<ClusterHealth> {
        None
    }
}

/// A connection from 127.0.0.1:1 to 127.0.0.1:2.
pub(crate) fn connection() -> ConnectionInfo {
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port)).into();
    ConnectionInfo::new(0, address(1), address(2))
}

/// Shows bytes to a listener filter: its answer, and what it made of the connection.
pub(crate) fn peek(
    filter: &mut dyn ListenerFilter,
    bytes: &[u8],
    prepare: impl FnOnce(&mut ConnectionInfo),
) -> (Peek, ConnectionInfo) {
    let mut info = connection();
    prepare(&mut info);
    let answer = filter.on_peek(bytes, false, &mut ListenerCx { info: &mut info, original_destination: &|| None });
    (answer, info)
}
