//! The fuzz target `zmtp`: bytes of a peer to a connection of any kind.

use super::{
    Assembler, Connection, Credentials, CurveKeyPair, Event, Limits, Mechanism, Message, Options, Security, SocketType,
    Version, ZmtpError,
};
use std::sync::Arc;

/// Target `zmtp`: two octets choose the options (see the source), the rest is what the peer sends. It means the same
/// however it is split, memory is bounded by what came, and messages that were read are the same when they are written
/// and read again.
pub fn fuzz_zmtp(data: &[u8]) {
    let Some((chosen, stream)) = data.split_first_chunk() else { return };
    let options = Arc::new(options(*chosen));
    let whole = run(&options, stream, stream.len());
    // Handshakes of CURVE are dear, so that they are done once less.
    if options.security.mechanism() != Mechanism::Curve {
        assert_eq!(whole, run(&options, stream, 1), "octet by octet");
    }
    assert_eq!(whole, run(&options, stream, 7), "by sevens");
    for told in &whole.0 {
        if let Told::Message(message) = told {
            assert_eq!(again(message).as_ref(), Some(message));
        }
    }
}

/// First octet: bits 0 to 3 our socket type, 4 auto-face, 5 lenient, 6 1.0 is allowed. Second: bits 0 to 2 the
/// mechanism and our role, 3 and 4 our version, 5 small limits.
fn options([first, second]: [u8; 2]) -> Options {
    // What everybody may know: these keys protect nothing.
    let keys = CurveKeyPair::from_secret([0x42; 32]);
    let limits = Limits {
        max_frame_bytes: 40,
        max_message_bytes: 60,
        max_frames_per_message: 3,
        max_command_bytes: 30,
        max_metadata_bytes: 100,
        max_properties: 3,
        max_topic_bytes: 5,
        max_pings_per_second: 2,
        ..Limits::default()
    };
    Options {
        socket_type: SocketType::from_octet((first & 15) % 11).unwrap_or(SocketType::Pair),
        auto_face: first & 16 != 0,
        lenient: first & 32 != 0,
        min_version: if first & 64 != 0 { Version::V1_0 } else { Version::V2_0 },
        security: match second & 7 {
            0..=3 => Security::Null,
            4 => Security::PlainClient { username: b"u"[..].into(), password: b"p"[..].into() },
            5 => Security::PlainServer,
            6 => Security::CurveClient { server: keys.public, keys },
            _ => Security::CurveServer { keys },
        },
        max_version: match second >> 3 & 3 {
            0 => Version::V3_1,
            1 => Version::V3_0,
            2 => Version::V2_0,
            _ => Version::V1_0,
        },
        limits: if second & 32 != 0 { limits } else { Limits::default() },
        random: always_the_same,
        ..Options::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of a source of random bytes")]
fn always_the_same(bytes: &mut [u8]) -> Result<(), ZmtpError> {
    bytes.fill(0x17);
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Told {
    Message(Message),
    Other(String),
}

/// What a connection tells of a stream that comes in pieces, and how it ends.
fn run(options: &Arc<Options>, stream: &[u8], size: usize) -> (Vec<Told>, Result<(), ZmtpError>) {
    let mut out = Vec::new();
    let mut connection = Connection::new(Arc::clone(options), &mut out);
    let mut assembler = Assembler::default();
    let (mut told, mut came) = (Vec::new(), 0);
    for piece in stream.chunks(size.max(1)) {
        let mut rest = piece;
        came += piece.len();
        loop {
            let verdict = match connection.recv(rest, &mut out) {
                Err(error) => return (told, Err(error)),
                Ok((taken, event)) => {
                    rest = rest.get(taken..).unwrap_or_default();
                    match event {
                        Event::NeedMore => {
                            assert!(rest.is_empty(), "a remainder was left");
                            break;
                        }
                        Event::Frame(frame) => {
                            assert!(!frame.payload.is_empty() || frame.length == 0, "a piece of nothing");
                            told.extend(assembler.push(&frame).map(Told::Message));
                            None
                        }
                        Event::Authenticate(credentials) => {
                            told.push(Told::Other(format!("{credentials:?}")));
                            let refused = matches!(credentials, Credentials::Plain { username: b"no", .. });
                            Some(!refused)
                        }
                        other => {
                            told.push(Told::Other(format!("{other:?}")));
                            None
                        }
                    }
                }
            };
            let judged = match verdict {
                None => Ok(()),
                Some(true) => connection.allow(&mut out),
                Some(false) => connection.deny(b"400", &mut out),
            };
            assert_eq!(judged, Ok(()));
            assert!(connection.scratch.capacity() <= 2 * came + 64, "{} held", connection.scratch.capacity());
            assert!(assembler.capacity() <= 2 * came + 64, "{} held", assembler.capacity());
        }
    }
    (told, connection.finish())
}

/// A message, written and read by connections of ours.
fn again(message: &Message) -> Option<Message> {
    let of = |socket_type| {
        let limits = Limits { max_frames_per_message: u32::MAX, ..Limits::default() };
        Arc::new(Options { socket_type, limits, ..Options::default() })
    };
    let (mut to_reader, mut to_writer) = (Vec::new(), Vec::new());
    let mut writer = Connection::new(of(SocketType::Push), &mut to_reader);
    let mut reader = Connection::new(of(SocketType::Pull), &mut to_writer);
    let mut assembler = Assembler::default();
    for _ in 0..4 {
        read(&mut reader, &mut to_reader, &mut to_writer, &mut assembler);
        read(&mut writer, &mut to_writer, &mut to_reader, &mut assembler);
    }
    assert_eq!(writer.send_message(message, &mut to_reader), Ok(()));
    read(&mut reader, &mut to_reader, &mut to_writer, &mut assembler)
}

fn read(
    connection: &mut Connection,
    input: &mut Vec<u8>,
    out: &mut Vec<u8>,
    assembler: &mut Assembler,
) -> Option<Message> {
    let (mut rest, mut message) = (&input[..], None);
    while let Ok((taken, event)) = connection.recv(rest, out) {
        rest = rest.get(taken..).unwrap_or_default();
        match event {
            Event::NeedMore => break,
            Event::Frame(frame) => message = assembler.push(&frame).or(message),
            _ => {}
        }
    }
    input.clear();
    message
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Side, exchange, splits::fill};
    use super::*;
    use std::{fs, path::Path};

    /// Most seeds are whole conversations, so that mutations of them get far. They are written where they are missing.
    #[test]
    fn the_seeds_are_what_is_sent_today() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/zmtp");
        for (name, mechanism) in [("null", 0), ("plain", 4), ("curve", 6)] {
            let server_mechanism = if mechanism == 0 { 0 } else { mechanism + 1 };
            for (octet, version) in [(3, "1_0"), (2, "2_0"), (1, "3_0"), (0, "3_1")] {
                if mechanism == 4 && octet > 1 || mechanism == 6 && octet > 0 {
                    continue;
                }
                let client = [64 | SocketType::Xsub as u8, mechanism | octet << 3];
                let server = [64 | SocketType::Xpub as u8, server_mechanism];
                let (mut a, mut b) = (Side::new(options(client)), Side::new(options(server)));
                let (mut to_server, mut to_client) = exchange(&mut a, &mut b, 1000);
                fill(&mut a.connection, options(client).max_version, &mut to_server);
                b.connection.send_frames([&b"A"[..], &[b'x'; 300]], &mut to_client).unwrap();
                for (side, chosen, stream, expected) in
                    [("server", server, to_server, ["Subscribe", "Cancel"]), ("client", client, to_client, [""; 2])]
                {
                    let (told, end) = run(&Arc::new(options(chosen)), &stream, 5);
                    let says = |what: &str| {
                        told.iter().any(|told| matches!(told, Told::Other(text) if text.starts_with(what)))
                    };
                    assert!(end.is_ok() && says("Ready") && expected.iter().all(|what| says(what)), "{told:?}");
                    let path = folder.join(format!("{name}_{version}_{side}"));
                    let seed = [&chosen[..], &stream].concat();
                    if !path.exists() {
                        fs::write(&path, &seed).unwrap();
                    }
                    assert_eq!(fs::read(&path).unwrap(), seed, "{}", path.display());
                }
            }
        }
    }
}
