//! A stream to a control plane: begun again whenever it is lost, for as long as something is wanted.

use super::{
    Answer, Command, Event, Kind, Update, aggregated_method, stats::ControlPlaneStats, subscription::Subscription,
};
use crate::server::Server;
use bytes::Bytes;
use sota_config::config_source::GrpcSource;
use sota_envoy::discovery::{Request, Response};
use sota_plugin::stats::Group;
use sota_proxy::{
    context::WorkerContext,
    grpc::{GrpcError, GrpcStream},
};
use std::{collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// The first wait is at most this long, the longest at most [`LONGEST_WAIT`]; Envoy's figures.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A stream and what is wanted of it.
pub(super) struct Stream {
    pub(super) id: usize,
    pub(super) source: Arc<GrpcSource>,
    /// The kind that it is for; `None`: all.
    pub(super) kind: Option<Kind>,
    pub(super) server: Rc<Server>,
    /// The main thread's part of clusters.
    pub(super) context: Rc<WorkerContext>,
    /// The node as bytes.
    pub(super) node: Bytes,
    pub(super) commands: UnboundedReceiver<Command>,
    pub(super) events: UnboundedSender<Event>,
    pub(super) stats: Group<ControlPlaneStats>,
    pub(super) subscriptions: BTreeMap<Kind, Subscription>,
    /// Counts streams.
    pub(super) stream: u64,
}

/// What goes with one stream.
struct Call {
    grpc: GrpcStream,
    is_node_sent: bool,
    /// An update is under way.
    is_busy: bool,
}

/// How a stream has ended.
enum End {
    Lost(GrpcError),
    /// Nothing is wanted now; that may change.
    Unwanted,
    /// Nobody will want anything.
    Gone,
}

impl Stream {
    /// Until nobody holds the other end of the commands.
    pub(super) async fn run(mut self) {
        let mut longest = FIRST_WAIT;
        loop {
            while !self.subscriptions.values().any(Subscription::is_wanted) {
                let Some(command) = self.commands.recv().await else { return };
                self.take(command, None);
            }
            let error = match self.attempt(&mut longest).await {
                End::Lost(error) => error,
                End::Unwanted => continue,
                End::Gone => return,
            };
            tracing::warn!(
                target: "config",
                "the stream to the control plane of cluster \"{}\" is lost: {error}", self.source.cluster
            );
            let _ = self.events.send(Event::Lost(self.id));
            // Full jitter: many proxies that lost the same control plane come back one by one.
            let wait = tokio::time::sleep(longest.mul_f64(fastrand::f64()));
            longest = (longest * 2).min(LONGEST_WAIT);
            tokio::pin!(wait);
            loop {
                tokio::select! {
                    () = &mut wait => break,
                    command = self.commands.recv() => match command {
                        Some(command) => self.take(command, None),
                        None => return,
                    },
                }
            }
        }
    }

    /// One stream, from its beginning to its end.
    async fn attempt(&mut self, longest: &mut Duration) -> End {
        let grpc = match self.open().await {
            Ok(grpc) => grpc,
            Err(error) => return End::Lost(error),
        };
        self.stream += 1;
        self.stats.connected_state.set(1);
        let mut call = Call { grpc, is_node_sent: false, is_busy: false };
        for subscription in self.subscriptions.values_mut() {
            subscription.begin();
        }
        for kind in Kind::ALL {
            self.ask(kind, &mut call);
        }
        let end = loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => {
                        self.take(command, Some(&mut call));
                        // The stream for one secret ends with it, as in Envoy.
                        if self.kind == Some(Kind::Secrets) && !self.subscriptions.values().any(Subscription::is_wanted) {
                            break End::Unwanted;
                        }
                    }
                    None => break End::Gone,
                },
                message = call.grpc.message(), if !call.is_busy => {
                    match message.and_then(|message| self.receive(&message, &mut call)) {
                        Ok(()) => *longest = FIRST_WAIT,
                        Err(error) => break End::Lost(error),
                    }
                }
            }
        };
        self.stats.connected_state.set(0);
        end
    }

    async fn open(&self) -> Result<GrpcStream, GrpcError> {
        let name = &self.source.cluster;
        let cluster = self.server.resources.own_cluster(&self.context.clusters, name).ok_or(GrpcError::NoHost)?;
        let path = match self.kind {
            Some(kind) => kind.method(self.source.is_delta),
            None => aggregated_method(self.source.is_delta),
        };
        let authority = if self.source.authority.is_empty() { name } else { &self.source.authority };
        GrpcStream::open(&cluster, path, authority, &self.source.metadata).await
    }

    fn take(&mut self, command: Command, call: Option<&mut Call>) {
        match command {
            Command::Watch(kind, names) => {
                let is_delta = self.source.is_delta;
                self.subscriptions.entry(kind).or_insert_with(|| Subscription::new(kind, is_delta)).want(names);
                if let Some(call) = call {
                    self.ask(kind, call);
                }
            }
            Command::Answer(answer) => self.answer(&answer, call),
        }
    }

    /// Says what is wanted of a kind, if that is new.
    fn ask(&mut self, kind: Kind, call: &mut Call) {
        if let Some(request) = self.subscriptions.get_mut(&kind).and_then(Subscription::request) {
            self.say(request, call);
        }
    }

    fn answer(&mut self, answer: &Answer, call: Option<&mut Call>) {
        let Some(subscription) = self.subscriptions.get_mut(&answer.kind) else { return };
        subscription.note(answer);
        if let Some(call) = call
            && answer.stream == self.stream
        {
            call.is_busy = false;
            let request = subscription.answer(answer);
            self.say(request, call);
        }
    }

    fn say(&self, mut request: Request, call: &mut Call) {
        // Delta says it once in any case.
        if !call.is_node_sent || !(self.source.is_node_sent_once || self.source.is_delta) {
            request.node = Some(self.node.clone());
            call.is_node_sent = true;
        }
        call.grpc.send(&if self.source.is_delta { request.encode_delta() } else { request.encode() });
    }

    fn receive(&mut self, message: &Bytes, call: &mut Call) -> Result<(), GrpcError> {
        let is_delta = self.source.is_delta;
        let read = if is_delta { Response::decode_delta(message) } else { Response::decode(message) };
        let response = read.map_err(|_| GrpcError::Malformed("it sent something that is no discovery response"))?;
        let kind = Kind::of_message(&response.message);
        let Some(kind) = kind.filter(|kind| self.subscriptions.get(kind).is_some_and(Subscription::is_open)) else {
            // As Envoy: nobody asked, so nobody answers.
            tracing::warn!(target: "config", "resources of the type \"{}\" were not asked for", response.message);
            return Ok(());
        };
        call.is_busy = true;
        let update = Update { source: self.id, kind, stream: self.stream, is_whole: !is_delta, response };
        let _ = self.events.send(Event::Update(update));
        Ok(())
    }
}
