//! A request that comes from no client: it is asked, and its answer awaited.

use super::super::outbox::{Outbox, Outgoing};
use super::{
    Broker,
    requests::{Envelope, Requester, body_of},
};
use sota_codec::zmtp::{Message, SocketType};
use sota_plugin::upstream::HostChoice;
use std::{future::poll_fn, rc::Rc, sync::Arc, time::Instant};

/// A request that is counted as long as somebody waits for it.
struct Question<'a> {
    broker: &'a Broker,
    requester: Rc<Requester>,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.broker.requests.leave(&self.requester, self.broker);
    }
}

impl Broker {
    /// Asks a worker of the first route's cluster. The answer, with the address in front; or why there is none.
    pub(in super::super) async fn ask(&self, message: Arc<Message>) -> Result<Arc<Message>, &'static str> {
        let links = self.links(0, SocketType::Dealer).ok_or("no such cluster")?;
        let choice = HostChoice::default();
        let found = self.worker.timeout(self.settings.worker_wait, poll_fn(|cx| links.poll_link(cx, &choice))).await;
        let link = found.unwrap_or(Err("no worker in time")).inspect_err(|_| self.stats.no_worker.inc())?;
        let request = link.host.begin_request().map_err(|_| "overloaded")?;
        let outbox = Rc::new(Outbox::new(self.settings.watermark));
        let question = Question { broker: self, requester: self.requests.join(&outbox, true) };
        let envelope = Envelope::of(&message, body_of(&message));
        question.requester.send(message, envelope, &link, request, self);
        let answer = poll_fn(|cx| outbox.poll_pop(cx));
        let answer = match self.settings.reply_timeout {
            Some(timeout) => self.worker.timeout(timeout, answer).await,
            None => Some(answer.await),
        };
        match answer {
            Some(Outgoing::Message { message, .. }) => Ok(message),
            Some(Outgoing::Close(reason)) => Err(reason),
            _ => {
                question.requester.on_deadline(Instant::now(), self);
                Err("reply timeout")
            }
        }
    }
}
