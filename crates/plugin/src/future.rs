//! Two things at a time in one task, for sequential code that has no runtime of its own at hand.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

/// Which of two was ready first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First<A, B> {
    /// The one that was named first.
    One(A),
    /// The other.
    Other(B),
}

/// Waits for the first of two and drops the other. Where both are ready it is the one that is named first.
pub async fn race<A: Future, B: Future>(one: A, other: B) -> First<A::Output, B::Output> {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|cx| {
        if let Poll::Ready(output) = one.as_mut().poll(cx) {
            return Poll::Ready(First::One(output));
        }
        other.as_mut().poll(cx).map(First::Other)
    })
    .await
}

/// Runs two until both are done, or one fails; the first failure drops the other.
pub async fn both<E>(
    one: impl Future<Output = Result<(), E>>,
    other: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut one_done, mut other_done) = (false, false);
    poll_fn(|cx| {
        if !one_done && let Poll::Ready(result) = one.as_mut().poll(cx) {
            result?;
            one_done = true;
        }
        if !other_done && let Poll::Ready(result) = other.as_mut().poll(cx) {
            result?;
            other_done = true;
        }
        if one_done && other_done { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::{pending, ready},
        task::{Context, Waker},
    };

    fn now<F: Future>(future: F) -> Poll<F::Output> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_first_wins_and_a_failure_ends_both() {
        assert_eq!(now(race(ready(1), ready("x"))), Poll::Ready(First::One(1)));
        assert_eq!(now(race(pending::<u8>(), ready("x"))), Poll::Ready(First::Other("x")));
        assert_eq!(now(both(ready(Ok::<_, u8>(())), ready(Ok(())))), Poll::Ready(Ok(())));
        assert_eq!(now(both(pending(), ready(Err(7)))), Poll::Ready(Err(7)));
        assert!(now(both(pending::<Result<(), u8>>(), ready(Ok(())))).is_pending());
    }
}
