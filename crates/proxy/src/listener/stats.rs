//! What listeners count, by Envoy's names.

use sota_config::listener::Listener;
use sota_plugin::stat_group;

stat_group! {
    /// `listener.<address>.`
    pub struct ListenerStats {
        /// Connections accepted.
        downstream_cx_total: counter,
        /// Connections open now.
        downstream_cx_active: gauge,
        /// Connections that ended.
        downstream_cx_destroy: counter,
        /// How long they lived.
        downstream_cx_length_ms: histogram(Milliseconds),
        /// Connections refused for the listener's limit.
        downstream_cx_overflow: counter,
        /// Connections refused by the overload manager.
        downstream_cx_overload_reject: counter,
        /// Connections refused for the process-wide limit.
        downstream_global_cx_overflow: counter,
        /// Connections at the listener filters now.
        downstream_pre_cx_active: gauge,
        /// Listener filters that took too long.
        downstream_pre_cx_timeout: counter,
        /// Listener filters that closed, or could not read.
        downstream_listener_filter_error: counter,
        /// Connections that the client closed at the listener filters.
        downstream_listener_filter_remote_close: counter,
        /// Connections that no filter chain matched.
        no_filter_chain_match: counter,
        /// Accepting failed, for want of file descriptors for instance; it pauses for a moment then.
        downstream_cx_accept_error: counter,
    }
}

stat_group! {
    /// `listener.<address>.worker_<id>.`
    pub struct WorkerStats {
        /// Connections accepted by this worker.
        downstream_cx_total: counter,
        /// Connections open on this worker now.
        downstream_cx_active: gauge,
    }
}

/// What stands between `listener.` and the names: `stat_prefix`, or the first address with its colons replaced.
pub fn stat_name(listener: &Listener) -> String {
    match (&listener.stat_prefix, listener.addresses.first()) {
        (Some(prefix), _) if !prefix.is_empty() => prefix.clone(),
        (_, Some(address)) => address.to_string().replace(':', "_"),
        _ => listener.name.replace(':', "_"),
    }
}
