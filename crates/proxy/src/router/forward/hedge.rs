//! Attempts side by side: one that takes too long goes on while another begins, and the first good response counts.

use super::{Answer, Forward, ForwardCx, State, note_answer};
use crate::{deadline::Deadline, upstream::HostResult, wire::ResponseEvent};
use sota_plugin::{
    filter::LocalReply,
    http::{ResponseHead, StatusCode},
    info::StreamInfo,
};
use std::{
    mem,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

impl Forward {
    /// An attempt may have taken too long; whether something has changed.
    pub(super) fn check_try(&mut self, stream: &mut ForwardCx<'_>) -> Result<bool, Box<LocalReply>> {
        let is_late = stream.deadlines.take_expired(Deadline::Try);
        let is_idle = !is_late && stream.deadlines.take_expired(Deadline::TryIdle) && self.is_idle(stream.deadlines);
        if !is_late && !is_idle {
            return Ok(false);
        }
        if !self.timeouts.hedges {
            self.try_timed_out(is_idle, stream)?;
        } else if let Some(next) = self.take_retry(stream)
            && let State::Active(mut attempt) = mem::replace(&mut self.state, next)
        {
            attempt.is_hedged = true;
            self.was_timeout = true;
            self.hedged.push((attempt, mem::replace(stream.response, ResponseHead::new(StatusCode::OK))));
        }
        Ok(true)
    }

    /// Whether nothing has moved on the attempt for too long; otherwise its clock goes on.
    fn is_idle(&self, deadlines: &crate::deadline::Deadlines) -> bool {
        let until = self.timeouts.per_try_idle.and_then(|idle| self.last_moved?.checked_add(idle));
        let goes_on = until.filter(|until| *until > deadlines.now());
        deadlines.set(Deadline::TryIdle, goes_on);
        goes_on.is_none()
    }

    /// The response has begun, and the upstream says nothing more: the end of the stream, if that is so.
    pub fn idle_time_out(
        &mut self,
        deadlines: &crate::deadline::Deadlines,
        info: &StreamInfo,
    ) -> Option<Box<LocalReply>> {
        if !self.has_responded {
            return None;
        }
        if !deadlines.take_expired(Deadline::TryIdle) || !self.is_idle(deadlines) {
            return None;
        }
        self.count_try_timeout(true);
        Some(self.timeout_reply("upstream_per_try_idle_timeout", self.try_too_late(true, info)))
    }

    /// Looks whether one of the attempts that took too long answers.
    pub(super) fn poll_hedged(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut ForwardCx<'_>,
    ) -> Poll<Result<Answer, Box<LocalReply>>> {
        let mut place = 0;
        while let Some((attempt, head)) = self.hedged.get_mut(place) {
            let _ = attempt.poll_send(cx, &mut self.body, &self.options);
            match attempt.poll_head(cx, &self.options, head) {
                Poll::Pending => place += 1,
                // What would be tried again is no answer while there may be a better one.
                Poll::Ready(Ok(ResponseEvent::Head { .. }))
                    if self.retry.as_ref().is_some_and(|retry| retry.wants_retry_after(head)) =>
                {
                    attempt.host.counters().rq_error.inc();
                    note_answer(&self.cluster, &attempt.host, head);
                    self.lose(place);
                }
                Poll::Ready(Ok(event)) => {
                    if matches!(event, ResponseEvent::Head { .. }) {
                        note_answer(&self.cluster, &attempt.host, head);
                    }
                    self.end_attempt(stream);
                    stream.deadlines.set(Deadline::BackOff, None);
                    self.take_hedged(place, stream);
                    return Poll::Ready(Ok(match event {
                        ResponseEvent::Informational => self.informed(stream),
                        ResponseEvent::Head { end_stream } => self.answered(end_stream, stream),
                    }));
                }
                Poll::Ready(Err(_)) => {
                    attempt.closed_by_peer();
                    let host = Rc::clone(&attempt.host);
                    self.cluster.note_result(&host, HostResult::ConnectFailed);
                    self.count_status(StatusCode::SERVICE_UNAVAILABLE, Some(&host), stream.info);
                    self.lose(place);
                }
            }
        }
        Poll::Pending
    }

    fn lose(&mut self, place: usize) {
        let (attempt, _) = self.hedged.swap_remove(place);
        self.note_given_up(&attempt);
    }

    /// The newest attempt has brought nothing: whether an earlier one goes on in its place.
    pub(super) fn falls_back(&mut self, stream: &mut ForwardCx<'_>) -> bool {
        let Some(last) = self.hedged.len().checked_sub(1) else { return false };
        self.take_hedged(last, stream);
        true
    }

    fn take_hedged(&mut self, place: usize, stream: &mut ForwardCx<'_>) {
        let (attempt, head) = self.hedged.swap_remove(place);
        *stream.response = head;
        let upstream = &mut stream.info.upstream;
        upstream.address = Some(attempt.host.host().address().clone());
        upstream.hostname = Some(Arc::clone(attempt.host.host().hostname()));
        upstream.host_metadata = attempt.host.host().spec().metadata.clone();
        let facts = attempt.facts();
        upstream.local = facts.local_address;
        upstream.tls = facts.tls;
        upstream.connection_id = Some(facts.id);
        self.state = State::Active(attempt);
    }

    /// Another attempt has answered, or nobody waits any more.
    pub(super) fn drop_hedged(&mut self, stream: &mut ForwardCx<'_>) {
        for (attempt, _) in mem::take(&mut self.hedged) {
            self.note_given_up(&attempt);
            drop(attempt);
            self.log_attempt(stream);
        }
    }
}
