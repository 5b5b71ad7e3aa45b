//! The dynamic table (RFC 7541 §2.3.2, §4), for both directions.

use super::{Name, Pseudo};
use sota_plugin::http::HeaderId;
use std::collections::VecDeque;

/// What each entry costs beside its octets (RFC 7541 §4.1).
const OVERHEAD: usize = 32;

/// Entries in the order of their arrival. Their octets stand one behind the other in a buffer whose front is cut
/// off now and then, so that an entry costs no allocation of its own.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
    text: Vec<u8>,
    /// Octets at the front of `text` that belong to evicted entries.
    dead: usize,
    /// Size by the RFC's count.
    size: usize,
    max_size: usize,
    /// Entries ever inserted, modulo 2^32.
    inserted: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: Kind,
    name_len: u32,
    value_len: u32,
    /// Where the name starts, counted from where `text` starts plus what was ever cut off, modulo 2^32.
    start: u32,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Known(HeaderId),
    Pseudo(Pseudo),
    Other,
    Invalid,
}

impl Table {
    pub(super) fn new(max_size: usize) -> Self {
        Self { max_size, ..Self::default() }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn max_size(&self) -> usize {
        self.max_size
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many entries were ever inserted, modulo 2^32.
    pub(super) fn inserted(&self) -> u32 {
        self.inserted
    }

    /// Changes the limit, which evicts what no longer fits.
    pub(super) fn set_max_size(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict(0);
    }

    /// The entry `age` insertions before the newest.
    #[inline]
    pub(super) fn get(&self, age: usize) -> Option<(Name<'_>, &[u8])> {
        let entry = self.entries.get(self.entries.len().checked_sub(age + 1)?)?;
        let base = self.entries.front()?.start;
        let start = self.dead + entry.start.wrapping_sub(base) as usize;
        let middle = start + entry.name_len as usize;
        let name = self.text.get(start..middle)?;
        let value = self.text.get(middle..middle + entry.value_len as usize)?;
        let name = match entry.kind {
            Kind::Known(id) => Name::Known(id),
            Kind::Pseudo(pseudo) => Name::Pseudo(pseudo),
            Kind::Other => Name::Other(name),
            Kind::Invalid => Name::Invalid(name),
        };
        Some((name, value))
    }

    /// Adds an entry; one that is larger than the table empties it (RFC 7541 §4.4). Says whether it is there now.
    pub(super) fn insert(&mut self, name: Name<'_>, value: &[u8]) -> bool {
        let text = name.as_bytes();
        let size = text.len() + value.len() + OVERHEAD;
        self.evict(size);
        if size > self.max_size {
            return false;
        }
        let (Ok(name_len), Ok(value_len)) = (u32::try_from(text.len()), u32::try_from(value.len())) else {
            return false;
        };
        let start =
            self.entries.back().map_or(0, |last| last.start.wrapping_add(last.name_len).wrapping_add(last.value_len));
        let kind = match name {
            Name::Known(id) => Kind::Known(id),
            Name::Pseudo(pseudo) => Kind::Pseudo(pseudo),
            Name::Other(_) => Kind::Other,
            Name::Invalid(_) => Kind::Invalid,
        };
        self.text.extend_from_slice(text);
        self.text.extend_from_slice(value);
        self.entries.push_back(Entry { kind, name_len, value_len, start });
        self.size += size;
        self.inserted = self.inserted.wrapping_add(1);
        true
    }

    /// Evicts until `needed` more fits, or nothing is left.
    fn evict(&mut self, needed: usize) {
        while self.size + needed > self.max_size {
            let Some(entry) = self.entries.pop_front() else { break };
            let octets = entry.name_len as usize + entry.value_len as usize;
            self.dead += octets;
            self.size -= octets + OVERHEAD;
        }
        if self.entries.is_empty() {
            self.text.clear();
            self.dead = 0;
        } else if self.dead > self.text.len() / 2 {
            // At least as much died as moves, so moving costs no more than inserting did.
            self.text.drain(..self.dead);
            self.dead = 0;
        }
    }

    /// Octets of memory that the table owns.
    pub(super) fn memory(&self) -> usize {
        self.text.capacity() + self.entries.capacity() * size_of::<Entry>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(table: &Table) -> Vec<(String, String)> {
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
        (0..table.len())
            .map(|age| table.get(age).map(|(name, value)| (text(name.as_bytes()), text(value))).unwrap())
            .collect()
    }

    #[test]
    fn newest_first_and_oldest_out() {
        let mut table = Table::new(3 * 40);
        for n in 0..100 {
            assert!(table.insert(Name::classify(b"name"), format!("{n:04}").as_bytes()));
        }
        assert_eq!(
            texts(&table),
            [("name", "0099"), ("name", "0098"), ("name", "0097")].map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
        assert_eq!((table.size(), table.inserted()), (120, 100));
        assert!(table.memory() < 400, "{}", table.memory());
        assert!(table.get(3).is_none());
        table.set_max_size(79);
        assert_eq!(texts(&table).len(), 1);
        assert!(!table.insert(Name::classify(b"name"), &[b'x'; 44]));
        assert_eq!((table.len(), table.size()), (0, 0));
        table.set_max_size(0);
        assert!(!table.insert(Name::classify(b""), b""));
    }
}
