//! The list of fields of a head or of trailers.
//!
//! All bytes stand in one buffer that the list owns. A parser copies the field section of a head there once and
//! then pushes spans of it; what the proxy adds is written behind, as whole lines. The buffer is reused with the
//! list, so there is neither a reference count nor an allocation per field, and fields that nobody touched leave
//! as they came, many lines in one copy.

use super::{AsHeaderName, HeaderId, NameRef, is_token};
use std::{borrow::Cow, fmt};

#[cfg(test)]
mod tests;

/// An ordered list of fields. Order, duplicates and the case of received names are kept; names compare without case.
///
/// Look-up by [`HeaderId`] (or by a name that has one) takes constant time, by other names it is a scan. Sizes are
/// accounted as fields come and go, so [`Self::byte_size`] and [`Self::len`] take constant time.
#[derive(Clone)]
pub struct Headers {
    buf: Vec<u8>,
    entries: Vec<Entry>,
    /// For each id: 0 when absent, else the index of its first entry plus one, `SEARCH` when that does not fit.
    first: [u8; HeaderId::COUNT],
    /// Ids that have (or had) more than one entry.
    repeated: u128,
    live: usize,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    name: u32,
    value: u32,
    value_len: u32,
    name_len: u16,
    /// A [`HeaderId`] or `OTHER`.
    id: u8,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Removed: a hole that iteration skips.
    Hole,
    /// Name and value stand somewhere in the buffer.
    Parts,
    /// The buffer holds exactly `name: value\r\n`.
    Line,
}

const OTHER: u8 = u8::MAX;
/// The first entry of this id has an index of at least `SEARCH - 1`.
const SEARCH: u8 = u8::MAX;
/// Larger memory is given back by [`Headers::recycle`].
const LARGE_BUF: usize = 16 * 1024;
const LARGE_ENTRIES: usize = 256;
/// Room for these is made at once: most heads have fewer.
const USUAL_ENTRIES: usize = 20;

/// Why a field was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidField {
    /// The name is no token (RFC 9110 §5.6.2).
    #[error("not a valid field name")]
    Name,
    /// The value has a control character such as CR, LF or NUL (RFC 9110 §5.5).
    #[error("not a valid field value")]
    Value,
    /// The name is over 64 KiB or the list over 4 GiB.
    #[error("field too large")]
    TooLarge,
}

/// Where a part of the loaded block stands, in octets from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First octet.
    pub start: usize,
    /// One behind the last octet.
    pub end: usize,
}

/// One field of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The id, where the name has one.
    pub id: Option<HeaderId>,
    /// The name as received, or in lower case when the proxy added the field.
    pub name: &'a [u8],
    /// The value without surrounding white space.
    pub value: &'a [u8],
}

impl Headers {
    /// An empty list that owns no memory.
    pub const fn new() -> Self {
        Self { buf: Vec::new(), entries: Vec::new(), first: [0; HeaderId::COUNT], repeated: 0, live: 0, bytes: 0 }
    }

    /// How many fields there are, duplicates counted.
    #[inline]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is no field.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Octets of all names and values, without separators, as Envoy counts them.
    #[inline]
    pub fn byte_size(&self) -> usize {
        self.bytes
    }

    /// The value of the first field with this name.
    #[inline]
    pub fn get(&self, name: impl AsHeaderName) -> Option<&[u8]> {
        self.position(name.as_name()).and_then(|at| self.entries.get(at)).map(|entry| self.value(entry))
    }

    /// Like [`Self::get`], if the value is UTF-8.
    pub fn get_str(&self, name: impl AsHeaderName) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether there is a field with this name.
    #[inline]
    pub fn contains(&self, name: impl AsHeaderName) -> bool {
        self.position(name.as_name()).is_some()
    }

    /// The values of all fields with this name, in order.
    pub fn get_all<N: AsHeaderName>(&self, name: N) -> impl Iterator<Item = &[u8]> + use<'_, N> {
        let start = self.position(name.as_name());
        let rest = start.and_then(|at| self.entries.get(at..)).unwrap_or_default();
        rest.iter().filter(move |entry| self.matches(entry, name.as_name())).map(|entry| self.value(entry))
    }

    /// The value of the field with this id, where it is there exactly once.
    #[inline]
    pub fn get_only(&self, id: HeaderId) -> Option<&[u8]> {
        if self.may_repeat(NameRef::Known(id)) {
            let mut values = self.get_all(id);
            return values.next().filter(|_| values.next().is_none());
        }
        self.get(id)
    }

    /// All values of this name, joined by `,` without a space, as Envoy's matchers and filters see a repeated field.
    pub fn get_joined(&self, name: impl AsHeaderName) -> Option<Cow<'_, [u8]>> {
        let mut values = self.get_all(&name);
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
        let mut joined = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            joined.push(b',');
            joined.extend_from_slice(value);
        }
        Some(Cow::Owned(joined))
    }

    /// Name (as received) and value of each field, in order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + '_ {
        self.fields().map(|field| (field.name, field.value))
    }

    /// Each field, in order.
    #[inline]
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> + '_ {
        self.live_entries().map(|entry| Field {
            id: HeaderId::from_u8(entry.id),
            name: self.name(entry),
            value: self.value(entry),
        })
    }

    /// Adds a field at the end. Names are written in lower case.
    pub fn append(&mut self, name: impl AsHeaderName, value: impl AsRef<[u8]>) -> Result<(), InvalidField> {
        self.append_bytes(name.as_name(), value.as_ref())
    }

    /// Makes this the only field of its name. It takes the place (and the spelling) of the first one that was there.
    pub fn set(&mut self, name: impl AsHeaderName, value: impl AsRef<[u8]>) -> Result<(), InvalidField> {
        self.set_bytes(name.as_name(), value.as_ref())
    }

    /// Like [`Self::append`], but control characters of the value become spaces, and a field that cannot be (its
    /// name is no token) is left out. For values that may come from outside, where there is nobody to tell.
    pub fn append_sanitized(&mut self, name: impl AsHeaderName, value: impl AsRef<[u8]>) {
        let _ = self.append_bytes(name.as_name(), &sanitized(value.as_ref()));
    }

    /// [`Self::set`] in the manner of [`Self::append_sanitized`].
    pub fn set_sanitized(&mut self, name: impl AsHeaderName, value: impl AsRef<[u8]>) {
        let _ = self.set_bytes(name.as_name(), &sanitized(value.as_ref()));
    }

    /// Appends to the value of the last field of this name, behind `separator`; without one, adds the field.
    /// For lists such as `x-forwarded-for` and `via`.
    pub fn append_to(
        &mut self,
        name: impl AsHeaderName,
        separator: &str,
        value: impl AsRef<[u8]>,
    ) -> Result<(), InvalidField> {
        let value = value.as_ref();
        check_value(value)?;
        check_value(separator.as_bytes())?;
        let name = name.as_name();
        let Some(first) = self.position(name) else { return self.append_bytes(name, value) };
        let at = (first..self.entries.len()).rev().find(|at| self.entry_matches(*at, name)).unwrap_or(first);
        let separator = match self.entries.get(at) {
            Some(entry) if entry.value_len > 0 => separator.as_bytes(),
            _ => b"",
        };
        self.rewrite(at, Some(separator), value)
    }

    /// Removes all fields of this name; says how many there were.
    #[inline]
    pub fn remove(&mut self, name: impl AsHeaderName) -> usize {
        let name = name.as_name();
        match self.position(name) {
            Some(first) => self.remove_all(first, name),
            None => 0,
        }
    }

    /// The same where the first field of this name is known.
    fn remove_all(&mut self, first: usize, name: NameRef<'_>) -> usize {
        self.remove_at(first);
        let removed = if self.may_repeat(name) { 1 + self.remove_from(first + 1, name) } else { 1 };
        if let NameRef::Known(id) = name {
            if let Some(slot) = self.first.get_mut(id as usize) {
                *slot = 0;
            }
            self.forget_repeats(name);
        }
        removed
    }

    /// Keeps the fields for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let before = self.live;
        for at in 0..self.entries.len() {
            let Some(entry) = self.entries.get(at).filter(|entry| entry.state != State::Hole) else { continue };
            let field = Field { id: HeaderId::from_u8(entry.id), name: self.name(entry), value: self.value(entry) };
            if !keep(field) {
                self.remove_at(at);
            }
        }
        if self.live != before {
            self.reindex();
        }
    }

    /// Appends every field of `other`, in order.
    pub fn append_all(&mut self, other: &Self) -> Result<(), InvalidField> {
        for (name, value) in other.iter() {
            self.append(name, value)?;
        }
        Ok(())
    }

    /// Removes everything and keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        self.buf.clear();
        self.entries.clear();
        self.first = [0; HeaderId::COUNT];
        self.repeated = 0;
        self.live = 0;
        self.bytes = 0;
    }

    /// Empties the list for the next message; memory is kept unless one message made it large.
    pub fn recycle(&mut self) {
        self.clear();
        self.buf.shrink_to(LARGE_BUF);
        self.entries.shrink_to(LARGE_ENTRIES);
    }

    /// For parsers: empties the list. What [`Self::push_span`] then adds stands in the block that [`Self::end_block`]
    /// copies.
    #[inline]
    pub fn begin_block(&mut self) {
        self.clear();
        self.entries.reserve(USUAL_ENTRIES);
    }

    /// For parsers: adds a field, by places in the block. The parser has checked the grammar of both parts; `id` is what
    /// [`HeaderId::find`] says of the name, and `is_line` that the block reads exactly `name: value\r\n` there.
    #[inline]
    pub fn push_span(
        &mut self,
        id: Option<HeaderId>,
        name: Span,
        value: Span,
        is_line: bool,
    ) -> Result<(), InvalidField> {
        let entry = Entry {
            id: id.map_or(OTHER, |id| id as u8),
            name: narrow(name.start)?,
            value: narrow(value.start)?,
            value_len: narrow(value.end.checked_sub(value.start).ok_or(InvalidField::Value)?)?,
            name_len: name
                .end
                .checked_sub(name.start)
                .and_then(|len| len.try_into().ok())
                .ok_or(InvalidField::TooLarge)?,
            state: if is_line { State::Line } else { State::Parts },
        };
        self.push(entry);
        Ok(())
    }

    /// For parsers: the block in which the fields stand.
    #[inline]
    pub fn end_block(&mut self, block: &[u8]) {
        self.buf.extend_from_slice(block);
        debug_assert!(self.entries.iter().all(|entry| self.is_sound(entry)));
    }

    fn is_sound(&self, entry: &Entry) -> bool {
        let (name, value) = (self.name(entry), self.value(entry));
        let end = entry.value as usize + value.len();
        let line = self.buf.get(entry.name as usize..end + 2).unwrap_or_default();
        is_token(name)
            && check_value(value).is_ok()
            && HeaderId::find(name).map_or(OTHER, |id| id as u8) == entry.id
            && (entry.state != State::Line || *line == [name, b": ", value, b"\r\n"].concat())
    }

    /// Writes every field as an HTTP/1 line.
    #[inline]
    pub fn write_lines(&self, out: &mut Vec<u8>) {
        let mut run = 0..0;
        for entry in self.live_entries() {
            if entry.state == State::Line {
                let start = entry.name as usize;
                let end = entry.value as usize + entry.value_len as usize + 2;
                if start != run.end {
                    out.extend_from_slice(self.buf.get(run).unwrap_or_default());
                    run = start..end;
                } else {
                    run.end = end;
                }
            } else {
                out.extend_from_slice(self.buf.get(run).unwrap_or_default());
                run = 0..0;
                out.extend_from_slice(self.name(entry));
                out.extend_from_slice(b": ");
                out.extend_from_slice(self.value(entry));
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(self.buf.get(run).unwrap_or_default());
    }
}

impl Headers {
    fn append_bytes(&mut self, name: NameRef<'_>, value: &[u8]) -> Result<(), InvalidField> {
        check_value(value)?;
        let entry = self.write_line(name, value)?;
        self.push(entry);
        Ok(())
    }

    fn set_bytes(&mut self, name: NameRef<'_>, value: &[u8]) -> Result<(), InvalidField> {
        check_value(value)?;
        match self.position(name) {
            Some(at) => {
                self.rewrite(at, None, value)?;
                if self.may_repeat(name) {
                    self.remove_from(at + 1, name);
                    self.forget_repeats(name);
                }
            }
            None => {
                let entry = self.write_line(name, value)?;
                self.push(entry);
            }
        }
        Ok(())
    }

    #[inline]
    fn live_entries(&self) -> impl Iterator<Item = &Entry> + '_ {
        self.entries.iter().filter(|entry| entry.state != State::Hole)
    }

    #[inline]
    fn name(&self, entry: &Entry) -> &[u8] {
        let start = entry.name as usize;
        self.buf.get(start..start + usize::from(entry.name_len)).unwrap_or_default()
    }

    #[inline]
    fn value(&self, entry: &Entry) -> &[u8] {
        let start = entry.value as usize;
        self.buf.get(start..start + entry.value_len as usize).unwrap_or_default()
    }

    #[inline]
    fn matches(&self, entry: &Entry, name: NameRef<'_>) -> bool {
        entry.state != State::Hole
            && match name {
                NameRef::Known(id) => entry.id == id as u8,
                NameRef::Other(text) => {
                    entry.id == OTHER
                        && usize::from(entry.name_len) == text.len()
                        && self.name(entry).eq_ignore_ascii_case(text)
                }
            }
    }

    fn entry_matches(&self, at: usize, name: NameRef<'_>) -> bool {
        self.entries.get(at).is_some_and(|entry| self.matches(entry, name))
    }

    /// Index of the first entry of this name.
    #[inline]
    fn position(&self, name: NameRef<'_>) -> Option<usize> {
        match name {
            NameRef::Known(id) => match self.first.get(id as usize).copied().unwrap_or_default() {
                0 => None,
                SEARCH => self.search(usize::from(SEARCH) - 1, name),
                slot => Some(usize::from(slot) - 1),
            },
            NameRef::Other(_) => self.search(0, name),
        }
    }

    fn search(&self, from: usize, name: NameRef<'_>) -> Option<usize> {
        let rest = self.entries.get(from..)?;
        rest.iter().position(|entry| self.matches(entry, name)).map(|at| from + at)
    }

    #[inline]
    fn push(&mut self, entry: Entry) {
        let at = self.entries.len();
        self.live += 1;
        self.bytes += entry.size();
        self.entries.push(entry);
        self.index(at, entry.id);
    }

    #[inline]
    fn index(&mut self, at: usize, id: u8) {
        let Some(slot) = self.first.get_mut(usize::from(id)) else { return };
        if *slot == 0 {
            *slot = u8::try_from(at + 1).unwrap_or(SEARCH);
        } else {
            self.repeated |= 1 << id;
        }
    }

    fn reindex(&mut self) {
        self.first = [0; HeaderId::COUNT];
        self.repeated = 0;
        for at in 0..self.entries.len() {
            if let Some(id) = self.entries.get(at).filter(|entry| entry.state != State::Hole).map(|entry| entry.id) {
                self.index(at, id);
            }
        }
    }

    fn may_repeat(&self, name: NameRef<'_>) -> bool {
        match name {
            NameRef::Known(id) => self.repeated & (1 << id as u8) != 0,
            NameRef::Other(_) => true,
        }
    }

    fn forget_repeats(&mut self, name: NameRef<'_>) {
        if let NameRef::Known(id) = name {
            self.repeated &= !(1 << id as u8);
        }
    }

    fn remove_from(&mut self, start: usize, name: NameRef<'_>) -> usize {
        let mut removed = 0;
        for at in start..self.entries.len() {
            if self.entry_matches(at, name) {
                self.remove_at(at);
                removed += 1;
            }
        }
        removed
    }

    fn remove_at(&mut self, at: usize) {
        if let Some(entry) = self.entries.get_mut(at) {
            entry.state = State::Hole;
            self.live -= 1;
            self.bytes -= entry.size();
        }
    }

    /// Writes a line behind what is there and returns its entry, which is not yet in the list.
    fn write_line(&mut self, name: NameRef<'_>, value: &[u8]) -> Result<Entry, InvalidField> {
        let (id, text) = match name {
            NameRef::Known(id) => (id as u8, id.as_str().as_bytes()),
            NameRef::Other(text) if is_token(text) => (OTHER, text),
            NameRef::Other(_) => return Err(InvalidField::Name),
        };
        let name_len = u16::try_from(text.len()).map_err(|_| InvalidField::TooLarge)?;
        let start = self.buf.len();
        narrow(start + text.len() + value.len() + 4)?;
        self.buf.reserve(text.len() + value.len() + 4);
        self.buf.extend_from_slice(text);
        if id == OTHER {
            self.buf.get_mut(start..).unwrap_or_default().make_ascii_lowercase();
        }
        self.buf.extend_from_slice(b": ");
        let value_at = self.buf.len();
        self.buf.extend_from_slice(value);
        self.buf.extend_from_slice(b"\r\n");
        Ok(Entry {
            name: narrow(start)?,
            value: narrow(value_at)?,
            value_len: narrow(value.len())?,
            name_len,
            id,
            state: State::Line,
        })
    }

    /// Gives an entry a new value, behind its old one and a separator if there is a separator. The name keeps its
    /// spelling.
    fn rewrite(&mut self, at: usize, keep: Option<&[u8]>, value: &[u8]) -> Result<(), InvalidField> {
        let Some(old) = self.entries.get(at).copied() else { return Ok(()) };
        let (old_name, old_value) = (old.name as usize, old.value as usize);
        let start = self.buf.len();
        let name_len = usize::from(old.name_len);
        let kept = keep.map_or(0, |separator| old.value_len as usize + separator.len());
        let value_len = kept + value.len();
        narrow(start + name_len + value_len + 4)?;
        self.buf.extend_from_within(old_name..old_name + name_len);
        self.buf.extend_from_slice(b": ");
        if let Some(separator) = keep {
            self.buf.extend_from_within(old_value..old_value + old.value_len as usize);
            self.buf.extend_from_slice(separator);
        }
        self.buf.extend_from_slice(value);
        self.buf.extend_from_slice(b"\r\n");
        let new = Entry {
            name: narrow(start)?,
            value: narrow(start + name_len + 2)?,
            value_len: narrow(value_len)?,
            state: State::Line,
            ..old
        };
        self.bytes = self.bytes - old.size() + new.size();
        if let Some(entry) = self.entries.get_mut(at) {
            *entry = new;
        }
        Ok(())
    }
}

impl Entry {
    #[inline]
    fn size(&self) -> usize {
        usize::from(self.name_len) + self.value_len as usize
    }
}

impl Default for Headers {
    fn default() -> Self {
        Self::new()
    }
}

/// The same fields in the same order; names compare without case.
impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.live == other.live
            && self.iter().zip(other.iter()).all(|(a, b)| a.0.eq_ignore_ascii_case(b.0) && a.1 == b.1)
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value))))
            .finish()
    }
}

/// Fields from pairs, sanitised (see [`Headers::append_sanitized`]): for replies and tests.
impl<N: AsHeaderName, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut headers = Self::new();
        for (name, value) in pairs {
            headers.append_sanitized(name, value.as_ref());
        }
        headers
    }
}

#[inline]
fn narrow(n: usize) -> Result<u32, InvalidField> {
    u32::try_from(n).map_err(|_| InvalidField::TooLarge)
}

/// RFC 9110 §5.5: visible characters, obs-text, space and tab.
#[inline]
fn is_value_octet(c: u8) -> bool {
    (c >= b' ' && c != 0x7f) || c == b'\t'
}

#[inline]
fn check_value(value: &[u8]) -> Result<(), InvalidField> {
    // Without a branch per octet, so that the compiler can use vector instructions.
    if value.iter().fold(true, |ok, c| ok & is_value_octet(*c)) { Ok(()) } else { Err(InvalidField::Value) }
}

fn sanitized(value: &[u8]) -> Cow<'_, [u8]> {
    if check_value(value).is_ok() {
        return Cow::Borrowed(value);
    }
    value.iter().map(|c| if is_value_octet(*c) { *c } else { b' ' }).collect::<Vec<u8>>().into()
}
