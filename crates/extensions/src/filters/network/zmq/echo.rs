//! Without routes: every message goes back to the client that sent it, as from the original's ROUTER.

use super::{
    client::Gate,
    outbox::{Outbox, Outgoing},
    pump::{End, Handler},
};
use sota_codec::zmtp::{Credentials, Message, Peer};
use std::{
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

/// Sends back what one client sends.
pub(super) struct Echo {
    pub(super) gate: Gate,
    pub(super) outbox: Rc<Outbox>,
}

impl Handler for Echo {
    fn authenticate(&mut self, credentials: Credentials<'_>) -> bool {
        self.gate.authenticate(credentials)
    }

    fn on_ready(&mut self, _: &Peer) -> Result<(), End> {
        self.gate.on_ready();
        Ok(())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.outbox.poll_room(cx)
    }

    fn on_message(&mut self, message: Message) -> Result<(), End> {
        self.gate.stats.messages_received.inc();
        self.outbox.push(Outgoing::whole(Arc::new(message)));
        Ok(())
    }

    fn on_sent(&mut self) {
        self.gate.stats.messages_sent.inc();
    }
}
