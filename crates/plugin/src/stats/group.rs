//! Handles: single stats and families with fixed names.

use super::{cell::Cell, registry::ScopeCore};
use std::{any::Any, fmt, mem, ops::Deref, ptr, sync::Arc};

/// A family of stats with fixed names; made by [`stat_group!`](crate::stat_group).
pub trait StatGroup: Default + Send + Sync + 'static {
    /// Their names, in the order of [`Self::CELLS`].
    const NAMES: &'static [&'static str];
    /// How to get at each of them.
    const CELLS: &'static [fn(&Self) -> &dyn Cell];
}

/// One stat: a pointer. Dereferences to its cell, which has the methods.
pub struct Handle<V: Cell + Default + 'static>(pub(super) Arc<Member<One<V>>>);

impl<V: Cell + Default> Deref for Handle<V> {
    type Target = V;

    #[inline]
    fn deref(&self) -> &V {
        &self.0.values.0
    }
}

impl<V: Cell + Default> Clone for Handle<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V: Cell + Default> fmt::Debug for Handle<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

/// A family of stats: a pointer. Dereferences to the struct.
pub struct Group<T: StatGroup>(pub(super) Arc<Member<Many<T>>>);

impl<T: StatGroup> Deref for Group<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.values.0
    }
}

impl<T: StatGroup> Clone for Group<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: StatGroup> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = T::NAMES.iter().zip(T::CELLS).map(|(name, cell)| (name, cell(self).read()));
        f.debug_map().entries(values).finish()
    }
}

/// What a handle points to. It keeps the scope, so that the stat is printed. When the last handle goes, its values move into the
/// scope, where they stay for as long as somebody else has the scope.
pub(super) struct Member<W: Values> {
    scope: Arc<ScopeCore>,
    values: W,
}

impl<W: Values> Member<W> {
    pub(super) fn new(scope: Arc<ScopeCore>, values: W) -> Self {
        Self { scope, values }
    }
}

impl<W: Values> Drop for Member<W> {
    fn drop(&mut self) {
        // Nobody else: the scope goes as well, with everything in it.
        if Arc::strong_count(&self.scope) > 1 {
            let values = Box::new(mem::take(&mut self.values));
            self.scope.keep(ptr::from_ref(self).cast(), values);
        }
    }
}

/// The values of a handle without their type.
pub(super) trait AnyValues: Any + Send + Sync {
    /// The cell at this position; a single stat has position 0.
    fn cell(&self, index: usize) -> Option<&dyn Cell>;
}

/// A [`Member`] without its type.
pub(super) trait AnyMember: Any + Send + Sync {
    fn values(&self) -> &dyn AnyValues;
}

impl<W: Values> AnyMember for Member<W> {
    fn values(&self) -> &dyn AnyValues {
        &self.values
    }
}

/// What a [`Member`] can hold: [`One`] cell or [`Many`] in a struct.
pub(super) trait Values: AnyValues + Default {}

#[derive(Default)]
pub(super) struct One<V>(pub(super) V);

impl<V: Cell + Default + 'static> Values for One<V> {}

impl<V: Cell + 'static> AnyValues for One<V> {
    fn cell(&self, index: usize) -> Option<&dyn Cell> {
        (index == 0).then_some(&self.0)
    }
}

#[derive(Default)]
pub(super) struct Many<T>(T);

impl<T: StatGroup> Values for Many<T> {}

impl<T: StatGroup> AnyValues for Many<T> {
    fn cell(&self, index: usize) -> Option<&dyn Cell> {
        T::CELLS.get(index).map(|cell| cell(&self.0))
    }
}

/// Declares a family of stats with fixed names, a [`StatGroup`]: a struct whose fields are cells.
///
/// The kinds are `counter`, `gauge`, `shared_counter`, `shared_gauge`, `text_readout` and `histogram(UNIT)` with a
/// [`Unit`](crate::stats::Unit). A stat is called as its field, or as `field = "other.name"` says.
///
/// ```
/// sota_plugin::stat_group! {
///     /// What a breaker counts.
///     pub struct BreakerStats {
///         /// Whether it is open.
///         rq_open: gauge,
///         /// Requests refused.
///         refused = "upstream_rq_pending_overflow": counter,
///     }
/// }
/// ```
#[macro_export]
macro_rules! stat_group {
    ($(#[$meta:meta])* $vis:vis struct $group:ident {
        $($(#[$doc:meta])* $field:ident $(= $name:literal)? : $kind:ident $(($unit:ident))?),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug)]
        $vis struct $group {
            $($(#[$doc])* pub $field: $crate::stat_group!(@type $kind),)*
        }

        impl ::core::default::Default for $group {
            fn default() -> Self {
                Self { $($field: $crate::stat_group!(@new $kind $($unit)?),)* }
            }
        }

        impl $crate::stats::StatGroup for $group {
            const NAMES: &'static [&'static str] = &[$($crate::stat_group!(@name $field $($name)?)),*];
            const CELLS: &'static [fn(&Self) -> &dyn $crate::stats::Cell] = &[$(|group| &group.$field),*];
        }
    };
    (@type counter) => { $crate::stats::CounterCell };
    (@type gauge) => { $crate::stats::GaugeCell };
    (@type shared_counter) => { $crate::stats::SharedCounterCell };
    (@type shared_gauge) => { $crate::stats::SharedGaugeCell };
    (@type text_readout) => { $crate::stats::TextCell };
    (@type histogram) => { $crate::stats::HistogramCell };
    (@new histogram $unit:ident) => { $crate::stats::HistogramCell::new($crate::stats::Unit::$unit) };
    (@new $kind:ident) => { ::core::default::Default::default() };
    (@name $field:ident) => { ::core::stringify!($field) };
    (@name $field:ident $name:literal) => { $name };
}
