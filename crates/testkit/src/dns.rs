//! A name server over UDP that answers as a test scripts it.

use hickory_server::{
    Server,
    net::runtime::Time,
    proto::{
        op::{Header, HeaderCounts, Metadata, ResponseCode},
        rr::{RData, Record, RecordType},
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use tokio::sync::oneshot;

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
    script: Script,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What is answered, and how often it was asked for.
#[derive(Clone)]
struct Script {
    answer: Arc<Mutex<DnsAnswer>>,
    queries: Arc<AtomicU64>,
}

impl DnsServer {
    /// Starts it with a first answer.
    pub fn start(answer: DnsAnswer) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let script = Script { answer: Arc::new(Mutex::new(answer)), queries: Arc::default() };
        let (stop, stopped) = oneshot::channel();
        let for_thread = script.clone();
        let thread = thread::spawn(move || serve(socket, for_thread, stopped));
        Self { address, script, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Questions so far.
    pub fn queries(&self) -> u64 {
        self.script.queries.load(Ordering::SeqCst)
    }

    /// Answers like this from now on.
    pub fn set(&self, answer: DnsAnswer) {
        *self.script.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: UdpSocket, script: Script, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut server = Server::new(script);
        server.register_socket(tokio::net::UdpSocket::from_std(socket).unwrap());
        let _ = stopped.await;
    });
}

#[async_trait::async_trait]
impl RequestHandler for Script {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut to: R) -> ResponseInfo {
        self.queries.fetch_add(1, Ordering::SeqCst);
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        metadata.response_code = match answer {
            DnsAnswer::NxDomain => ResponseCode::NXDomain,
            DnsAnswer::ServFail => ResponseCode::ServFail,
            _ => ResponseCode::NoError,
        };
        if answer != DnsAnswer::Silence {
            let records = answer.records(request);
            let builder = MessageResponseBuilder::from_message_request(request);
            let _ = to.send_response(builder.build(metadata, &records, [], [], [])).await;
        }
        Header { metadata, counts: HeaderCounts::default() }.into()
    }
}

impl DnsAnswer {
    /// The addresses of the family that is asked for.
    fn records(&self, request: &Request) -> Vec<Record> {
        let (Self::Addresses { v4, v6, ttl }, Ok(info)) = (self, request.request_info()) else { return Vec::new() };
        let name = info.query.original().name();
        let data: Vec<RData> = match info.query.query_type() {
            RecordType::A => v4.iter().map(|ip| RData::A((*ip).into())).collect(),
            RecordType::AAAA => v6.iter().map(|ip| RData::AAAA((*ip).into())).collect(),
            _ => Vec::new(),
        };
        data.into_iter().map(|data| Record::from_rdata(name.clone(), *ttl, data)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
        assert_eq!(&reply[..8], b"\x12\x34\x81\x80\x00\x01\x00\x01", "an answer, recursion available, one record");
        assert!(reply.ends_with(b"\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x7f\x00\x00\x07"));
        server.set(DnsAnswer::NxDomain);
        assert_eq!(ask(&server).unwrap()[3] & 0xf, 3);
        server.set(DnsAnswer::ServFail);
        assert_eq!(ask(&server).unwrap()[3] & 0xf, 2);
        server.set(DnsAnswer::Silence);
        assert_eq!(ask(&server), None);
        assert_eq!(server.queries(), 4);
    }
}
