//! A token bucket that all threads share: what rate limits count with.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// One token a year: no bucket fills more slowly.
const MIN_RATE: f64 = 1.0 / (365.0 * 24.0 * 60.0 * 60.0);

/// Tokens that come at an even rate, up to a limit. It begins full. Taking is one compare-and-swap.
#[derive(Debug)]
pub struct TokenBucket {
    max: f64,
    /// Tokens a second.
    rate: f64,
    begun: Instant,
    /// When the bucket was empty, or will be: seconds since `begun`, the bits of an `f64`.
    empty_at: AtomicU64,
}

impl TokenBucket {
    /// Up to `max` tokens, of which `per_fill` come in each `interval`.
    pub fn new(max: u64, per_fill: u64, interval: Duration) -> Self {
        let rate = (per_fill as f64 / interval.as_secs_f64().max(f64::MIN_POSITIVE)).max(MIN_RATE);
        let max = max as f64;
        Self { max, rate, begun: Instant::now(), empty_at: AtomicU64::new((-max / rate).to_bits()) }
    }

    /// With so many tokens in it at the beginning.
    #[must_use]
    pub fn holding(mut self, tokens: u64) -> Self {
        let tokens = (tokens as f64).min(self.max);
        *self.empty_at.get_mut() = (-tokens / self.rate).to_bits();
        self
    }

    /// The most tokens that it holds.
    pub fn max(&self) -> u64 {
        self.max as u64
    }

    /// Tokens that come in a second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Takes so many tokens if they are there.
    pub fn take(&self, tokens: u64, now: Instant) -> bool {
        let wanted = tokens as f64;
        self.change(now, |there| if there < wanted { 0.0 } else { wanted }) >= wanted
    }

    /// Takes as many of these as are there; says how many.
    pub fn take_up_to(&self, tokens: u64, now: Instant) -> u64 {
        self.change(now, |there| there.floor().min(tokens as f64)) as u64
    }

    /// Gives tokens back, up to the limit.
    pub fn give_back(&self, tokens: u64, now: Instant) {
        self.change(now, |there| -(tokens as f64).min((self.max - there).max(0.0)));
    }

    /// The whole tokens that are there.
    pub fn available(&self, now: Instant) -> u64 {
        self.at(f64::from_bits(self.empty_at.load(Relaxed)), self.seconds(now)) as u64
    }

    /// Takes what `wants` says of the tokens that are there (less than 0 gives); says how many.
    fn change(&self, now: Instant, wants: impl Fn(f64) -> f64) -> f64 {
        let seconds = self.seconds(now);
        let mut bits = self.empty_at.load(Relaxed);
        loop {
            let there = self.at(f64::from_bits(bits), seconds);
            let taken = wants(there);
            if taken == 0.0 {
                return 0.0;
            }
            let empty_at = seconds - (there - taken) / self.rate;
            match self.empty_at.compare_exchange_weak(bits, empty_at.to_bits(), Relaxed, Relaxed) {
                Ok(_) => return taken,
                Err(now_there) => bits = now_there,
            }
        }
    }

    fn at(&self, empty_at: f64, seconds: f64) -> f64 {
        ((seconds - empty_at) * self.rate).clamp(0.0, self.max)
    }

    fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.begun).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_at_an_even_rate() {
        let bucket = TokenBucket::new(3, 1, Duration::from_secs(1));
        let at = |millis| bucket.begun + Duration::from_millis(millis);
        assert_eq!((bucket.max(), bucket.available(at(0))), (3, 3));
        assert!((0..3).all(|_| bucket.take(1, at(0))) && !bucket.take(1, at(0)));
        assert!(!bucket.take(1, at(900)) && bucket.take(1, at(1_001)) && !bucket.take(1, at(1_900)));
        assert_eq!(bucket.available(at(60_000)), 3, "no more than it holds");
        assert_eq!(bucket.take_up_to(5, at(60_000)), 3);
        bucket.give_back(2, at(60_000));
        assert_eq!((bucket.available(at(60_000)), bucket.take(3, at(60_000))), (2, false));
        bucket.give_back(9, at(60_000));
        assert_eq!(bucket.available(at(60_000)), 3);
    }

    #[test]
    fn what_is_there_at_the_beginning() {
        let bucket = TokenBucket::new(100, 100, Duration::from_secs(1)).holding(5);
        assert_eq!((bucket.available(bucket.begun), bucket.take_up_to(9, bucket.begun)), (5, 5));
        assert_eq!(bucket.take_up_to(9, bucket.begun), 0);
        assert!(!TokenBucket::new(0, 1, Duration::from_secs(1)).take(1, Instant::now()));
    }

    #[test]
    fn threads_do_not_take_more_than_there_is() {
        let bucket = TokenBucket::new(10_000, 1, Duration::from_secs(3600));
        let now = bucket.begun;
        let take = || (0..5_000).filter(|_| bucket.take(1, now)).count();
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 10_000);
    }
}
