//! Bodies that pass no faster than the tokens of a bucket come, one token an octet.

use bytes::Bytes;
use sota_plugin::{
    cx::StreamCx,
    filter::{DataStatus, Resume},
    token_bucket::TokenBucket,
};
use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often a body that waits looks for tokens, unless something else is configured.
pub(super) const FILL_INTERVAL: Duration = Duration::from_millis(50);

/// So many KiB a second, as a bucket of one second. It holds what comes in one interval at first.
pub(super) fn bucket(kib_per_second: u64, interval: Duration) -> TokenBucket {
    let octets = kib_per_second.saturating_mul(1024);
    let first = octets as f64 * interval.as_secs_f64();
    TokenBucket::new(octets, octets, Duration::from_secs(1)).holding(first as u64)
}

/// What lets bodies pass.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    pub(super) bucket: Arc<TokenBucket>,
    /// How often a body that waits looks for tokens.
    pub(super) interval: Duration,
}

/// Sees a body pass.
pub(super) trait Meter {
    /// So many octets pass; `rest` more are here. `is_last`: nothing follows them.
    fn passed(&self, octets: usize, rest: usize, is_last: bool, cx: &mut StreamCx<'_>);
    /// The body had to wait so long.
    fn waited(&self, time: Duration);
}

/// Nobody looks.
impl Meter for () {
    fn passed(&self, _octets: usize, _rest: usize, _is_last: bool, _cx: &mut StreamCx<'_>) {}

    fn waited(&self, _time: Duration) {}
}

impl Pace {
    /// What a data hook answers: lets go what there are tokens for and keeps the rest, or waits for tokens.
    pub(super) fn pass(
        &self,
        data: &mut Bytes,
        end: bool,
        meter: &Rc<impl Meter + 'static>,
        cx: &mut StreamCx<'_>,
    ) -> DataStatus {
        if data.is_empty() {
            meter.passed(0, 0, end, cx);
            return DataStatus::Continue;
        }
        if self.take(data, end, &**meter, cx) {
            return DataStatus::Continue;
        }
        let (pace, meter, sleep) = (self.clone(), Rc::clone(meter), cx.worker.sleep(self.interval));
        let begun = Instant::now();
        DataStatus::Wait(Box::pin(async move {
            sleep.await;
            Resume::edit(move |data: &mut Bytes, cx| {
                meter.waited(begun.elapsed());
                if !pace.take(data, end, &*meter, cx) {
                    cx.keep_rest(std::mem::take(data));
                }
            })
        }))
    }

    /// Cuts off what there are no tokens for; false when there is none at all.
    fn take(&self, data: &mut Bytes, end: bool, meter: &impl Meter, cx: &mut StreamCx<'_>) -> bool {
        let tokens = self.bucket.take_up_to(data.len() as u64, Instant::now());
        let passing = usize::try_from(tokens).unwrap_or(usize::MAX).min(data.len());
        if passing == 0 {
            return false;
        }
        let rest = data.split_off(passing);
        meter.passed(passing, rest.len(), end && rest.is_empty(), cx);
        cx.keep_rest(rest);
        true
    }
}
