//! Routes that a control plane brings.

use super::RouteTable;
use sota_config::config_source::ConfigSource;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

/// Where a connection manager finds the table that it uses now; all threads share it. Workers notice a new one by the
/// version, at the next request.
#[derive(Debug)]
pub struct DynamicRoutes {
    name: String,
    source: Arc<ConfigSource>,
    brought: Mutex<Option<Brought>>,
    version: AtomicU64,
}

/// A table as it was brought.
#[derive(Debug, Clone)]
pub struct Brought {
    /// The table.
    pub table: Arc<RouteTable>,
    /// Its version, in the words of who brought it.
    pub version: Arc<str>,
    /// Since when.
    pub last_updated: SystemTime,
}

impl DynamicRoutes {
    /// The place of a table that nobody has brought yet.
    pub fn new(name: &str, source: &Arc<ConfigSource>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            source: Arc::clone(source),
            brought: Mutex::default(),
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

    /// What is used now.
    pub fn brought(&self) -> Option<Brought> {
        self.brought.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the table. Streams keep the one that they began with.
    pub fn set(&self, brought: &Brought) {
        *self.brought.lock().unwrap_or_else(PoisonError::into_inner) = Some(brought.clone());
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Goes up with each table.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}
