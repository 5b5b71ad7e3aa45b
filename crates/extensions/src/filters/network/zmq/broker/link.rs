//! One connection to a host as it runs: from connecting to its end.

use super::super::pump::{End, Handler, Pump, Transport};
use super::{
    Broker,
    links::{Link, Links},
};
use sota_codec::zmtp::{Message, Peer, SocketType};
use sota_plugin::{LocalFuture, stream::Stream, upstream::UpstreamConnection};
use std::{
    rc::{Rc, Weak},
    task::{Context, Poll},
};

/// A connection to a host, and the notice that it shall end.
pub(super) struct HostTransport {
    connection: UpstreamConnection,
    draining: Option<LocalFuture<()>>,
    link: Rc<Link>,
}

impl HostTransport {
    pub(super) fn new(connection: UpstreamConnection, link: &Rc<Link>) -> Self {
        Self { connection, draining: Some(link.host.draining()), link: Rc::clone(link) }
    }
}

impl Transport for HostTransport {
    fn stream(&mut self) -> &mut Stream {
        &mut self.connection
    }

    fn poll_draining(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(draining) = &mut self.draining {
            if draining.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.draining = None;
            self.link.is_draining.set(true);
        }
        Poll::Ready(())
    }
}

/// Connects, and runs the connection to its end.
pub(super) async fn run(links: Rc<Links>, link: Rc<Link>, broker: Weak<Broker>) {
    let has_failed = serve(&links, &link, &broker).await;
    links.on_end(&link, has_failed);
}

/// Whether it failed, so that the host is better left alone for a while.
async fn serve(links: &Rc<Links>, link: &Rc<Link>, weak: &Weak<Broker>) -> bool {
    let connection = link.host.connect().await;
    let Some(broker) = weak.upgrade() else { return false };
    let stats = broker.stats.clone();
    let connection = match connection {
        Ok(connection) => connection,
        Err(error) => {
            stats.upstream_cx_connect_fail.inc();
            tracing::debug!("zmq: cannot connect to {}: {error}", link.host.address());
            return true;
        }
    };
    stats.upstream_cx_total.inc();
    let surroundings = broker.upstream_surroundings(links.socket_type);
    // The broker ends with its last client, not with its last connection.
    drop(broker);
    let handler = HostHandler { links: Rc::clone(links), link: Rc::clone(link), broker: Weak::clone(weak) };
    let end = Pump::new(HostTransport::new(connection, link), &surroundings, &link.outbox, handler).await;
    if link.is_ready.replace(false) {
        stats.upstream_cx_ready.dec();
    }
    match end {
        End::Drained | End::Handler(_) => false,
        End::Closed => true,
        End::Failed(error) => {
            stats.upstream_cx_failed.inc();
            // What is tried again and again is told of once.
            if links.has_failed_before(link) {
                tracing::debug!("zmq: closed the connection to {}: {error}", link.host.address());
            } else {
                tracing::warn!("zmq: closed the connection to {}: {error}", link.host.address());
            }
            true
        }
        end @ (End::Io(_) | End::WriteTimeout) => {
            stats.upstream_cx_failed.inc();
            tracing::debug!("zmq: lost the connection to {}: {end:?}", link.host.address());
            true
        }
    }
}

/// What comes from a host.
struct HostHandler {
    links: Rc<Links>,
    link: Rc<Link>,
    broker: Weak<Broker>,
}

impl Handler for HostHandler {
    fn on_ready(&mut self, _: &Peer) -> Result<(), End> {
        if let Some(broker) = self.broker.upgrade() {
            broker.stats.upstream_cx_ready.inc();
        }
        self.links.on_ready(&self.link);
        Ok(())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match (self.links.socket_type, self.broker.upgrade()) {
            (SocketType::Pull, Some(broker)) => broker.pullers.poll_room(cx),
            _ => Poll::Ready(()),
        }
    }

    fn on_message(&mut self, message: Message) -> Result<(), End> {
        let Some(broker) = self.broker.upgrade() else { return Err(End::Drained) };
        broker.stats.upstream_messages_received.inc();
        match self.links.socket_type {
            SocketType::Dealer => broker.requests.on_reply(message.into(), &broker),
            SocketType::Xsub => broker.publish_here(&message.into()),
            SocketType::Pull => broker.pullers.give(message.into()),
            // A subscriber that speaks: there is nobody to hear it.
            _ => {}
        }
        Ok(())
    }

    fn on_subscription(&mut self, topic: &[u8], wanted: bool) -> Result<(), End> {
        let Some(broker) = self.broker.upgrade() else { return Err(End::Drained) };
        let mut subscriptions = self.link.wanted.borrow_mut();
        if wanted {
            subscriptions.subscribe(topic, broker.limits())?;
        } else {
            subscriptions.cancel(topic);
        }
        Ok(())
    }

    fn on_sent(&mut self) {
        if let Some(broker) = self.broker.upgrade() {
            broker.stats.upstream_messages_sent.inc();
        }
    }

    fn is_idle(&self) -> bool {
        self.link.outstanding.get() == 0
    }
}
