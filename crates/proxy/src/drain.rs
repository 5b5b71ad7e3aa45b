//! Telling connections to finish.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// Says to everything that watches it that it shall finish what runs and end. One for each generation of a filter chain
/// and worker.
#[derive(Clone, Default)]
pub struct DrainSignal(Rc<Inner>);

#[derive(Default)]
struct Inner {
    draining: Cell<bool>,
    watchers: RefCell<Slots>,
}

/// Wakers in numbered places, freed places are used again.
#[derive(Default)]
struct Slots {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl DrainSignal {
    /// Begins draining; there is no way back.
    pub fn begin(&self) {
        self.0.draining.set(true);
        let wakers: Vec<_> = self.0.watchers.borrow_mut().wakers.iter_mut().filter_map(Option::take).collect();
        for waker in wakers {
            waker.wake();
        }
    }

    /// Whether it has begun.
    pub fn is_draining(&self) -> bool {
        self.0.draining.get()
    }

    /// A watcher for one task.
    pub fn watch(&self) -> DrainWatch {
        let mut slots = self.0.watchers.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.wakers.push(None);
            slots.wakers.len() - 1
        });
        DrainWatch { signal: self.clone(), slot }
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        let slots = self.0.watchers.borrow();
        slots.wakers.len() - slots.free.len()
    }
}

/// One task's view of a [`DrainSignal`].
pub struct DrainWatch {
    signal: DrainSignal,
    slot: usize,
}

impl DrainWatch {
    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.signal.is_draining()
    }

    /// A watcher for another task.
    pub fn another(&self) -> Self {
        self.signal.watch()
    }

    /// Ready once draining has begun.
    pub fn poll_draining(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_draining() {
            return Poll::Ready(());
        }
        if let Some(waker) = self.signal.0.watchers.borrow_mut().wakers.get_mut(self.slot) {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }
}

impl Drop for DrainWatch {
    fn drop(&mut self) {
        let mut slots = self.signal.0.watchers.borrow_mut();
        if let Some(waker) = slots.wakers.get_mut(self.slot) {
            *waker = None;
        }
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_are_woken_and_places_used_again() {
        let signal = DrainSignal::default();
        let cx = &mut Context::from_waker(Waker::noop());
        drop(signal.watch());
        let watch = signal.watch();
        assert!(watch.poll_draining(cx).is_pending());
        assert_eq!((signal.watchers(), signal.0.watchers.borrow().wakers.len()), (1, 1));
        signal.begin();
        assert!(watch.is_draining() && watch.poll_draining(cx).is_ready());
        drop(watch);
        assert_eq!(signal.watchers(), 0);
    }
}
