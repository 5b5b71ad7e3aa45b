//! Counters of gRPC calls in the stats of their cluster: `cluster.<name>.grpc.<service>.<method>.success` and its kin.

use sota_plugin::{
    cx::WorkerCx,
    http::{HeaderId, Headers, RequestHead},
    info::StreamInfo,
    stats::{Counter, Histogram, OVERFLOW, Scope, Unit},
};
use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

/// So many methods of all clusters have counters of their own on a worker: they come from requests.
const MAX_CALLS: usize = 1000;
/// So many different statuses of a method are told apart.
const MAX_STATUSES: usize = 32;

/// The counters of a worker.
#[derive(Default)]
pub(crate) struct Calls(RefCell<HashMap<String, Rc<Call>>>);

/// Those of one method, or of all methods of a cluster.
pub(crate) struct Call {
    scope: Scope,
    counters: RefCell<HashMap<Box<str>, Counter>>,
    time: RefCell<Option<Histogram>>,
}

/// Service and method of a request's path.
pub(crate) fn names(head: &RequestHead) -> Option<(&str, &str)> {
    let path = std::str::from_utf8(head.path_only()).ok()?;
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

impl Calls {
    /// The counters of a method (`service.method`; `None`: of all) below `cluster.<name>.<protocol>.`; `None` when the
    /// request has no cluster.
    pub(crate) fn find(
        &self,
        protocol: &str,
        method: Option<&str>,
        info: &StreamInfo,
        worker: &WorkerCx,
    ) -> Option<Rc<Call>> {
        let cluster = info.upstream.cluster_alias.as_ref().or(info.upstream.cluster.as_ref())?.replace(':', "_");
        let prefix = |method: &str| format!("cluster.{cluster}.{protocol}.{method}");
        let key = method.map_or_else(|| prefix(""), |method| prefix(&format!("{method}.")));
        let mut calls = self.0.borrow_mut();
        if let Some(call) = calls.get(&key) {
            return Some(Rc::clone(call));
        }
        let key = if calls.len() < MAX_CALLS { key } else { prefix(&format!("{OVERFLOW}.")) };
        let new = || {
            let scope = worker.stats().child(&key);
            Rc::new(Call { scope, counters: RefCell::default(), time: RefCell::default() })
        };
        Some(Rc::clone(calls.entry(key.clone()).or_insert_with(new)))
    }
}

impl Call {
    /// Counts what a head or trailers say of the outcome, if they do.
    pub(crate) fn count_status(&self, headers: &Headers) {
        let Some(status) = headers.get_str(HeaderId::GrpcStatus) else { return };
        let is_known = self.counters.borrow().len() < MAX_STATUSES && status.bytes().all(|c| c.is_ascii_alphanumeric());
        self.add(if is_known && !status.is_empty() { status } else { OVERFLOW }, 1);
        self.add(if status == "0" { "success" } else { "failure" }, 1);
        self.add("total", 1);
    }

    /// Adds to a counter.
    pub(crate) fn add(&self, name: &str, count: u64) {
        let mut counters = self.counters.borrow_mut();
        if let Some(counter) = counters.get(name) {
            return counter.add(count);
        }
        let counter = self.scope.counter_dyn(name);
        counter.add(count);
        counters.insert(name.into(), counter);
    }

    /// Notes how long the upstream took.
    pub(crate) fn record_time(&self, time: Duration) {
        let mut slot = self.time.borrow_mut();
        let new = || self.scope.histogram("upstream_rq_time", Unit::Milliseconds);
        slot.get_or_insert_with(new).record(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::request;
    use sota_plugin::http::Method;

    #[test]
    fn names_of_a_path() {
        for (path, expected) in [
            ("/a.B/C", Some(("a.B", "C"))),
            ("/a.B/C?x=/y", Some(("a.B", "C"))),
            ("/a.B", None),
            ("/a/b/c", None),
            ("//b", None),
            ("/a/", None),
        ] {
            assert_eq!(names(&request(Method::Post, path, &[])), expected, "{path}");
        }
    }
}
