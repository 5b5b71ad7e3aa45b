//! Runs the listener filters of a connection. They look at its first bytes before anybody owns it; what they do not
//! take stays for whoever does.

use super::{sockets::original_destination, stats::ListenerStats};
use crate::{
    local::Local,
    socket::{Io, Socket},
};
use socket2::SockRef;
use sota_config::listener::ListenerFilterPredicate;
use sota_plugin::{
    filter::{ListenerCx, ListenerFilter, Peek},
    info::ConnectionInfo,
};
use std::{
    future::poll_fn,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

/// Makes a filter of each connection, and says which connections skip it.
pub(super) struct ListenerFilterFactory {
    pub(super) disabled: Option<ListenerFilterPredicate>,
    pub(super) new: Rc<dyn Fn() -> Box<dyn ListenerFilter>>,
}

/// Why a connection goes no further. It has been counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused;

/// How long all filters together may take.
pub(super) struct Patience {
    pub(super) timeout: Option<Duration>,
    pub(super) continue_on_timeout: bool,
}

/// Runs every filter in order.
pub(super) async fn run(
    filters: &[ListenerFilterFactory],
    patience: &Patience,
    socket: &Socket,
    info: &mut ConnectionInfo,
    stats: &ListenerStats,
    local: &Local,
) -> Result<(), Refused> {
    let timer = local.timer();
    timer.set(patience.timeout.and_then(|timeout| Instant::now().checked_add(timeout)));
    for factory in filters {
        if factory.disabled.as_ref().is_some_and(|predicate| holds(predicate, info)) {
            continue;
        }
        let mut filter = (factory.new)();
        let mut answer = look(&mut *filter, socket, info);
        while answer == Peek::More {
            let limit = filter.max_bytes();
            let read = poll_fn(|cx| match socket.poll_fill(cx, limit) {
                Poll::Ready(read) => Poll::Ready(Some(read)),
                Poll::Pending => timer.poll_expired(cx).map(|()| None),
            });
            match read.await {
                None => {
                    stats.downstream_pre_cx_timeout.inc();
                    return if patience.continue_on_timeout { Ok(()) } else { Err(Refused) };
                }
                Some(Err(_)) => {
                    stats.downstream_listener_filter_error.inc();
                    return Err(Refused);
                }
                Some(Ok(_)) => {}
            }
            answer = look(&mut *filter, socket, info);
            if answer == Peek::More && socket.has_ended() {
                stats.downstream_listener_filter_remote_close.inc();
                return Err(Refused);
            }
            if answer == Peek::More && socket.buffered() >= limit {
                // It has seen all that it ever wanted to: what it could not decide is left to whoever comes next.
                break;
            }
        }
        match answer {
            Peek::Continue | Peek::More => {}
            Peek::Consume(n) => socket.with_input(|bytes| (n.min(bytes.len()), ())),
            Peek::Close => {
                stats.downstream_listener_filter_error.inc();
                return Err(Refused);
            }
        }
    }
    Ok(())
}

/// Shows a filter what has arrived.
fn look(filter: &mut dyn ListenerFilter, socket: &Socket, info: &mut ConnectionInfo) -> Peek {
    let local = info.direct_local().ip();
    let original_destination = || {
        let local = local?;
        socket.with_io(|io| match io {
            Io::Tcp(stream) => original_destination(&SockRef::from(stream), local),
            _ => None,
        })
    };
    let ended = socket.has_ended();
    socket.with_input(|bytes| {
        let mut cx = ListenerCx { info, original_destination: &original_destination };
        (0, filter.on_peek(bytes, ended, &mut cx))
    })
}

/// Whether a predicate holds for a connection.
fn holds(predicate: &ListenerFilterPredicate, info: &ConnectionInfo) -> bool {
    match predicate {
        ListenerFilterPredicate::Or(parts) => parts.iter().any(|part| holds(part, info)),
        ListenerFilterPredicate::And(parts) => parts.iter().all(|part| holds(part, info)),
        ListenerFilterPredicate::Not(part) => !holds(part, info),
        ListenerFilterPredicate::Any => true,
        ListenerFilterPredicate::DestinationPort(range) => {
            info.local.port().is_some_and(|port| range.contains(&u32::from(port)))
        }
    }
}
