use super::*;
use crate::http::HeaderName;
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn load(block: &str) -> Headers {
    let mut headers = Headers::new();
    headers.begin_block();
    let mut at = 0;
    for line in block.split_inclusive("\r\n") {
        let colon = line.find(':').unwrap();
        let text = line[colon + 1..].trim_end_matches("\r\n");
        let value = text.trim();
        let start = at + colon + 1 + (text.len() - text.trim_start().len());
        let name = Span { start: at, end: at + colon };
        let is_line = line == format!("{}: {value}\r\n", &line[..colon]);
        let id = HeaderId::find(&line.as_bytes()[..colon]);
        headers.push_span(id, name, Span { start, end: start + value.len() }, is_line).unwrap();
        at += line.len();
    }
    headers.end_block(block.as_bytes());
    headers
}

fn text(headers: &Headers) -> String {
    let mut out = Vec::new();
    headers.write_lines(&mut out);
    String::from_utf8(out).unwrap()
}

/// Everything that is kept beside the entries must agree with them.
fn check_books(headers: &Headers) {
    assert_eq!(headers.len(), headers.iter().count());
    assert_eq!(headers.byte_size(), headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>());
    for id in HeaderId::all() {
        let scanned = headers.fields().find(|field| field.id == Some(id)).map(|field| field.value);
        assert_eq!(headers.get(id), scanned);
        assert_eq!(headers.get_all(id).count(), headers.fields().filter(|field| field.id == Some(id)).count());
    }
}

#[test]
fn received_fields_keep_order_case_and_duplicates() {
    let block = "User-Agent: x\r\nX-A:1\r\nAccept: a\r\nx-a:   2  \r\nACCEPT: b\r\n";
    let headers = load(block);
    check_books(&headers);
    assert_eq!(headers.get("user-agent"), Some(&b"x"[..]));
    assert_eq!(headers.get_all("x-A").collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!(headers.get_joined(HeaderId::Accept).as_deref(), Some(&b"a,b"[..]));
    assert_eq!(headers.get_joined("user-agent").as_deref(), Some(&b"x"[..]));
    assert_eq!(headers.get_joined("nothing"), None);
    assert_eq!(text(&headers), "User-Agent: x\r\nX-A: 1\r\nAccept: a\r\nx-a: 2\r\nACCEPT: b\r\n");
    assert_eq!(headers.len(), 5);
}

#[test]
fn set_takes_the_first_place_and_its_spelling() {
    let mut headers = load("A: 1\r\nX-Request-Id: old\r\nB: 2\r\nx-request-id: older\r\n");
    headers.set(HeaderId::XRequestId, b"new").unwrap();
    assert_eq!(text(&headers), "A: 1\r\nX-Request-Id: new\r\nB: 2\r\n");
    headers.set("X-New", b"v").unwrap();
    headers.set(HeaderName::from_static("a"), b"").unwrap();
    assert_eq!(text(&headers), "A: \r\nX-Request-Id: new\r\nB: 2\r\nx-new: v\r\n");
    check_books(&headers);
}

#[test]
fn remove_and_add_again() {
    let mut headers = load("te: a\r\nx: 1\r\nTE: b\r\nX: 2\r\nte: c\r\n");
    assert_eq!(headers.remove(HeaderId::Te), 3);
    assert_eq!(headers.remove(HeaderId::Te), 0);
    assert_eq!(headers.remove("X"), 2);
    assert!(headers.is_empty() && headers.byte_size() == 0);
    headers.append("te", b"trailers").unwrap();
    headers.append("x", b"3").unwrap();
    assert_eq!(text(&headers), "te: trailers\r\nx: 3\r\n");
    check_books(&headers);
}

#[test]
fn retain_by_prefix() {
    let mut headers = load("X-Envoy-Internal: 1\r\nhost: a\r\nx-envoy-foo: 2\r\nHost: b\r\n");
    headers.retain(|field| field.value != b"a");
    headers.retain(|field| !field.name.get(..8).is_some_and(|p| p.eq_ignore_ascii_case(b"x-envoy-")));
    assert_eq!(text(&headers), "Host: b\r\n");
    check_books(&headers);
}

#[test]
fn append_to_goes_to_the_last_of_the_name() {
    let mut headers = load("X-Forwarded-For: 1.1.1.1\r\na: b\r\nx-forwarded-for: 2.2.2.2\r\n");
    headers.append_to(HeaderId::XForwardedFor, ",", b"3.3.3.3").unwrap();
    headers.append_to("via", ", ", b"1.1 x").unwrap();
    headers.append("empty", b"").unwrap();
    headers.append_to("empty", ",", b"v").unwrap();
    assert_eq!(
        text(&headers),
        "X-Forwarded-For: 1.1.1.1\r\na: b\r\nx-forwarded-for: 2.2.2.2,3.3.3.3\r\nvia: 1.1 x\r\nempty: v\r\n"
    );
    check_books(&headers);
}

#[test]
fn what_could_split_a_message_is_refused() {
    let mut headers = Headers::new();
    for bad in [&b"a\r\nb: c"[..], b"a\nb", b"a\rb", b"\0", b"\x7f", b"\x0b"] {
        assert_eq!(headers.append("x", bad), Err(InvalidField::Value));
        assert_eq!(headers.set("x", bad), Err(InvalidField::Value));
        assert_eq!(headers.append_to("x", ",", bad), Err(InvalidField::Value));
    }
    for bad in ["", "a b", "a:", "a\r\n", ":path", "ä"] {
        assert_eq!(headers.append(bad, b"v"), Err(InvalidField::Name));
        assert_eq!(headers.set(bad, b"v"), Err(InvalidField::Name));
    }
    assert_eq!(headers.append(&vec![b'a'; 70_000][..], b""), Err(InvalidField::TooLarge));
    assert!(headers.is_empty());
    headers.append_sanitized("x", b"a\r\nb\tc\xff");
    headers.set_sanitized("bad name", b"v");
    assert_eq!(headers.iter().collect::<Vec<_>>(), [(&b"x"[..], &b"a  b\tc\xff"[..])]);
}

#[test]
fn known_fields_behind_the_index_are_found() {
    let mut headers = Headers::new();
    for n in 0..400 {
        headers.append(format!("x-{n}"), b"").unwrap();
    }
    headers.append("via", b"1").unwrap();
    headers.append("via", b"2").unwrap();
    headers.append("te", b"3").unwrap();
    assert_eq!(headers.get("via"), Some(&b"1"[..]));
    assert_eq!(headers.get("te"), Some(&b"3"[..]));
    headers.set("via", b"4").unwrap();
    check_books(&headers);
    assert_eq!(headers.remove("via"), 1);
    assert_eq!(headers.get("via"), None);
    check_books(&headers);
}

/// Time for ten times the fields must not grow a hundredfold. Bounds are wide: this machine is shared.
#[test]
fn ten_thousand_fields_cost_linear_time() {
    let time = |count: usize| {
        (0..5)
            .map(|_| {
                let start = Instant::now();
                let mut headers = Headers::new();
                for _ in 0..count {
                    headers.append("a", b"").unwrap();
                    std::hint::black_box(headers.byte_size());
                    std::hint::black_box(headers.get("host"));
                }
                headers.set("a", b"x").unwrap();
                assert_eq!((headers.len(), headers.byte_size()), (1, 2));
                start.elapsed()
            })
            .min()
            .unwrap()
    };
    let (small, large) = (time(1_000), time(10_000));
    assert!(large < small * 40 + Duration::from_millis(5), "{small:?} for 1,000, {large:?} for 10,000");
}

#[test]
fn recycle_gives_large_memory_back() {
    let mut headers = Headers::new();
    headers.append("x", vec![b'v'; 1 << 20]).unwrap();
    headers.recycle();
    assert!(headers.buf.capacity() <= LARGE_BUF);
    headers.append("x", b"v").unwrap();
    let memory = headers.buf.as_ptr();
    headers.recycle();
    headers.append("y", b"v").unwrap();
    assert_eq!(headers.buf.as_ptr(), memory);
    assert_eq!(text(&headers), "y: v\r\n");
}

#[test]
fn an_entry_is_sixteen_octets() {
    assert_eq!(size_of::<Entry>(), 16);
    assert!(size_of::<Headers>() <= 216, "{}", size_of::<Headers>());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]
    /// Any sequence of operations does what the same sequence does to a plain list of pairs.
    #[test]
    fn behaves_like_a_list(ops in prop::collection::vec((0u8..5, 0usize..5, "[a-c]{0,3}"), 0..60)) {
        const NAMES: [&str; 5] = ["host", "via", "x-one", "x-two", "te"];
        let mut headers = Headers::new();
        let mut list: Vec<(String, String)> = Vec::new();
        for (op, name, value) in ops {
            let name = NAMES[name];
            match op {
                0 | 1 => {
                    headers.append(name, value.as_bytes()).unwrap();
                    list.push((name.into(), value));
                }
                2 => {
                    headers.set(name, value.as_bytes()).unwrap();
                    match list.iter().position(|(n, _)| n == name) {
                        None => list.push((name.into(), value)),
                        Some(at) => {
                            list[at].1 = value;
                            let mut index = 0;
                            list.retain(|(n, _)| { index += 1; index - 1 <= at || n != name });
                        }
                    }
                }
                3 => {
                    let before = list.len();
                    list.retain(|(n, _)| n != name);
                    prop_assert_eq!(headers.remove(name), before - list.len());
                }
                _ => {
                    headers.append_to(name, ",", value.as_bytes()).unwrap();
                    match list.iter().rposition(|(n, _)| n == name) {
                        None => list.push((name.into(), value)),
                        Some(at) if list[at].1.is_empty() => list[at].1 = value,
                        Some(at) => { list[at].1.push(','); list[at].1.push_str(&value); }
                    }
                }
            }
            check_books(&headers);
        }
        let got: Vec<(String, String)> = headers
            .iter()
            .map(|(n, v)| (String::from_utf8(n.to_vec()).unwrap(), String::from_utf8(v.to_vec()).unwrap()))
            .collect();
        prop_assert_eq!(got, list);
    }
}
