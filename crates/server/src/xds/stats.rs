//! What is counted of discovery.

use sota_plugin::stat_group;
use std::time::{SystemTime, UNIX_EPOCH};

stat_group! {
    /// `control_plane.`
    pub(crate) struct ControlPlaneStats {
        /// 1 while there is a stream.
        connected_state: gauge,
    }
}

stat_group! {
    /// `cluster_manager.cds.`, `listener_manager.lds.` and `sds.<name>.`
    pub(crate) struct SubscriptionStats {
        init_fetch_timeout: counter,
        update_attempt: counter,
        update_failure: counter,
        update_rejected: counter,
        update_success: counter,
        /// When it was updated last, in milliseconds since 1970.
        update_time: gauge,
    }
}

impl SubscriptionStats {
    /// An update is in force.
    pub(crate) fn note_success(&self) {
        self.update_success.inc();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.update_time.set(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    }
}
