//! Signs of life (RFC 37): time comes from outside as durations, so that there is no clock here.

use super::command::MAX_CONTEXT;
use super::{Options, ZmtpError};
use std::time::Duration;

/// What is known about the peer's life. All times in milliseconds.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// Since the peer was last heard; before the handshake is done: since the beginning.
    silence: u32,
    /// Since our last PING, or the handshake.
    since_ping: u32,
    /// Whether nothing has been heard since our last PING.
    unanswered: bool,
    /// What the peer's last PING asked for; 0: nothing.
    peer_ttl: u32,
    /// Thousandths of PINGs that may still be answered.
    allowance: u32,
    /// The PONG that is owed.
    pong: Option<Box<Context>>,
}

#[derive(Debug, Clone, Copy)]
struct Context {
    bytes: [u8; MAX_CONTEXT],
    length: u8,
}

impl Heartbeat {
    pub(super) fn new(options: &Options) -> Self {
        let allowance = u32::from(options.limits.max_pings_per_second) * 1000;
        Self { silence: 0, since_ping: 0, unanswered: false, peer_ttl: 0, allowance, pong: None }
    }

    /// Something has come.
    #[inline]
    pub(super) fn heard(&mut self) {
        self.silence = 0;
        self.unanswered = false;
    }

    /// The handshake is done: what counted for it counts anew.
    pub(super) fn begin(&mut self) {
        self.silence = 0;
        self.since_ping = 0;
    }

    /// A PING has come. Whether it will be answered: not if there were too many. Only the last is (RFC 37 has no more
    /// than one in flight).
    pub(super) fn on_ping(&mut self, ttl: u16, context: &[u8]) -> bool {
        self.peer_ttl = u32::from(ttl) * 100;
        let Some(allowance) = self.allowance.checked_sub(1000) else { return false };
        self.allowance = allowance;
        let mut bytes = [0; MAX_CONTEXT];
        for (place, octet) in bytes.iter_mut().zip(context) {
            *place = *octet;
        }
        let length = u8::try_from(context.len().min(MAX_CONTEXT)).unwrap_or_default();
        self.pong = Some(Box::new(Context { bytes, length }));
        true
    }

    /// The context of the PONG that is owed, once.
    #[inline]
    pub(super) fn take_pong(&mut self) -> Option<([u8; MAX_CONTEXT], usize)> {
        self.pong.take().map(|context| (context.bytes, usize::from(context.length)))
    }

    /// Time has passed in a handshake.
    pub(super) fn elapsed_in_handshake(&mut self, elapsed: Duration, options: &Options) -> Result<(), ZmtpError> {
        self.since_ping = self.since_ping.saturating_add(millis(elapsed));
        let limit = millis(options.handshake_timeout);
        if limit > 0 && self.since_ping >= limit { Err(ZmtpError::HandshakeTimeout) } else { Ok(()) }
    }

    /// Time has passed in traffic. Whether a PING is due, which is then taken for sent; not if it can't be, because a
    /// frame of ours is open.
    pub(super) fn elapsed(&mut self, elapsed: Duration, can_ping: bool, options: &Options) -> Result<bool, ZmtpError> {
        let elapsed = millis(elapsed);
        let rate = u32::from(options.limits.max_pings_per_second);
        self.allowance = self.allowance.saturating_add(elapsed.saturating_mul(rate)).min(rate * 1000);
        self.silence = self.silence.saturating_add(elapsed);
        self.since_ping = self.since_ping.saturating_add(elapsed);
        if self.peer_ttl > 0 && self.silence >= self.peer_ttl {
            return Err(ZmtpError::TtlExpired);
        }
        let interval = millis(options.heartbeat.interval);
        if interval == 0 {
            return Ok(false);
        }
        let timeout = Some(millis(options.heartbeat.timeout)).filter(|timeout| *timeout > 0).unwrap_or(interval);
        if self.unanswered && self.since_ping >= timeout {
            return Err(ZmtpError::HeartbeatTimeout);
        }
        // While one is unanswered no other is sent (RFC 37: no PONG storms).
        let due = can_ping && self.since_ping >= interval && !self.unanswered;
        if due {
            self.since_ping = 0;
            self.unanswered = true;
        }
        Ok(due)
    }
}

/// The time to live as a PING has it: tenths of seconds, rounded up.
pub(super) fn tenths(ttl: Duration) -> u16 {
    u16::try_from(ttl.as_millis().div_ceil(100)).unwrap_or(u16::MAX)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zmtp::{HeartbeatOptions, Limits};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pings_and_the_wait_for_traffic() {
        let heartbeat = HeartbeatOptions { interval: 2 * SECOND, timeout: 3 * SECOND, ttl: SECOND };
        let options = Options { heartbeat, ..Options::default() };
        let mut life = Heartbeat::new(&options);
        let due: Vec<bool> = (0..3).map(|_| life.elapsed(SECOND, true, &options).unwrap()).collect();
        assert_eq!(due, [false, true, false]);
        life.heard();
        assert_eq!(life.elapsed(SECOND, false, &options), Ok(false), "a frame of ours is open");
        assert_eq!(life.elapsed(SECOND, true, &options), Ok(true));
        assert_eq!(life.elapsed(2 * SECOND, true, &options), Ok(false));
        assert_eq!(life.elapsed(SECOND, true, &options), Err(ZmtpError::HeartbeatTimeout));
        assert_eq!((tenths(Duration::from_millis(101)), tenths(10_000 * SECOND)), (2, u16::MAX));
    }

    #[test]
    fn the_time_to_live_of_the_peer() {
        let options = Options::default();
        let mut life = Heartbeat::new(&options);
        assert_eq!(life.elapsed(1000 * SECOND, true, &options), Ok(false), "nobody asked");
        life.heard();
        life.on_ping(20, b"");
        assert_eq!(life.elapsed(SECOND, true, &options), Ok(false));
        life.heard();
        assert_eq!(life.elapsed(SECOND, true, &options), Ok(false));
        assert_eq!(life.elapsed(SECOND, true, &options), Err(ZmtpError::TtlExpired));
    }

    #[test]
    fn a_flood_is_not_answered() {
        let limits = Limits { max_pings_per_second: 3, ..Limits::default() };
        let options = Options { limits, ..Options::default() };
        let mut life = Heartbeat::new(&options);
        let answered = (0..100u8).filter(|n| life.on_ping(0, &[*n])).count();
        assert_eq!(answered, 3);
        let (context, length) = life.take_pong().unwrap();
        assert_eq!((&context[..length], life.take_pong()), (&[2][..], None));
        life.elapsed(SECOND / 2, true, &options).unwrap();
        assert_eq!((0..100).filter(|_| life.on_ping(0, b"")).count(), 1);
    }

    #[test]
    fn handshakes_end() {
        let options = Options::default();
        let mut life = Heartbeat::new(&options);
        life.heard();
        assert_eq!(life.elapsed_in_handshake(9 * SECOND, &options), Ok(()));
        life.heard();
        assert_eq!(life.elapsed_in_handshake(SECOND, &options), Err(ZmtpError::HandshakeTimeout));
    }
}
