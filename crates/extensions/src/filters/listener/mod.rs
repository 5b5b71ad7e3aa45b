//! Listener filters.

pub(crate) mod http_inspector;
pub(crate) mod original_dst;
pub(crate) mod proxy_protocol;
pub(crate) mod tls_inspector;
pub(crate) mod zmq_inspector;

use sota_plugin::{
    cx::WorkerCx,
    filter::ListenerFilter,
    stats::{Group, StatGroup},
};
use std::rc::Rc;

/// Makes a filter for each connection, all of which count in one group below `prefix`.
fn per_connection<S: StatGroup + 'static, F: ListenerFilter + 'static>(
    cx: &WorkerCx,
    prefix: &str,
    new: fn(Group<S>) -> F,
) -> Rc<dyn Fn() -> Box<dyn ListenerFilter>> {
    let stats = cx.stats().child(prefix).group::<S>();
    Rc::new(move || Box::new(new(stats.clone())))
}
