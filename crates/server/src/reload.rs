//! Reading the configuration again: on SIGHUP, and with `--watch` when its file has changed.

use crate::server::Server;
use sota_plugin::{file_version::FileVersion, stat_group, stats::Group};
use std::{rc::Rc, time::Duration};
use tokio::time::{Interval, MissedTickBehavior};

/// How often a watched file is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

stat_group! {
    /// `server.config_reload.`
    struct ReloadStats {
        /// Files that were read again and are served.
        success: counter,
        /// Files that were refused.
        failure: counter,
    }
}

/// Reads the configuration again when it is time to.
pub(crate) struct Reload {
    server: Rc<Server>,
    read: Option<FileVersion>,
    /// What the last look at the file saw.
    seen: Option<FileVersion>,
    looks: Interval,
    stats: Group<ReloadStats>,
}

impl Reload {
    pub(crate) fn new(server: &Rc<Server>) -> Self {
        let read = FileVersion::of(&server.options.config.path);
        let mut looks = tokio::time::interval(WATCH_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            read,
            seen: read,
            looks,
            stats: server.scope.child("server.config_reload.").group(),
            server: Rc::clone(server),
        }
    }

    /// Reads the file now.
    pub(crate) async fn now(&mut self) {
        self.read = FileVersion::of(&self.server.options.config.path);
        match self.server.apply_file().await {
            Ok(summary) => {
                self.stats.success.inc();
                tracing::info!(target: "config", "configuration read again: {summary}");
            }
            Err(refused) => {
                self.stats.failure.inc();
                tracing::error!(target: "config", "the changed configuration is refused, the old one stays:\n{refused}");
            }
        }
    }

    /// Ready when the watched file differs from the one that was read. Never without `--watch`. May be dropped and
    /// called again at any time: the looks go on where they were.
    pub(crate) async fn file_changed(&mut self) {
        if !self.server.options.watch {
            return std::future::pending().await;
        }
        loop {
            self.looks.tick().await;
            let now = FileVersion::of(&self.server.options.config.path);
            // A file that is being written looks different each time: it is read when it has come to rest.
            let rests = now.is_some() && now == std::mem::replace(&mut self.seen, now);
            if rests && now != self.read {
                return;
            }
        }
    }
}
