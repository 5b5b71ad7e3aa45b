//! A load that counts the outcome of every request.

use crate::client::{Client, End};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Requests over a number of connections, one thread each, until a time or a count is reached.
#[derive(Clone, Debug)]
pub struct Load {
    /// Connections at the same time.
    pub connections: usize,
    /// Ends after this time.
    pub duration: Duration,
    /// Ends after this many requests on each connection.
    pub requests_each: u64,
    /// Requests per second over all connections; as fast as they go without.
    pub rate: Option<u32>,
    /// A request without a whole response for this long counts as timed out.
    pub timeout: Duration,
    /// A new connection for each request.
    pub reconnect: bool,
    /// The bytes of each request.
    pub request: Vec<u8>,
    /// A 200 with another body counts as wrong.
    pub expected_body: Option<Vec<u8>>,
}

impl Load {
    /// GET `path` over this many connections for this time.
    pub fn get(path: &str, connections: usize, duration: Duration) -> Self {
        Self {
            connections,
            duration,
            requests_each: u64::MAX,
            rate: None,
            timeout: Duration::from_secs(10),
            reconnect: false,
            request: format!("GET {path} HTTP/1.1\r\nhost: test.example\r\n\r\n").into_bytes(),
            expected_body: None,
        }
    }

    /// Limits the rate.
    pub fn rate(mut self, per_second: u32) -> Self {
        self.rate = Some(per_second);
        self
    }

    /// Sends a fixed number of requests on each connection.
    pub fn requests_each(mut self, n: u64) -> Self {
        self.requests_each = n;
        self
    }

    /// Runs to its end.
    pub fn run(&self, to: SocketAddr) -> Outcomes {
        self.start(to).join()
    }

    /// Runs beside the test.
    pub fn start(&self, to: SocketAddr) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..self.connections)
            .map(|i| {
                let (load, stop) = (self.clone(), Arc::clone(&stop));
                thread::spawn(move || load.one(to, i, &stop))
            })
            .collect();
        Running { threads, stop }
    }

    fn one(&self, to: SocketAddr, index: usize, stop: &AtomicBool) -> Outcomes {
        let mut outcomes = Outcomes::default();
        let started = Instant::now();
        // Connections take turns, so that the rate is even over time.
        let interval = self.rate.map(|rate| Duration::from_secs_f64(self.connections as f64 / f64::from(rate.max(1))));
        let mut due = started + interval.unwrap_or_default().mul_f64(index as f64 / self.connections as f64);
        let mut connection = None;
        let mut sent = 0;
        while sent < self.requests_each && started.elapsed() < self.duration && !stop.load(Ordering::Relaxed) {
            if let Some(interval) = interval {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                due += interval;
            }
            let fresh = connection.is_none();
            let Some(mut client) = connection.take().or_else(|| Client::try_connect(to).ok()) else {
                outcomes.refused += 1;
                sent += 1;
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            if fresh {
                client = client.patience(self.timeout);
            }
            let response = client.exchange(&self.request);
            // A server may close an idle connection at any time: without a byte of the answer this was no request.
            let unanswered = response.head.raw.is_empty();
            if !fresh && unanswered && matches!(response.end, End::Closed | End::Reset) {
                outcomes.idle_closes += 1;
                continue;
            }
            sent += 1;
            let keep = response.end == End::Complete && !response.head.fields.has_token("connection", "close");
            match response.end {
                End::TimedOut => outcomes.timed_out += 1,
                End::Reset => outcomes.reset += 1,
                End::Truncated => outcomes.truncated += 1,
                End::Closed if unanswered => outcomes.closed += 1,
                End::Malformed => outcomes.malformed += 1,
                End::Complete | End::Closed => {
                    *outcomes.statuses.entry(response.status()).or_default() += 1;
                    if response.status() == 200 && self.expected_body.as_ref().is_some_and(|b| *b != response.body) {
                        outcomes.wrong_body += 1;
                    }
                }
            }
            if keep && !self.reconnect {
                connection = Some(client);
            }
        }
        outcomes
    }
}

/// A load that is under way.
pub struct Running {
    threads: Vec<thread::JoinHandle<Outcomes>>,
    stop: Arc<AtomicBool>,
}

impl Running {
    /// Ends it after the requests that are on their way.
    pub fn stop(self) -> Outcomes {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits for its end.
    pub fn join(self) -> Outcomes {
        let mut sum = Outcomes::default();
        for thread in self.threads {
            sum.add(thread.join().unwrap());
        }
        sum
    }
}

/// What became of the requests of a load. Every request is counted exactly once, `wrong_body` and `idle_closes` aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Whole responses by status.
    pub statuses: BTreeMap<u16, u64>,
    /// No connection could be made.
    pub refused: u64,
    /// Connection reset before the whole response.
    pub reset: u64,
    /// Closed without any response, on a connection made for this request.
    pub closed: u64,
    /// Closed within the response.
    pub truncated: u64,
    /// No whole response in time.
    pub timed_out: u64,
    /// An answer that is not HTTP.
    pub malformed: u64,
    /// Of the 200s: those with another body than expected.
    pub wrong_body: u64,
    /// Reused connections that were closed before the request could be answered; it was sent again on a new one.
    pub idle_closes: u64,
}

impl Outcomes {
    /// Responses with a 2xx status.
    pub fn ok(&self) -> u64 {
        self.statuses.iter().filter(|(status, _)| (200..300).contains(*status)).map(|(_, n)| n).sum()
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.statuses.values().sum::<u64>()
            + self.refused
            + self.reset
            + self.closed
            + self.truncated
            + self.timed_out
            + self.malformed
    }

    /// Requests that did not get a whole 2xx response with the right body.
    pub fn failed(&self) -> u64 {
        self.total() - self.ok() + self.wrong_body
    }

    fn add(&mut self, other: Self) {
        for (status, n) in other.statuses {
            *self.statuses.entry(status).or_default() += n;
        }
        self.refused += other.refused;
        self.reset += other.reset;
        self.closed += other.closed;
        self.truncated += other.truncated;
        self.timed_out += other.timed_out;
        self.malformed += other.malformed;
        self.wrong_body += other.wrong_body;
        self.idle_closes += other.idle_closes;
    }
}
