//! The flight recorder: the last requests of a worker in a ring of fixed size, for `/requests`.
//!
//! Recording copies into a slot that is there already. No value of a header field and no query is ever copied, so the ring holds
//! nothing that the access log would have to hide; texts are cut at fixed lengths.

use sota_plugin::{
    http::{Protocol, RequestHead},
    info::{Details, PeerAddress, ResponseFlag, ResponseFlags, StreamInfo, Timing},
};
use std::{
    cell::RefCell,
    time::{Duration, Instant, SystemTime},
};

/// A worker's recorder.
#[derive(Debug)]
pub struct Recorder {
    /// Requests that are kept; 0: none is.
    capacity: usize,
    ring: RefCell<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    slots: Vec<Recorded>,
    /// Where the next goes, once the ring is full.
    next: usize,
}

/// A request that has ended.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The number of the stream, which no other of the process has.
    pub stream_id: u64,
    /// When it began.
    pub start: SystemTime,
    /// The method; empty where the head was not understood.
    pub method: Text<16>,
    /// The host that was asked for.
    pub authority: Text<64>,
    /// The path, without its query.
    pub path: Text<128>,
    /// Spoken by the client.
    pub protocol: Option<Protocol>,
    /// The status of the response; 0: there was none.
    pub status: u16,
    /// What went wrong.
    pub flags: ResponseFlags,
    /// Who answered and why.
    pub details: Option<Details>,
    /// What went wrong, as a sentence.
    pub cause: Option<Box<str>>,
    /// The name of the route.
    pub route: Text<48>,
    /// The cluster.
    pub cluster: Text<64>,
    /// The host that was asked last.
    pub host: Option<PeerAddress>,
    /// Attempts at hosts.
    pub attempts: u32,
    /// Octets of the request's body.
    pub bytes_received: u64,
    /// Octets of the response's body.
    pub bytes_sent: u64,
    /// `x-request-id`.
    pub request_id: Text<36>,
    /// When what happened; read as [`Recorded::phases`], for it is asked for less often than kept.
    timing: Timing,
}

/// Times since the beginning of a request, in microseconds; `None`: it did not come so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// The request was whole.
    pub request_received: Option<u32>,
    /// How long the new connection to the host took to be made.
    pub connect: Option<u32>,
    /// The request went out to the host.
    pub upstream_sent: Option<u32>,
    /// The head of the host's response came.
    pub response_begun: Option<u32>,
    /// The host's response was whole.
    pub response_received: Option<u32>,
    /// All was over.
    pub total: u32,
}

/// Which requests are wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// With this flag.
    pub flag: Option<ResponseFlag>,
    /// With any flag, a cause, or a status from 500 on.
    pub failed: bool,
    /// Of this cluster.
    pub cluster: Option<String>,
    /// That took at least so long.
    pub slow: Option<Duration>,
    /// Whose status is in this range, both ends included.
    pub status: Option<(u16, u16)>,
    /// Whose path begins so.
    pub path: Option<String>,
    /// At most so many, the last ones.
    pub limit: usize,
}

impl Recorder {
    /// Keeps the last `capacity` requests. Memory is taken as they come: about 0.8 KiB each.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, ring: RefCell::default() }
    }

    /// Keeps a request that has ended. `request`: its head, where there is one.
    pub fn record(&self, info: &StreamInfo, request: Option<&RequestHead>) {
        if self.capacity == 0 {
            return;
        }
        let ring = &mut *self.ring.borrow_mut();
        let slot = match ring.slots.len() < self.capacity {
            true => {
                ring.slots.push(Recorded::empty());
                ring.slots.last_mut()
            }
            false => {
                let at = ring.next;
                ring.next = (at + 1) % self.capacity;
                ring.slots.get_mut(at)
            }
        };
        if let Some(slot) = slot {
            slot.fill(info, request);
        }
    }

    /// Copies those that are wanted, the last one first.
    pub fn read(&self, wanted: &Wanted) -> Vec<Recorded> {
        let ring = self.ring.borrow();
        let (newer, older) = ring.slots.split_at(ring.next.min(ring.slots.len()));
        let all = newer.iter().rev().chain(older.iter().rev());
        all.filter(|recorded| wanted.matches(recorded)).take(wanted.limit).cloned().collect()
    }
}

impl Wanted {
    fn matches(&self, recorded: &Recorded) -> bool {
        self.flag.is_none_or(|flag| recorded.flags.has(flag))
            && (!self.failed || recorded.has_failed())
            && self.cluster.as_deref().is_none_or(|cluster| recorded.cluster.as_str() == cluster)
            && self.slow.is_none_or(|slow| recorded.duration() >= slow)
            && self.status.is_none_or(|(from, to)| (from..=to).contains(&recorded.status))
            && self.path.as_deref().is_none_or(|path| recorded.path.as_str().starts_with(path))
    }
}

impl Recorded {
    /// A slot before its first use.
    fn empty() -> Self {
        Self {
            stream_id: 0,
            start: SystemTime::UNIX_EPOCH,
            method: Text::default(),
            authority: Text::default(),
            path: Text::default(),
            protocol: None,
            status: 0,
            flags: ResponseFlags::default(),
            details: None,
            cause: None,
            route: Text::default(),
            cluster: Text::default(),
            host: None,
            attempts: 0,
            bytes_received: 0,
            bytes_sent: 0,
            request_id: Text::default(),
            timing: Timing::new(Instant::now()),
        }
    }

    fn fill(&mut self, info: &StreamInfo, request: Option<&RequestHead>) {
        self.stream_id = info.stream_id;
        self.start = info.start_time;
        match request {
            Some(head) => {
                self.method.set(head.method.as_str().as_bytes());
                self.authority.set(head.authority());
                self.path.set(head.path_only());
            }
            None => {
                self.method.set(b"");
                self.authority.set(b"");
                self.path.set(b"");
            }
        }
        self.protocol = info.protocol;
        self.status = info.response_code.map_or(0, |status| status.as_u16());
        self.flags = info.response_flags;
        self.details.clone_from(&info.response_code_details);
        self.cause.clone_from(&info.cause);
        self.route.set(info.route.as_ref().map_or("", |route| route.name()).as_bytes());
        let upstream = &info.upstream;
        self.cluster.set(upstream.cluster.as_deref().unwrap_or_default().as_bytes());
        self.host.clone_from(&upstream.address);
        self.attempts = upstream.attempts;
        self.bytes_received = info.bytes_received;
        self.bytes_sent = info.bytes_sent;
        self.request_id.set(info.request_id.as_deref().unwrap_or_default().as_bytes());
        self.timing = info.timing;
    }

    /// From the beginning to the end.
    pub fn duration(&self) -> Duration {
        self.timing.since_start(self.timing.end.unwrap_or(self.timing.start))
    }

    /// When what happened, since the beginning.
    pub fn phases(&self) -> Phases {
        let timing = &self.timing;
        let since = |at: Option<Instant>| at.map(|at| micros(timing.since_start(at)));
        let connected = timing.upstream_connect_start.zip(timing.upstream_connect_complete);
        Phases {
            request_received: since(timing.request_end),
            connect: connected.map(|(begin, end)| micros(end.saturating_duration_since(begin))),
            upstream_sent: since(timing.upstream_first_tx),
            response_begun: since(timing.upstream_first_rx),
            response_received: since(timing.upstream_last_rx),
            total: micros(self.duration()),
        }
    }

    /// Whether it has a flag, a cause, or a status from 500 on.
    pub fn has_failed(&self) -> bool {
        !self.flags.is_empty() || self.cause.is_some() || self.status >= 500
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// A text of at most `N` octets in place; what is longer is cut at a character.
#[derive(Debug, Clone, Copy)]
pub struct Text<const N: usize> {
    length: u8,
    octets: [u8; N],
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { length: 0, octets: [0; N] }
    }
}

impl<const N: usize> Text<N> {
    fn set(&mut self, text: &[u8]) {
        let kept = text.get(..N.min(usize::from(u8::MAX))).unwrap_or(text);
        if let Some(place) = self.octets.get_mut(..kept.len()) {
            place.copy_from_slice(kept);
            self.length = kept.len() as u8;
        }
    }

    /// The text, up to the first octet that is no UTF-8.
    pub fn as_str(&self) -> &str {
        let octets = self.octets.get(..usize::from(self.length)).unwrap_or_default();
        match std::str::from_utf8(octets) {
            Ok(text) => text,
            Err(error) => {
                octets.get(..error.valid_up_to()).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_context::stream_info;
    use sota_plugin::http::{Method, StatusCode};

    fn all() -> Wanted {
        Wanted { limit: usize::MAX, ..Wanted::default() }
    }

    fn paths(recorder: &Recorder, wanted: &Wanted) -> Vec<String> {
        recorder.read(wanted).iter().map(|recorded| recorded.path.as_str().to_owned()).collect()
    }

    #[test]
    fn the_last_ones_are_kept_and_the_last_comes_first() {
        let recorder = Recorder::new(3);
        for n in 0..5 {
            let head = RequestHead::new(Method::Get, "host", &format!("/{n}?secret=1")).unwrap();
            recorder.record(&stream_info(), Some(&head));
            assert_eq!(paths(&recorder, &all())[0], format!("/{n}"));
        }
        assert_eq!(paths(&recorder, &all()), ["/4", "/3", "/2"]);
        assert_eq!(paths(&recorder, &Wanted { limit: 1, ..all() }), ["/4"]);
        assert!(!format!("{recorder:?}").contains("secret"));
        let off = Recorder::new(0);
        off.record(&stream_info(), None);
        assert!(off.read(&all()).is_empty());
    }

    #[test]
    fn what_is_wanted() {
        let recorder = Recorder::new(8);
        let head = |path: &str| RequestHead::new(Method::Get, "host", path).unwrap();
        let mut failed = stream_info();
        failed.response_flags.set(ResponseFlag::UpstreamConnectionFailure);
        failed.response_code = Some(StatusCode::SERVICE_UNAVAILABLE);
        failed.upstream.cluster = Some("c".into());
        recorder.record(&failed, Some(&head("/failed")));
        let mut slow = stream_info();
        slow.timing.end = Some(slow.timing.start + Duration::from_millis(150));
        slow.response_code = Some(StatusCode::OK);
        recorder.record(&slow, Some(&head("/slow")));
        let rows = [
            (Wanted { flag: Some(ResponseFlag::UpstreamConnectionFailure), ..all() }, "/failed"),
            (Wanted { failed: true, ..all() }, "/failed"),
            (Wanted { cluster: Some("c".to_owned()), ..all() }, "/failed"),
            (Wanted { slow: Some(Duration::from_millis(150)), ..all() }, "/slow"),
            (Wanted { status: Some((500, 599)), ..all() }, "/failed"),
            (Wanted { path: Some("/sl".to_owned()), ..all() }, "/slow"),
        ];
        for (wanted, path) in rows {
            assert_eq!(paths(&recorder, &wanted), [path], "{wanted:?}");
        }
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let mut text = Text::<4>::default();
        text.set("abcé".as_bytes());
        assert_eq!(text.as_str(), "abc");
        text.set(b"x\xffy");
        assert_eq!(text.as_str(), "x");
        text.set(b"");
        assert_eq!(text.as_str(), "");
    }
}
