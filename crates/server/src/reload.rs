//! Reading the configuration again: on SIGHUP, and with `--watch` when its file has changed.

use crate::server::Server;
use sota_plugin::{file_version::FileVersion, stat_group, stats::Group};
use std::{rc::Rc, time::Duration};

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
    stats: Group<ReloadStats>,
}

impl Reload {
    pub(crate) fn new(server: &Rc<Server>) -> Self {
        Self {
            read: FileVersion::of(&server.options.config.path),
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

    /// Ready when the watched file differs from the one that was read. Never without `--watch`.
    pub(crate) async fn file_changed(&self) {
        if !self.server.options.watch {
            return std::future::pending().await;
        }
        let path = &self.server.options.config.path;
        let mut seen = self.read;
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            let now = FileVersion::of(path);
            // A file that is being written looks different each time: it is read when it has come to rest.
            if now.is_some() && now != self.read && now == seen {
                return;
            }
            seen = now;
        }
    }
}
