//! Where all stats of a process are found: prefixes, and per prefix what was asked for.

use super::{
    cell::{Cell, CounterCell, Kind, Reading},
    group::{AnyMember, AnyValues, Many, Member, One, StatGroup, Values},
    scope::{OVERFLOW, Scope},
};
use hashbrown::{HashMap, HashSet};
use std::{
    any::{Any, TypeId},
    borrow::Cow,
    fmt, mem, ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
};

/// All stats of a process. A cheap handle to one table.
#[derive(Clone, Default)]
pub struct Registry(Arc<Table>);

#[derive(Default)]
struct Table {
    scopes: Mutex<HashMap<Arc<str>, Weak<ScopeCore>, foldhash::fast::RandomState>>,
    shards: AtomicU16,
}

impl Registry {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The root scope of a new shard: one for each thread that counts.
    pub fn shard(&self) -> Scope {
        let shard = self.0.shards.fetch_add(1, Relaxed) % SHARED;
        Scope::new(self.scope_core(""), shard)
    }

    /// All prefixes that are in use now, ascending. A view keeps its stats alive, so views are for the time of an answer.
    pub fn scopes(&self) -> Vec<ScopeView> {
        let mut views: Vec<_> = lock(&self.0.scopes).values().filter_map(Weak::upgrade).map(ScopeView).collect();
        views.sort_unstable_by(|a, b| a.prefix().cmp(b.prefix()));
        views
    }

    /// From now on counters are shown as if they had been 0 at this moment. Histograms and gauges stay, as with Envoy's
    /// `/reset_counters`.
    pub fn reset_counters(&self) {
        for scope in self.scopes() {
            scope.reset_counters();
        }
    }

    pub(super) fn scope_core(&self, prefix: &str) -> Arc<ScopeCore> {
        let mut scopes = lock(&self.0.scopes);
        if let Some(core) = scopes.get(prefix).and_then(Weak::upgrade) {
            return core;
        }
        let prefix: Arc<str> = prefix.into();
        let core = ScopeCore { prefix: prefix.clone(), registry: self.clone(), content: Mutex::default() };
        let core = Arc::new(core);
        // The key is replaced as well: the old one may be the last thing that keeps a prefix of a dying scope.
        scopes.remove(&prefix);
        scopes.insert(prefix, Arc::downgrade(&core));
        core
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("shards", &self.0.shards).finish_non_exhaustive()
    }
}

/// A prefix with its stats, of all shards.
pub(super) struct ScopeCore {
    prefix: Arc<str>,
    registry: Registry,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    /// Entries are added and never taken out, so positions are stable; a linear search is enough for what one prefix has.
    entries: Vec<Entry>,
    /// Prefixes of children that were made through a capped scope.
    capped_children: HashSet<Box<str>, foldhash::fast::RandomState>,
}

struct Entry {
    key: Key,
    shard: u16,
    /// Which kinds of stats there are, a bit for each [`Kind`]: most questions are about few of them.
    kinds: u8,
    state: State,
    /// What counters had when they were last reset, by position; empty if they never were.
    base: Box<[u64]>,
}

enum State {
    /// A handle has the values.
    Held(Weak<dyn AnyMember>),
    /// No handle is left, the scope is.
    Kept(Box<dyn AnyValues>),
}

/// What an entry is: a single stat with its name, or a group with its names.
#[derive(PartialEq)]
pub(super) enum Key {
    Single(TypeId, Cow<'static, str>),
    Group(TypeId, &'static [&'static str]),
}

impl Key {
    pub(super) fn single<V: Cell + 'static>(name: Cow<'static, str>) -> Self {
        Self::Single(TypeId::of::<One<V>>(), name)
    }

    pub(super) fn group<T: StatGroup>() -> Self {
        Self::Group(TypeId::of::<Many<T>>(), T::NAMES)
    }

    fn name(&self, index: usize) -> Option<&str> {
        match self {
            Self::Single(_, name) => (index == 0).then_some(name),
            Self::Group(_, names) => names.get(index).copied(),
        }
    }
}

impl ScopeCore {
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The values of this key and shard: those that a handle has, those that a handle had, or new ones.
    pub(super) fn member<W: Values>(
        self: &Arc<Self>,
        key: Key,
        shard: u16,
        cap: Option<u32>,
        new: impl FnOnce() -> W,
    ) -> Arc<Member<W>> {
        let mut content = lock(&self.content);
        let key = match cap {
            Some(cap) => content.admit(key, cap),
            None => key,
        };
        for entry in content.entries.iter_mut().filter(|entry| entry.shard == shard && entry.key == key) {
            match &entry.state {
                State::Held(member) => {
                    if let Some(member) = member.upgrade().and_then(downcast_arc) {
                        return member;
                    }
                    // Its last handle is being dropped right now, on another thread; that one keeps the values in an entry of its own.
                }
                State::Kept(_) => {
                    let nobody = State::Held(Weak::<Member<One<CounterCell>>>::new());
                    let State::Kept(values) = mem::replace(&mut entry.state, nobody) else { continue };
                    let member = Arc::new(Member::new(self.clone(), downcast_box(values).unwrap_or_default()));
                    entry.state = State::Held(weak(&member));
                    return member;
                }
            }
        }
        let member = Arc::new(Member::new(self.clone(), new()));
        let kinds =
            (0..).map_while(|index| member.values().cell(index)).fold(0, |kinds, cell| kinds | bit(cell.kind()));
        if content.entries.is_empty() {
            // Many scopes have one family and nothing else.
            content.entries.reserve_exact(1);
        }
        content.entries.push(Entry { key, shard, kinds, state: State::Held(weak(&member)), base: Box::default() });
        member
    }

    /// Takes the values of a member whose last handle goes.
    pub(super) fn keep(&self, member: *const (), values: Box<dyn AnyValues>) {
        let mut content = lock(&self.content);
        let entry = content.entries.iter_mut().find(|entry| match &entry.state {
            State::Held(held) => ptr::addr_eq(held.as_ptr(), member),
            State::Kept(_) => false,
        });
        if let Some(entry) = entry {
            entry.state = State::Kept(values);
        }
    }

    /// Whether a capped scope may have a child of this prefix.
    pub(super) fn admit_child(&self, prefix: &str, cap: u32) -> bool {
        let mut content = lock(&self.content);
        if content.capped_children.contains(prefix) {
            return true;
        }
        let admitted = content.capped_children.len() < cap as usize;
        if admitted {
            content.capped_children.insert(prefix.into());
        }
        admitted
    }
}

impl Drop for ScopeCore {
    fn drop(&mut self) {
        let mut scopes = lock(&self.registry.0.scopes);
        // Somebody may have made the prefix anew in the meantime.
        if scopes.get(&self.prefix).is_some_and(|scope| scope.strong_count() == 0) {
            scopes.remove(&self.prefix);
        }
    }
}

impl Content {
    fn admit(&self, key: Key, cap: u32) -> Key {
        let Key::Single(kind, name) = &key else { return key };
        let mut names: HashSet<&str, foldhash::fast::RandomState> = HashSet::default();
        for entry in &self.entries {
            if let Key::Single(_, known) = &entry.key {
                if known == name {
                    return key;
                }
                if known != OVERFLOW {
                    names.insert(known);
                }
            }
        }
        if names.len() < cap as usize { key } else { Key::Single(*kind, Cow::Borrowed(OVERFLOW)) }
    }
}

/// A prefix and its stats, to read them.
pub struct ScopeView(Arc<ScopeCore>);

/// Where a stat is in its scope: stable while a view of the scope exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatId {
    entry: u32,
    index: u32,
}

impl ScopeView {
    /// The prefix of all names in here.
    pub fn prefix(&self) -> &str {
        self.0.prefix()
    }

    /// Calls back with the name (without the prefix) and value of every stat of these kinds, of every shard; names come more than
    /// once. A short lock is held meanwhile: the callback must neither make handles nor drop them.
    pub fn visit(&self, kinds: &[Kind], mut each: impl FnMut(StatId, &str, Reading<'_>)) {
        let wanted = kinds.iter().fold(0, |bits, kind| bits | bit(*kind));
        // Dropped after the lock: the last handle of a stat may be among them, and it locks the scope when it goes.
        let mut alive = Vec::new();
        let content = lock(&self.0.content);
        for (n, entry) in content.entries.iter().enumerate().filter(|(_, entry)| entry.kinds & wanted != 0) {
            entry.with_values(&mut alive, |values| {
                let mut index = 0;
                while let (Some(name), Some(cell)) = (entry.key.name(index), values.cell(index)) {
                    if bit(cell.kind()) & wanted != 0 {
                        let id = StatId { entry: n as u32, index: index as u32 };
                        each(id, name, entry.since_reset(index, cell.read()));
                    }
                    index += 1;
                }
            });
        }
        drop(content);
    }

    /// The name and value of one stat, as in [`Self::visit`].
    pub fn get<R>(&self, id: StatId, then: impl FnOnce(&str, Reading<'_>) -> R) -> Option<R> {
        let mut alive = Vec::new();
        let content = lock(&self.0.content);
        let entry = content.entries.get(id.entry as usize)?;
        let index = id.index as usize;
        let mut result = None;
        entry.with_values(&mut alive, |values| {
            if let (Some(name), Some(cell)) = (entry.key.name(index), values.cell(index)) {
                result = Some(then(name, entry.since_reset(index, cell.read())));
            }
        });
        drop(content);
        result
    }

    fn reset_counters(&self) {
        let mut alive = Vec::new();
        let mut content = lock(&self.0.content);
        for entry in content.entries.iter_mut().filter(|entry| entry.kinds & bit(Kind::Counter) != 0) {
            let mut base = Vec::new();
            entry.with_values(&mut alive, |values| {
                base.extend((0..).map_while(|index| values.cell(index)).map(|cell| match cell.read() {
                    Reading::Counter { value, .. } => value,
                    _ => 0,
                }));
            });
            if base.iter().any(|&value| value != 0) {
                entry.base = base.into();
            }
        }
        drop(content);
    }
}

impl Entry {
    fn with_values(&self, alive: &mut Vec<Arc<dyn AnyMember>>, then: impl FnOnce(&dyn AnyValues)) {
        match &self.state {
            State::Held(member) => {
                let Some(member) = member.upgrade() else { return };
                then(member.values());
                alive.push(member);
            }
            State::Kept(values) => then(&**values),
        }
    }

    fn since_reset<'a>(&self, index: usize, reading: Reading<'a>) -> Reading<'a> {
        match (reading, self.base.get(index)) {
            (Reading::Counter { value, used }, Some(base)) => {
                Reading::Counter { value: value.saturating_sub(*base), used }
            }
            (reading, _) => reading,
        }
    }
}

fn weak<W: Values>(member: &Arc<Member<W>>) -> Weak<dyn AnyMember> {
    let weak: Weak<Member<W>> = Arc::downgrade(member);
    weak
}

fn downcast_arc<W: Values>(member: Arc<dyn AnyMember>) -> Option<Arc<Member<W>>> {
    let member: Arc<dyn Any + Send + Sync> = member;
    member.downcast().ok()
}

fn downcast_box<W: Values>(values: Box<dyn AnyValues>) -> Option<W> {
    let values: Box<dyn Any> = values;
    values.downcast().ok().map(|values| *values)
}

/// A thread that panicked with the lock left a list that is still whole: every change is one push or one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bit(kind: Kind) -> u8 {
    1 << kind as u8
}

/// The shard of cells that all threads write.
pub(super) const SHARED: u16 = u16::MAX;
