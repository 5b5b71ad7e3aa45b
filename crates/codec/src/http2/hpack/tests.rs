use super::*;
use sota_plugin::http::HeaderId;

/// Fields as text, in order.
#[derive(Default)]
struct List(Vec<(String, String)>);

impl FieldSink for List {
    fn field(&mut self, name: Name<'_>, value: &[u8]) {
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
        self.0.push((text(name.as_bytes()), text(value)));
    }
}

fn octets(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, HpackError> {
    let mut list = List::default();
    decoder.decode(block, &mut Vec::new(), &mut list)?;
    Ok(list.0)
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn appendix_c2_representations() {
    for (hex, name, value) in [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", "custom-key", "custom-header"),
        ("040c2f73616d706c652f70617468", ":path", "/sample/path"),
        ("100870617373776f726406736563726574", "password", "secret"),
        ("82", ":method", "GET"),
    ] {
        assert_eq!(decode(&mut Decoder::new(), &octets(hex)), Ok(pairs(&[(name, value)])));
    }
}

#[test]
fn appendix_c3_and_c4_requests() {
    let plain = [
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ];
    let huffman = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ];
    for blocks in [plain, huffman] {
        let mut decoder = Decoder::new();
        let first = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
        assert_eq!(decode(&mut decoder, &octets(blocks[0])), Ok(pairs(&first)));
        let second = [&first[..], &[("cache-control", "no-cache")]].concat();
        assert_eq!(decode(&mut decoder, &octets(blocks[1])), Ok(pairs(&second)));
        let third = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ];
        assert_eq!(decode(&mut decoder, &octets(blocks[2])), Ok(pairs(&third)));
    }
}

#[test]
fn appendix_c5_and_c6_responses_with_eviction() {
    let plain = [
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e\
         1768747470733a2f2f7777772e6578616d706c652e636f6d",
        "4803333037c1c0bf",
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d\
         4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b20766572\
         73696f6e3d31",
    ];
    let huffman = [
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b\
         97c8e9ae82ae43d3",
        "4883640effc1c0bf",
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdf\
         cd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    ];
    for blocks in [plain, huffman] {
        let mut decoder = Decoder::new();
        decoder.set_limit(256);
        let update = [0x3f, 0xe1, 0x01];
        let first = [
            (":status", "302"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com"),
        ];
        let block = [&update[..], &octets(blocks[0])].concat();
        assert_eq!(decode(&mut decoder, &block), Ok(pairs(&first)));
        let second = [(":status", "307"), first[1], first[2], first[3]];
        assert_eq!(decode(&mut decoder, &octets(blocks[1])), Ok(pairs(&second)));
        let third = [
            (":status", "200"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            ("location", "https://www.example.com"),
            ("content-encoding", "gzip"),
            ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ];
        assert_eq!(decode(&mut decoder, &octets(blocks[2])), Ok(pairs(&third)));
    }
}

#[test]
fn blocks_that_cannot_be_read() {
    for hex in [
        "80",             // index 0
        "be",             // no such entry
        "ff808080808001", // index too large
        "40",             // no name
        "400161",         // no value
        "4001610261",     // value cut off
        "408161",         // Huffman padding wrong
        "7f00",           // name index 63
        "3fe21f",         // table size 4097
        "8220",           // size update behind a field
        "202020",         // three size updates
        "1f8080808080",   // endless integer
    ] {
        assert_eq!(decode(&mut Decoder::new(), &octets(hex)), Err(HpackError), "{hex}");
    }
}

#[test]
fn a_lowered_limit_must_be_acknowledged() {
    let mut decoder = Decoder::new();
    decoder.set_limit(100);
    assert_eq!(decode(&mut decoder, &octets("82")), Err(HpackError));
    let mut decoder = Decoder::new();
    decoder.set_limit(100);
    // Sizes 0 and 100, then GET.
    assert_eq!(decode(&mut decoder, &octets("203f4582")), Ok(pairs(&[(":method", "GET")])));
    assert_eq!(decode(&mut decoder, &octets("82")), Ok(pairs(&[(":method", "GET")])));
}

#[test]
fn names_are_classified() {
    assert_eq!(Name::classify(b"host"), Name::Known(HeaderId::Host));
    assert_eq!(Name::classify(b":path"), Name::Pseudo(Pseudo::Path));
    assert_eq!(Name::classify(b"x-y"), Name::Other(b"x-y"));
    for bad in [&b""[..], b"Host", b"x-Y", b":", b":x", b"a b", b"a:", b"\xc3\xa4", b"a\0"] {
        assert_eq!(Name::classify(bad), Name::Invalid(bad));
    }
}

fn encode(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value) in fields {
        encoder.field(Name::classify(name.as_bytes()), value.as_bytes(), &mut out);
    }
    out
}

#[test]
fn what_repeats_shrinks_and_what_is_secret_never_enters() {
    let (mut encoder, mut decoder) = (Encoder::new(4096), Decoder::new());
    let mut sizes = Vec::new();
    for n in 0..4 {
        let id = format!("id-{n}");
        let fields = [
            (":method", "GET"),
            (":path", "/service/method"),
            ("x-custom", "the same"),
            ("x-changing", &id),
            ("authorization", "secret"),
            ("cookie", "secret"),
            ("x-request-id", &id),
        ];
        let block = encode(&mut encoder, &fields);
        sizes.push(block.len());
        assert_eq!(decode(&mut decoder, &block), Ok(pairs(&fields)));
        let never = block.windows(2).filter(|pair| pair == &[0x1f, 0x08] || pair == &[0x1f, 0x11]).count();
        assert_eq!(never, 2, "authorization (23) and cookie (32) as never-indexed literals");
    }
    assert!(sizes[0] > 70 && sizes[2] < 45 && sizes[3] == sizes[2], "{sizes:?}");
}

#[test]
fn the_tables_stay_in_step_through_evictions_and_size_changes() {
    let (mut encoder, mut decoder) = (Encoder::new(512), Decoder::new());
    let mut random = 7u32;
    for round in 0..3000 {
        let mut fields = Vec::new();
        for _ in 0..5 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let n = (random >> 16) % 40;
            fields.push((format!("x-name-{}", n % 20), "v".repeat((n * n % 90) as usize)));
        }
        if round % 100 == 99 {
            let size = (random >> 8) as usize % 700;
            encoder.set_peer_limit(size);
            if round % 200 == 199 {
                encoder.set_peer_limit(300);
            }
        }
        let fields: Vec<(&str, &str)> = fields.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let block = encode(&mut encoder, &fields);
        assert_eq!(decode(&mut decoder, &block), Ok(pairs(&fields)));
    }
    assert!(encoder.memory() < 4096 && decoder.memory() < 4096, "{} {}", encoder.memory(), decoder.memory());
}

#[test]
fn idle_tables_own_nothing() {
    let (mut encoder, mut decoder) = (Encoder::new(4096), Decoder::new());
    let block = encode(&mut encoder, &[(":method", "GET"), (":path", "/"), ("content-length", "7")]);
    assert!(decode(&mut decoder, &block).is_ok());
    assert_eq!((encoder.memory(), decoder.memory()), (0, 0));
}
