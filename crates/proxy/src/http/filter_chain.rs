//! The HTTP filters of a stream, and the passage of a message through them.
//!
//! A [`Passage`] moves one message, head first, past the filters of a chain. A filter may let a part go on, hold it, wait,
//! or answer itself. Whoever polls the passage gets what comes out at the other end, or is asked for another part.

use super::filter_side::Side;
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use sota_plugin::{
    LocalFuture,
    cx::{Effects, StreamCx, WorkerCx},
    filter::{Bodies, DataStatus, FilterStatus, HttpFilter, LocalReply, Resume},
    http::{HeaderId, Headers, RequestHead, ResponseHead},
    info::StreamInfo,
};
use std::task::{Context, Poll, ready};

/// A filter of a stream.
pub(super) struct ActiveFilter<'a> {
    /// Its name in the chain.
    name: &'a str,
    filter: Box<dyn HttpFilter>,
    bodies: Bodies,
}

/// The filters that a stream has, in the order of the chain.
pub(super) type Filters<'a> = SmallVec<[ActiveFilter<'a>; 4]>;

impl<'a> ActiveFilter<'a> {
    pub(super) fn new(name: &'a str, filter: Box<dyn HttpFilter>) -> Self {
        let bodies = filter.bodies();
        Self { name, filter, bodies }
    }

    /// The stream is over.
    pub(super) fn complete(&mut self, env: &mut Env<'_>) {
        call(self.name, &mut BytesMut::new(), env, |cx| self.filter.on_stream_complete(cx));
    }

    /// An informational response passes.
    pub(super) fn informational(&mut self, head: &mut ResponseHead, env: &mut Env<'_>) {
        call(self.name, &mut BytesMut::new(), env, |cx| self.filter.on_informational(head, cx));
    }
}

/// What filters are called with.
pub(super) struct Env<'a> {
    pub(super) info: &'a mut StreamInfo,
    /// The request, for hooks of the response.
    pub(super) request: Option<&'a RequestHead>,
    pub(super) worker: &'a WorkerCx,
    /// The buffer limit, in octets.
    pub(super) limit: usize,
    /// Chooses the route anew.
    pub(super) reroute: &'a dyn Fn(&RequestHead, &mut StreamInfo),
}

fn call<R>(
    name: &str,
    buffered: &mut BytesMut,
    env: &mut Env<'_>,
    hook: impl FnOnce(&mut StreamCx<'_>) -> R,
) -> (R, Effects) {
    let mut effects = Effects::default();
    let mut cx = StreamCx {
        info: env.info,
        request: env.request,
        worker: env.worker,
        buffered,
        effects: &mut effects,
        filter_name: name,
    };
    let result = hook(&mut cx);
    (result, effects)
}

/// What comes out behind the last filter.
#[derive(Debug)]
pub(super) enum Passed {
    /// The head. `end_stream`: nothing follows it.
    Head { end_stream: bool },
    /// Data. `end_stream`: nothing follows it. May be empty with it.
    Data { data: Bytes, end_stream: bool },
    /// Trailers, which are the end.
    Trailers(Box<Headers>),
    /// Nothing: the next part of the message has to be pushed.
    NeedMore,
}

/// Data between two filters.
struct Transit {
    /// The position of the filter that sees it next.
    at: usize,
    data: Bytes,
    end: bool,
}

enum Wait<H> {
    Head(LocalFuture<Resume<H>>),
    Data(LocalFuture<Resume<Bytes>>),
    Trailers(LocalFuture<Resume<Headers>>),
}

/// A message on its way through the filters.
pub(super) struct Passage<S: Side> {
    /// The position of the first filter that this message passes.
    from: usize,
    /// The position of the filter that sees the head next, or holds it.
    head_at: usize,
    /// Nothing follows the head, as that filter sees it.
    head_end: bool,
    /// That filter holds the head.
    is_held: bool,
    /// So many filters have seen the head.
    seen: usize,
    /// The head has come out.
    has_left: bool,
    data: Option<Transit>,
    /// What filters have kept back of the data before; the last comes first.
    rest: Vec<Transit>,
    trailers: Option<(usize, Box<Headers>)>,
    /// Trailers that a filter wants behind data that has not arrived.
    added: Option<Box<Headers>>,
    wait: Option<Wait<S::Head>>,
    /// Data that filters hold, by position; empty while none ever did.
    held: Vec<BytesMut>,
    /// Octets of data that have reached the filter that holds the head.
    arrived: u64,
    /// How much filters may hold, if one of them has said so.
    limit: Option<usize>,
    /// A filter has as much as it may hold and wants to be given no more, or holds the end itself.
    is_blocked: bool,
}

impl<S: Side> Default for Passage<S> {
    fn default() -> Self {
        Self {
            from: 0,
            head_at: 0,
            head_end: false,
            is_held: false,
            seen: 0,
            has_left: false,
            data: None,
            rest: Vec::new(),
            trailers: None,
            added: None,
            wait: None,
            held: Vec::new(),
            arrived: 0,
            limit: None,
            is_blocked: false,
        }
    }
}

impl<S: Side> Passage<S> {
    /// Begins with the head. `end_stream`: nothing follows it. If another message began before (a reply replaces a
    /// response), this one passes only those filters that have not seen a head.
    pub(super) fn begin(&mut self, end_stream: bool) {
        let seen = self.seen;
        *self = Self { from: seen, head_at: seen, seen, head_end: end_stream, ..Self::default() };
    }

    /// Whether data can go past the filters: the head has left, nobody looks at data, nothing is held.
    pub(super) fn is_open(&self, filters: &Filters<'_>) -> bool {
        self.has_left
            && self.data.is_none()
            && self.rest.is_empty()
            && self.trailers.is_none()
            && self.added.is_none()
            && self.wait.is_none()
            && self.held.iter().all(BytesMut::is_empty)
            && !filters.iter().any(|active| S::looks_at_data(active.bodies))
    }

    /// The next data; only after [`Passed::NeedMore`].
    pub(super) fn push_data(&mut self, data: Bytes, end_stream: bool) {
        let end = end_stream && self.added.is_none();
        self.data = Some(Transit { at: self.from, data, end });
        if end_stream && let Some(trailers) = self.added.take() {
            self.trailers = Some((self.from, trailers));
        }
    }

    /// The trailers; only after [`Passed::NeedMore`].
    pub(super) fn push_trailers(&mut self, mut trailers: Box<Headers>) {
        if let Some(added) = self.added.take() {
            let _ = trailers.append_all(&added);
        }
        self.trailers = Some((self.from, trailers));
    }

    /// Moves the message on, to what comes out behind the last filter.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        filters: &mut Filters<'_>,
        head: &mut S::Head,
        env: &mut Env<'_>,
    ) -> Poll<Result<Passed, Box<LocalReply>>> {
        loop {
            if let Some(wait) = &mut self.wait {
                match wait {
                    Wait::Head(future) => {
                        let resume = ready!(future.as_mut().poll(cx));
                        self.wait = None;
                        self.resume_head(filters, head, env, resume)?;
                    }
                    Wait::Data(future) => {
                        let resume = ready!(future.as_mut().poll(cx));
                        self.wait = None;
                        self.resume_data(filters, head, env, resume)?;
                    }
                    Wait::Trailers(future) => {
                        let resume = ready!(future.as_mut().poll(cx));
                        self.wait = None;
                        self.resume_trailers(filters, env, resume)?;
                    }
                }
                continue;
            }
            let count = filters.len();
            if self.head_at < count && !self.is_held {
                self.step_head(filters, head, env)?;
            } else if self.head_at == count && !self.has_left {
                self.has_left = true;
                return Poll::Ready(Ok(Passed::Head { end_stream: self.head_end }));
            } else if let Some(transit) = self.data.take() {
                if transit.at >= count {
                    return Poll::Ready(Ok(Passed::Data { data: transit.data, end_stream: transit.end }));
                }
                self.step_data(filters, head, env, transit)?;
            } else if let Some(rest) = self.rest.pop() {
                self.data = Some(rest);
            } else if let Some((at, trailers)) = self.trailers.take_if(|_| !self.is_blocked) {
                if at >= count {
                    return Poll::Ready(Ok(match trailers.is_empty() {
                        // A filter has taken them all.
                        true => Passed::Data { data: Bytes::new(), end_stream: true },
                        false => Passed::Trailers(trailers),
                    }));
                }
                self.step_trailers(filters, head, env, at, trailers)?;
            } else if self.is_blocked {
                return Poll::Pending;
            } else {
                return Poll::Ready(Ok(Passed::NeedMore));
            }
        }
    }

    fn step_head(
        &mut self,
        filters: &mut Filters<'_>,
        head: &mut S::Head,
        env: &mut Env<'_>,
    ) -> Result<(), Box<LocalReply>> {
        let position = self.head_at;
        self.seen = position + 1;
        let end = self.head_end;
        let (status, effects) = self.call(filters, position, env, |filter, cx| S::on_headers(filter, head, end, cx));
        if effects.clear_route {
            S::clear_route(head, env);
        }
        if let Some(trailers) = effects.trailers {
            if end {
                self.head_end = false;
                self.trailers = Some((position + 1, trailers));
            } else {
                self.added = Some(trailers);
            }
        }
        match status {
            FilterStatus::Continue => self.pass_head(head),
            FilterStatus::StopIteration => self.is_held = true,
            FilterStatus::Reply(reply) => return Err(reply),
            FilterStatus::Wait(future) => self.wait = Some(Wait::Head(future)),
        }
        Ok(())
    }

    /// The head goes on to the next filter, with data that the filter itself has put behind it.
    fn pass_head(&mut self, head: &mut S::Head) {
        let position = self.head_at;
        self.head_at += 1;
        self.is_held = false;
        let data = self.take_held(position);
        if !data.is_empty() {
            let end = std::mem::take(&mut self.head_end) && self.trailers.is_none();
            if end {
                set_length(S::headers(head), data.len());
            }
            self.data = Some(Transit { at: position + 1, data, end });
        }
    }

    fn resume_head(
        &mut self,
        filters: &mut Filters<'_>,
        head: &mut S::Head,
        env: &mut Env<'_>,
        resume: Resume<S::Head>,
    ) -> Result<(), Box<LocalReply>> {
        match resume {
            Resume::Continue => {}
            Resume::Edit(edit) => {
                let (edited, effects) = self.call(filters, self.head_at, env, |_, cx| edit(head, cx));
                edited?;
                if effects.clear_route {
                    S::clear_route(head, env);
                }
                self.added = effects.trailers.or_else(|| self.added.take());
            }
            Resume::Reply(reply) => return Err(reply),
        }
        self.pass_head(head);
        Ok(())
    }

    fn step_data(
        &mut self,
        filters: &mut Filters<'_>,
        head: &mut S::Head,
        env: &mut Env<'_>,
        mut transit: Transit,
    ) -> Result<(), Box<LocalReply>> {
        let position = transit.at;
        let holds_head = self.is_held && position == self.head_at;
        let wants = filters.get(S::index(position, filters.len())).is_some_and(|f| S::looks_at_data(f.bodies));
        if !wants && !holds_head && self.held.get(position).is_none_or(BytesMut::is_empty) {
            transit.at += 1;
            self.data = Some(transit);
            return Ok(());
        }
        if holds_head {
            self.arrived += transit.data.len() as u64;
        }
        let end = transit.end;
        let (status, effects) =
            self.call(filters, position, env, |filter, cx| S::on_data(filter, &mut transit.data, end, cx));
        self.note_effects(head, env, effects, &mut transit);
        match status {
            DataStatus::Continue => self.pass_data(head, transit),
            DataStatus::Buffer => {
                if self.hold(position, &transit) > self.limit.unwrap_or(env.limit) {
                    return Err(Box::new(S::too_large()));
                }
            }
            DataStatus::Pause => {
                self.is_blocked |= self.hold(position, &transit) > self.limit.unwrap_or(env.limit);
            }
            DataStatus::Reply(reply) => return Err(reply),
            DataStatus::Wait(future) => {
                self.wait = Some(Wait::Data(future));
                self.data = Some(transit);
            }
        }
        Ok(())
    }

    /// What the filter that has seen this data asks for.
    fn note_effects(&mut self, head: &mut S::Head, env: &mut Env<'_>, effects: Effects, transit: &mut Transit) {
        if effects.clear_route {
            S::clear_route(head, env);
        }
        if let Some(edit) = effects.response_edit.filter(|_| self.is_held && transit.at == self.head_at) {
            S::edit(head, edit);
        }
        if let Some(trailers) = effects.trailers {
            if std::mem::take(&mut transit.end) {
                self.trailers = Some((transit.at + 1, trailers));
            } else {
                self.added = Some(trailers);
            }
        }
        if let Some(data) = effects.rest {
            self.rest.push(Transit { at: transit.at, data, end: std::mem::take(&mut transit.end) });
        }
    }

    /// Data goes on to the next filter behind what was held before it, and so does a head that was held.
    fn pass_data(&mut self, head: &mut S::Head, mut transit: Transit) {
        let position = transit.at;
        let held = self.take_held(position);
        if !held.is_empty() {
            transit.data = match transit.data.is_empty() {
                true => held,
                false => [held, transit.data].concat().into(),
            };
        }
        if self.is_held && position == self.head_at {
            self.release_head(head, transit.data.len(), transit.end);
        }
        transit.at += 1;
        if !(transit.data.is_empty() && (self.head_end || !transit.end)) {
            self.data = Some(transit);
        }
    }

    /// The head goes on with `len` octets of data behind it, which are all (`end`) or not. Its length is made to agree.
    fn release_head(&mut self, head: &mut S::Head, len: usize, end: bool) {
        self.is_held = false;
        self.head_at += 1;
        self.head_end = end && len == 0;
        let headers = S::headers(head);
        if end && (len > 0 || headers.contains(HeaderId::ContentLength)) {
            set_length(headers, len);
        } else if !end && len as u64 != self.arrived {
            headers.remove(HeaderId::ContentLength);
        }
    }

    fn resume_data(
        &mut self,
        filters: &mut Filters<'_>,
        head: &mut S::Head,
        env: &mut Env<'_>,
        resume: Resume<Bytes>,
    ) -> Result<(), Box<LocalReply>> {
        let Some(mut transit) = self.data.take() else { return Ok(()) };
        match resume {
            Resume::Continue => {}
            Resume::Edit(edit) => {
                let (edited, effects) = self.call(filters, transit.at, env, |_, cx| edit(&mut transit.data, cx));
                edited?;
                self.note_effects(head, env, effects, &mut transit);
            }
            Resume::Reply(reply) => return Err(reply),
        }
        self.pass_data(head, transit);
        Ok(())
    }

    fn step_trailers(
        &mut self,
        filters: &mut Filters<'_>,
        head: &mut S::Head,
        env: &mut Env<'_>,
        position: usize,
        mut trailers: Box<Headers>,
    ) -> Result<(), Box<LocalReply>> {
        let (status, effects) =
            self.call(filters, position, env, |filter, cx| S::on_trailers(filter, &mut trailers, cx));
        if let Some(added) = effects.trailers {
            let _ = trailers.append_all(&added);
        }
        let edit = effects.response_edit.filter(|_| self.is_held && position == self.head_at);
        match status {
            FilterStatus::Continue => {
                let data = self.take_held(position);
                if self.is_held && position == self.head_at {
                    self.release_head(head, data.len(), false);
                }
                // Behind it, so that the filter may say how long a body is that it has changed.
                if let Some(edit) = edit {
                    S::edit(head, edit);
                }
                if !data.is_empty() {
                    self.data = Some(Transit { at: position + 1, data, end: false });
                }
                self.trailers = Some((position + 1, trailers));
            }
            FilterStatus::StopIteration => {
                self.trailers = Some((position, trailers));
                self.is_blocked = true;
            }
            FilterStatus::Reply(reply) => return Err(reply),
            FilterStatus::Wait(future) => {
                self.trailers = Some((position, trailers));
                self.wait = Some(Wait::Trailers(future));
            }
        }
        Ok(())
    }

    fn resume_trailers(
        &mut self,
        filters: &mut Filters<'_>,
        env: &mut Env<'_>,
        resume: Resume<Headers>,
    ) -> Result<(), Box<LocalReply>> {
        let Some((position, mut trailers)) = self.trailers.take() else { return Ok(()) };
        match resume {
            Resume::Continue => {}
            Resume::Edit(edit) => {
                self.call(filters, position, env, |_, cx| edit(&mut trailers, cx)).0?;
            }
            Resume::Reply(reply) => return Err(reply),
        }
        let data = self.take_held(position);
        if self.is_held && position == self.head_at {
            self.is_held = false;
            self.head_at += 1;
        }
        if !data.is_empty() {
            self.data = Some(Transit { at: position + 1, data, end: false });
        }
        self.trailers = Some((position + 1, trailers));
        Ok(())
    }

    /// Calls a hook with what its filter holds.
    fn call<R: DefaultStatus>(
        &mut self,
        filters: &mut Filters<'_>,
        position: usize,
        env: &mut Env<'_>,
        hook: impl FnOnce(&mut dyn HttpFilter, &mut StreamCx<'_>) -> R,
    ) -> (R, Effects) {
        let index = S::index(position, filters.len());
        let Some(active) = filters.get_mut(index) else { return (R::default_status(), Effects::default()) };
        let mut none = BytesMut::new();
        let held = self.held.get_mut(position).unwrap_or(&mut none);
        let result = call(active.name, held, env, |cx| hook(&mut *active.filter, cx));
        // A filter has put a body where there was none.
        if !none.is_empty() {
            *self.slot(position) = none;
        }
        self.limit = result.1.buffer_limit.or(self.limit);
        result
    }

    fn slot(&mut self, position: usize) -> &mut BytesMut {
        if self.held.len() <= position {
            self.held.resize_with(position + 1, BytesMut::new);
        }
        &mut self.held[position]
    }

    /// Keeps data at its filter; says how much is kept there.
    fn hold(&mut self, position: usize, transit: &Transit) -> usize {
        let slot = self.slot(position);
        slot.extend_from_slice(&transit.data);
        let len = slot.len();
        // Nothing will come that could release it.
        self.is_blocked |= transit.end;
        len
    }

    fn take_held(&mut self, position: usize) -> Bytes {
        self.held.get_mut(position).map_or_else(Bytes::new, |held| held.split().freeze())
    }
}

/// What a hook that is not there would have said.
trait DefaultStatus {
    fn default_status() -> Self;
}

impl<H> DefaultStatus for FilterStatus<H> {
    fn default_status() -> Self {
        Self::Continue
    }
}

impl DefaultStatus for DataStatus {
    fn default_status() -> Self {
        Self::Continue
    }
}

impl DefaultStatus for Result<(), Box<LocalReply>> {
    fn default_status() -> Self {
        Ok(())
    }
}

impl DefaultStatus for () {
    fn default_status() -> Self {}
}

fn set_length(headers: &mut Headers, len: usize) {
    headers.set_sanitized(HeaderId::ContentLength, itoa::Buffer::new().format(len));
}
