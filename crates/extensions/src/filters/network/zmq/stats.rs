//! The filter's stats.

use sota_plugin::stat_group;

stat_group! {
    /// `zmq.<stat_prefix>.`; beside it stand counters for the errors that ended connections, named after
    /// `ZmtpError::counter`, such as `not_zmtp` and `handshake_timeout`.
    pub(super) struct ZmqStats {
        /// Connections of clients.
        cx_total: counter,
        /// Those that are open.
        cx_active: gauge,
        /// Those whose handshake was finished.
        cx_ready: counter,
        /// Those that were closed for a fault of the peer's or for going over a limit.
        cx_failed: counter,
        /// Those that were closed at once, as too many of the same address were in their handshake.
        cx_handshakes_exceeded: counter,
        /// Those that were closed as the peer did not read what was sent to it.
        write_timeout: counter,
        /// Messages from clients.
        messages_received: counter,
        /// Messages to clients.
        messages_sent: counter,
        /// Messages that no route wants, and were dropped.
        no_route: counter,
        /// Messages of publishers that were dropped for one subscriber, as its queue was full.
        slow_subscriber_dropped: counter,
        /// Messages of publishers that were dropped on the way to another worker, as its queue was full.
        bus_dropped: counter,
        /// Requests that were handed to workers.
        requests: counter,
        /// Requests that wait for their answer.
        requests_active: gauge,
        /// Answers that were handed to clients.
        replies: counter,
        /// Requests without an answer in time.
        reply_timeout: counter,
        /// Requests that were lost with the connection to their worker.
        reply_lost: counter,
        /// Answers that nobody waits for (any more), and were dropped.
        reply_unexpected: counter,
        /// Requests for which no worker could be reached.
        no_worker: counter,
        /// Connections to hosts of clusters.
        upstream_cx_total: counter,
        /// Those that are open and have finished their handshake.
        upstream_cx_ready: gauge,
        /// Those that could not be made.
        upstream_cx_connect_fail: counter,
        /// Those that failed in their handshake or later.
        upstream_cx_failed: counter,
        /// Messages to workers.
        upstream_messages_sent: counter,
        /// Messages from workers.
        upstream_messages_received: counter,
    }
}
