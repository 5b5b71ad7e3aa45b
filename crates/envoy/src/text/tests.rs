use super::{MAX_TEXT_BYTES, parse_text};
use proptest::prelude::{any, proptest};
use sota_config::{ConfigError, Node};

fn error(text: &[u8]) -> ConfigError {
    let mut errors = parse_text(text).expect_err("this text is wrong");
    assert_eq!(errors.0.len(), 1);
    errors.0.remove(0)
}

fn good(text: &str) -> Node {
    parse_text(text.as_bytes()).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn nothing_is_an_error_of_its_own() {
    for text in ["", "\n", "# only a comment\n", "---\n", "~", "\u{feff}"] {
        assert!(error(text.as_bytes()).reason.contains("empty"), "{text:?}");
    }
}

#[test]
fn the_top_must_be_a_map() {
    for text in ["- a\n", "text", "12", "[1]"] {
        assert!(error(text.as_bytes()).reason.contains("a map of fields is expected"), "{text:?}");
    }
}

#[test]
fn a_byte_order_mark_is_skipped() {
    assert_eq!(good("\u{feff}a: 1\n").uint("a"), Some(1));
    assert_eq!(good("\u{feff}{\"a\": 1}").uint("a"), Some(1));
    assert!(error(&[0xff, 0xfe, b'a', 0]).reason.contains("UTF-16"));
}

#[test]
fn what_is_no_text_is_told_with_its_place() {
    let binary = error(b"a: 1\nb: \x00\x01");
    assert!(binary.reason.contains("control character 0x00"), "{binary}");
    assert_eq!((binary.mark.line, binary.mark.column), (2, 4));
    let latin = error(b"a: 1\nb: caf\xe9\n");
    assert!(latin.reason.contains("not UTF-8"), "{latin}");
    assert_eq!((latin.mark.line, latin.mark.column), (2, 7));
}

#[test]
fn a_file_over_the_limit_is_refused_unread() {
    let reason = error(&vec![b' '; MAX_TEXT_BYTES + 1]).reason;
    assert_eq!(reason, "the file is larger than 67108864 bytes");
}

#[test]
fn tabs_are_told_by_name() {
    let tab = error(b"a:\n\tb: 1\n");
    assert!(tab.reason.contains("indent with spaces"), "{tab}");
    assert_eq!(tab.mark.line, 2);
}

#[test]
fn two_documents_are_refused() {
    let second = error(b"a: 1\n---\nb: 2\n");
    assert!(second.reason.contains("a second document"), "{second}");
    assert_eq!(second.mark.line, 2);
    assert_eq!(good("---\na: 1\n...\n").uint("a"), Some(1));
}

#[test]
fn duplicate_keys_are_refused() {
    let twice = error(b"a:\n  b: 1\n  c: 1\n  b: 2\n");
    assert_eq!(twice.to_string(), "a: the key \"b\" is given twice");
    assert_eq!((twice.mark.line, twice.mark.column), (4, 3));
    let many: String = (0..40).map(|i| format!("k{i}: 1\n")).chain(["k7: 2\n".to_owned()]).collect();
    assert_eq!(error(many.as_bytes()).mark.line, 41);
}

#[test]
fn a_key_must_be_text() {
    assert!(error(b"? [a, b]\n: 1\n").reason.contains("a key must be text"));
    assert_eq!(good("1: a\ntrue: b\n").str("true"), "b");
}

#[test]
fn aliases_are_expanded_within_a_limit() {
    let node = good("a: &x {b: [1, 2]}\nc: *x\n");
    assert_eq!(node.field("a"), node.field("c"));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let items = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{items}]\n"));
    }
    assert!(error(bomb.as_bytes()).reason.contains("aliases expand to more than"), "{}", error(bomb.as_bytes()));
    assert!(error(b"a: &x [*x]\n").reason.contains("inside what it names"));
    assert!(error(b"a: *x\n").reason.contains("this is not YAML"));
}

#[test]
fn aliases_cannot_make_the_tree_too_deep() {
    let mut text = "a0: &a0 [x]\n".to_owned();
    for i in 1..300 {
        text.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
    }
    assert!(error(text.as_bytes()).reason.contains("nested more than 256 deep"));
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    let depth = 10_000;
    let block: String = (0..depth).map(|i| format!("{:i$}a:\n", "", i = i)).collect();
    let texts = [
        block,
        "- ".repeat(depth),
        format!("a: {}", "[".repeat(depth)),
        "{a: ".repeat(depth),
        "[\n".repeat(depth),
        format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)),
        format!("{}1{}", "[".repeat(depth), "]".repeat(depth)),
        "? ".repeat(depth),
    ];
    for text in texts {
        let reason = error(text.as_bytes()).reason;
        assert!(
            reason.contains("nested more than 256 deep") || reason.contains("recursion limit"),
            "{}: {reason}",
            &text[..12]
        );
    }
}

#[test]
fn json_and_flow_yaml_both_begin_with_a_brace() {
    assert_eq!(good("{\"a\": \"\\ud83d\\ude00\"}").str("a"), "😀");
    assert_eq!(good("{a: b, c: [d]}").str("a"), "b");
    // The reader that got further says what is wrong.
    let broken = error(b"{\n  \"a\": 1,\n  \"b\": ]\n}\n");
    assert_eq!(broken.mark.line, 3, "{broken}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_text(&bytes);
    }

    #[test]
    fn no_yaml_like_text_makes_it_panic(text in "[-a:{}\\[\\],&*!|>'\"#% \n\t?~0-9]{0,80}") {
        let _ = parse_text(text.as_bytes());
    }
}
