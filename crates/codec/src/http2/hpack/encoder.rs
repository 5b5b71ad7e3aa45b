//! Encoding of field blocks (RFC 7541 §6), and the policy of what goes into the table.

use super::{Name, decoder::DEFAULT_TABLE_SIZE, huffman, integer, static_table, table::Table};
use sota_plugin::http::HeaderId;

/// The encoder of one direction of a connection.
///
/// A field enters the table when it is sent the second time, so that values which never come again (request ids,
/// paths with a query) push nothing out; a name that has no index enters with its second value. Secrets never enter,
/// and say so to proxies behind us (RFC 7541 §7.1.3).
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// The most that we want to use, whatever the peer allows.
    own_limit: usize,
    /// Smallest size since the last block, and that the next block must tell (RFC 7541 §4.2).
    pending_update: Option<usize>,
    /// What was sent lately, by hash: fields in the first half, names in the second. Forgetful: a collision
    /// overwrites. Empty until the first field that is worth remembering.
    recent: Vec<Recent>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    hash: u32,
    /// `Table::inserted` behind the insertion; 0 when it was only seen.
    inserted: u32,
}

/// How a field is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexing {
    /// May enter the table.
    Allowed,
    /// Changes with every message.
    Without,
    /// Secret: no proxy may index it.
    Never,
}

const SLOTS: usize = 64;

impl Encoder {
    /// An encoder that uses at most `own_limit` octets of table.
    pub fn new(own_limit: usize) -> Self {
        let mut encoder =
            Self { table: Table::new(DEFAULT_TABLE_SIZE), own_limit, pending_update: None, recent: Vec::new() };
        if own_limit < DEFAULT_TABLE_SIZE {
            encoder.set_peer_limit(DEFAULT_TABLE_SIZE);
        }
        encoder
    }

    /// The peer's `SETTINGS_HEADER_TABLE_SIZE`.
    pub fn set_peer_limit(&mut self, limit: usize) {
        let size = limit.min(self.own_limit);
        if size == self.table.max_size() {
            return;
        }
        let lowest = self.pending_update.unwrap_or(usize::MAX).min(size).min(self.table.max_size());
        self.table.set_max_size(size);
        self.pending_update = Some(lowest);
    }

    /// Octets of memory that the table owns.
    pub fn memory(&self) -> usize {
        self.table.memory() + self.recent.capacity() * size_of::<Recent>()
    }

    /// Begins a block: tells a changed table size.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        let Some(lowest) = self.pending_update.take() else { return };
        let size = self.table.max_size();
        if lowest < size {
            integer::encode(lowest, 0x20, 5, out);
        }
        integer::encode(size, 0x20, 5, out);
    }

    /// Appends a field. Names must be valid and in lower case.
    pub fn field(&mut self, name: Name<'_>, value: &[u8], out: &mut Vec<u8>) {
        let index = static_table::field_index(name, value);
        if index > 0 {
            return integer::encode(index, 0x80, 7, out);
        }
        match policy(name) {
            Indexing::Allowed => self.indexed(name, value, out),
            Indexing::Without => literal(self.name_index(name), 0x00, 4, name, value, out),
            Indexing::Never => literal(self.name_index(name), 0x10, 4, name, value, out),
        }
    }

    fn indexed(&mut self, name: Name<'_>, value: &[u8], out: &mut Vec<u8>) {
        let name_hash = hash(SEED, name.as_bytes());
        let field_hash = hash(name_hash, value);
        let field = self.recent(field_hash, 0);
        let seen = field.hash == field_hash;
        if seen
            && let Some(age) = self.age(field)
            && self.table.get(age) == Some((name, value))
        {
            return integer::encode(static_table::LEN + 1 + age, 0x80, 7, out);
        }
        let mut index = static_table::name_index(name);
        let mut worth = seen;
        if index == 0 {
            let slot = self.recent(name_hash, SLOTS);
            let by_name = self.age(slot).filter(|age| self.table.get(*age).is_some_and(|entry| entry.0 == name));
            index = by_name.map_or(0, |age| static_table::LEN + 1 + age);
            worth |= slot.hash == name_hash && by_name.is_none();
        }
        // An entry that fills the table would push out all others.
        let fits = name.as_bytes().len() + value.len() + 32 <= self.table.max_size() / 4;
        let mut inserted = 0;
        if worth && fits {
            literal(index, 0x40, 6, name, value, out);
            self.table.insert(name, value);
            inserted = self.table.inserted();
        } else {
            literal(index, 0x00, 4, name, value, out);
        }
        self.remember(field_hash, 0, inserted);
        if inserted > 0 || index == 0 {
            self.remember(name_hash, SLOTS, inserted);
        }
    }

    /// Index of an entry with this name, 0 when there is none.
    fn name_index(&self, name: Name<'_>) -> usize {
        let index = static_table::name_index(name);
        if index > 0 {
            return index;
        }
        let slot = self.recent(hash(SEED, name.as_bytes()), SLOTS);
        match self.age(slot) {
            Some(age) if self.table.get(age).is_some_and(|entry| entry.0 == name) => static_table::LEN + 1 + age,
            _ => 0,
        }
    }

    fn recent(&self, hash: u32, half: usize) -> Recent {
        self.recent.get(half + hash as usize % SLOTS).copied().unwrap_or_default()
    }

    /// How many insertions ago an entry came, if it is still there.
    fn age(&self, recent: Recent) -> Option<usize> {
        let age = self.table.inserted().wrapping_sub(recent.inserted) as usize;
        (recent.inserted != 0 && age < self.table.len()).then_some(age)
    }

    fn remember(&mut self, hash: u32, half: usize, inserted: u32) {
        if self.recent.is_empty() {
            self.recent = vec![Recent::default(); 2 * SLOTS];
        }
        if let Some(slot) = self.recent.get_mut(half + hash as usize % SLOTS) {
            *slot = Recent { hash, inserted };
        }
    }
}

/// How a field of this name is treated.
fn policy(name: Name<'_>) -> Indexing {
    use HeaderId as H;
    let Name::Known(id) = name else { return Indexing::Allowed };
    match id {
        H::Authorization | H::ProxyAuthorization | H::Cookie | H::SetCookie | H::XForwardedClientCert => {
            Indexing::Never
        }
        H::Age
        | H::B3
        | H::ContentLength
        | H::ContentRange
        | H::Etag
        | H::IfModifiedSince
        | H::IfNoneMatch
        | H::LastModified
        | H::Location
        | H::Range
        | H::Traceparent
        | H::Tracestate
        | H::XB3Parentspanid
        | H::XB3Spanid
        | H::XB3Traceid
        | H::XClientTraceId
        | H::XEnvoyUpstreamServiceTime
        | H::XForwardedFor
        | H::XOtSpanContext
        | H::XRequestId => Indexing::Without,
        _ => Indexing::Allowed,
    }
}

fn literal(index: usize, pattern: u8, bits: u32, name: Name<'_>, value: &[u8], out: &mut Vec<u8>) {
    integer::encode(index, pattern, bits, out);
    if index == 0 {
        string(name.as_bytes(), out);
    }
    string(value, out);
}

fn string(text: &[u8], out: &mut Vec<u8>) {
    let len = huffman::encoded_len(text);
    if len < text.len() {
        integer::encode(len, 0x80, 7, out);
        out.reserve(len + 4);
        huffman::encode(text, out);
    } else {
        integer::encode(text.len(), 0, 7, out);
        out.extend_from_slice(text);
    }
}

const SEED: u32 = 0x9e37_79b9;

/// A quick hash: a collision costs a little compression and nothing else, since entries are compared.
fn hash(seed: u32, text: &[u8]) -> u32 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = text.as_chunks::<8>();
    let mut hash = u64::from(seed) ^ text.len() as u64;
    for word in words {
        hash = (hash.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(K);
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    hash = (hash.rotate_left(23) ^ u64::from_le_bytes(last)).wrapping_mul(K);
    (hash >> 32) as u32
}
