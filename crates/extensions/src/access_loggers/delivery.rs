//! Entries on their way from a worker to a gRPC service: they gather, leave together, and are lost where nobody takes them.

use sota_codec::protobuf::Message;
use sota_config::Node;
use sota_plugin::{
    cx::WorkerCx,
    future::{First, race},
    grpc::{Call, GrpcError, GrpcService},
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
    time::Duration,
};

/// With so many octets that nobody has taken, entries are lost.
const MOST_WAITING: usize = 1 << 20;
/// For a call that has no timeout of its own.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Octets of entries that make a message, unless configured otherwise.
const DEFAULT_BUFFER: usize = 16 * 1024;
/// How long an entry waits at most, unless configured otherwise.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// Makes a message of entries; the flag says that it is the first of a stream.
type Wrap = Box<dyn Fn(&[u8], bool) -> Vec<u8> + Send + Sync>;

/// Where entries go, and how.
pub(super) struct Delivery {
    pub(super) service: GrpcService,
    /// The path of the method.
    pub(super) method: &'static str,
    /// Messages follow each other on one stream; otherwise each is a call of its own.
    pub(super) is_stream: bool,
    /// A message is sent with so many octets of entries.
    pub(super) buffer: usize,
    /// Or after so long.
    pub(super) interval: Duration,
    /// What is counted stands below this.
    pub(super) stat_prefix: String,
    /// The number of the field that an entry is in the message around it.
    pub(super) field: u32,
    pub(super) wrap: Wrap,
}

impl Delivery {
    /// The buffer and the interval that a configuration says.
    pub(super) fn limits(config: &Node) -> (usize, Duration) {
        let buffer = config.uint("buffer_size_bytes").and_then(|size| size.try_into().ok());
        let interval = config.duration("buffer_flush_interval").filter(|time| !time.is_zero());
        (buffer.unwrap_or(DEFAULT_BUFFER), interval.unwrap_or(DEFAULT_INTERVAL))
    }
}

stat_group! {
    /// `access_logs.grpc_access_log.` and `access_logs.open_telemetry_access_log.`
    pub(super) struct DeliveryStats {
        /// Entries that were given to the service.
        logs_written: counter,
        /// Entries that were lost.
        logs_dropped: counter,
    }
}

pub(super) struct Queue {
    delivery: Arc<Delivery>,
    stats: Group<DeliveryStats>,
    /// Entries that wait, as repeated fields of `HTTPAccessLogEntries` or `TCPAccessLogEntries`; how many.
    waiting: RefCell<Message>,
    count: Cell<u64>,
    /// Octets that were given to the stream and have not left.
    unsent: Cell<usize>,
    is_running: Cell<bool>,
    is_full: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

impl Queue {
    pub(super) fn new(delivery: &Arc<Delivery>, worker: &WorkerCx) -> Rc<Self> {
        Rc::new(Self {
            delivery: Arc::clone(delivery),
            stats: worker.stats().child(&delivery.stat_prefix).group(),
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
        waiting.always_bytes(self.delivery.field, entry);
        self.count.set(self.count.get() + 1);
        if waiting.as_bytes().len() >= self.delivery.buffer {
            self.is_full.set(true);
            if let Some(task) = self.task.take() {
                task.wake();
            }
        }
        if !self.is_running.replace(true) {
            // Who replaces the logger drops it; the entries that wait are sent all the same.
            let (weak, cx) = (Rc::downgrade(self), worker.clone());
            let delivery = Arc::clone(&self.delivery);
            worker.spawn_background(async move { run(weak, delivery, cx).await });
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

    /// What waits, as a message, and how many entries it has. `is_first`: of a stream.
    fn take(&self, is_first: bool) -> Option<(Vec<u8>, u64)> {
        let count = self.count.replace(0);
        if count == 0 {
            return None;
        }
        let entries = mem::take(&mut *self.waiting.borrow_mut());
        Some(((self.delivery.wrap)(entries.as_bytes(), is_first), count))
    }
}

/// Sends what gathers, for as long as there is a logger.
async fn run(queue: Weak<Queue>, delivery: Arc<Delivery>, worker: WorkerCx) {
    let service = &delivery.service;
    let mut call: Option<Call> = None;
    loop {
        let Some(log) = queue.upgrade() else { return };
        let due = race(worker.sleep(delivery.interval), log.full());
        // Messages leave while the service is listened to; it answers when the stream is over, if at all.
        if let First::One(error) = race(answer(call.as_mut()), due).await {
            tracing::debug!("the log service of cluster {} has ended the stream: {error}", service.cluster);
            call = None;
            log.unsent.set(0);
            continue;
        }
        let is_first = call.is_none();
        if let Some((message, count)) = log.take(is_first) {
            let sent = match &mut call {
                _ if !delivery.is_stream => {
                    service.unary(&worker, delivery.method, &message, CALL_TIMEOUT).await.map(drop)
                }
                Some(call) => {
                    call.send(&message);
                    Ok(())
                }
                None => {
                    let opened = worker.timeout(CALL_TIMEOUT, worker.grpc_call(service, delivery.method)).await;
                    opened.unwrap_or(Err(GrpcError::Timeout)).map(|mut opened| {
                        opened.send(&message);
                        call = Some(opened);
                    })
                }
            };
            match sent {
                Ok(()) => log.stats.logs_written.add(count),
                Err(error) => {
                    tracing::debug!("entries for the log service of cluster {} are lost: {error}", service.cluster);
                    log.stats.logs_dropped.add(count);
                }
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
