//! Single requests to workers, for those who are no ZeroMQ clients themselves.

use super::{
    broker::{Broker, Bus},
    config::{Settings, Time, Upstream},
    pump::Scratch,
};
use serde::Deserialize;
use sota_codec::zmtp::Message;
use sota_config::ConfigError;
use sota_plugin::{FactoryContext, cx::WorkerCx};
use std::{rc::Rc, sync::Arc, time::Duration};

/// How workers are asked; each field is described in `docs/zeromq.md`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskerConfig {
    pub(super) cluster: String,
    #[serde(default)]
    pub(super) stat_prefix: String,
    #[serde(default = "five_seconds")]
    pub(super) timeout: Time,
    #[serde(default = "five_seconds")]
    pub(super) worker_wait: Time,
    #[serde(default)]
    pub(super) upstream: Upstream,
}

fn five_seconds() -> Time {
    Time(Duration::from_secs(5))
}

impl AskerConfig {
    /// What all threads share.
    pub(crate) fn build(self, cx: &FactoryContext<'_>) -> Result<AskerSettings, ConfigError> {
        Ok(AskerSettings { settings: Arc::new(Settings::to_ask(self, cx)?), bus: Arc::default() })
    }
}

/// What all threads share.
pub(crate) struct AskerSettings {
    settings: Arc<Settings>,
    bus: Arc<Bus>,
}

/// Asks workers, from one worker of the proxy.
pub(crate) struct Asker(Rc<Broker>);

impl Asker {
    /// The worker's part.
    pub(crate) fn for_worker(shared: &AskerSettings, cx: &WorkerCx) -> Rc<Self> {
        let stats = cx.stats().child(&shared.settings.stat_prefix).group();
        Rc::new(Self(Broker::start(&shared.settings, &shared.bus, cx, &stats, &Rc::new(Scratch::default()))))
    }

    /// Sends a request, with an empty frame in front as a REQ does. The frames of the answer behind its own empty one,
    /// joined; or why there is none.
    pub(crate) async fn ask(&self, message: Message) -> Result<Vec<u8>, &'static str> {
        let answer = self.0.ask(Arc::new(message)).await?;
        // The first is the address that the worker returned.
        Ok(answer.frames().skip(1).skip_while(|frame| frame.is_empty()).collect::<Vec<_>>().concat())
    }
}
