//! Clients of request/response protocols, in every order that answers may have.

use super::{
    services::{access, worker_cx},
    *,
};
use bytes::BytesMut;
use sota_plugin::{
    protocol::{CallError, Client, Malformed, Options, Order, Protocol},
    upstream::HostChoice,
};
use sota_testkit::Origin;

const BY_ID: u8 = 0;
const IN_ORDER: u8 = 1;
const ONE_BY_ONE: u8 = 2;

/// Lines of an id and a text.
struct Numbered<const ORDER: u8>;

impl<const ORDER: u8> Protocol for Numbered<ORDER> {
    type Request = &'static str;
    type Response = (u64, String);
    type State = ();

    const NAME: &'static str = "numbered";
    const ORDER: Order = match ORDER {
        BY_ID => Order::ById,
        IN_ORDER => Order::InOrder,
        _ => Order::OneByOne,
    };

    fn decode_request(&self, (): &mut (), _: &mut BytesMut) -> Result<Option<&'static str>, Malformed> {
        Ok(None)
    }

    fn encode_request(&self, (): &mut (), request: &&'static str, id: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{id} {request}\n").as_bytes());
    }

    fn decode_response(&self, (): &mut (), buffer: &mut BytesMut) -> Result<Option<(u64, String)>, Malformed> {
        let Some(end) = buffer.iter().position(|octet| *octet == b'\n') else { return Ok(None) };
        let line = String::from_utf8(buffer.split_to(end + 1).to_vec()).unwrap();
        let (id, text) = line.trim_end().split_once(' ').ok_or_else(|| Malformed("no id".into()))?;
        Ok(Some((id.parse().unwrap(), text.to_owned())))
    }

    fn encode_response(&self, (): &mut (), _: &(u64, String), _: u64, _: &mut Vec<u8>) {}

    fn response_id(&self, response: &(u64, String)) -> u64 {
        response.0
    }

    fn heartbeat(&self) -> Option<&'static str> {
        Some("lost")
    }

    fn failure(&self, _: &&'static str, error: &CallError) -> (u64, String) {
        (0, error.to_string())
    }
}

/// Answers each line with itself: `later` behind the next one, `lost` never; `garbage` with what is no answer.
fn origin() -> Origin {
    Origin::raw(|mut peer| {
        let (mut held, mut later) = (Vec::new(), String::new());
        loop {
            match peer.read_some(1024) {
                Ok(bytes) if !bytes.is_empty() => held.extend(bytes),
                _ => return,
            }
            while let Some(end) = held.iter().position(|octet| *octet == b'\n') {
                let line = String::from_utf8(held.drain(..=end).collect()).unwrap();
                let answer = match line.trim_end().split_once(' ').unwrap().1 {
                    "later" => {
                        later = line;
                        continue;
                    }
                    "lost" => continue,
                    "close" => return,
                    "garbage" => "garbage\n".to_owned(),
                    _ => line + &std::mem::take(&mut later),
                };
                if peer.send(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
    })
}

fn client<const ORDER: u8>(worker: &Worker, heartbeat: Option<Duration>) -> Rc<Client<Numbered<ORDER>>> {
    let options = Options { timeout: Duration::from_millis(150), heartbeat, limited: true };
    Client::new(&Rc::new(Numbered), &worker_cx(worker), options)
}

#[test]
fn answers_with_ids_come_in_any_order_and_may_be_lost_alone() {
    let origin = origin();
    on_worker(|worker| async move {
        let host = access(&worker, &build(model(vec![at(origin.address())]))).choose(&HostChoice::default()).unwrap();
        let client = client::<BY_ID>(&worker, None);
        let calls = ["lost", "later", "now"].map(|text| client.send(&host, &Rc::new(text)));
        let [lost, later, now] = calls;
        assert_eq!(now.await.unwrap().1, "now");
        assert_eq!(later.await.unwrap().1, "later");
        assert_eq!(lost.await, Err(CallError::Timeout));
        assert_eq!(client.send(&host, &Rc::new("again")).await.unwrap().1, "again");
        assert_eq!(worker.stat("cluster.web.upstream_cx_total"), 1);
        assert_eq!(
            (worker.stat("cluster.web.upstream_rq_total"), worker.stat("cluster.web.upstream_rq_timeout")),
            (4, 1)
        );
        let garbage = client.send(&host, &Rc::new("garbage")).await;
        assert_eq!(garbage, Err(CallError::Malformed(Malformed("no id".into()))));
        assert_eq!(worker.stat("cluster.web.upstream_rq_active"), 0);
        drop(client);
        eventually("the connection goes with the client", || worker.stat("cluster.web.upstream_cx_active") == 0).await;
    });
}

#[test]
fn without_ids_a_lost_answer_costs_the_connection() {
    let origin = origin();
    on_worker(|worker| async move {
        let host = access(&worker, &build(model(vec![at(origin.address())]))).choose(&HostChoice::default()).unwrap();
        let client = client::<IN_ORDER>(&worker, None);
        let calls = ["one", "two", "lost", "three"].map(|text| client.send(&host, &Rc::new(text)));
        let mut results = Vec::new();
        for call in calls {
            results.push(call.await.map(|(_, text)| text));
        }
        // The answer to `three` was taken for that to `lost`: nobody could know, and then nothing more came.
        assert_eq!(results, [Ok("one".into()), Ok("two".into()), Ok("three".into()), Err(CallError::Timeout)]);
        assert_eq!(client.send(&host, &Rc::new("close")).await, Err(CallError::Closed));
        assert_eq!(client.send(&host, &Rc::new("four")).await.unwrap().1, "four");
        assert_eq!(worker.stat("cluster.web.upstream_cx_total"), 3);
        worker.clusters.remove("web");
        eventually("the connection goes with the cluster", || origin.open_connections() == 0).await;
    });
}

#[test]
fn one_by_one_takes_connections_from_the_pool() {
    let origin = origin();
    on_worker(|worker| async move {
        let host = access(&worker, &build(model(vec![at(origin.address())]))).choose(&HostChoice::default()).unwrap();
        let client = client::<ONE_BY_ONE>(&worker, None);
        for _ in 0..3 {
            assert_eq!(client.send(&host, &Rc::new("x")).await.unwrap().1, "x");
        }
        assert_eq!(origin.connections(), 1);
        let (first, second) = tokio::join!(client.send(&host, &Rc::new("lost")), client.send(&host, &Rc::new("y")));
        assert_eq!((first, second.unwrap().1), (Err(CallError::Timeout), "y".to_owned()));
        // The one that timed out is not used again.
        assert_eq!(client.send(&host, &Rc::new("z")).await.unwrap().1, "z");
        assert_eq!((origin.connections(), origin.open_connections()), (2, 1));
        assert_eq!(client.send(&host, &Rc::new("close")).await, Err(CallError::Closed));
    });
}

#[test]
fn a_host_that_does_not_answer_heartbeats_is_left() {
    let origin = origin();
    on_worker(|worker| async move {
        let host = access(&worker, &build(model(vec![at(origin.address())]))).choose(&HostChoice::default()).unwrap();
        let client = client::<IN_ORDER>(&worker, Some(Duration::from_millis(30)));
        assert_eq!(client.send(&host, &Rc::new("x")).await.unwrap().1, "x");
        eventually("the connection is closed", || worker.stat("cluster.web.upstream_cx_active") == 0).await;
        assert_eq!(client.send(&host, &Rc::new("y")).await.unwrap().1, "y");
        assert_eq!(worker.stat("cluster.web.upstream_cx_total"), 2);
    });
}
