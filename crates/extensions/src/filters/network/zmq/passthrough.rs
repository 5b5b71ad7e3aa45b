//! Bytes that go to a cluster as they are, once they have begun as ZMTP does: with CURVE nobody between the ends can
//! read them.

use super::{
    Worker,
    client::{Gate, note_end},
    pump::End,
};
use sota_codec::zmtp::{Inspection, Spoken, ZmtpError, inspect};
use sota_plugin::{
    filter::Connection,
    future::{First, both, race},
    stream::{ReadHalf, WriteHalf},
    upstream::HostChoice,
};
use std::{
    cell::Cell,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

/// Octets that are moved in one go.
const CHUNK: usize = 16 * 1024;
/// How long it has to be quiet behind what a host has said before a connection that drains is taken to be idle.
const QUIET: Duration = Duration::from_secs(1);

/// Serves a client until one of the two connections is over.
pub(super) async fn serve(worker: &Worker, gate: Gate, mut connection: Connection, cluster: &str) {
    let end = forward(worker, gate, &mut connection, cluster).await;
    note_end(&end, &worker.stats, &worker.scope, &connection);
}

async fn forward(worker: &Worker, mut gate: Gate, connection: &mut Connection, cluster: &str) -> End {
    let cx = connection.worker().clone();
    let timeout = worker.settings.options.handshake_timeout;
    let mut draining = connection.take_drain_notice();
    let begun = match race(cx.timeout(timeout, begin(connection)), &mut draining).await {
        First::One(begun) => begun,
        First::Other(()) => return End::Drained,
    };
    let begun = match begun {
        None => return End::Failed(ZmtpError::HandshakeTimeout),
        Some(Err(end)) => return end,
        Some(Ok(begun)) => begun,
    };
    gate.on_ready();
    let info = Rc::clone(connection.info());
    let choice = HostChoice { connection: Some(&info), ..HostChoice::default() };
    let Ok(host) = cx.cluster(cluster).and_then(|cluster| cluster.choose(&choice)) else {
        worker.stats.no_worker.inc();
        return End::Handler("no worker");
    };
    let Ok(mut upstream) = host.connect().await else {
        worker.stats.upstream_cx_connect_fail.inc();
        return End::Handler("the worker could not be reached");
    };
    worker.stats.upstream_cx_total.inc();
    if let Err(error) = upstream.write_all(&begun).await {
        return End::Io(error);
    }
    let (from_client, to_client) = connection.halves();
    let (from_host, to_host) = upstream.halves();
    // Since when the host has said the last. `None`: something is being passed on, or the client has said the last, which
    // may want an answer; then it goes on for as long as it may.
    let quiet = Cell::new(None);
    let there = copy(from_client, to_host, |_| quiet.set(None));
    let back = copy(from_host, to_client, |is_done| quiet.set(is_done.then(Instant::now)));
    let idle = async {
        draining.await;
        loop {
            if quiet.get().is_some_and(|since: Instant| since.elapsed() >= QUIET) {
                return;
            }
            cx.sleep(QUIET).await;
        }
    };
    match race(both(there, back), idle).await {
        First::One(Ok(())) => End::Closed,
        First::One(Err(error)) => End::Io(error),
        First::Other(()) => End::Drained,
    }
}

/// The first bytes, if they are those of ZMTP.
async fn begin(connection: &mut Connection) -> Result<Vec<u8>, End> {
    let mut begun = Vec::new();
    let mut buffer = [0; 64];
    loop {
        match inspect(&begun) {
            Inspection::Zmtp(_) => return Ok(begun),
            Inspection::Other(spoken) => return Err(End::Failed(ZmtpError::NotZmtp(spoken))),
            Inspection::NeedMore => {}
        }
        match connection.read(&mut buffer).await {
            Ok(0) if begun.is_empty() => return Err(End::Closed),
            Ok(0) => return Err(End::Failed(ZmtpError::NotZmtp(Spoken::Unknown))),
            Ok(read) => begun.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            Err(error) => return Err(End::Io(error)),
        }
    }
}

/// Moves bytes until there are no more, and says so. `note` is told of each piece, and whether it is written.
async fn copy(from: &mut ReadHalf, to: &mut WriteHalf, note: impl Fn(bool)) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        note(false);
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
        note(true);
    }
}
