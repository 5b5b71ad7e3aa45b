use super::*;
use bytes::{Bytes, BytesMut};

fn decode(text: &str) -> Result<Option<Value>, RespError> {
    Decoder::new(Limits { inline: true, ..Limits::default() }).decode(&mut BytesMut::from(text))
}

fn bulk(text: &'static str) -> Value {
    Value::Bulk(Bytes::from_static(text.as_bytes()))
}

#[test]
fn every_type_is_read_and_written() {
    for text in [
        "+OK\r\n",
        "-ERR x y\r\n",
        ":-12\r\n",
        "$0\r\n\r\n",
        "$4\r\na\r\nb\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*0\r\n",
        "*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
        "_\r\n",
        "#t\r\n",
        "#f\r\n",
        ",1.5\r\n",
        "(12345678901234567890\r\n",
        "!5\r\nERR x\r\n",
        "=6\r\ntxt:hi\r\n",
        "%1\r\n+k\r\n:1\r\n",
        "~1\r\n+a\r\n",
        ">1\r\n+a\r\n",
    ] {
        let value = decode(text).unwrap().unwrap_or_else(|| panic!("{text:?} is whole"));
        let mut out = Vec::new();
        value.encode(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
    let mut out = Vec::new();
    Value::encode_command(&[Bytes::from_static(b"GET"), Bytes::from_static(b"k")], &mut out);
    assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
}

#[test]
fn what_is_no_value_is_told() {
    for (text, error) in [
        ("*x\r\n", RespError::Number),
        ("$-5\r\n", RespError::Number),
        ("$\r\n", RespError::Number),
        ("#x\r\n", RespError::Number),
        ("*1\n", RespError::LineEnd),
        ("+a\rb\r\n", RespError::LineEnd),
        ("$1\r\nabc", RespError::LineEnd),
        ("&\r\n", RespError::UnknownType(b'&')),
        ("\r\n", RespError::UnknownType(b'\r')),
        ("SET k 'a b'\r\n", RespError::UnknownType(b'\'')),
        ("*1\r\nGET\r\n", RespError::UnknownType(b'G')),
        ("*1048577\r\n", RespError::TooLarge),
        ("$536870913\r\n", RespError::TooLarge),
        (&"*1\r\n".repeat(33), RespError::TooLarge),
    ] {
        assert_eq!(decode(text), Err(error), "{text:?}");
    }
    assert_eq!(decode(&"a".repeat(64 * 1024 + 2)), Err(RespError::TooLarge));
}

#[test]
fn words_are_a_command_where_that_is_allowed() {
    let command = Value::Array(vec![bulk("GET"), bulk("k")]);
    assert_eq!(decode("GET  k\r\n"), Ok(Some(command)));
    let strict = Decoder::default().decode(&mut BytesMut::from("GET k\r\n"));
    assert_eq!(strict, Err(RespError::UnknownType(b'G')));
}

#[test]
fn a_long_string_is_taken_piece_by_piece() {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::from("*1\r\n$1000000\r\n");
    for _ in 0..1000 {
        buffer.extend_from_slice(&[b'x'; 1000]);
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        assert!(buffer.is_empty() && decoder.is_within());
    }
    buffer.extend_from_slice(b"\r\n+next\r\n");
    let Ok(Some(Value::Array(items))) = decoder.decode(&mut buffer) else { panic!("an array") };
    assert!(matches!(&items[..], [Value::Bulk(text)] if text.len() == 1_000_000));
    assert_eq!(decoder.decode(&mut buffer), Ok(Some(Value::simple("next"))));
}

#[test]
fn an_error_stays_on_its_line() {
    let mut out = Vec::new();
    Value::error("a\r\n+b").encode(&mut out);
    assert_eq!(out, b"-a  +b\r\n");
}
