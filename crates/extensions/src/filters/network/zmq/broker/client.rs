//! A client of the broker: what it is, its socket type says.

use super::super::{
    client::Gate,
    outbox::{Outbox, Outgoing},
    pump::{End, Handler},
    routes::Goal,
};
use super::{
    Broker,
    links::{Interest, Link},
    requests::{Envelope, Requester, body_of},
    splice,
    topics::Subscriber,
};
use sota_codec::zmtp::{Credentials, Message, Peer, SocketType};
use sota_plugin::{info::ConnectionInfo, upstream::HostChoice};
use std::{
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// How often work that nobody can take is offered again.
const RETRY: Duration = Duration::from_millis(500);

/// A client's connection.
pub(in super::super) struct Client {
    gate: Gate,
    broker: Rc<Broker>,
    outbox: Rc<Outbox>,
    info: Rc<ConnectionInfo>,
    socket_type: SocketType,
    role: Role,
    /// A message that waits for a connection with room.
    pending: Option<Box<Pending>>,
    /// Clusters whose hosts are all connected to, as long as the client is there.
    interests: Box<[(usize, Interest)]>,
}

/// What a client is.
enum Role {
    /// Not known yet.
    Greeting,
    /// REQ, DEALER, ROUTER: asks.
    Requester(Rc<Requester>),
    /// SUB, XSUB.
    Subscriber(Rc<Subscriber>),
    /// PUB, XPUB.
    Publisher,
    /// PUSH: gives work.
    Pusher,
    /// PULL: takes work.
    Puller,
    /// PAIR, REP: has a host for itself.
    Spliced(Rc<Link>),
}

struct Pending {
    message: Arc<Message>,
    /// The frame with which the body begins.
    body: usize,
    goal: Goal,
    since: Instant,
}

impl Client {
    pub(in super::super) fn new(
        gate: Gate,
        broker: &Rc<Broker>,
        outbox: &Rc<Outbox>,
        info: &Rc<ConnectionInfo>,
    ) -> Self {
        Self {
            gate,
            broker: Rc::clone(broker),
            outbox: Rc::clone(outbox),
            info: Rc::clone(info),
            socket_type: SocketType::Dealer,
            role: Role::Greeting,
            pending: None,
            interests: Box::default(),
        }
    }

    /// Keeps connections to all hosts of a cluster, as this socket type.
    fn be_interested(&mut self, cluster: usize, socket_type: SocketType) {
        if self.interests.iter().any(|(known, _)| *known == cluster) {
            return;
        }
        if let Some(links) = self.broker.links(cluster, socket_type) {
            let mut interests = std::mem::take(&mut self.interests).into_vec();
            interests.push((cluster, links.keep_all(&self.broker)));
            self.interests = interests.into();
        }
    }

    fn be_interested_in_all(&mut self, socket_type: SocketType) {
        let clusters = self.broker.routes().map(|routes| routes.of_type(self.socket_type)).unwrap_or_default();
        for cluster in clusters {
            self.be_interested(cluster, socket_type);
        }
    }

    fn splice(&mut self, socket_type: SocketType) -> Result<Role, End> {
        let routes = self.broker.routes();
        let cluster = routes.and_then(|routes| {
            let first = *routes.of_type(self.socket_type).first()?;
            routes.clusters().get(first).cloned()
        });
        let Some(cluster) = cluster else {
            self.gate.stats.no_route.inc();
            return Err(End::Handler("no route"));
        };
        let choice = HostChoice { connection: Some(&self.info), ..HostChoice::default() };
        let link = splice::begin(&self.broker, &cluster, socket_type, &choice, &self.outbox);
        link.map(Role::Spliced).ok_or_else(|| {
            self.gate.stats.no_worker.inc();
            End::Handler("no worker")
        })
    }

    /// Where a message goes; `None`: nowhere, and the client was told.
    fn route(&mut self, message: &Arc<Message>, body: usize) -> Option<Goal> {
        let routes = self.broker.routes();
        let goal = routes.and_then(|routes| routes.of_message(self.socket_type, message, body));
        if goal.is_none() {
            self.gate.stats.no_route.inc();
            self.fail(message, body, "no route");
        }
        goal
    }

    fn fail(&self, message: &Arc<Message>, body: usize, reason: &'static str) {
        if let Role::Requester(requester) = &self.role {
            requester.fail(&Envelope::of(message, body), reason, &self.broker);
        }
    }

    /// Hands on what waits, if there is a connection for it.
    fn poll_pending(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(pending) = &self.pending else { return Poll::Ready(()) };
        let Goal { cluster, hash } = pending.goal;
        let ours = if matches!(self.role, Role::Pusher) { SocketType::Push } else { SocketType::Dealer };
        let Some(links) = self.broker.links(cluster, ours) else { return Poll::Ready(()) };
        let choice = HostChoice { hash, connection: Some(&self.info), ..HostChoice::default() };
        let link = ready!(links.poll_link(cx, &choice));
        let Some(pending) = self.pending.take() else { return Poll::Ready(()) };
        let Pending { message, body, goal, .. } = *pending;
        match (link, &self.role) {
            (Ok(link), Role::Requester(requester)) => match link.host.begin_request() {
                Ok(request) => {
                    let envelope = Envelope::of(&message, body);
                    requester.send(message, envelope, &link, request, &self.broker);
                }
                Err(_) => self.fail(&message, body, "overloaded"),
            },
            (Ok(link), _) => link.outbox.push(Outgoing::whole(message)),
            (Err(reason), Role::Requester(_)) => {
                self.gate.stats.no_worker.inc();
                self.fail(&message, body, reason);
            }
            // Work is never lost: it waits until there is somebody. The clock looks again.
            (Err(_), _) => {
                self.pending = Some(Box::new(Pending { message, body, goal, since: Instant::now() }));
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

impl Handler for Client {
    fn authenticate(&mut self, credentials: Credentials<'_>) -> bool {
        self.gate.authenticate(credentials)
    }

    fn on_ready(&mut self, peer: &Peer) -> Result<(), End> {
        self.gate.on_ready();
        let ours = peer.our_socket_type;
        // A 1.0 peer does not say what it is: it is what we take it for.
        self.socket_type = peer.socket_type.unwrap_or_else(|| ours.face());
        self.role = match ours {
            SocketType::Router => {
                let is_req = self.socket_type == SocketType::Req;
                Role::Requester(self.broker.requests.join(&self.outbox, is_req))
            }
            SocketType::Xpub | SocketType::Pub => Role::Subscriber(Subscriber::new(Rc::clone(&self.outbox))),
            SocketType::Xsub | SocketType::Sub => {
                self.be_interested_in_all(SocketType::Xpub);
                self.outbox.push(Outgoing::Subscribe(Arc::default()));
                Role::Publisher
            }
            SocketType::Pull => Role::Pusher,
            SocketType::Push => {
                self.be_interested_in_all(SocketType::Pull);
                self.broker.pullers.join(&self.outbox);
                Role::Puller
            }
            SocketType::Pair => self.splice(SocketType::Pair)?,
            SocketType::Dealer | SocketType::Req | SocketType::Rep => self.splice(SocketType::Rep)?,
        };
        Ok(())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_pending(cx));
        match &self.role {
            Role::Requester(requester) => {
                // Its answers need room as well.
                ready!(self.outbox.poll_room(cx));
                requester.poll_room(self.broker.settings.max_in_flight, cx)
            }
            Role::Spliced(link) => link.outbox.poll_room(cx),
            _ => Poll::Ready(()),
        }
    }

    fn on_message(&mut self, message: Message) -> Result<(), End> {
        self.gate.stats.messages_received.inc();
        let message = Arc::new(message);
        match &self.role {
            Role::Requester(_) => {
                let body = body_of(&message);
                if let Some(goal) = self.route(&message, body) {
                    self.pending = Some(Box::new(Pending { message, body, goal, since: Instant::now() }));
                }
            }
            Role::Pusher => {
                if let Some(goal) = self.route(&message, 0) {
                    self.pending = Some(Box::new(Pending { message, body: 0, goal, since: Instant::now() }));
                }
            }
            Role::Publisher => {
                self.broker.publish(&message);
                let routes = self.broker.routes();
                let goal = routes.and_then(|routes| routes.of_message(self.socket_type, &message, 0));
                if let Some(links) = goal.and_then(|goal| self.broker.links(goal.cluster, SocketType::Xpub)) {
                    self.gate.stats.slow_subscriber_dropped.add(links.publish(&message));
                }
            }
            Role::Spliced(link) => link.outbox.push(Outgoing::whole(message)),
            // A subscriber that speaks, as an XSUB may: nobody listens.
            Role::Subscriber(_) | Role::Puller | Role::Greeting => self.gate.stats.no_route.inc(),
        }
        Ok(())
    }

    fn on_subscription(&mut self, topic: &[u8], wanted: bool) -> Result<(), End> {
        let Role::Subscriber(subscriber) = &self.role else { return Ok(()) };
        let has_changed = match wanted {
            true => self.broker.topics.subscribe(subscriber, topic, self.broker.limits())?,
            false => self.broker.topics.cancel(subscriber, topic),
        };
        if !has_changed {
            return Ok(());
        }
        self.broker.note_subscribers();
        let clusters = self.broker.routes().map(|routes| routes.of_topic(self.socket_type, topic));
        for cluster in clusters.unwrap_or_default() {
            self.be_interested(cluster, SocketType::Xsub);
            if let Some(links) = self.broker.links(cluster, SocketType::Xsub) {
                if wanted { links.subscribe(topic) } else { links.cancel(topic) }
            }
        }
        Ok(())
    }

    fn on_sent(&mut self) {
        self.gate.stats.messages_sent.inc();
    }

    fn deadline(&self) -> Option<Instant> {
        let since = self.pending.as_ref().map(|pending| pending.since);
        match &self.role {
            Role::Requester(requester) => {
                let pending = since.map(|since| since + self.broker.settings.worker_wait);
                [requester.deadline(), pending].into_iter().flatten().min()
            }
            _ => since.map(|since| since + RETRY),
        }
    }

    fn on_deadline(&mut self, now: Instant) -> Result<(), End> {
        let Role::Requester(requester) = &self.role else {
            if let Some(pending) = &mut self.pending {
                pending.since = now;
            }
            return Ok(());
        };
        requester.on_deadline(now, &self.broker);
        let wait = self.broker.settings.worker_wait;
        if let Some(pending) = self.pending.take_if(|pending| now >= pending.since + wait) {
            self.gate.stats.no_worker.inc();
            self.fail(&pending.message, pending.body, "no worker in time");
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        let has_asked = matches!(&self.role, Role::Requester(requester) if !requester.is_idle());
        self.pending.is_none() && !has_asked
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        match &self.role {
            Role::Requester(requester) => self.broker.requests.leave(requester, &self.broker),
            Role::Subscriber(subscriber) => {
                for topic in self.broker.topics.leave(subscriber) {
                    let clusters = self.broker.routes().map(|routes| routes.of_topic(self.socket_type, &topic));
                    for cluster in clusters.unwrap_or_default() {
                        if let Some(links) = self.broker.links(cluster, SocketType::Xsub) {
                            links.cancel(&topic);
                        }
                    }
                }
                self.broker.note_subscribers();
            }
            Role::Puller => self.broker.pullers.leave(&self.outbox),
            Role::Spliced(link) => link.outbox.push(Outgoing::Close("the client is gone")),
            Role::Greeting | Role::Publisher | Role::Pusher => {}
        }
        self.outbox.close();
    }
}
