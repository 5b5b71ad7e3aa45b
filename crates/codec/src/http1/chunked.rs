//! The chunked transfer coding (RFC 9112 §7.1), one state machine over whatever pieces arrive.

use super::{BodyEvent, DecodeOptions, Http1Error, trailers};

/// Extensions may be this long, plus as long as the data: room for signatures of large uploads, none for a flood of
/// one-octet chunks with a long extension each.
const FREE_EXTENSION_BYTES: u64 = 16 * 1024;
/// Hexadecimal digits of a size, leading zeros included.
const MAX_SIZE_DIGITS: u8 = 16;

/// Decodes a chunked body. It keeps no data: only numbers, and trailer lines once there are some.
#[derive(Debug)]
pub struct ChunkedDecoder {
    state: State,
    /// Octets of the current chunk still to come; while its size is read, the size so far.
    left: u64,
    digits: u8,
    data_bytes: u64,
    extension_bytes: u64,
    trailer_lines: Vec<u8>,
    max_trailer_bytes: usize,
    max_trailer_fields: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the size, or before its first digit.
    Size,
    /// White space behind the size.
    SizeSpace,
    Extension,
    /// CR of the size line has come.
    SizeLf,
    Data,
    /// Data has ended: CR, LF.
    DataCr,
    DataLf,
    /// At the first octet behind the last chunk's line.
    TrailerStart,
    /// CR of the empty line has come and there were no trailers.
    FinalLf,
    /// In trailer lines.
    Trailers,
    Done,
}

impl ChunkedDecoder {
    /// The limits of a head hold for trailers too.
    pub fn new(options: &DecodeOptions) -> Self {
        Self {
            state: State::Size,
            left: 0,
            digits: 0,
            data_bytes: 0,
            extension_bytes: 0,
            trailer_lines: Vec::new(),
            max_trailer_bytes: options.max_head_bytes,
            max_trailer_fields: options.max_fields,
        }
    }

    /// Whether the last octet of the message was consumed.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Consumes octets up to and with the next event; says how many. Everything is consumed before
    /// [`BodyEvent::NeedMore`], so the caller keeps no remainder.
    pub fn decode<'a>(&mut self, buf: &'a [u8]) -> Result<(usize, BodyEvent<'a>), Http1Error> {
        let mut at = 0;
        while let Some(&c) = buf.get(at) {
            match self.state {
                State::Data => {
                    let rest = buf.get(at..).unwrap_or_default();
                    let take = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
                    self.left -= take as u64;
                    self.data_bytes = self.data_bytes.saturating_add(take as u64);
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok((at + take, BodyEvent::Data(rest.get(..take).unwrap_or_default())));
                }
                State::Trailers => {
                    let (used, event) = self.trailers(buf.get(at..).unwrap_or_default())?;
                    return Ok((at + used, event));
                }
                State::Done => return Ok((at, BodyEvent::End)),
                _ => {
                    if self.step(c)? {
                        at += 1;
                    }
                    if self.state == State::Done {
                        return Ok((at, BodyEvent::End));
                    }
                }
            }
        }
        Ok((at, if self.state == State::Done { BodyEvent::End } else { BodyEvent::NeedMore }))
    }

    /// One octet outside of data and trailers; says whether it was consumed.
    fn step(&mut self, c: u8) -> Result<bool, Http1Error> {
        match (self.state, c) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.digits == MAX_SIZE_DIGITS {
                    return Err(Http1Error::Chunk);
                }
                self.digits += 1;
                self.left = (self.left << 4) | hex_value(c);
            }
            (State::Size, _) if self.digits == 0 => return Err(Http1Error::Chunk),
            (State::Size | State::SizeSpace, b' ' | b'\t') => {
                self.count_extension()?;
                self.state = State::SizeSpace;
            }
            (State::Size | State::SizeSpace, b';') => {
                self.count_extension()?;
                self.state = State::Extension;
            }
            (State::Size | State::SizeSpace | State::Extension, b'\r') => self.state = State::SizeLf,
            (State::Extension, c) if c == b'\t' || (c >= b' ' && c != 0x7f) => self.count_extension()?,
            (State::SizeLf, b'\n') => self.state = if self.left == 0 { State::TrailerStart } else { State::Data },
            (State::DataCr, b'\r') => self.state = State::DataLf,
            (State::DataLf, b'\n') => {
                self.digits = 0;
                self.state = State::Size;
            }
            (State::TrailerStart, b'\r') => self.state = State::FinalLf,
            (State::TrailerStart, b'\n') => return Err(Http1Error::BareLineFeed),
            (State::TrailerStart, _) => {
                self.state = State::Trailers;
                return Ok(false);
            }
            (State::FinalLf, b'\n') => self.state = State::Done,
            _ => return Err(Http1Error::Chunk),
        }
        Ok(true)
    }

    fn count_extension(&mut self) -> Result<(), Http1Error> {
        self.extension_bytes += 1;
        if self.extension_bytes > FREE_EXTENSION_BYTES.saturating_add(self.data_bytes) {
            return Err(Http1Error::ChunkExtensions);
        }
        Ok(())
    }

    /// Collects lines until the empty one. `rest` is not empty.
    fn trailers(&mut self, rest: &[u8]) -> Result<(usize, BodyEvent<'static>), Http1Error> {
        let before = self.trailer_lines.len();
        // One more than allowed, so that the limit shows; no more, so that memory is bounded.
        let room = self.max_trailer_bytes.saturating_add(1).saturating_sub(before).min(rest.len());
        self.trailer_lines.extend_from_slice(rest.get(..room).unwrap_or_default());
        let from = before.saturating_sub(3);
        let new = self.trailer_lines.get(from..).unwrap_or_default();
        let Some(end) = memchr::memmem::find(new, b"\r\n\r\n").map(|at| from + at + 4) else {
            return if self.trailer_lines.len() > self.max_trailer_bytes {
                Err(Http1Error::HeadTooLarge)
            } else {
                trailers::check_line_ends(new)?;
                Ok((room, BodyEvent::NeedMore))
            };
        };
        if end > self.max_trailer_bytes {
            return Err(Http1Error::HeadTooLarge);
        }
        let lines = std::mem::take(&mut self.trailer_lines);
        self.state = State::Done;
        let fields = trailers::parse(lines.get(..end).unwrap_or_default(), self.max_trailer_fields)?;
        Ok((end.saturating_sub(before), BodyEvent::Trailers(fields)))
    }
}

fn hex_value(c: u8) -> u64 {
    u64::from(match c {
        b'0'..=b'9' => c - b'0',
        b'a'..=b'f' => c - b'a' + 10,
        _ => c.wrapping_sub(b'A').wrapping_add(10),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{BodyDecoder, BodyLength};

    /// Data, trailers and octets consumed, when the body comes in pieces of `piece`.
    fn decode(body: &[u8], piece: usize) -> Result<(Vec<u8>, String, usize), Http1Error> {
        let mut decoder = BodyDecoder::new(BodyLength::Chunked, &DecodeOptions::default());
        let (mut data, mut fields, mut used) = (Vec::new(), Vec::new(), 0);
        for part in body.chunks(piece) {
            let mut part = part;
            loop {
                let (consumed, event) = decoder.decode(part)?;
                used += consumed;
                part = &part[consumed..];
                match event {
                    BodyEvent::Data(bytes) => data.extend_from_slice(bytes),
                    BodyEvent::NeedMore => {
                        assert!(part.is_empty(), "a remainder was left");
                        break;
                    }
                    BodyEvent::Trailers(trailers) => trailers.write_lines(&mut fields),
                    BodyEvent::End => return Ok((data, String::from_utf8(fields).unwrap(), used)),
                }
            }
        }
        Err(decoder.finish().expect_err("ended early"))
    }

    #[test]
    fn valid_bodies_in_any_pieces() {
        for (body, data, fields) in [
            ("0\r\n\r\n", "", ""),
            ("3\r\nabc\r\n0\r\n\r\n", "abc", ""),
            ("3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", "abc0123456789", ""),
            ("0003;a=b;c=\"d e\"\r\nabc\r\n000;last\r\n\r\n", "abc", ""),
            ("3 \t\r\nabc\r\n0\r\n\r\n", "abc", ""),
            ("3 ; a\r\nabc\r\n0\r\n\r\n", "abc", ""),
            ("1\r\na\r\n0\r\nX-A: 1\r\nX-B:2\r\n\r\n", "a", "X-A: 1\r\nX-B: 2\r\n"),
        ] {
            let rest = "GET / HTTP/1.1\r\n";
            for piece in 1..=body.len() {
                let got = decode(format!("{body}{rest}").as_bytes(), piece);
                assert_eq!(got, Ok((data.as_bytes().to_vec(), fields.to_owned(), body.len())), "{body:?} by {piece}");
            }
        }
    }

    #[test]
    fn what_breaks_the_grammar_is_refused() {
        for body in [
            "\r\n",
            ";\r\n",
            " 3\r\nabc\r\n",
            "-3\r\n",
            "+3\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "3x\r\nabc\r\n",
            "g\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3\r\nabc\r0\r\n\r\n",
            "3\r\nabc0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\r\nabc\r\n",
            "3\rabc\r\n",
            "3 x\r\nabc\r\n",
            "3;a\nabc\r\n0\r\n\r\n",
            "3;a\0\r\nabc\r\n",
            "3;a\rb\r\nabc\r\n",
            "10000000000000000\r\n",
            "00000000000000003\r\nabc\r\n",
            "ffffffffffffffffff\r\n",
            "0\r\n\rx",
            "0\r\n\n",
            "0\r\nbad name: x\r\n\r\n",
            "0\r\na : x\r\n\r\n",
            "0\r\na: b\n\r\n",
            "0\r\na: b\r\n\n",
            "0\r\n folded\r\n\r\n",
            "0\r\na: b\r\n c\r\n\r\n",
            "0\r\nno-colon\r\n\r\n",
            "0\r\na: \0\r\n\r\n",
            "3\r\nab",
            "0\r\n",
            "",
        ] {
            for piece in [1, 2, 3, 1000] {
                assert!(decode(body.as_bytes(), piece).is_err(), "{body:?} by {piece}");
            }
        }
    }

    #[test]
    fn a_huge_chunk_costs_nothing_before_it_arrives() {
        let mut decoder = ChunkedDecoder::new(&DecodeOptions::default());
        let (used, event) = decoder.decode(b"ffffffffffffffff\r\nabc").unwrap();
        assert!(matches!(event, BodyEvent::Data(b"abc")));
        assert_eq!((used, decoder.left), (21, u64::MAX - 3));
    }

    #[test]
    fn extensions_are_bounded_by_data() {
        let flood = format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(1000);
        assert_eq!(decode(flood.as_bytes(), 1 << 20), Err(Http1Error::ChunkExtensions));
        let signed = format!("400;chunk-signature={}\r\n{}\r\n", "f".repeat(64), "d".repeat(1024)).repeat(1000);
        assert!(decode(format!("{signed}0\r\n\r\n").as_bytes(), 1000).is_ok());
    }

    #[test]
    fn trailers_are_bounded_and_cannot_change_the_message() {
        let long = format!("0\r\nx: {}\r\n\r\n", "y".repeat(70_000));
        assert_eq!(decode(long.as_bytes(), 1000), Err(Http1Error::HeadTooLarge));
        assert_eq!(decode(long.as_bytes(), 1 << 20), Err(Http1Error::HeadTooLarge));
        let many = format!("0\r\n{}\r\n", "x: y\r\n".repeat(101));
        assert_eq!(decode(many.as_bytes(), 1000), Err(Http1Error::TooManyFields));
        let sneaky =
            "0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: evil\r\nOk: 1\r\nAuthorization: x\r\n\r\n";
        assert_eq!(decode(sneaky.as_bytes(), 7).unwrap().1, "Ok: 1\r\n");
    }

    #[test]
    fn an_idle_decoder_is_small() {
        assert!(size_of::<ChunkedDecoder>() <= 80, "{}", size_of::<ChunkedDecoder>());
    }
}
