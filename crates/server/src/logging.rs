//! The process's own log: to stderr or a file, as text or JSON, with a level for each component.
//!
//! A component is the target of an event, such as `http` or `upstream`; levels can change while the process runs
//! (`/logging`).

use crate::log_pattern::{Entry, Pattern};
use jiff::Timestamp;
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    subscriber::Interest,
};
use tracing_subscriber::{
    Registry,
    layer::{Context, Layer, SubscriberExt},
};

/// The components that the program logs as, by Envoy's names where it has one.
pub const COMPONENTS: &[&str] = &[
    "access_log",
    "admin",
    "config",
    "connection",
    "conn_handler",
    "dns",
    "file",
    "filter",
    "http",
    "listener",
    "lua",
    "main",
    "pool",
    "router",
    "runtime",
    "stats",
    "tcp_proxy",
    "upstream",
    "zmq",
];

/// How a line looks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `[time][thread][level][component] message`
    #[default]
    Text,
    /// One object a line.
    Json,
    /// As a pattern says.
    Pattern(Pattern),
}

/// The levels that may be named: `trace`, `debug`, `info`, `warning` (or `warn`), `error`, `critical`, `off`.
pub fn parse_level(name: &str) -> Option<LevelFilter> {
    Some(match name.to_ascii_lowercase().as_str() {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warning" | "warn" => LevelFilter::WARN,
        "error" | "err" | "critical" => LevelFilter::ERROR,
        "off" => LevelFilter::OFF,
        _ => return None,
    })
}

/// The name of a level, as Envoy prints it.
pub(crate) fn level_name(level: LevelFilter) -> &'static str {
    match level {
        LevelFilter::TRACE => "trace",
        LevelFilter::DEBUG => "debug",
        LevelFilter::INFO => "info",
        LevelFilter::WARN => "warning",
        LevelFilter::ERROR => "error",
        _ => "off",
    }
}

/// The log, to change it while the process runs.
#[derive(Clone)]
pub(crate) struct Logging(Arc<Inner>);

struct Inner {
    levels: RwLock<BTreeMap<&'static str, LevelFilter>>,
    default: RwLock<LevelFilter>,
    format: RwLock<LogFormat>,
    path: Option<PathBuf>,
    file: Mutex<Option<File>>,
}

impl Logging {
    /// Makes this the process's log. `components`: levels that differ from `level`.
    pub(crate) fn install(
        level: LevelFilter,
        components: &[(String, LevelFilter)],
        format: LogFormat,
        path: Option<PathBuf>,
    ) -> io::Result<Self> {
        let file = path.as_ref().map(|path| OpenOptions::new().append(true).create(true).open(path)).transpose()?;
        let logging = Self(Arc::new(Inner {
            levels: RwLock::new(COMPONENTS.iter().map(|name| (*name, level)).collect()),
            default: RwLock::new(level),
            format: RwLock::new(format),
            path,
            file: Mutex::new(file),
        }));
        for (component, level) in components {
            logging.set_component(component, *level);
        }
        // A second log in one process (tests) leaves the first in place.
        let _ = tracing::subscriber::set_global_default(Registry::default().with(logging.clone()));
        std::panic::set_hook(Box::new(|panic| tracing::error!(target: "main", "{panic}")));
        Ok(logging)
    }

    /// Every component with its level.
    pub(crate) fn levels(&self) -> Vec<(&'static str, LevelFilter)> {
        let levels = self.0.levels.read().unwrap_or_else(PoisonError::into_inner);
        levels.iter().map(|(name, level)| (*name, *level)).collect()
    }

    /// Sets the level of every component.
    pub(crate) fn set_all(&self, level: LevelFilter) {
        *self.0.default.write().unwrap_or_else(PoisonError::into_inner) = level;
        let mut levels = self.0.levels.write().unwrap_or_else(PoisonError::into_inner);
        levels.values_mut().for_each(|slot| *slot = level);
        drop(levels);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Sets the level of one component; false when there is none of this name.
    pub(crate) fn set_component(&self, name: &str, level: LevelFilter) -> bool {
        let mut levels = self.0.levels.write().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = levels.get_mut(name) else { return false };
        *slot = level;
        drop(levels);
        tracing::callsite::rebuild_interest_cache();
        true
    }

    /// From now on lines look so.
    pub(crate) fn set_format(&self, format: LogFormat) {
        *self.0.format.write().unwrap_or_else(PoisonError::into_inner) = format;
    }

    /// Opens the file again, for rotation by renaming.
    pub(crate) fn reopen(&self) {
        let Some(path) = &self.0.path else { return };
        match OpenOptions::new().append(true).create(true).open(path) {
            Ok(file) => *self.0.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file),
            Err(error) => tracing::warn!(target: "file", "cannot open the log {} again: {error}", path.display()),
        }
    }

    fn is_on(&self, metadata: &Metadata<'_>) -> bool {
        // A component is named at the call; what libraries log stands under the path of their module.
        let level = self.0.levels.read().unwrap_or_else(PoisonError::into_inner).get(metadata.target()).copied();
        let level = level.unwrap_or_else(|| {
            let default = *self.0.default.read().unwrap_or_else(PoisonError::into_inner);
            default.min(LevelFilter::WARN)
        });
        *metadata.level() <= level
    }

    fn write(&self, line: &str) {
        let mut file = self.0.file.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nobody to tell when the log itself cannot be written.
        let _ = match &mut *file {
            Some(file) => file.write_all(line.as_bytes()),
            None => io::stderr().lock().write_all(line.as_bytes()),
        };
    }
}

impl<S: Subscriber> Layer<S> for Logging {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.is_on(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.is_on(metadata)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut text = Message::default();
        event.record(&mut text);
        let level = match *metadata.level() {
            Level::TRACE => "trace",
            Level::DEBUG => "debug",
            Level::INFO => "info",
            Level::WARN => "warning",
            Level::ERROR => "error",
        };
        let thread = std::thread::current();
        let format = self.0.format.read().unwrap_or_else(PoisonError::into_inner);
        let line = match &*format {
            LogFormat::Pattern(pattern) => pattern.line(&Entry {
                time: Timestamp::now(),
                level,
                component: metadata.target(),
                file: metadata.file().unwrap_or_default(),
                line: metadata.line().unwrap_or_default(),
                message: &text.0,
            }),
            other => other.line(level, metadata.target(), thread.name().unwrap_or("?"), &text.0),
        };
        drop(format);
        self.write(&line);
    }
}

impl LogFormat {
    fn line(&self, level: &str, component: &str, thread: &str, message: &str) -> String {
        let now = Timestamp::now();
        match self {
            Self::Text | Self::Pattern(_) => {
                let time = now.strftime("%Y-%m-%d %H:%M:%S%.3f");
                format!("[{time}][{thread}][{level}][{component}] {message}\n")
            }
            Self::Json => {
                let time = now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
                let line = serde_json::json!({
                    "time": time, "thread": thread, "level": level, "component": component, "message": message,
                });
                format!("{line}\n")
            }
        }
    }
}

/// The message of an event, and its fields behind it.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = LogFormat::Text.line("info", "main", "t", "hello");
        assert!(text.ends_with("][t][info][main] hello\n"), "{text}");
        let json = LogFormat::Json.line("info", "main", "t", "a \"b\"\n");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["message"], &json["level"]), (&"a \"b\"\n".into(), &"info".into()));
    }

    #[test]
    fn levels_by_name() {
        for name in ["trace", "debug", "info", "warning", "error", "off"] {
            assert_eq!(parse_level(name).map(level_name), Some(name));
        }
        assert_eq!(parse_level("loud"), None);
    }
}
