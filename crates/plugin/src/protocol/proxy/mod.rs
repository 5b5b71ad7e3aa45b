//! A whole filter out of a protocol: routes on what requests say of themselves, hosts by the cluster's policy or by a
//! hash, timeouts, retries, heartbeats, counters, a line in the access log for each request.
//!
//! ```yaml
//! stat_prefix: orders
//! timeout: 2s                          # for an answer; default 5s
//! idle_timeout: 10m                    # of a client that says nothing; default 1h, 0s: none
//! heartbeat_interval: 30s              # of connections to hosts; default none
//! max_requests_in_flight: 100          # of a client; then nothing is read; default 100
//! routes:                              # the first that fits
//! - match: [{name: method, exact: get}, {name: key, prefix: "user:"}]
//!   cluster: users
//!   hash: key                          # requests with an equal value go to one host
//!   retries: 2                         # where another host may do better; default 0
//! - cluster: rest                      # without match: everything
//! access_log: [...]                    # as everywhere in Envoy's configuration
//! ```

mod exchange;
mod model;
mod stats;

use super::{Answer, Client, End, Options, Protocol, serve};
use crate::{
    FactoryContext, LocalFuture,
    access_log::{AccessLogs, WorkerAccessLogs},
    cx::WorkerCx,
    filter::{Connection, NetworkFilterConfig, NetworkFilterFactory, NetworkFilterInstance, TerminalNetworkFilter},
    info::ConnectionInfo,
};
use exchange::Exchange;
use model::Model;
use sota_config::{ConfigError, TypedConfig};
use stats::Stats;
use std::{io, rc::Rc, sync::Arc};

/// The filter of a protocol. `build` of an extension calls it.
pub fn build<P>(
    protocol: P,
    config: &TypedConfig,
    cx: &FactoryContext<'_>,
) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError>
where
    P: Protocol + Clone + Send + Sync,
{
    let (model, access_logs) = Model::read(config, cx)?;
    Ok(Arc::new(Config { protocol, model: Arc::new(model), access_logs }))
}

struct Config<P> {
    protocol: P,
    model: Arc<Model>,
    access_logs: Arc<AccessLogs>,
}

impl<P: Protocol + Clone + Send + Sync> NetworkFilterConfig for Config<P> {
    fn is_terminal(&self) -> bool {
        true
    }

    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn NetworkFilterFactory> {
        let options = Options { timeout: self.model.timeout, heartbeat: self.model.heartbeat_interval, limited: true };
        Box::new(Factory(Rc::new(Worker {
            client: Client::new(&Rc::new(self.protocol.clone()), cx, options),
            model: Arc::clone(&self.model),
            stats: Stats::new(&cx.stats().child(&format!("{}.{}.", P::NAME, self.model.stat_prefix))),
            access_logs: self.access_logs.for_worker(cx),
        })))
    }
}

/// What all connections of a worker have in common.
struct Worker<P: Protocol> {
    client: Rc<Client<P>>,
    model: Arc<Model>,
    stats: Stats,
    access_logs: WorkerAccessLogs,
}

struct Factory<P: Protocol>(Rc<Worker<P>>);

impl<P: Protocol> NetworkFilterFactory for Factory<P> {
    fn new_filter(&self, _: &Rc<ConnectionInfo>) -> NetworkFilterInstance {
        NetworkFilterInstance::Terminal(Box::new(Filter(Rc::clone(&self.0))))
    }
}

struct Filter<P: Protocol>(Rc<Worker<P>>);

impl<P: Protocol> TerminalNetworkFilter for Filter<P> {
    fn serve(self: Box<Self>, mut connection: Connection) -> LocalFuture<()> {
        Box::pin(async move {
            let worker = self.0;
            let _open = worker.stats.begin_connection(&mut connection);
            connection.set_idle_timeout(worker.model.idle_timeout);
            let protocol = Rc::clone(worker.client.protocol());
            let info = Rc::clone(connection.info());
            let most = worker.model.max_requests_in_flight;
            let end = serve(&mut connection, &*protocol, most, |request| match protocol.answer_heartbeat(&request) {
                Some(answer) => {
                    worker.stats.group.downstream_heartbeat.inc();
                    Answer::Now(answer)
                }
                None => Answer::Later(Exchange::begin(&worker, &info, request)),
            })
            .await;
            let stats = &worker.stats.group;
            match end {
                End::Malformed(error) => {
                    stats.downstream_cx_protocol_error.inc();
                    *info.termination_details.borrow_mut() = Some(error.0);
                }
                End::Drained => stats.downstream_cx_drain_close.inc(),
                End::Failed(error) if error.kind() == io::ErrorKind::TimedOut => stats.idle_timeout.inc(),
                End::Finished | End::Closed | End::Failed(_) => {}
            }
        })
    }
}
