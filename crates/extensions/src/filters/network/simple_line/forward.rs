//! Lines as a protocol of requests and answers: each goes to a host, on a connection that it has for itself until the
//! answer is there.

use super::{DEFAULT_MAX_LINE_BYTES, query::parse_query};
use bytes::{Buf, Bytes, BytesMut};
use sota_plugin::protocol::{CallError, Malformed, Order, Protocol};
use std::borrow::Cow;

/// The protocol.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines {
    /// Octets of a client's line, without its end. A host's may have so many, and [`DEFAULT_MAX_LINE_BYTES`] anyway.
    pub(super) max_line_bytes: usize,
}

/// A line without its end. `seen`: octets of the buffer in which none ends.
fn take_line(most: usize, seen: &mut usize, buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let unseen = buffer.get(*seen..).unwrap_or_default();
    let end = unseen.iter().position(|octet| *octet == b'\n').map(|at| *seen + at);
    *seen = buffer.len();
    let mut line = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
    // A carriage return may be the first half of the end.
    line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > most {
        return Err(Malformed("line too long".into()));
    }
    let Some(end) = end else { return Ok(None) };
    let length = line.len();
    let line = buffer.split_to(end).freeze().slice(..length);
    buffer.advance(1);
    *seen = 0;
    Ok(Some(line))
}

fn put_line(line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}

impl Protocol for Lines {
    type Request = Bytes;
    type Response = Bytes;
    /// Octets that were looked at already.
    type State = usize;

    const NAME: &'static str = "simple_line";
    const ORDER: Order = Order::OneByOne;

    fn decode_request(&self, seen: &mut usize, buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        take_line(self.max_line_bytes, seen, buffer)
    }

    fn encode_request(&self, _: &mut usize, request: &Bytes, _: u64, out: &mut Vec<u8>) {
        put_line(request, out);
    }

    fn decode_response(&self, seen: &mut usize, buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        take_line(self.max_line_bytes.max(DEFAULT_MAX_LINE_BYTES), seen, buffer)
    }

    fn encode_response(&self, _: &mut usize, response: &Bytes, _: u64, out: &mut Vec<u8>) {
        put_line(response, out);
    }

    fn refuse(&self, error: &Malformed, out: &mut Vec<u8>) {
        out.extend_from_slice(error.0.as_bytes());
    }

    fn failure(&self, _: &Bytes, error: &CallError) -> Bytes {
        format!("no answer: {error}").into()
    }

    /// The line is a query string: its values by their keys. A key without one has the empty value.
    fn metadata<'a>(&self, request: &'a Bytes, name: &str) -> Option<Cow<'a, [u8]>> {
        parse_query(request).ok()?.into_first(name.as_bytes()).map(Cow::Owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8], max_line_bytes: usize) -> (Vec<Vec<u8>>, Option<Malformed>) {
        let (mut buffer, mut seen, mut taken) = (BytesMut::new(), 0, Vec::new());
        for octet in input {
            buffer.extend_from_slice(&[*octet]);
            match take_line(max_line_bytes, &mut seen, &mut buffer) {
                Ok(line) => taken.extend(line.map(|line| line.to_vec())),
                Err(error) => return (taken, Some(error)),
            }
        }
        (taken, None)
    }

    #[test]
    fn lines_end_in_two_ways_and_have_a_limit() {
        let too_long = Some(Malformed("line too long".into()));
        assert_eq!(lines(b"abc\r\nde\n\n", 3), (vec![b"abc".to_vec(), b"de".to_vec(), b"".to_vec()], None));
        assert_eq!(lines(b"abc\r\nabcd", 3), (vec![b"abc".to_vec()], too_long.clone()));
        assert_eq!(lines(b"abc\r\r", 3), (vec![], too_long));
    }

    #[test]
    fn routes_see_the_values_of_the_query() {
        let request = Bytes::from_static(b"a=1&b=%32&a=3&c");
        let value = |name| (Lines { max_line_bytes: 9 }).metadata(&request, name).map(Cow::into_owned);
        assert_eq!(
            [value("a"), value("b"), value("c"), value("d")].map(|value| value.map(|v| v.len())),
            [Some(1), Some(1), Some(0), None]
        );
        assert_eq!(value("b"), Some(b"2".to_vec()));
        assert_eq!(Lines { max_line_bytes: 9 }.metadata(&Bytes::from_static(b"a=%zz"), "a"), None);
    }
}
