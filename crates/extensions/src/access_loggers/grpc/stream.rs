//! A worker's stream to an access-log service: entries gather, leave together, and are lost where nobody takes them.

use super::Settings;
use sota_codec::protobuf::Message;
use sota_plugin::{
    cx::WorkerCx,
    future::{First, race},
    grpc::{Call, GrpcError},
    stat_group,
    stats::Group,
};
use std::{
    cell::{Cell, RefCell},
    future::{Future, pending, poll_fn},
    mem,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Poll, Waker},
};

/// With so many octets that nobody has taken, entries are lost.
const MOST_WAITING: usize = 1 << 20;
/// The method.
const METHOD: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

stat_group! {
    /// `access_logs.grpc_access_log.`
    pub(super) struct GrpcLogStats {
        /// Entries that were given to the stream.
        logs_written: counter,
        /// Entries that were lost.
        logs_dropped: counter,
    }
}

pub(super) struct LogStream {
    settings: Arc<Settings>,
    stats: Group<GrpcLogStats>,
    /// Entries that wait, as repeated fields of `HTTPAccessLogEntries` or `TCPAccessLogEntries`; how many.
    waiting: RefCell<Message>,
    count: Cell<u64>,
    /// Octets that were given to the stream and have not left.
    unsent: Cell<usize>,
    is_running: Cell<bool>,
    is_full: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

impl LogStream {
    pub(super) fn new(settings: &Arc<Settings>, worker: &WorkerCx) -> Rc<Self> {
        Rc::new(Self {
            settings: Arc::clone(settings),
            stats: worker.stats().child("access_logs.grpc_access_log.").group(),
            waiting: RefCell::default(),
            count: Cell::new(0),
            unsent: Cell::new(0),
            is_running: Cell::new(false),
            is_full: Cell::new(false),
            task: RefCell::new(None),
        })
    }

    /// Takes an entry, if there is room.
    pub(super) fn push(self: &Rc<Self>, worker: &WorkerCx, entry: &[u8]) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.as_bytes().len() + self.unsent.get() > MOST_WAITING {
            return self.stats.logs_dropped.inc();
        }
        waiting.always_bytes(1, entry);
        self.count.set(self.count.get() + 1);
        if waiting.as_bytes().len() >= self.settings.buffer {
            self.is_full.set(true);
            if let Some(task) = self.task.take() {
                task.wake();
            }
        }
        if !self.is_running.replace(true) {
            // Who replaces the logger drops it; the entries that wait are sent all the same.
            let (weak, cx) = (Rc::downgrade(self), worker.clone());
            let settings = Arc::clone(&self.settings);
            worker.spawn_background(async move { run(weak, settings, cx).await });
        }
    }

    /// Ready when a message is full.
    fn full(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|cx| {
            if self.is_full.replace(false) {
                return Poll::Ready(());
            }
            *self.task.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    /// What waits, as a message, and how many entries it has.
    fn take(&self, with_identifier: bool) -> Option<(Vec<u8>, u64)> {
        let count = self.count.replace(0);
        if count == 0 {
            return None;
        }
        let entries = mem::take(&mut *self.waiting.borrow_mut());
        let mut message = Message::new();
        if with_identifier {
            message.bytes(1, &self.settings.identifier);
        }
        message.bytes(self.settings.kind as u32, entries.as_bytes());
        Some((message.into_bytes(), count))
    }
}

/// Sends what gathers, for as long as there is a logger.
async fn run(stream: Weak<LogStream>, settings: Arc<Settings>, worker: WorkerCx) {
    let mut call: Option<Call> = None;
    loop {
        let Some(log) = stream.upgrade() else { return };
        let due = race(worker.sleep(settings.interval), log.full());
        // Messages leave while the service is listened to; it answers when the stream is over, if at all.
        let event = race(answer(call.as_mut()), due).await;
        if let First::One(error) = event {
            tracing::debug!(
                "the access-log service of cluster {} has ended the stream: {error}",
                settings.service.cluster
            );
            call = None;
            log.unsent.set(0);
            continue;
        }
        let is_new = call.is_none();
        if let Some((message, count)) = log.take(is_new) {
            if is_new {
                match worker.timeout(settings.interval * 5, worker.grpc_call(&settings.service, METHOD)).await {
                    Some(Ok(opened)) => call = Some(opened),
                    Some(Err(error)) => tracing::debug!("no stream to the access-log service: {error}"),
                    None => tracing::debug!("no stream to the access-log service in time"),
                }
            }
            match &mut call {
                Some(call) => {
                    call.send(&message);
                    log.stats.logs_written.add(count);
                }
                None => log.stats.logs_dropped.add(count),
            }
        }
        log.unsent.set(call.as_ref().map_or(0, Call::unsent));
    }
}

/// The end of a call; messages of the service say nothing.
async fn answer(call: Option<&mut Call>) -> GrpcError {
    let Some(call) = call else { return pending().await };
    loop {
        if let Err(error) = call.message().await {
            return error;
        }
    }
}
