//! The connections of a worker to the hosts of one cluster, with one socket type: made when they are needed, made again
//! after they broke, and chosen from by the cluster's policy.

use super::super::outbox::{Outbox, Outgoing, add};
use super::{Broker, link};
use sota_codec::zmtp::{Message, SocketType, Subscriptions};
use sota_plugin::upstream::{Cluster, Host, HostChoice};
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// How long a cluster that was found is used before it is looked up again.
const CLUSTER_AGE: Duration = Duration::from_secs(1);
/// How often the hosts are looked at where there is to be a connection to each of them.
const KEEP_INTERVAL: Duration = Duration::from_millis(500);
/// What a clock may be ahead of another one.
const SLACK: Duration = Duration::from_millis(20);
/// Hosts that are looked at for one message.
const MAX_TRIES: usize = 16;

/// A connection to a host, from the attempt to make it to its end.
pub(super) struct Link {
    /// Unique on the worker.
    pub(super) id: u64,
    pub(super) host: Host,
    pub(super) outbox: Rc<Outbox>,
    /// Whether the handshake is done.
    pub(super) is_ready: Cell<bool>,
    /// Whether it is to end: the host has left the cluster.
    pub(super) is_draining: Cell<bool>,
    /// Requests that wait for their answer on it.
    pub(super) outstanding: Cell<usize>,
    /// What the host wants, if it is a subscriber.
    pub(super) wanted: RefCell<Subscriptions>,
}

impl Link {
    /// A connection that is not made yet.
    pub(super) fn new(host: &Host, broker: &Broker) -> Rc<Self> {
        Rc::new(Self {
            id: broker.next_link_id(),
            host: host.clone(),
            outbox: Rc::new(Outbox::new(broker.settings.watermark)),
            is_ready: Cell::new(false),
            is_draining: Cell::new(false),
            outstanding: Cell::new(0),
            wanted: RefCell::default(),
        })
    }

    fn is_usable(&self) -> bool {
        !self.is_draining.get() && self.outbox.has_room()
    }
}

/// When a host may be tried again.
struct Backoff {
    failures: u32,
    until: Instant,
}

/// The connections to a cluster.
pub(super) struct Links {
    pub(super) socket_type: SocketType,
    cluster_name: Arc<str>,
    broker: Weak<Broker>,
    cluster: RefCell<Option<(Cluster, Instant)>>,
    links: RefCell<HashMap<usize, Rc<Link>>>,
    backoff: RefCell<HashMap<usize, Backoff>>,
    /// Tasks that wait for a connection.
    waiting: RefCell<Vec<Waker>>,
    /// What was queued for a connection that broke, and was not sent.
    orphans: RefCell<VecDeque<Outgoing>>,
    /// What subscribers want, and how many of them; said to each publisher that is connected to.
    topics: RefCell<HashMap<Arc<[u8]>, u32>>,
    interest: Cell<usize>,
    is_kept: Cell<bool>,
}

impl Links {
    pub(super) fn new(cluster_name: &Arc<str>, socket_type: SocketType, broker: &Weak<Broker>) -> Rc<Self> {
        Rc::new(Self {
            socket_type,
            cluster_name: Arc::clone(cluster_name),
            broker: Weak::clone(broker),
            cluster: RefCell::default(),
            links: RefCell::default(),
            backoff: RefCell::default(),
            waiting: RefCell::default(),
            orphans: RefCell::default(),
            topics: RefCell::default(),
            interest: Cell::new(0),
            is_kept: Cell::new(false),
        })
    }

    /// The cluster of now, give or take a second.
    fn cluster(&self, broker: &Broker) -> Option<Cluster> {
        let mut known = self.cluster.borrow_mut();
        if let Some((cluster, since)) = &*known
            && since.elapsed() < CLUSTER_AGE
        {
            return Some(cluster.clone());
        }
        *known = broker.worker.cluster(&self.cluster_name).ok().map(|cluster| (cluster, Instant::now()));
        known.as_ref().map(|(cluster, _)| cluster.clone())
    }

    /// A connection with room for a message, chosen by the cluster's policy among those whose handshake is done; others
    /// are begun. Pending: all are full, or still being made. An error says why there is no hope.
    pub(super) fn poll_link(
        self: &Rc<Self>,
        cx: &Context<'_>,
        choice: &HostChoice<'_>,
    ) -> Poll<Result<Rc<Link>, &'static str>> {
        let Some(broker) = self.broker.upgrade() else { return Poll::Ready(Err("shutting down")) };
        let Some(cluster) = self.cluster(&broker) else { return Poll::Ready(Err("no such cluster")) };
        let mut tried: Vec<Host> = Vec::new();
        while tried.len() < MAX_TRIES {
            let choice = HostChoice { excluded: &tried, ..*choice };
            let Ok(host) = cluster.choose(&choice) else { break };
            if tried.contains(&host) {
                break;
            }
            if let Some(link) = self.link_to(&host, &broker)
                && link.is_ready.get()
                && link.is_usable()
            {
                return Poll::Ready(Ok(link));
            }
            tried.push(host);
        }
        if tried.is_empty() {
            return Poll::Ready(Err("no worker"));
        }
        for link in self.links.borrow().values() {
            let _ = link.outbox.poll_room(cx);
        }
        add(&mut self.waiting.borrow_mut(), cx);
        Poll::Pending
    }

    /// The connection to a host, which is begun if there is none; `None`: not yet again.
    fn link_to(self: &Rc<Self>, host: &Host, broker: &Rc<Broker>) -> Option<Rc<Link>> {
        if let Some(link) = self.links.borrow().get(&host.id()) {
            return Some(Rc::clone(link));
        }
        if self.backoff.borrow().get(&host.id()).is_some_and(|backoff| Instant::now() < backoff.until) {
            return None;
        }
        let link = Link::new(host, broker);
        self.links.borrow_mut().insert(host.id(), Rc::clone(&link));
        broker.worker.spawn_background(link::run(Rc::clone(self), Rc::clone(&link), Rc::downgrade(broker)));
        Some(link)
    }

    /// A connection has finished its handshake.
    pub(super) fn on_ready(&self, link: &Rc<Link>) {
        link.is_ready.set(true);
        self.backoff.borrow_mut().remove(&link.host.id());
        for topic in self.topics.borrow().keys() {
            link.outbox.push(Outgoing::Subscribe(Arc::clone(topic)));
        }
        self.give_orphans(link);
        self.wake();
    }

    fn give_orphans(&self, link: &Rc<Link>) {
        for orphan in self.orphans.take() {
            if let (Some(broker), Outgoing::Message { hop: Some(hop), .. }) = (self.broker.upgrade(), &orphan)
                && !broker.requests.moved(*hop, link)
            {
                // Nobody waits for its answer any more.
                continue;
            }
            link.outbox.push(orphan);
        }
    }

    /// A connection is no more, or could not be made.
    pub(super) fn on_end(self: &Rc<Self>, link: &Rc<Link>, has_failed: bool) {
        self.links.borrow_mut().remove(&link.host.id());
        let queued = link.outbox.close();
        let Some(broker) = self.broker.upgrade() else { return };
        if has_failed {
            let wait = self.back_off(link, &broker);
            let (links, sleep) = (Rc::downgrade(self), broker.worker.sleep(wait));
            broker.worker.spawn_background(async move {
                sleep.await;
                if let Some(links) = links.upgrade() {
                    links.on_retry();
                }
            });
        }
        // What is published is for those who are there.
        let is_kept = matches!(self.socket_type, SocketType::Dealer | SocketType::Push);
        let kept = queued.into_iter().filter(|outgoing| is_kept && matches!(outgoing, Outgoing::Message { .. }));
        let mut orphans = self.orphans.borrow_mut();
        for outgoing in kept {
            if let Outgoing::Message { hop: Some(hop), .. } = &outgoing {
                broker.requests.orphaned(*hop);
            }
            orphans.push_back(outgoing);
        }
        drop(orphans);
        broker.requests.lost(link.id, &broker);
        self.give_up_orphans(&broker);
        self.adopt_orphans();
        if self.orphans.borrow().iter().any(is_request) {
            let (links, sleep) = (Rc::downgrade(self), broker.worker.sleep(broker.settings.worker_wait + SLACK));
            broker.worker.spawn_background(async move {
                sleep.await;
                if let Some(links) = links.upgrade()
                    && let Some(broker) = links.broker.upgrade()
                {
                    links.give_up_orphans(&broker);
                }
            });
        }
        self.wake();
    }

    /// Requests do not wait for ever for another connection; work does.
    fn give_up_orphans(&self, broker: &Broker) {
        let mut orphans = self.orphans.take();
        orphans.retain(|orphan| match orphan {
            Outgoing::Message { hop: Some(hop), .. } => !broker.requests.is_over(*hop, broker),
            _ => true,
        });
        self.orphans.replace(orphans);
    }

    /// Whether the last connection to the host has failed too.
    pub(super) fn has_failed_before(&self, link: &Link) -> bool {
        self.backoff.borrow().contains_key(&link.host.id())
    }

    /// How long to leave the host alone.
    fn back_off(&self, link: &Link, broker: &Broker) -> Duration {
        let mut backoff = self.backoff.borrow_mut();
        let failures = backoff.get(&link.host.id()).map_or(0, |backoff| backoff.failures) + 1;
        let reconnect = broker.settings.reconnect;
        let doubled = reconnect.base.0.saturating_mul(1 << failures.min(16).saturating_sub(1));
        let mut wait = doubled.min(reconnect.max.0).mul_f64(1.0 + fastrand::f64() / 2.0);
        if let Some(check) = &broker.settings.health_check {
            wait = wait.min(check.interval.0);
        }
        backoff.insert(link.host.id(), Backoff { failures, until: Instant::now() + wait });
        wait
    }

    fn on_retry(self: &Rc<Self>) {
        self.adopt_orphans();
        self.wake();
    }

    /// What has lost its connection goes to another one; while there is none, it waits.
    fn adopt_orphans(self: &Rc<Self>) {
        if self.orphans.borrow().is_empty() {
            return;
        }
        let cx = Context::from_waker(Waker::noop());
        // If there is none, one is begun, which asks for them when it is there.
        if let Poll::Ready(Ok(link)) = self.poll_link(&cx, &HostChoice::default()) {
            self.give_orphans(&link);
        }
    }

    fn wake(&self) {
        let waiting = self.waiting.take();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// From now on there is to be a connection to each host, until the value is dropped.
    pub(super) fn keep_all(self: &Rc<Self>, broker: &Rc<Broker>) -> Interest {
        self.interest.set(self.interest.get() + 1);
        if !self.is_kept.replace(true) {
            broker.worker.spawn_background(keep(Rc::downgrade(self), Rc::downgrade(broker)));
        }
        Interest(Rc::clone(self))
    }

    /// One subscriber more wants this.
    pub(super) fn subscribe(&self, topic: &[u8]) {
        let mut topics = self.topics.borrow_mut();
        if let Some(count) = topics.get_mut(topic) {
            *count += 1;
            return;
        }
        let topic: Arc<[u8]> = topic.into();
        for link in self.links.borrow().values().filter(|link| link.is_ready.get()) {
            link.outbox.push(Outgoing::Subscribe(Arc::clone(&topic)));
        }
        topics.insert(topic, 1);
    }

    /// One subscriber wants this no longer.
    pub(super) fn cancel(&self, topic: &[u8]) {
        let mut topics = self.topics.borrow_mut();
        let Some(count) = topics.get_mut(topic) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        if let Some((topic, _)) = topics.remove_entry(topic) {
            for link in self.links.borrow().values().filter(|link| link.is_ready.get()) {
                link.outbox.push(Outgoing::Cancel(Arc::clone(&topic)));
            }
        }
    }

    /// Gives a publication to every host that wants it and has room. How many had none.
    pub(super) fn publish(&self, message: &Arc<Message>) -> u64 {
        let first = message.frame(0).unwrap_or_default();
        let mut dropped = 0;
        for link in self.links.borrow().values().filter(|link| link.wanted.borrow().matches(first)) {
            if link.is_usable() {
                link.outbox.push(Outgoing::whole(Arc::clone(message)));
            } else {
                dropped += 1;
            }
        }
        dropped
    }

    /// Ends all connections, once they have sent what they have.
    pub(super) fn close(&self, reason: &'static str) {
        for link in self.links.borrow().values() {
            link.outbox.push(Outgoing::Close(reason));
        }
    }

    fn keep_each(self: &Rc<Self>, broker: &Rc<Broker>) {
        let hosts = self.cluster(broker).map(|cluster| cluster.hosts()).unwrap_or_default();
        for host in hosts {
            self.link_to(&host, broker);
        }
    }
}

const fn is_request(outgoing: &Outgoing) -> bool {
    matches!(outgoing, Outgoing::Message { hop: Some(_), .. })
}

/// As long as it lives, there is a connection to each host of a cluster.
pub(super) struct Interest(Rc<Links>);

impl Drop for Interest {
    fn drop(&mut self) {
        let left = self.0.interest.get() - 1;
        self.0.interest.set(left);
        if left == 0 {
            self.0.close("nobody needs it");
        }
    }
}

/// Makes a connection to each host, again and again, while somebody is interested.
async fn keep(links: Weak<Links>, broker: Weak<Broker>) {
    loop {
        let sleep = {
            let (Some(links), Some(broker)) = (links.upgrade(), broker.upgrade()) else { return };
            if links.interest.get() == 0 {
                links.is_kept.set(false);
                return;
            }
            links.keep_each(&broker);
            let interval = broker.settings.health_check.map_or(KEEP_INTERVAL, |check| check.interval.0);
            broker.worker.sleep(interval.min(KEEP_INTERVAL))
        };
        sleep.await;
    }
}
