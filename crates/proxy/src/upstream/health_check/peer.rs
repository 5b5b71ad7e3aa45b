//! A connection over which a host is checked.

use super::{Checks, Failed};
use crate::{
    proxy_header,
    socket::{Io, Socket},
    tls::{self, TlsStats, TransportOptions},
    upstream::{conn_pool::open, host::Host},
    wire::http2::{Connection, ConnectionEnd, Event, Http2Stats, Options},
};
use sota_plugin::stats::Group;
use std::{future::poll_fn, rc::Rc, task::Poll};

/// A connection to a host.
pub(super) enum Peer {
    /// Octets, or HTTP/1.
    Plain(Socket),
    /// HTTP/2.
    Http2(Http2Peer),
}

/// An HTTP/2 connection, driven by a task of its own. Dropping it closes it.
pub(super) struct Http2Peer(Rc<Connection>);

impl Http2Peer {
    /// The connection, unless it takes no more requests.
    pub(super) fn usable(&self) -> Option<&Rc<Connection>> {
        self.0.can_open().then_some(&self.0)
    }
}

impl Drop for Http2Peer {
    fn drop(&mut self) {
        self.0.end(ConnectionEnd::Local);
    }
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Octets,
    Http1,
    Http2,
}

impl Checks {
    /// A connection to the host, with TLS where the cluster has it.
    pub(super) async fn connect(&self, host: &Host, speaks: Speaks) -> Result<Peer, Failed> {
        let address = host.check_address();
        let mut io = open(self.config.model(), &address, || {}).await.map_err(|_| Failed::NETWORK)?;
        if let Some(model) = self.config.proxy_protocol(host.spec()) {
            proxy_header::write(&mut io, model, None).await.map_err(|_| Failed::NETWORK)?;
        }
        let io = self.secure(io, host, &address, speaks).await?;
        if speaks != Speaks::Http2 {
            return Ok(Peer::Plain(Socket::new(io)));
        }
        let model = self.config.model();
        let head = model.http.max_response_headers_kb as usize * 1024;
        let options = Options::new(&model.http2, head, &model.http, false);
        let stats: Group<Http2Stats> = self.config.scope(&self.local.stats).child("http2.").group();
        let connection = Connection::client(&options, &stats, &self.local);
        self.local.spawn(false, drive(Rc::clone(&connection), Socket::new(io)));
        Ok(Peer::Http2(Http2Peer(connection)))
    }

    async fn secure(
        &self,
        io: Io,
        host: &Host,
        address: &sota_plugin::info::PeerAddress,
        speaks: Speaks,
    ) -> Result<Io, Failed> {
        let model = &self.checker.model;
        let Some(context) = self.config.check_tls(host.spec(), model.transport_match.as_deref()) else { return Ok(io) };
        let stats = self.tls_stats.get_or_init(|| TlsStats::new(&self.config.scope(&self.local.stats)));
        let spoken: &[&[u8]] = match speaks {
            Speaks::Octets => &[],
            Speaks::Http1 => &[b"http/1.1"],
            Speaks::Http2 => &[b"h2"],
        };
        let offered =
            TransportOptions { protocols: model.alpn_protocols.as_slice().into(), ..TransportOptions::default() };
        match Box::pin(tls::connect(io, context, host.hostname(), address.ip(), spoken, &offered)).await {
            Ok(secured) => {
                stats.succeeded(&secured.info, false);
                Ok(secured.io)
            }
            Err(failure) => {
                stats.failed(&failure);
                Err(Failed::NETWORK)
            }
        }
    }
}

/// Moves the connection's octets until it ends.
async fn drive(connection: Rc<Connection>, socket: Socket) {
    loop {
        if let Event::Ended(_) = poll_fn(|cx| connection.poll_event(cx, &socket)).await {
            // A last word, if it leaves at once.
            poll_fn(|cx| Poll::Ready(connection.poll_flush(cx, &socket).is_ready())).await;
            return;
        }
    }
}
