//! A name server over UDP that answers as a test scripts it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What to answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsAnswer {
    /// Addresses with a time to live in seconds; those of the asked family are sent.
    Addresses { v4: Vec<Ipv4Addr>, v6: Vec<Ipv6Addr>, ttl: u32 },
    /// No answer records, no error.
    Empty,
    /// RCODE 3: no such name.
    NxDomain,
    /// RCODE 2: server failure.
    ServFail,
    /// No datagram at all.
    Silence,
}

impl DnsAnswer {
    /// IPv4 addresses.
    pub fn v4(addresses: &[Ipv4Addr], ttl: u32) -> Self {
        Self::Addresses { v4: addresses.to_vec(), v6: Vec::new(), ttl }
    }
}

/// A name server on loopback; every name has the same answer, which can be changed while it runs.
pub struct DnsServer {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<thread::JoinHandle<()>>,
}

struct State {
    answer: Mutex<DnsAnswer>,
    queries: AtomicU64,
    ended: AtomicBool,
}

impl DnsServer {
    /// Starts it with a first answer.
    pub fn start(answer: DnsAnswer) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let state =
            Arc::new(State { answer: Mutex::new(answer), queries: AtomicU64::new(0), ended: AtomicBool::new(false) });
        let for_thread = Arc::clone(&state);
        let thread = thread::spawn(move || serve(&socket, &for_thread));
        Self { address, state, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Questions so far.
    pub fn queries(&self) -> u64 {
        self.state.queries.load(Ordering::SeqCst)
    }

    /// Answers like this from now on.
    pub fn set(&self, answer: DnsAnswer) {
        *self.state.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, state: &State) {
    let mut query = [0; 1500];
    while !state.ended.load(Ordering::SeqCst) {
        let Ok((n, from)) = socket.recv_from(&mut query) else { continue };
        state.queries.fetch_add(1, Ordering::SeqCst);
        let answer = state.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reply) = respond(query.get(..n).unwrap_or_default(), &answer) {
            let _ = socket.send_to(&reply, from);
        }
    }
}

/// The datagram for `query` (RFC 1035 §4.1): its header and question with answer records added.
fn respond(query: &[u8], answer: &DnsAnswer) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let mut end = HEADER;
    while *query.get(end)? != 0 {
        end += usize::from(*query.get(end)?) + 1;
    }
    let kind = u16::from_be_bytes([*query.get(end + 1)?, *query.get(end + 2)?]);
    let question = query.get(HEADER..end + 5)?;
    let (code, records): (u8, Vec<Vec<u8>>) = match (answer, kind) {
        (DnsAnswer::Silence, _) => return None,
        (DnsAnswer::NxDomain, _) => (3, Vec::new()),
        (DnsAnswer::ServFail, _) => (2, Vec::new()),
        (DnsAnswer::Addresses { v4, .. }, 1) => (0, v4.iter().map(|ip| ip.octets().to_vec()).collect()),
        (DnsAnswer::Addresses { v6, .. }, 28) => (0, v6.iter().map(|ip| ip.octets().to_vec()).collect()),
        _ => (0, Vec::new()),
    };
    let ttl = if let DnsAnswer::Addresses { ttl, .. } = answer { *ttl } else { 0 };
    let mut reply = query.get(..2)?.to_vec();
    // A response, recursion desired and available; one question, the answers, nothing else.
    reply.extend_from_slice(&[0x81, 0x80 | code, 0, 1]);
    reply.extend_from_slice(&u16::try_from(records.len()).ok()?.to_be_bytes());
    reply.extend_from_slice(&[0; 4]);
    reply.extend_from_slice(question);
    for data in records {
        // The name is a pointer to the question's.
        reply.extend_from_slice(&[0xc0, HEADER as u8]);
        reply.extend_from_slice(&kind.to_be_bytes());
        reply.extend_from_slice(&[0, 1]);
        reply.extend_from_slice(&ttl.to_be_bytes());
        reply.extend_from_slice(&u16::try_from(data.len()).ok()?.to_be_bytes());
        reply.extend_from_slice(&data);
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01";

    fn ask(server: &DnsServer) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket.send_to(QUERY, server.address()).unwrap();
        let mut reply = [0; 512];
        let n = socket.recv(&mut reply).ok()?;
        Some(reply[..n].to_vec())
    }

    #[test]
    fn answers_are_those_of_the_script() {
        let server = DnsServer::start(DnsAnswer::v4(&[Ipv4Addr::new(127, 0, 0, 7)], 30));
        let reply = ask(&server).unwrap();
        assert_eq!(&reply[..8], b"\x12\x34\x81\x80\x00\x01\x00\x01");
        assert!(reply.ends_with(b"\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x7f\x00\x00\x07"));
        server.set(DnsAnswer::NxDomain);
        assert_eq!(ask(&server).unwrap()[3] & 0xf, 3);
        server.set(DnsAnswer::ServFail);
        assert_eq!(ask(&server).unwrap()[3] & 0xf, 2);
        server.set(DnsAnswer::Silence);
        assert_eq!(ask(&server), None);
        assert_eq!(server.queries(), 4);
    }

    #[test]
    fn garbage_is_no_question() {
        assert_eq!(respond(b"", &DnsAnswer::Empty), None);
        assert_eq!(respond(&[0xff; 40], &DnsAnswer::Empty), None);
    }
}
