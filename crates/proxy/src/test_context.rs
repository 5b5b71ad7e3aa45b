//! What unit tests build configurations with.

use sota_config::{Mark, bootstrap::NodeInfo};
use sota_plugin::{
    FactoryContext, Registry,
    access_log::{LogFile, LogOpener},
    info::{ConnectionInfo, PeerAddress, StreamInfo},
    runtime::Runtime,
};
use std::{io, net::SocketAddr, rc::Rc, sync::Arc};

struct NoLogs;

impl LogOpener for NoLogs {
    fn open(&self, _path: &str) -> Result<Arc<dyn LogFile>, io::Error> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Calls `build` with a context whose configuration stands at `t`.
pub(crate) fn factory<T>(registry: &Registry, build: impl FnOnce(&FactoryContext<'_>) -> T) -> T {
    let logs: Arc<dyn LogOpener> = Arc::new(NoLogs);
    let (runtime, node) = (Arc::new(Runtime::default()), NodeInfo::default());
    build(&FactoryContext {
        registry,
        logs: &logs,
        runtime: &runtime,
        node: &node,
        secrets: &Arc::default(),
        stat_prefix: "",
        clusters: None,
        path: "t",
        mark: Mark::NONE,
    })
}

/// A stream from `127.0.0.1:1000` to `127.0.0.1:2000`.
pub(crate) fn stream_info() -> StreamInfo {
    stream_from([127, 0, 0, 1].into())
}

/// A stream from port 1000 of this address.
pub(crate) fn stream_from(ip: std::net::IpAddr) -> StreamInfo {
    let remote = PeerAddress::from(SocketAddr::new(ip, 1000));
    let local = PeerAddress::from(SocketAddr::from(([127, 0, 0, 1], 2000)));
    StreamInfo::new(Rc::new(ConnectionInfo::new(1, remote, local)), 1, None)
}
