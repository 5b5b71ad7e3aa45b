//! Workers: threads that own connections. The main thread tells them what to serve by [`WorkerCommand`]s, one for each
//! change, in order.
#![allow(unsafe_code, reason = "threads are pinned with sched_setaffinity(2)")]

use crate::{
    context::WorkerContext,
    listener::{Adopted, ListenSocket, ListenerConfig, ListenerTable},
    local::{Local, Process},
    upstream::ClusterConfig,
};
use sota_plugin::stats::Scope;
use std::{io, rc::Rc, sync::Arc, thread::JoinHandle, time::Duration};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, error::SendError, unbounded_channel};

/// What the main thread wants to know of a worker, as a function that runs there.
type Question = Box<dyn FnOnce(&Rc<WorkerContext>) + Send>;

/// What the main thread tells a worker.
pub enum WorkerCommand {
    /// Serve this listener, or this generation of it. Without sockets those of the one before stay.
    SetListener(Arc<ListenerConfig>, Option<Arc<Vec<ListenSocket>>>),
    /// Stop this listener; its connections drain.
    RemoveListener(String),
    /// Know this cluster, or this generation of it.
    SetCluster(Arc<ClusterConfig>),
    /// Forget this cluster; running streams finish.
    RemoveCluster(String),
    /// Look at the hosts of this cluster without waiting for the next choice.
    RefreshCluster(Arc<str>),
    /// Serve a connection that another worker accepted.
    Adopt(Adopted),
    /// Accept no more on the listeners that this picks.
    StopAccepting(fn(&ListenerConfig) -> bool),
    /// On the listeners that this picks idle connections close and running requests finish.
    Drain(fn(&ListenerConfig) -> bool),
    /// Run something on the worker: how the main thread asks a question.
    Run(Question),
    /// End at once.
    Stop,
}

/// All workers, as the main thread holds them.
pub struct Workers {
    senders: Arc<[UnboundedSender<WorkerCommand>]>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts so many workers, each with a shard of the stats and pinned to a processor of its own as far as there are that many.
    pub fn start(count: usize, process: &Arc<Process>, shard: impl Fn() -> Scope) -> io::Result<Self> {
        let channels: Vec<_> = (0..count).map(|_| unbounded_channel()).collect();
        let senders: Arc<[_]> = channels.iter().map(|(sender, _)| sender.clone()).collect();
        let processors = allowed_processors();
        let mut threads = Vec::with_capacity(count);
        for (id, (_, receiver)) in channels.into_iter().enumerate() {
            let (process, scope, peers) = (Arc::clone(process), shard(), Arc::clone(&senders));
            let processor = processors.get(id % processors.len().max(1)).copied();
            let thread = std::thread::Builder::new().name(format!("wrk:worker_{id}")).spawn(move || {
                if let Some(processor) = processor {
                    pin(processor);
                }
                if let Err(error) = run(id, process, scope, peers, receiver) {
                    tracing::error!(target: "main", "worker {id} ended: {error}");
                }
            })?;
            threads.push(thread);
        }
        Ok(Self { senders, threads })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.senders.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }

    /// Tells every worker.
    pub fn publish(&self, mut command: impl FnMut() -> WorkerCommand) {
        for sender in self.senders.iter() {
            // A worker that is gone has nothing to serve any more.
            let _ = sender.send(command());
        }
    }

    /// Asks every worker and gathers the answers that come within `patience`. What was published before has been
    /// carried out where an answer came.
    pub async fn ask<T: Send + 'static>(
        &self,
        patience: Duration,
        question: impl Fn(&Rc<WorkerContext>) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let (sender, mut answers) = unbounded_channel();
        self.publish(|| {
            let (sender, question) = (sender.clone(), question.clone());
            WorkerCommand::Run(Box::new(move |context| {
                let _ = sender.send(question(context));
            }))
        });
        drop(sender);
        let mut gathered = Vec::with_capacity(self.len());
        let _ = tokio::time::timeout(patience, async {
            while let Some(answer) = answers.recv().await {
                gathered.push(answer);
            }
        })
        .await;
        gathered
    }

    /// Ends every worker and waits for the threads.
    pub fn stop(self) {
        self.publish(|| WorkerCommand::Stop);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn run(
    id: usize,
    process: Arc<Process>,
    stats: Scope,
    peers: Arc<[UnboundedSender<WorkerCommand>]>,
    mut commands: UnboundedReceiver<WorkerCommand>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    runtime.block_on(async {
        let context = WorkerContext::new(&Local::new(id, process, stats));
        let listeners = ListenerTable::new(Rc::clone(&context), move |worker, adopted| match peers.get(worker) {
            Some(peer) => match peer.send(WorkerCommand::Adopt(adopted)) {
                // The worker is gone, and the channel gives back what was sent.
                Err(SendError(WorkerCommand::Adopt(adopted))) => Err(adopted),
                _ => Ok(()),
            },
            None => Err(adopted),
        });
        while let Some(command) = commands.recv().await {
            match command {
                WorkerCommand::SetListener(config, sockets) => {
                    if let Err(error) = listeners.set(&config, sockets.as_deref().map(Vec::as_slice)) {
                        tracing::error!(target: "listener", "listener \"{}\" on worker {id}: {error}", config.model.name);
                    }
                }
                WorkerCommand::RemoveListener(name) => listeners.remove(&name),
                WorkerCommand::SetCluster(config) => context.clusters.set(&config),
                WorkerCommand::RemoveCluster(name) => context.clusters.remove(&name),
                WorkerCommand::RefreshCluster(name) => {
                    if let Some(cluster) = context.clusters.get(&name) {
                        cluster.refresh();
                    }
                }
                WorkerCommand::Adopt(adopted) => listeners.adopt(adopted),
                WorkerCommand::StopAccepting(which) => listeners.stop_accepting(which),
                WorkerCommand::Drain(which) => listeners.drain(which),
                WorkerCommand::Run(question) => question(&context),
                WorkerCommand::Stop => break,
            }
        }
    });
    // Tasks that still run are dropped with the runtime, and their connections with them.
    runtime.shutdown_background();
    Ok(())
}

/// The processors that this process may use.
pub fn allowed_processors() -> Vec<usize> {
    // SAFETY: an all-zero set is a valid value, and the call writes no more than its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) != 0 {
            return Vec::new();
        }
        set
    };
    // SAFETY: every number is below the size of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|n| unsafe { libc::CPU_ISSET(*n, &set) }).collect()
}

/// Pins the thread that calls. It is a wish: where the system refuses, the thread runs anywhere.
fn pin(processor: usize) {
    // SAFETY: the set is initialised, the number is one that the system gave, and 0 means this thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}
