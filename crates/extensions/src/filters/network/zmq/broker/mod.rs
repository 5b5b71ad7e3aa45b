//! The broker: takes clients of every socket type, and passes their messages on to clusters and back. All of it belongs
//! to one worker; only publications go from worker to worker, by messages.

mod bus;
mod client;
mod link;
mod links;
mod pullers;
mod question;
mod requests;
mod splice;
mod topics;

pub(super) use bus::Bus;
pub(super) use client::Client;
pub(super) use requests::body_of;

use super::{
    config::Settings,
    pump::{Patience, Scratch, Surroundings},
    routes::Routes,
    stats::ZmqStats,
};
use bus::Inbox;
use links::{Interest, Links};
use pullers::Pullers;
use requests::Requests;
use sota_codec::zmtp::{Limits, Message, Options, SocketType};
use sota_plugin::{cx::WorkerCx, stats::Group};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    rc::{Rc, Weak},
    sync::Arc,
};
use topics::Topics;

/// A worker's broker.
pub(super) struct Broker {
    settings: Arc<Settings>,
    worker: WorkerCx,
    stats: Group<ZmqStats>,
    scratch: Rc<Scratch>,
    myself: Weak<Self>,
    /// By the cluster's place in the routes, and our socket type.
    links: RefCell<HashMap<(usize, SocketType), Rc<Links>>>,
    surroundings: RefCell<HashMap<SocketType, Rc<Surroundings>>>,
    link_ids: Cell<u64>,
    requests: Requests,
    topics: Topics,
    pullers: Pullers,
    bus: Arc<Bus>,
    inbox: Arc<Inbox>,
    /// Whether somebody empties the inbox.
    is_listening: Cell<bool>,
    /// Keeps a connection to each host whose health is checked.
    checked: RefCell<Vec<Interest>>,
}

impl Broker {
    /// The worker's part, which runs from now on.
    pub(super) fn start(
        settings: &Arc<Settings>,
        bus: &Arc<Bus>,
        worker: &WorkerCx,
        stats: &Group<ZmqStats>,
        scratch: &Rc<Scratch>,
    ) -> Rc<Self> {
        let broker = Rc::new_cyclic(|myself| Self {
            settings: Arc::clone(settings),
            worker: worker.clone(),
            stats: stats.clone(),
            scratch: Rc::clone(scratch),
            myself: Weak::clone(myself),
            links: RefCell::default(),
            surroundings: RefCell::default(),
            link_ids: Cell::new(0),
            requests: Requests::default(),
            topics: Topics::default(),
            pullers: Pullers::default(),
            bus: Arc::clone(bus),
            inbox: bus.join(settings.watermark),
            is_listening: Cell::new(false),
            checked: RefCell::default(),
        });
        broker.check_hosts();
        broker
    }

    /// Begins to check the health of hosts, if that is configured: there is to be a connection to each of them.
    fn check_hosts(self: &Rc<Self>) {
        let (Some(check), Some(routes)) = (&self.settings.health_check, self.routes()) else { return };
        for cluster in 0..routes.clusters().len() {
            if let Some(links) = self.links(cluster, check.socket_type.0) {
                self.checked.borrow_mut().push(links.keep_all(self));
            }
        }
    }

    fn routes(&self) -> Option<&Routes> {
        self.settings.routes.as_ref()
    }

    fn limits(&self) -> &Limits {
        &self.settings.options.limits
    }

    fn next_link_id(&self) -> u64 {
        self.link_ids.set(self.link_ids.get() + 1);
        self.link_ids.get()
    }

    /// The connections to a cluster with this socket type of ours.
    fn links(&self, cluster: usize, socket_type: SocketType) -> Option<Rc<Links>> {
        if let Some(links) = self.links.borrow().get(&(cluster, socket_type)) {
            return Some(Rc::clone(links));
        }
        let name = self.routes()?.clusters().get(cluster)?;
        let links = Links::new(name, socket_type, &self.myself);
        self.links.borrow_mut().insert((cluster, socket_type), Rc::clone(&links));
        Some(links)
    }

    /// What connections to hosts with this socket type of ours have in common.
    fn upstream_surroundings(&self, socket_type: SocketType) -> Rc<Surroundings> {
        let mut all = self.surroundings.borrow_mut();
        let surroundings = all.entry(socket_type).or_insert_with(|| {
            let options = Options { socket_type, auto_face: false, ..self.settings.upstream.clone() };
            Rc::new(Surroundings {
                worker: self.worker.clone(),
                options: Arc::new(options),
                patience: Patience { ..self.settings.patience },
                scratch: Rc::clone(&self.scratch),
            })
        });
        Rc::clone(surroundings)
    }

    /// Gives a publication to the subscribers of this worker.
    fn publish_here(&self, message: &Arc<Message>) {
        let dropped = self.topics.publish(message).dropped;
        self.stats.slow_subscriber_dropped.add(dropped);
    }

    /// Gives a publication of a client to the subscribers of every worker.
    fn publish(&self, message: &Arc<Message>) {
        self.publish_here(message);
        self.stats.bus_dropped.add(self.bus.publish(message, &self.inbox));
    }

    /// Whether there are subscribers has changed, perhaps.
    fn note_subscribers(&self) {
        let has_some = !self.topics.is_empty();
        self.inbox.set_open(has_some);
        if has_some && !self.is_listening.replace(true) {
            self.worker.spawn_background(listen(Arc::clone(&self.inbox), Weak::clone(&self.myself)));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.bus.leave(&self.inbox);
        for links in self.links.get_mut().values() {
            links.close("the broker is gone");
        }
    }
}

/// Passes on what other workers publish.
async fn listen(inbox: Arc<Inbox>, broker: Weak<Broker>) {
    while let Some(messages) = poll_fn(|cx| inbox.poll_take(cx)).await {
        let Some(broker) = broker.upgrade() else { return };
        for message in &messages {
            broker.publish_here(message);
        }
    }
}
