//! One client, one connection to a host: for PAIR, and for REP clients, whose peer has to be always the same.

use super::super::{
    outbox::{Outbox, Outgoing},
    pump::{End, Handler, Pump},
};
use super::{Broker, link::HostTransport, links::Link};
use sota_codec::zmtp::{Message, Peer, SocketType};
use sota_plugin::upstream::HostChoice;
use std::{
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

/// Begins to connect to a host of the cluster on behalf of a client; `None`: there is none.
pub(super) fn begin(
    broker: &Rc<Broker>,
    cluster: &str,
    socket_type: SocketType,
    choice: &HostChoice<'_>,
    client: &Rc<Outbox>,
) -> Option<Rc<Link>> {
    let host = broker.worker.cluster(cluster).and_then(|cluster| cluster.choose(choice)).ok()?;
    let link = Link::new(&host, broker);
    broker.worker.spawn_background(run(Rc::clone(broker), Rc::clone(&link), socket_type, Rc::clone(client)));
    Some(link)
}

/// Runs the connection; the client's is closed with it.
async fn run(broker: Rc<Broker>, link: Rc<Link>, socket_type: SocketType, client: Rc<Outbox>) {
    match link.host.connect().await {
        Ok(connection) => {
            broker.stats.upstream_cx_total.inc();
            let surroundings = broker.upstream_surroundings(socket_type);
            let transport = HostTransport::new(connection, &link);
            let handler =
                SplicedHost { broker: Rc::clone(&broker), link: Rc::clone(&link), client: Rc::clone(&client) };
            let end = Pump::new(transport, &surroundings, &link.outbox, handler).await;
            if link.is_ready.replace(false) {
                broker.stats.upstream_cx_ready.dec();
            }
            if matches!(end, End::Failed(_) | End::Io(_) | End::WriteTimeout) {
                broker.stats.upstream_cx_failed.inc();
            }
        }
        Err(_) => broker.stats.upstream_cx_connect_fail.inc(),
    }
    link.outbox.close();
    client.push(Outgoing::Close("worker lost"));
}

struct SplicedHost {
    broker: Rc<Broker>,
    link: Rc<Link>,
    client: Rc<Outbox>,
}

impl Handler for SplicedHost {
    fn on_ready(&mut self, _: &Peer) -> Result<(), End> {
        self.link.is_ready.set(true);
        self.broker.stats.upstream_cx_ready.inc();
        Ok(())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.client.poll_room(cx)
    }

    fn on_message(&mut self, message: Message) -> Result<(), End> {
        self.broker.stats.upstream_messages_received.inc();
        self.client.push(Outgoing::whole(Arc::new(message)));
        Ok(())
    }

    fn on_sent(&mut self) {
        self.broker.stats.upstream_messages_sent.inc();
    }
}
