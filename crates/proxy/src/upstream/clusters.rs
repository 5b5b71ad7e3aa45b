//! A worker's table of clusters.

use super::{cluster::Cluster, config::ClusterConfig, zone_aware::LocalCluster};
use crate::local::Local;
use std::{cell::RefCell, rc::Rc, sync::Arc};

/// The clusters of a worker by name.
pub struct Clusters {
    local: Rc<Local>,
    /// Where this proxy is among its equals.
    siblings: Rc<LocalCluster>,
    table: RefCell<hashbrown::HashMap<Arc<str>, Rc<Cluster>, foldhash::fast::RandomState>>,
}

impl Clusters {
    /// An empty table.
    pub fn new(local: &Rc<Local>) -> Self {
        let siblings = LocalCluster::new(local.process.place());
        Self { local: Rc::clone(local), siblings: Rc::new(siblings), table: RefCell::default() }
    }

    /// The cluster of this name. A stream that has it keeps it, whatever happens to the table.
    pub fn get(&self, name: &str) -> Option<Rc<Cluster>> {
        self.table.borrow().get(name).cloned()
    }

    /// Adds a cluster, or replaces the one of its name: hosts of equal addresses keep their connections if the options
    /// of connections are equal; the others are closed, in use ones when their request ends.
    pub fn set(&self, config: &Arc<ClusterConfig>) {
        config.publish(&self.local.stats);
        let before = self.get(config.name());
        self.siblings.note(config.name(), Some(config));
        let cluster = Cluster::new(&self.local, config, before.as_deref(), &self.siblings);
        self.table.borrow_mut().insert(Arc::clone(config.name()), Rc::clone(&cluster));
        if let Some(before) = before {
            before.retire(Some(&cluster));
        }
    }

    /// Removes a cluster. Requests that run finish.
    pub fn remove(&self, name: &str) {
        self.siblings.note(name, None);
        let removed = self.table.borrow_mut().remove(name);
        if let Some(cluster) = removed {
            cluster.retire(None);
        }
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<Rc<Cluster>> {
        self.table.borrow().values().cloned().collect()
    }
}
