//! A client's connection: who gets in, what is counted, what is said about its end.

use super::{config::Settings, pump::End, stats::ZmqStats};
use sota_codec::zmtp::Credentials;
use sota_plugin::{
    filter::Connection,
    info::{ConnectionInfo, PeerAddress, ResponseFlag},
    stats::{Group, Scope},
};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// How many connections of each address are in their handshake, on all workers.
#[derive(Debug, Default)]
pub(super) struct Handshakes(Mutex<HashMap<IpAddr, u32>>);

impl Handshakes {
    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that is counted in [`Handshakes`].
struct HandshakePermit {
    handshakes: Arc<Handshakes>,
    address: IpAddr,
}

impl HandshakePermit {
    /// `None`: there are too many already.
    fn take(handshakes: &Arc<Handshakes>, address: IpAddr, most: u32) -> Option<Self> {
        let mut table = handshakes.table();
        let count = table.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(table);
        Some(Self { handshakes: Arc::clone(handshakes), address })
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        let mut table = self.handshakes.table();
        if let Some(count) = table.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                table.remove(&self.address);
            }
        }
    }
}

/// The way in of one client.
pub(super) struct Gate {
    pub(super) stats: Group<ZmqStats>,
    settings: Arc<Settings>,
    /// Only for the handshake.
    permit: Option<Box<HandshakePermit>>,
}

impl Gate {
    /// Counts a connection. `None`: it is one too many, and is to be closed.
    pub(super) fn open(
        settings: &Arc<Settings>,
        handshakes: &Arc<Handshakes>,
        stats: &Group<ZmqStats>,
        info: &ConnectionInfo,
    ) -> Option<Self> {
        stats.cx_total.inc();
        let most = settings.max_handshakes_per_address;
        let mut permit = None;
        if let (1.., Some(address)) = (most, info.remote.ip()) {
            permit = HandshakePermit::take(handshakes, address, most).map(Box::new);
            if permit.is_none() {
                stats.cx_handshakes_exceeded.inc();
                return None;
            }
        }
        stats.cx_active.inc();
        Some(Self { stats: stats.clone(), settings: Arc::clone(settings), permit })
    }

    /// Whether who says this may come in.
    pub(super) fn authenticate(&self, credentials: Credentials<'_>) -> bool {
        self.settings.admission.allows(credentials)
    }

    /// The handshake is done.
    pub(super) fn on_ready(&mut self) {
        self.permit = None;
        self.stats.cx_ready.inc();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stats.cx_active.dec();
    }
}

/// Counts the end of a client's connection, and says why if the peer is to blame.
pub(super) fn note_end(end: &End, stats: &Group<ZmqStats>, scope: &Scope, connection: &Connection) {
    let info = connection.info();
    let (details, flag) = match end {
        End::Closed | End::Drained => return,
        // Mostly a reset: that a client goes away is nothing to be warned of.
        End::Io(error) => {
            tracing::debug!("zmq: lost the connection of {}: {error}", info.remote);
            ("transport_failure", ResponseFlag::DownstreamConnectionTermination)
        }
        End::WriteTimeout => {
            stats.write_timeout.inc();
            warn(&info.remote, &"does not read what is sent to it");
            ("zmtp_write_timeout", ResponseFlag::StreamIdleTimeout)
        }
        End::Failed(error) => {
            stats.cx_failed.inc();
            scope.counter(error.counter()).inc();
            warn(&info.remote, error);
            (error.counter(), ResponseFlag::DownstreamProtocolError)
        }
        End::Handler(reason) => {
            warn(&info.remote, reason);
            ("zmtp_closed_by_broker", ResponseFlag::LocalReset)
        }
    };
    connection.set_response_flag(flag);
    *info.termination_details.borrow_mut() = Some(details.into());
}

fn warn(peer: &PeerAddress, reason: &dyn std::fmt::Display) {
    tracing::warn!("zmq: closed the connection of {peer}: {reason}");
}
