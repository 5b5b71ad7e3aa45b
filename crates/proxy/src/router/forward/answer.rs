//! The response of an attempt on its way back: its head, its body, its end.

use super::{Answer, Forward, ForwardCx, MAX_UNWANTED, State, count_grpc};
use crate::{
    deadline::Deadline,
    router::failure::{ResetReason, UpstreamFault},
    upstream::{HostResult, Outcome},
    wire::{BodyError, Part},
};
use bytes::Bytes;
use sota_codec::http1::Http1Error;
use sota_plugin::{
    http::{HeaderId, Headers},
    info::StreamInfo,
};
use std::{
    cell::RefCell,
    rc::Rc,
    task::{Context, Poll, ready},
};

impl Forward {
    pub(super) fn informed(&mut self, stream: &mut ForwardCx<'_>) -> Answer {
        // Compat: what was said once is not taken back by another attempt.
        self.begin_response(stream);
        self.count_status(stream.response.status, None, stream.info);
        Answer::Informational
    }

    /// This is the attempt that counts.
    pub(super) fn begin_response(&mut self, stream: &mut ForwardCx<'_>) {
        self.drop_hedged(stream);
        self.retry = None;
        self.let_body_go();
        stream.deadlines.set(Deadline::Try, None);
    }

    pub(super) fn answered(&mut self, end_stream: bool, stream: &mut ForwardCx<'_>) -> Answer {
        if self.route.internal_redirects().is_some_and(|redirects| redirects.may_follow(stream.response.status)) {
            return Answer::Redirect { end_stream };
        }
        self.pass_on(end_stream, stream);
        Answer::Head { end_stream }
    }

    /// Whether the whole of the request's body is still here.
    pub fn has_whole_body(&self) -> bool {
        self.body.has_ended() && self.body.can_rewind()
    }

    /// The request goes elsewhere and the response nowhere: gives the request's body and its trailers back, as far as
    /// [`Self::has_whole_body`] says that they are here.
    pub fn leave(&mut self, cx: &mut Context<'_>, stream: &mut ForwardCx<'_>) -> Option<(Bytes, Option<Box<Headers>>)> {
        let body = self.body.take_whole()?;
        self.has_responded = true;
        stream.info.timing.upstream_first_rx = Some(stream.deadlines.now());
        stream.info.response_code = Some(stream.response.status);
        stream.info.response_code_details = Some("internal_redirect".into());
        if let State::Active(mut attempt) = std::mem::replace(&mut self.state, State::Done) {
            for _ in 0..MAX_UNWANTED {
                match attempt.poll_part(cx, &self.options) {
                    Poll::Ready(Ok(Part::Data(_))) => attempt.with_data(|data| (data.len(), ())),
                    _ => break,
                };
            }
            attempt.note_bytes(stream.info);
            match attempt.is_response_complete() {
                true => attempt.release(),
                false => self.cluster.stats().upstream_rq_tx_reset.inc(),
            }
            self.log_attempt(stream);
        }
        self.abandon(stream);
        Some(body)
    }

    /// The response begins.
    pub fn pass_on(&mut self, end_stream: bool, stream: &mut ForwardCx<'_>) {
        let now = stream.deadlines.now();
        self.has_responded = true;
        self.begin_response(stream);
        self.note_moved();
        if self.request_end.is_some() {
            stream.deadlines.set_after(Deadline::TryIdle, now, self.timeouts.per_try_idle);
        }
        let (head, info) = (&mut *stream.response, &mut *stream.info);
        info.timing.upstream_first_rx = Some(now);
        // Compat: only where the whole request was there before the response.
        if let Some(end) = self.request_end.filter(|_| !self.router.suppress_envoy_headers) {
            let took = now.saturating_duration_since(end).as_millis();
            let mut text = itoa::Buffer::new();
            head.headers.set_sanitized(HeaderId::XEnvoyUpstreamServiceTime, text.format(took));
        }
        if self.route.include_attempt_count_in_response() {
            let mut text = itoa::Buffer::new();
            head.headers.set_sanitized(HeaderId::XEnvoyAttemptCount, text.format(self.attempts));
        }
        if let State::Active(attempt) = &self.state {
            let host = Rc::clone(&attempt.host);
            if self.is_grpc && !head.status.is_server_error() {
                self.count_status(head.status, None, info);
                self.awaits_grpc_status = !end_stream;
                if end_stream {
                    count_grpc(&host, &head.headers);
                }
            } else {
                self.count_status(head.status, Some(&host), info);
            }
        }
        info.response_code = Some(head.status);
        info.response_code_details = Some("via_upstream".into());
        self.choice.finish(head);
        self.route.finalize_response(head, Some(stream.request), info);
        if end_stream {
            self.complete(stream);
        }
    }

    /// The next part of the response's body.
    pub fn poll_part(&mut self, cx: &mut Context<'_>, info: &RefCell<StreamInfo>) -> Poll<Result<Part, UpstreamFault>> {
        let State::Active(attempt) = &mut self.state else { return Poll::Ready(Ok(Part::End)) };
        let error = match ready!(attempt.poll_part(cx, &self.options)) {
            Ok(Part::Data(octets)) => {
                self.note_moved();
                return Poll::Ready(Ok(Part::Data(octets)));
            }
            Ok(Part::Trailers(trailers)) => {
                if std::mem::take(&mut self.awaits_grpc_status) {
                    count_grpc(&attempt.host, &trailers);
                }
                return Poll::Ready(Ok(Part::Trailers(trailers)));
            }
            Ok(part) => return Poll::Ready(Ok(part)),
            Err(error) => error,
        };
        let reason = match error {
            BodyError::Io(_) => {
                attempt.closed_by_peer();
                ResetReason::ConnectionTermination
            }
            BodyError::Stream(end) => {
                self.fault = Some(end.to_string().into());
                self.note_stream_end(end)
            }
            BodyError::Malformed(error) => {
                self.fault = Some(error.to_string().into());
                if error == Http1Error::Truncated {
                    attempt.closed_by_peer();
                }
                self.cluster.stats().upstream_cx_protocol_error.inc();
                ResetReason::ProtocolError
            }
        };
        if let State::Active(attempt) = &self.state {
            self.cluster.note_result(&attempt.host, HostResult::ConnectFailed);
        }
        let (is_retry, transport) = (self.attempts > 1, String::new());
        let cause = self.cut_off(reason, &info.borrow()).into();
        Poll::Ready(Err(UpstreamFault { reason, transport, is_retry, is_late: true, cause }))
    }

    /// Runs `f` on the data that [`Part::Data`] told of; it says how much of it is used up. It may write to another
    /// socket.
    pub fn with_data<R>(&mut self, f: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        let State::Active(attempt) = &mut self.state else { return None };
        let mut is_paused = false;
        let result = attempt.with_data(|data| {
            let (taken, result) = f(data);
            is_paused = taken == 0 && !data.is_empty();
            (taken, result)
        });
        if is_paused != self.is_paused {
            self.is_paused = is_paused;
            let stats = self.cluster.stats();
            match is_paused {
                true => stats.upstream_flow_control_paused_reading_total.inc(),
                false => stats.upstream_flow_control_resumed_reading_total.inc(),
            }
        }
        result
    }

    /// Copies the data that [`Part::Data`] told of.
    pub fn take_data(&mut self) -> Bytes {
        match &mut self.state {
            State::Active(attempt) => attempt.take_data(),
            _ => Bytes::new(),
        }
    }

    /// Whether the last octet of the response was taken.
    pub fn is_response_complete(&self) -> bool {
        match &self.state {
            State::Active(attempt) => attempt.is_response_complete(),
            _ => true,
        }
    }

    /// The response is whole: the connection goes back to the pool if it may. Says whether that is new.
    pub fn complete(&mut self, stream: &mut ForwardCx<'_>) -> bool {
        let State::Active(attempt) = std::mem::replace(&mut self.state, State::Done) else { return false };
        let now = stream.deadlines.now();
        stream.info.timing.upstream_last_rx = Some(now);
        self.settle_grpc(&attempt.host);
        attempt.note_bytes(stream.info);
        if let Some(end) = self.request_end {
            if let Some(tracked) = self.cluster.tracked() {
                tracked.record_request(now.saturating_duration_since(end), self.timeouts.global);
            }
            if self.router.dynamic_stats && !stream.info.is_health_check {
                let took = now.saturating_duration_since(end);
                self.cluster.record_response_time(took, stream.info.is_internal);
                let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                self.each_stats(|stats| stats.responses.record_time(millis));
            }
            attempt.release();
        } else {
            self.note_given_up(&attempt);
        }
        self.permit = None;
        stream.deadlines.set(Deadline::Route, None);
        stream.deadlines.set(Deadline::TryIdle, None);
        self.log_attempt(stream);
        true
    }

    /// Nobody wants the response any more.
    pub fn abandon(&mut self, stream: &mut ForwardCx<'_>) {
        match &self.state {
            State::Connecting(_) => self.cluster.stats().upstream_rq_cancelled.inc(),
            State::Active(attempt) => {
                self.note_given_up(attempt);
                self.cluster.report(&attempt.host, Outcome::Cancelled);
            }
            _ => {}
        }
        self.drop_hedged(stream);
        self.end_attempt(stream);
        self.permit = None;
        for deadline in [Deadline::Route, Deadline::Try, Deadline::TryIdle, Deadline::BackOff] {
            stream.deadlines.set(deadline, None);
        }
    }
}
