//! Checks by a connection and the octets that are exchanged on it.

use super::{
    Checks, Failed, Passed,
    exchange::has_in_order,
    peer::{Peer, Speaks},
};
use crate::{socket::Socket, upstream::host::Host};
use std::sync::Arc;

/// Octets that are looked through at most; a host that sends more without what is wanted has failed.
const MOST: usize = 64 * 1024;

impl Checks {
    pub(super) async fn check_tcp(
        &self,
        send: &[u8],
        receive: &[Vec<u8>],
        host: &Arc<Host>,
        peer: &mut Option<Peer>,
    ) -> Result<Passed, Failed> {
        let socket = match peer.take() {
            Some(Peer::Plain(socket)) if !socket.is_stale() => socket,
            _ => match self.connect(host, Speaks::Octets).await? {
                Peer::Plain(socket) => socket,
                Peer::Http2(_) => return Err(Failed::NETWORK),
            },
        };
        if !send.is_empty() {
            socket.write_all(send).await.map_err(|_| Failed::NETWORK)?;
        }
        // Nothing is awaited: that there is a connection is enough, and the next check makes another.
        if receive.is_empty() {
            return Ok(Passed { degraded: false });
        }
        read(&socket, receive).await?;
        *peer = Some(Peer::Plain(socket));
        Ok(Passed { degraded: false })
    }
}

async fn read(socket: &Socket, wanted: &[Vec<u8>]) -> Result<(), Failed> {
    loop {
        let found = socket.with_input(|input| match has_in_order(input, wanted) {
            true => (input.len(), true),
            false => (0, false),
        });
        if found {
            return Ok(());
        }
        match socket.fill(MOST).await {
            Ok(read) if read > 0 => {}
            _ => return Err(Failed::NETWORK),
        }
    }
}
