//! Routes that a control plane brings.

use super::RouteTable;
use sota_config::config_source::ConfigSource;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Where a connection manager finds the table that it uses now; all threads share it. Workers notice a new one by the
/// version, at the next request.
#[derive(Debug)]
pub struct DynamicRoutes {
    name: String,
    source: Arc<ConfigSource>,
    table: Mutex<Option<Arc<RouteTable>>>,
    version: AtomicU64,
}

impl DynamicRoutes {
    /// The place of a table that nobody has brought yet.
    pub fn new(name: &str, source: &Arc<ConfigSource>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            source: Arc::clone(source),
            table: Mutex::default(),
            version: AtomicU64::new(0),
        })
    }

    /// The name of the route configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who is asked for it.
    pub fn source(&self) -> &Arc<ConfigSource> {
        &self.source
    }

    /// The table that is used now.
    pub fn table(&self) -> Option<Arc<RouteTable>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the table. Streams keep the one that they began with.
    pub fn set(&self, table: &Arc<RouteTable>) {
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(table));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Goes up with each table.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}
