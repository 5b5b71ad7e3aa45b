//! What the fuzz target calls.

use super::{Decoder, Limits, RespError, Value};
use bytes::BytesMut;

/// Target `resp`: a stream of values. They are the same however the bytes are split, and read again as they are
/// written.
pub fn fuzz_resp(data: &[u8]) {
    let whole = read(data, data.len().max(1));
    assert_eq!(whole, read(data, 1), "octet by octet");
    assert_eq!(whole, read(data, 7), "by sevens");
    let mut out = Vec::new();
    whole.0.iter().for_each(|value| value.encode(&mut out));
    assert_eq!(read(&out, 5), (whole.0, None), "written and read again");
}

fn read(data: &[u8], pieces: usize) -> (Vec<Value>, Option<RespError>) {
    let limits = Limits { line: 64, value: 4096, items: 64, depth: 4, inline: true };
    let (mut decoder, mut buffer, mut values) = (Decoder::new(limits), BytesMut::new(), Vec::new());
    for piece in data.chunks(pieces) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(value)) => values.push(value),
                Ok(None) => break,
                Err(error) => return (values, Some(error)),
            }
        }
    }
    (values, None)
}
