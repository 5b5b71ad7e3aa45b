//! Access log files: a thread of their own writes them, so that a slow disk holds up nobody.

use sota_config::secret::DataSource;
use sota_plugin::{
    access_log::{LogFile, LogOpener},
    stat_group,
    stats::{Group, Scope},
};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
};

/// So many octets may wait for a file; what comes on top is dropped and counted.
const MAX_QUEUED: usize = 4 << 20;

stat_group! {
    /// `filesystem.`
    struct FileStats {
        /// Pieces that were taken for writing.
        write_buffered: shared_counter,
        /// Writes that were carried out.
        write_completed: shared_counter,
        /// Writes that failed.
        write_failed: shared_counter,
        /// Lines that were dropped as too much waited.
        write_dropped: shared_counter,
        /// Octets that wait.
        write_total_buffered: shared_gauge,
        /// Files that could not be opened again.
        reopen_failed: shared_counter,
    }
}

/// Every open log, by path.
pub(crate) struct LogFiles {
    files: Mutex<HashMap<String, Arc<QueuedFile>>>,
    stats: Group<FileStats>,
    wake: Sender<Task>,
}

/// What the writing thread is asked to do.
enum Task {
    Write(Arc<QueuedFile>),
    Reopen(Arc<QueuedFile>),
    Flush(Sender<()>),
}

struct QueuedFile {
    path: String,
    queue: Mutex<Vec<u8>>,
    target: Mutex<Target>,
    stats: Group<FileStats>,
}

/// A log as its loggers hold it.
struct OpenLog {
    file: Arc<QueuedFile>,
    wake: Sender<Task>,
}

impl LogFile for OpenLog {
    fn write(&self, lines: &[u8]) {
        let mut queue = lock(&self.file.queue);
        if queue.len() + lines.len() > MAX_QUEUED {
            let dropped = lines.iter().filter(|c| **c == b'\n').count();
            self.file.stats.write_dropped.add(dropped as u64);
            return;
        }
        let was_empty = queue.is_empty();
        queue.extend_from_slice(lines);
        drop(queue);
        self.file.stats.write_buffered.inc();
        self.file.stats.write_total_buffered.add(lines.len() as u64);
        if was_empty {
            let _ = self.wake.send(Task::Write(Arc::clone(&self.file)));
        }
    }
}

/// Where the bytes go.
enum Target {
    File(File),
    Stdout,
    Stderr,
}

impl LogFiles {
    /// Starts the writing thread. It ends when the last log is gone.
    pub(crate) fn start(scope: &Scope) -> io::Result<Arc<Self>> {
        let (wake, tasks) = channel();
        std::thread::Builder::new().name("access_log".to_owned()).spawn(move || write_all(&tasks))?;
        Ok(Arc::new(Self { files: Mutex::default(), stats: scope.child("filesystem.").group(), wake }))
    }

    /// Opens every file again, for rotation by renaming (SIGUSR1, `/reopen_logs`).
    pub(crate) fn reopen(&self) {
        for file in lock(&self.files).values() {
            let _ = self.wake.send(Task::Reopen(Arc::clone(file)));
        }
    }

    /// Waits until everything that was taken is written, but not for ever.
    pub(crate) fn flush(&self) {
        let (done, wait) = channel();
        if self.wake.send(Task::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(std::time::Duration::from_secs(2));
        }
    }
}

impl LogOpener for LogFiles {
    fn open(&self, path: &str) -> Result<Arc<dyn LogFile>, io::Error> {
        let mut files = lock(&self.files);
        // Files that no logger holds any more are closed.
        files.retain(|_, file| Arc::strong_count(file) > 1);
        let file = match files.get(path) {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(QueuedFile {
                    path: path.to_owned(),
                    queue: Mutex::default(),
                    target: Mutex::new(Target::open(path)?),
                    stats: self.stats.clone(),
                });
                files.insert(path.to_owned(), Arc::clone(&file));
                file
            }
        };
        Ok(Arc::new(OpenLog { file, wake: self.wake.clone() }))
    }
}

impl Target {
    fn open(path: &str) -> io::Result<Self> {
        match path {
            "/dev/stdout" => Ok(Self::Stdout),
            "/dev/stderr" => Ok(Self::Stderr),
            _ => Ok(Self::File(OpenOptions::new().append(true).create(true).open(Path::new(path))?)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all(bytes),
            Self::Stdout => io::stdout().lock().write_all(bytes).and_then(|()| io::stdout().flush()),
            Self::Stderr => io::stderr().lock().write_all(bytes),
        }
    }
}

impl QueuedFile {
    /// Writes what waits.
    fn write_queued(&self) {
        let bytes = std::mem::take(&mut *lock(&self.queue));
        if bytes.is_empty() {
            return;
        }
        self.stats.write_total_buffered.sub(bytes.len() as u64);
        match lock(&self.target).write(&bytes) {
            Ok(()) => self.stats.write_completed.inc(),
            Err(error) => {
                // The first failure is told; the counter tells the rest.
                if self.stats.write_failed.value() == 0 {
                    tracing::warn!(target: "file", "cannot write the log {}: {error}", self.path);
                }
                self.stats.write_failed.inc();
            }
        }
    }

    fn reopen(&self) {
        self.write_queued();
        match Target::open(&self.path) {
            Ok(target) => *lock(&self.target) = target,
            Err(error) => {
                self.stats.reopen_failed.inc();
                tracing::warn!(target: "file", "cannot open the log {} again: {error}", self.path);
            }
        }
    }
}

fn write_all(tasks: &Receiver<Task>) {
    while let Ok(task) = tasks.recv() {
        match task {
            Task::Write(file) => file.write_queued(),
            Task::Reopen(file) => file.reopen(),
            Task::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// Opens no log: for checking a configuration on a host that it may not be meant for. What is not there is noted.
#[derive(Default)]
pub(crate) struct UnopenedLogs {
    missing: Mutex<Vec<String>>,
}

impl UnopenedLogs {
    /// Something is not there on this host.
    pub(crate) fn note(&self, reason: String) {
        lock(&self.missing).push(reason);
    }

    /// What is not there on this host.
    pub(crate) fn take_missing(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.missing))
    }
}

struct Unopened;

impl LogFile for Unopened {
    fn write(&self, _: &[u8]) {}
}

impl LogOpener for UnopenedLogs {
    fn open(&self, path: &str) -> Result<Arc<dyn LogFile>, io::Error> {
        if Path::new(path).parent().is_some_and(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
            self.note(format!("the folder of the access log '{path}' is not there on this host"));
        }
        Ok(Arc::new(Unopened))
    }

    fn read(&self, source: &DataSource) -> Result<Vec<u8>, String> {
        Ok(source.read().unwrap_or_else(|reason| {
            self.note(reason);
            Vec::new()
        }))
    }
}

/// Nothing that holds these locks can panic half-way, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sota_plugin::stats::Registry;
    use std::fs;

    #[test]
    fn lines_arrive_in_order_and_files_can_be_rotated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let name = path.to_str().unwrap();
        let logs = LogFiles::start(&Registry::new().shard()).unwrap();
        let (one, two) = (logs.open(name).unwrap(), logs.open(name).unwrap());
        one.write(b"1\n");
        two.write(b"2\n");
        logs.flush();
        assert_eq!(fs::read(&path).unwrap(), b"1\n2\n");
        fs::rename(&path, folder.path().join("old.log")).unwrap();
        // What is written before the file is open again belongs to the old one.
        logs.reopen();
        logs.flush();
        one.write(b"3\n");
        logs.flush();
        assert_eq!(fs::read(&path).unwrap(), b"3\n");
        assert!(logs.open("/nowhere/x").is_err());
    }

    #[test]
    fn what_is_too_much_is_dropped_and_counted() {
        let logs = LogFiles::start(&Registry::new().shard()).unwrap();
        let log = logs.open("/dev/full").unwrap();
        log.write(b"x\n");
        logs.flush();
        assert_eq!(logs.stats.write_failed.value(), 1);
        let mut lines = vec![b'x'; MAX_QUEUED + 1];
        lines[5] = b'\n';
        log.write(&lines);
        assert_eq!(logs.stats.write_dropped.value(), 1);
        assert_eq!(logs.stats.write_total_buffered.value(), 0);
    }
}
