//! Reading HTTP/1.1 messages the plain way, for both ends of a test: lenient, order and case kept.

use std::io::{self, Read};

/// Header or trailer fields in the order and case of the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// The first value of a field, its name in any case.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// All values of a field in order.
    pub fn values<'s>(&'s self, name: &str) -> impl Iterator<Item = &'s str> {
        self.0.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Whether the comma-separated lists of a field hold `token`, in any case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.values(name).flat_map(|v| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
    }
}

/// The start line and the fields of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The three parts of the start line: method, target, version or version, status, reason.
    pub start: [String; 3],
    /// The fields that follow.
    pub fields: Fields,
    /// The exact bytes, the empty line included.
    pub raw: Vec<u8>,
}

/// How the body of a message is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// How reading a body ended.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// The other side closed or reset in the middle.
    Cut(io::Error),
    /// Not a chunked body.
    Malformed,
}

/// Reads from a socket with what was read too far kept for the next message.
#[derive(Debug, Default)]
pub(crate) struct Buffered {
    pub(crate) bytes: Vec<u8>,
}

impl Buffered {
    /// Reads once; false at the end of the stream.
    fn fill(&mut self, from: &mut impl Read) -> io::Result<bool> {
        let mut block = [0; 16 * 1024];
        let n = loop {
            match from.read(&mut block) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => break done?,
            }
        };
        self.bytes.extend_from_slice(block.get(..n).unwrap_or_default());
        Ok(n > 0)
    }

    /// Reads up to and including the empty line; `None` when the stream ends before the first byte.
    pub(crate) fn read_head(&mut self, from: &mut impl Read) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.bytes, b"\r\n\r\n") {
                let raw: Vec<u8> = self.bytes.drain(..end + 4).collect();
                return Ok(Some(parse_head(raw)));
            }
            if !self.fill(from)? {
                return if self.bytes.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    fn read_line(&mut self, from: &mut impl Read) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = find(&self.bytes, b"\r\n") {
                let line = self.bytes.drain(..end + 2).take(end).collect();
                return Ok(line);
            }
            if !self.fill(from)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn read_exact(&mut self, from: &mut impl Read, n: u64, body: &mut Vec<u8>) -> io::Result<()> {
        let mut left = usize::try_from(n).map_err(|_| io::ErrorKind::InvalidData)?;
        loop {
            let here = left.min(self.bytes.len());
            body.extend(self.bytes.drain(..here));
            left -= here;
            if left == 0 {
                return Ok(());
            }
            if !self.fill(from)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Appends the body to `body`, so that what arrived before an error is not lost; returns the trailers.
    pub(crate) fn read_body(
        &mut self,
        from: &mut impl Read,
        framing: Framing,
        body: &mut Vec<u8>,
    ) -> Result<Fields, BodyError> {
        let cut = BodyError::Cut;
        match framing {
            Framing::None => {}
            Framing::Length(n) => self.read_exact(from, n, body).map_err(cut)?,
            Framing::UntilClose => {
                while self.fill(from).map_err(cut)? {}
                body.append(&mut self.bytes);
            }
            Framing::Chunked => loop {
                let line = self.read_line(from).map_err(cut)?;
                let line = String::from_utf8_lossy(&line).into_owned();
                let digits = line.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(digits, 16).map_err(|_| BodyError::Malformed)?;
                if size == 0 {
                    return self.read_trailers(from).map_err(cut);
                }
                self.read_exact(from, size, body).map_err(cut)?;
                if !self.read_line(from).map_err(cut)?.is_empty() {
                    return Err(BodyError::Malformed);
                }
            },
        }
        Ok(Fields::default())
    }

    fn read_trailers(&mut self, from: &mut impl Read) -> io::Result<Fields> {
        let mut fields = Fields::default();
        loop {
            let line = self.read_line(from)?;
            if line.is_empty() {
                return Ok(fields);
            }
            fields.0.push(parse_field(&String::from_utf8_lossy(&line)));
        }
    }
}

/// The framing of a request, or of a response when `status` is given (RFC 9112 §6.3), errors taken as no body.
pub(crate) fn framing(fields: &Fields, status: Option<u16>, to_head: bool) -> Framing {
    if to_head || matches!(status, Some(100..=199 | 204 | 304)) {
        return Framing::None;
    }
    if fields.has_token("transfer-encoding", "chunked") {
        return Framing::Chunked;
    }
    if let Some(length) = fields.value("content-length").and_then(|v| v.trim().parse().ok()) {
        return Framing::Length(length);
    }
    if status.is_some() { Framing::UntilClose } else { Framing::None }
}

fn parse_head(raw: Vec<u8>) -> Head {
    let text = String::from_utf8_lossy(&raw).into_owned();
    let mut lines = text.split("\r\n");
    let mut parts = lines.next().unwrap_or_default().splitn(3, ' ');
    let start = [(); 3].map(|()| parts.next().unwrap_or_default().to_owned());
    let fields = Fields(lines.take_while(|line| !line.is_empty()).map(parse_field).collect());
    Head { start, fields, raw }
}

fn parse_field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_owned(), value.trim().to_owned())
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
