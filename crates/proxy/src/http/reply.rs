//! Answers of our own: what makes them necessary, and how they take the place of a response.

use super::{
    filter_side::{REQUEST_TOO_LARGE, RESPONSE_TOO_LARGE},
    local_reply::LocalResponse,
    stream::{Progress, Stop, Stream},
};
use crate::{
    cause::{self, Span},
    deadline::Deadline,
    router::UpstreamFault,
    wire::WriteError,
};
use bytes::Bytes;
use sota_codec::http1::Http1Error;
use sota_plugin::{
    filter::LocalReply,
    http::{HeaderId, Method, RequestHead, ResponseHead, StatusCode},
    info::{ResponseFlag, StreamInfo},
};

impl Stream<'_> {
    /// A deadline may have passed: then the stream answers, or ends if the response has begun.
    pub(super) fn check_deadlines(&self) -> Result<(), Stop> {
        let deadlines = self.deadlines;
        if !deadlines.any_expired() {
            return Ok(());
        }
        self.connection.note_age();
        let stats = &self.connection.manager.stats;
        let model = &self.connection.manager.config.model;
        let timed_out = match self.codec.is_request_complete() {
            true => StatusCode::GATEWAY_TIMEOUT,
            false => StatusCode::REQUEST_TIMEOUT,
        };
        if deadlines.take_expired(Deadline::LogFlush) {
            self.log_periodically();
        }
        let reply = if deadlines.take_expired(Deadline::RequestHeaders) {
            stats.downstream_rq_header_timeout.inc();
            let reply =
                LocalReply::new(StatusCode::REQUEST_TIMEOUT, "request header timeout", "request_header_timeout");
            let limit = Span(model.request_headers_timeout.unwrap_or_default());
            reply.cause(format!(
                "the head of the request was not whole within request_headers_timeout ({limit}); the client is slow"
            ))
        } else if deadlines.take_expired(Deadline::Request) {
            stats.downstream_rq_timeout.inc();
            let limit = Span(model.request_timeout.unwrap_or_default());
            LocalReply::new(timed_out, "request timeout", "request_overall_timeout").cause(format!(
                "the request was not whole within request_timeout ({limit}); the client is slow, or its body large"
            ))
        } else if deadlines.take_expired(Deadline::StreamIdle) {
            stats.downstream_rq_idle_timeout.inc();
            let limit = Span(self.idle_timeout.get().unwrap_or_default());
            let whom = match self.codec.is_request_complete() {
                true => "nothing moved while the upstream was waited for",
                false => "the client sent nothing of its request",
            };
            LocalReply::new(timed_out, "stream timeout", "stream_idle_timeout")
                .flag(ResponseFlag::StreamIdleTimeout)
                .cause(format!("{whom} for {limit}; see stream_idle_timeout, or idle_timeout of the route"))
        } else if deadlines.take_expired(Deadline::StreamDuration) {
            stats.downstream_rq_max_duration_reached.inc();
            let reply = LocalReply::new(timed_out, "downstream duration timeout", "max_duration_timeout");
            let took = Span(self.info.borrow().timing.since_start(deadlines.now()));
            let reply = reply.cause(format!(
                "the stream lasted {took}, as long as max_stream_duration of its route or its connection manager allows"
            ));
            LocalReply { grpc_status: Some(4), ..reply }
        } else if deadlines.take_expired(Deadline::Route) {
            match &mut *self.forward.borrow_mut() {
                Some(forward) => *forward.time_out(&self.info.borrow()),
                None => return Ok(()),
            }
        } else if let Some(reply) =
            self.forward.borrow_mut().as_mut().and_then(|forward| forward.idle_time_out(deadlines, &self.info.borrow()))
        {
            *reply
        } else {
            return Ok(());
        };
        Err(Stop::Reply(Box::new(reply)))
    }

    /// A request that cannot be understood.
    pub(super) fn refuse(&self, error: Http1Error) -> Stop {
        let manager = &self.connection.manager;
        manager.stats.downstream_cx_protocol_error.inc();
        if error == Http1Error::Underscore {
            manager.codec_stats.requests_rejected_with_underscores_in_headers.inc();
        }
        self.codec.abandon();
        // All of the head was read but for what is missing.
        self.has_request.set(error == Http1Error::MissingHost || self.has_request.get());
        let status = error.status();
        let mut reply = LocalReply::new(status, "", error.details()).closing();
        if error.is_protocol_error() {
            reply.flag = Some(ResponseFlag::DownstreamProtocolError);
            reply.body = status.reason().into();
        }
        Stop::Reply(Box::new(reply))
    }

    /// The origin has failed in the middle of its response.
    pub(super) fn upstream_fault(&self, fault: UpstreamFault) -> Stop {
        Stop::Reply(fault.into_reply(&mut self.info.borrow_mut()))
    }

    /// The response cannot be written.
    pub(super) fn write_fault(&self, error: &WriteError) -> Stop {
        match error {
            WriteError::Io(_) => Stop::ClientGone,
            // A filter has changed the body and not its length.
            WriteError::Length => {
                self.info.borrow_mut().response_flags.set(ResponseFlag::LocalReset);
                Stop::Reset("response_length_mismatch".into())
            }
        }
    }

    /// The reply comes too late: a response is under way, so the stream ends instead.
    pub(super) fn reset_instead(&self, reply: &LocalReply) -> Stop {
        self.count_reply(reply);
        let mut info = self.info.borrow_mut();
        if let Some(flag) = reply.flag {
            info.response_flags.set(flag);
        }
        cause::note(reply, &mut info);
        Stop::Reset(reply.details.clone())
    }

    /// Puts a reply in the place of the response.
    pub(super) fn begin_reply(&self, reply: LocalReply) {
        let manager = self.manager();
        self.count_reply(&reply);
        self.abandon_forward();
        self.make_filters();
        let http1 = &manager.config.model.http1;
        let stream_error_only = http1
            .override_stream_error_on_invalid_http_message
            .unwrap_or(manager.config.model.stream_error_on_invalid_http_message);
        if reply.close || (reply.status == StatusCode::BAD_REQUEST && !stream_error_only) {
            self.close_after();
        }
        let request = self.request.borrow();
        let request = self.has_request.get().then_some(&**request);
        let route = self.route.borrow();
        let mut info = self.info.borrow_mut();
        cause::note(&reply, &mut info);
        let answer = match reply.verbatim {
            true => verbatim(&reply, request, &mut info),
            false => manager.config.local_replies.prepare(&reply, request, route.as_deref(), &mut info),
        };
        let has_body = !answer.body.is_empty();
        **self.response.borrow_mut() = answer.head;
        self.reply_text.replace(answer.text);
        self.reply_body.replace(has_body.then_some(answer.body));
        self.chain.borrow_mut().response.begin(!has_body);
        drop(info);
        self.touch();
    }

    /// Nobody wants the upstream's response any more.
    pub(super) fn abandon_forward(&self) {
        let mut forward = self.forward.borrow_mut();
        if let Some(forward) = &mut *forward {
            self.with_parts(|parts| forward.abandon(parts));
        }
        *forward = None;
    }

    fn count_reply(&self, reply: &LocalReply) {
        let stats = &self.connection.manager.stats;
        match &*reply.details {
            REQUEST_TOO_LARGE => stats.downstream_rq_too_large.inc(),
            RESPONSE_TOO_LARGE => stats.rs_too_large.inc(),
            _ => {}
        }
        if self.progress.get() >= Progress::Responding {
            stats.rq_reset_after_downstream_response_started.inc();
        }
    }
}

/// An answer as a filter made it.
fn verbatim(reply: &LocalReply, request: Option<&RequestHead>, info: &mut StreamInfo) -> LocalResponse {
    info.response_code_details = Some(reply.details.clone());
    if let Some(flag) = reply.flag {
        info.response_flags.set(flag);
    }
    let mut head = ResponseHead { headers: reply.headers.clone(), ..ResponseHead::new(reply.status) };
    let text = reply.body.clone();
    if !text.is_empty() {
        head.headers.set_sanitized(HeaderId::ContentLength, itoa::Buffer::new().format(text.len()));
    }
    let is_head = request.is_some_and(|request| request.method == Method::Head);
    LocalResponse { head, body: if is_head { Bytes::new() } else { text.clone() }, text }
}
