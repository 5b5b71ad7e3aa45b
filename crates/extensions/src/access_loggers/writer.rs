//! Lines on their way to a file: a worker gathers them and hands them over in pieces.

use sota_config::ConfigError;
use sota_plugin::{
    FactoryContext,
    access_log::{AccessLogger, AccessLoggerConfig, LogEntry, LogFile, open_error},
    cx::WorkerCx,
    format::Format,
};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

/// So many octets are handed over at once; fewer when time is up.
const PIECE: usize = 16 * 1024;
/// A buffer that one long line made larger than this gives its memory back.
const LARGE: usize = 4 * PIECE;
/// A line waits at most about this long.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// A logger of one format that writes to one file.
pub(super) struct Writer {
    format: Arc<Format>,
    file: Arc<dyn LogFile>,
}

impl Writer {
    /// Opens the file; the error has no field.
    pub(super) fn open(
        path: &str,
        format: Format,
        cx: &FactoryContext<'_>,
    ) -> Result<Arc<dyn AccessLoggerConfig>, ConfigError> {
        let file = cx.logs.open(path).map_err(|error| open_error(path, &error))?;
        Ok(Arc::new(Self { format: Arc::new(format), file }))
    }
}

impl AccessLoggerConfig for Writer {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn AccessLogger> {
        Box::new(WorkerWriter {
            format: Arc::clone(&self.format),
            lines: Rc::new(Lines {
                file: Arc::clone(&self.file),
                waiting: RefCell::default(),
                is_timed: Cell::new(false),
            }),
            cx: cx.clone(),
        })
    }
}

struct WorkerWriter {
    format: Arc<Format>,
    lines: Rc<Lines>,
    cx: WorkerCx,
}

/// Lines that wait. Whoever drops them last hands over what is left, so a removed listener loses no line.
struct Lines {
    file: Arc<dyn LogFile>,
    waiting: RefCell<Vec<u8>>,
    /// A task is there that will hand them over.
    is_timed: Cell<bool>,
}

impl AccessLogger for WorkerWriter {
    fn log(&self, entry: &LogEntry<'_>) {
        let size = {
            let mut waiting = self.lines.waiting.borrow_mut();
            self.format.write_log(entry, &mut waiting);
            waiting.len()
        };
        if size >= PIECE {
            self.lines.hand_over();
        } else if size > 0 && !self.lines.is_timed.replace(true) {
            let lines = Rc::downgrade(&self.lines);
            let time = self.cx.sleep(MAX_WAIT);
            self.cx.spawn_background(async move {
                time.await;
                if let Some(lines) = lines.upgrade() {
                    lines.is_timed.set(false);
                    lines.hand_over();
                }
            });
        }
    }
}

impl Lines {
    fn hand_over(&self) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            return;
        }
        self.file.write(&waiting);
        waiting.clear();
        if waiting.capacity() > LARGE {
            waiting.shrink_to(PIECE);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Logs, factory_cx, stream};
    use sota_plugin::access_log::LogKind;

    fn writer(logs: &Arc<Logs>, format: &str) -> Arc<dyn AccessLoggerConfig> {
        factory_cx(logs, |cx| Writer::open("a.log", Format::text(format, false).unwrap(), cx)).unwrap()
    }

    #[test]
    fn lines_wait_for_each_other_but_not_long() {
        let (logs, worker) = (Arc::new(Logs::default()), FakeWorker::default());
        let logger = writer(&logs, "%RESPONSE_CODE%\n").for_worker(&worker.cx());
        let info = stream();
        let entry = LogEntry::new(&info, LogKind::DownstreamEnd);
        logger.log(&entry);
        logger.log(&entry);
        assert_eq!((logs.written("a.log"), worker.tasks()), (Vec::<String>::new(), 1));
        worker.sleep_ends();
        assert_eq!((logs.written("a.log"), worker.tasks()), (vec!["0\n0\n".to_owned()], 0));
        // Nothing waits: nothing runs. The next line starts over.
        logger.log(&entry);
        assert_eq!(worker.tasks(), 1);
        worker.sleep_ends();
        assert_eq!(logs.written("a.log").len(), 2);
        assert_eq!(worker.slept(), [MAX_WAIT, MAX_WAIT]);
    }

    #[test]
    fn a_full_piece_goes_at_once() {
        let (logs, worker) = (Arc::new(Logs::default()), FakeWorker::default());
        let line = format!("{}\n", "x".repeat(1023));
        let logger = writer(&logs, &line).for_worker(&worker.cx());
        let info = stream();
        for _ in 0..16 {
            logger.log(&LogEntry::new(&info, LogKind::DownstreamEnd));
        }
        assert_eq!(logs.written("a.log"), [line.repeat(16)]);
        worker.sleep_ends();
        assert_eq!((logs.written("a.log").len(), worker.tasks()), (1, 0));
    }

    #[test]
    fn a_logger_that_goes_leaves_nothing_behind() {
        let (logs, worker) = (Arc::new(Logs::default()), FakeWorker::default());
        let logger = writer(&logs, "line\n").for_worker(&worker.cx());
        logger.log(&LogEntry::new(&stream(), LogKind::DownstreamEnd));
        drop(logger);
        assert_eq!(logs.written("a.log"), ["line\n"]);
        worker.sleep_ends();
        assert_eq!(logs.written("a.log").len(), 1);
    }
}
