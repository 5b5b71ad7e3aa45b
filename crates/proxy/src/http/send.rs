//! The response on its last steps: fields of our own, counters, the codec.

use super::stream::{Progress, Stop, Stream};
use sota_codec::http1::remove_hop_by_hop;
use sota_plugin::http::{HeaderId, Headers};
use std::time::SystemTime;

impl Stream<'_> {
    /// An informational response of the upstream: passed on if that is configured, otherwise dropped, as in Envoy.
    pub(super) fn send_informational(&self) {
        let manager = &self.connection.manager;
        if !manager.config.model.proxy_100_continue {
            return;
        }
        let mut head = self.response.borrow_mut();
        self.with_response_chain(|chain, env| {
            for filter in chain.filters.iter_mut().rev() {
                filter.informational(&mut head, env);
            }
        });
        manager.count_response(head.status);
        self.codec.send_informational(&head);
    }

    /// The head of the response leaves the filters.
    pub(super) fn send_head(&self, end_stream: bool) {
        let manager = &self.connection.manager;
        let stats = &manager.stats;
        let opens = self.opens_tunnel(self.response.borrow().status);
        let mut head = self.response.borrow_mut();
        let mut info = self.info.borrow_mut();
        if remove_hop_by_hop(&mut head.headers, opens).is_err() {
            for id in [HeaderId::Connection, HeaderId::KeepAlive, HeaderId::TransferEncoding, HeaderId::Upgrade] {
                head.headers.remove(id);
            }
        }
        let request = self.request.borrow();
        let request = self.has_request.get().then_some(&**request);
        manager.config.response_fields.apply(&mut head, request, || manager.dates.get(SystemTime::now()));
        if let Some(tracer) = &manager.tracer {
            tracer.respond(&mut head.headers, &mut info);
        }
        if !self.request_ended.get() && !opens {
            stats.downstream_rq_response_before_rq_complete.inc();
        }
        if !info.is_health_check {
            manager.count_response(head.status);
        }
        info.response_code = Some(head.status);
        info.timing.downstream_first_tx = Some(self.deadlines.now());
        // A request whose end the filters have not seen is not done with, even if all of it was read.
        let close = self.connection.must_close() || self.closes_after() || !self.request_ended.get();
        if self.codec.send_head(&mut head, end_stream, close) {
            self.close_after();
        }
        info.downstream_header_bytes_sent = self.codec.header_bytes_sent();
        self.progress.set(Progress::Responding);
        drop((head, info));
        if opens {
            self.open_tunnel();
        }
        if end_stream {
            self.progress.set(Progress::Done);
        }
    }

    /// Data of the response was taken by the client's side.
    pub(super) fn note_sent(&self, octets: usize) {
        self.info.borrow_mut().bytes_sent += octets as u64;
    }

    /// Nothing follows in the response.
    pub(super) fn end_response(&self, trailers: Option<Box<Headers>>) -> Result<(), Stop> {
        self.codec.end(trailers.as_deref()).map_err(|error| self.write_fault(&error))?;
        *self.response_trailers.borrow_mut() = trailers;
        self.progress.set(Progress::Done);
        Ok(())
    }
}
