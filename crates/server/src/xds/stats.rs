//! What is counted of discovery.

use sota_plugin::stat_group;

stat_group! {
    /// `control_plane.`
    pub(super) struct ControlPlaneStats {
        /// 1 while there is a stream.
        connected_state: gauge,
    }
}

stat_group! {
    /// `cluster_manager.cds.` and `listener_manager.lds.`
    pub(super) struct SubscriptionStats {
        init_fetch_timeout: counter,
        update_attempt: counter,
        update_failure: counter,
        update_rejected: counter,
        update_success: counter,
        /// When it was updated last, in milliseconds since 1970.
        update_time: gauge,
    }
}
