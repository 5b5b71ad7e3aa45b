//! Bodies, however they are framed.

use super::{BodyLength, ChunkedDecoder, DecodeOptions, Http1Error};
use sota_plugin::http::Headers;

/// What was found in the bytes of a body.
#[derive(Debug, PartialEq)]
pub enum BodyEvent<'a> {
    /// Nothing is left of the bytes that were given.
    NeedMore,
    /// Data, a slice of what was given.
    Data(&'a [u8]),
    /// Trailers; the end follows.
    Trailers(Box<Headers>),
    /// The message is complete; what follows is not part of it. Given again on every later call.
    End,
}

/// Takes a body apart. It buffers nothing but trailer lines.
#[derive(Debug)]
pub enum BodyDecoder {
    /// So many octets are still to come; 0: complete.
    Length(u64),
    /// Chunks. In a box, so that the usual decoder is small.
    Chunked(Box<ChunkedDecoder>),
    /// All octets until the connection ends.
    UntilClose,
}

impl BodyDecoder {
    /// A decoder at the first octet behind the head. A tunnel has no end of its own, as a body until close has none.
    pub fn new(length: BodyLength, options: &DecodeOptions) -> Self {
        match length {
            BodyLength::Empty => Self::Length(0),
            BodyLength::Length(length) => Self::Length(length),
            BodyLength::Chunked => Self::Chunked(Box::new(ChunkedDecoder::new(options))),
            BodyLength::UntilClose | BodyLength::Tunnel => Self::UntilClose,
        }
    }

    /// Consumes octets of `buf` up to and with the next event; says how many. Call until [`BodyEvent::NeedMore`]
    /// (then everything was consumed) or [`BodyEvent::End`].
    #[inline]
    pub fn decode<'a>(&mut self, buf: &'a [u8]) -> Result<(usize, BodyEvent<'a>), Http1Error> {
        match self {
            Self::Length(0) => Ok((0, BodyEvent::End)),
            _ if buf.is_empty() => Ok((0, if self.is_complete() { BodyEvent::End } else { BodyEvent::NeedMore })),
            Self::Length(left) => {
                let take = usize::try_from(*left).map_or(buf.len(), |left| left.min(buf.len()));
                *left -= take as u64;
                Ok((take, BodyEvent::Data(buf.get(..take).unwrap_or_default())))
            }
            Self::Chunked(chunks) => chunks.decode(buf),
            Self::UntilClose => Ok((buf.len(), BodyEvent::Data(buf))),
        }
    }

    /// Whether the last octet was consumed. A body until close never says so.
    pub fn is_complete(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_done(),
            Self::UntilClose => false,
        }
    }

    /// The connection has ended: whether the message has, too. Otherwise the message must not be passed on as if it
    /// were whole.
    pub fn finish(&self) -> Result<(), Http1Error> {
        match self {
            Self::UntilClose => Ok(()),
            _ if self.is_complete() => Ok(()),
            _ => Err(Http1Error::Truncated),
        }
    }

    /// Octets still to come, where the framing is by length: what may be moved without being looked at.
    pub fn remaining(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            _ => None,
        }
    }

    /// Takes note of octets that went another way (splice). Only for bodies with [`Self::remaining`]; more than
    /// remain is an error of the caller and counts as all.
    pub fn skip(&mut self, octets: u64) {
        if let Self::Length(left) = self {
            debug_assert!(octets <= *left);
            *left = left.saturating_sub(octets);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_length() {
        let mut body = BodyDecoder::new(BodyLength::Length(5), &DecodeOptions::default());
        assert_eq!(body.decode(b""), Ok((0, BodyEvent::NeedMore)));
        assert_eq!(body.decode(b"ab"), Ok((2, BodyEvent::Data(b"ab"))));
        assert_eq!(body.finish(), Err(Http1Error::Truncated));
        body.skip(1);
        assert_eq!(body.remaining(), Some(2));
        assert_eq!(body.decode(b"deGET"), Ok((2, BodyEvent::Data(b"de"))));
        assert_eq!(body.decode(b"GET"), Ok((0, BodyEvent::End)));
        assert_eq!(body.finish(), Ok(()));
    }

    #[test]
    fn empty_and_until_close() {
        let options = DecodeOptions::default();
        let mut empty = BodyDecoder::new(BodyLength::Empty, &options);
        assert_eq!(empty.decode(b"GET"), Ok((0, BodyEvent::End)));
        let mut close = BodyDecoder::new(BodyLength::UntilClose, &options);
        assert_eq!(close.decode(b"abc"), Ok((3, BodyEvent::Data(b"abc"))));
        assert_eq!((close.finish(), close.is_complete()), (Ok(()), false));
    }

    #[test]
    fn a_decoder_is_two_words() {
        assert_eq!(size_of::<BodyDecoder>(), 16);
    }
}
