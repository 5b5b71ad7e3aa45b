//! Decompressing a body piece by piece, with bounds to what little input may become.

use super::Coding;
use crate::data_source;
use brotli::DecompressorWriter;
use flate2::{Decompress, FlushDecompress, Status};
use sota_config::{ConfigError, Node};
use sota_plugin::FactoryContext;
use std::io::{self, Write};
use zstd::stream::write::Decoder as Zstd;

/// So much of the input is looked at before the output is counted.
const SLICE: usize = 1024;
/// More than this is not made of one slice, whatever came before it.
const MAX_SLICE_OUTPUT: usize = 1024 * 1024;
/// How often the output may be as large as the input, unless something else is configured.
const MAX_RATIO: u64 = 100;
/// Room that the output grows by.
const STEP: usize = 4096;

/// What makes decompressors.
#[derive(Debug, Clone)]
pub(crate) enum DecompressorLibrary {
    /// `envoy.extensions.compression.gzip.decompressor.v3.Gzip`
    Gzip { window_bits: u8, max_ratio: u64 },
    /// `envoy.extensions.compression.brotli.decompressor.v3.Brotli`
    Brotli,
    /// `envoy.extensions.compression.zstd.decompressor.v3.Zstd`
    Zstd { dictionary: Vec<u8> },
}

/// Why a body cannot be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// It is not what it claims to be.
    #[error("the body is not what its content-encoding says")]
    Corrupt,
    /// It becomes too large for what it is.
    #[error("the body becomes too large")]
    TooLarge,
}

/// A body that is being decompressed.
pub(crate) struct Decompressor {
    kind: Kind,
    max_ratio: u64,
    total_in: u64,
    total_out: u64,
}

enum Kind {
    Gzip { state: Decompress, window_bits: u8 },
    Brotli(Box<DecompressorWriter<Sink>>),
    Zstd(Zstd<'static, Sink>),
}

/// Takes no more than a limit.
#[derive(Default)]
struct Sink {
    out: Vec<u8>,
    limit: usize,
    is_full: bool,
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.out.len() + data.len() > self.limit {
            self.is_full = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.out.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DecompressorLibrary {
    /// `envoy.config.core.v3.TypedExtensionConfig` in a field.
    pub(crate) fn read(node: &Node, field: &str, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let node = node.field(field);
        let config = node.field("typed_config");
        Ok(match Coding::of(node, "decompressor", field, cx)? {
            Coding::Gzip => Self::Gzip {
                window_bits: config.uint("window_bits").and_then(|n| u8::try_from(n).ok()).unwrap_or(15).clamp(9, 15),
                max_ratio: config.uint("max_inflate_ratio").unwrap_or(MAX_RATIO),
            },
            Coding::Brotli => Self::Brotli,
            Coding::Zstd => {
                let sources = config.list("dictionaries");
                if let Some(second) = sources.get(1) {
                    let path = format!("{field}.typed_config.dictionaries[1]");
                    return Err(cx.error(&path, second.mark, "one dictionary may stand here"));
                }
                let path = format!("{field}.typed_config.dictionaries[0]");
                let read = |source| data_source::read(source, &path, cx);
                Self::Zstd { dictionary: sources.first().map(read).transpose()?.unwrap_or_default() }
            }
        })
    }

    pub(crate) fn coding(&self) -> Coding {
        match self {
            Self::Gzip { .. } => Coding::Gzip,
            Self::Brotli => Coding::Brotli,
            Self::Zstd { .. } => Coding::Zstd,
        }
    }

    /// For one body. Fails when there is no memory for it.
    pub(crate) fn start(&self) -> io::Result<Decompressor> {
        let (kind, max_ratio) = match self {
            Self::Gzip { window_bits, max_ratio } => {
                let state = Decompress::new_gzip(*window_bits);
                (Kind::Gzip { state, window_bits: *window_bits }, *max_ratio)
            }
            Self::Brotli => (Kind::Brotli(Box::new(DecompressorWriter::new(Sink::default(), STEP))), MAX_RATIO),
            Self::Zstd { dictionary } => {
                let decoder = match dictionary.as_slice() {
                    [] => Zstd::new(Sink::default()),
                    dictionary => Zstd::with_dictionary(Sink::default(), dictionary),
                };
                (Kind::Zstd(decoder?), MAX_RATIO)
            }
        };
        Ok(Decompressor { kind, max_ratio, total_in: 0, total_out: 0 })
    }
}

impl Decompressor {
    /// Decompresses from the beginning of the data until there is about so much output. Says how much of the data was
    /// used, and gives the output.
    pub(crate) fn decompress(&mut self, data: &[u8], enough: usize) -> Result<(usize, Vec<u8>), Fault> {
        let mut out = Vec::new();
        let mut used = 0;
        for slice in data.chunks(SLICE) {
            self.total_in += slice.len() as u64;
            let allowance = self.total_in.saturating_mul(self.max_ratio).saturating_sub(self.total_out);
            let limit = usize::try_from(allowance).unwrap_or(usize::MAX).min(MAX_SLICE_OUTPUT);
            let made = self.slice(slice, limit)?;
            self.total_out += made.len() as u64;
            used += slice.len();
            if out.is_empty() {
                out = made;
            } else {
                out.extend_from_slice(&made);
            }
            if out.len() >= enough {
                break;
            }
        }
        Ok((used, out))
    }

    /// Octets that came.
    pub(crate) fn total_in(&self) -> u64 {
        self.total_in
    }

    /// Octets that they became.
    pub(crate) fn total_out(&self) -> u64 {
        self.total_out
    }

    fn slice(&mut self, data: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
        match &mut self.kind {
            Kind::Gzip { state, window_bits } => inflate(state, *window_bits, data, limit),
            Kind::Brotli(writer) => {
                writer.get_mut().limit = limit;
                let result = writer.write_all(data).and_then(|()| writer.flush());
                taken(writer.get_mut(), result)
            }
            Kind::Zstd(writer) => {
                writer.get_mut().limit = limit;
                let result = writer.write_all(data).and_then(|()| writer.flush());
                taken(writer.get_mut(), result)
            }
        }
    }
}

fn taken(sink: &mut Sink, result: io::Result<()>) -> Result<Vec<u8>, Fault> {
    match result {
        Ok(()) => Ok(std::mem::take(&mut sink.out)),
        Err(_) if sink.is_full => Err(Fault::TooLarge),
        Err(_) => Err(Fault::Corrupt),
    }
}

fn inflate(state: &mut Decompress, window_bits: u8, mut data: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::with_capacity(STEP);
    loop {
        let before = state.total_in();
        let status = state.decompress_vec(data, &mut out, FlushDecompress::Sync).map_err(|_| Fault::Corrupt)?;
        let used = usize::try_from(state.total_in() - before).unwrap_or(usize::MAX);
        data = data.get(used..).unwrap_or_default();
        if out.len() > limit {
            return Err(Fault::TooLarge);
        }
        match status {
            // Another member may follow (RFC 1952 §2.2).
            Status::StreamEnd if !data.is_empty() => *state = Decompress::new_gzip(window_bits),
            Status::StreamEnd => return Ok(out),
            Status::Ok | Status::BufError if out.len() < out.capacity() => {
                return if data.is_empty() { Ok(out) } else { Err(Fault::Corrupt) };
            }
            Status::Ok | Status::BufError => {}
        }
        out.reserve(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::CompressorLibrary, *};
    use brotli::enc::backward_references::BrotliEncoderMode;

    fn pairs() -> [(CompressorLibrary, DecompressorLibrary); 3] {
        [
            (
                CompressorLibrary::Gzip { level: 6, window_bits: 12 },
                DecompressorLibrary::Gzip { window_bits: 15, max_ratio: MAX_RATIO },
            ),
            (
                CompressorLibrary::Brotli {
                    quality: 3,
                    window_bits: 18,
                    block_bits: 24,
                    mode: BrotliEncoderMode::BROTLI_MODE_GENERIC,
                    no_context: false,
                },
                DecompressorLibrary::Brotli,
            ),
            (
                CompressorLibrary::Zstd { level: 3, checksum: true, dictionary: Vec::new() },
                DecompressorLibrary::Zstd { dictionary: Vec::new() },
            ),
        ]
    }

    fn text() -> Vec<u8> {
        (0..20_000_u32).flat_map(|n| format!("{} ", n * n).into_bytes()).collect()
    }

    fn compressed(library: &CompressorLibrary, body: &[u8], size: usize) -> Vec<u8> {
        let mut compressor = library.start().unwrap();
        let mut out: Vec<u8> =
            body.chunks(size).flat_map(|piece| compressor.compress(piece, false).unwrap().to_vec()).collect();
        out.extend_from_slice(&compressor.compress(b"", true).unwrap());
        assert_eq!(compressor.compress(b"", true).unwrap(), "", "it is over");
        out
    }

    fn decompressed(library: &DecompressorLibrary, body: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
        let mut decompressor = library.start().unwrap();
        let mut out = Vec::new();
        for mut piece in body.chunks(size) {
            while !piece.is_empty() {
                let (used, made) = decompressor.decompress(piece, 10_000)?;
                piece = &piece[used..];
                out.extend_from_slice(&made);
            }
        }
        assert_eq!((decompressor.total_in(), decompressor.total_out()), (body.len() as u64, out.len() as u64));
        Ok(out)
    }

    #[test]
    fn there_and_back_in_any_pieces() {
        let body = text();
        for (compress, decompress) in pairs() {
            for size in [100, 5_000, body.len()] {
                let small = compressed(&compress, &body, size);
                assert!(small.len() < body.len(), "{compress:?}");
                for size in [1, 700, small.len()] {
                    assert!(decompressed(&decompress, &small, size).unwrap() == body, "{compress:?} {size}");
                }
            }
        }
    }

    /// What was flushed can be read before the end is there.
    #[test]
    fn each_piece_can_be_read_at_once() {
        for (compress, decompress) in pairs() {
            let (mut compressor, mut decompressor) = (compress.start().unwrap(), decompress.start().unwrap());
            for piece in [&b"hello"[..], b"world"] {
                let small = compressor.compress(piece, false).unwrap();
                assert_eq!(
                    decompressor.decompress(&small, 100).unwrap(),
                    (small.len(), piece.to_vec()),
                    "{compress:?}"
                );
            }
        }
    }

    #[test]
    fn bombs_do_not_go_off() {
        for (compress, decompress) in pairs() {
            let bomb = compressed(&compress, &vec![0; 50_000_000], 50_000_000);
            assert_eq!(decompressed(&decompress, &bomb, bomb.len()), Err(Fault::TooLarge), "{compress:?}");
            // What came before does not make room for it.
            let mut body: Vec<u8> = (0..200_000).map(|_| fastrand::u8(..)).collect();
            body.resize(15_000_000, 0);
            let bomb = compressed(&compress, &body, body.len());
            let mut decompressor = decompress.start().unwrap();
            let mut rest = &bomb[..];
            while !rest.is_empty() {
                let Ok((used, made)) = decompressor.decompress(rest, 1) else { break };
                assert!(made.len() <= MAX_SLICE_OUTPUT);
                rest = &rest[used..];
            }
        }
    }

    #[test]
    fn corrupt_bodies() {
        let body = text();
        for (compress, decompress) in pairs() {
            assert_eq!(decompressed(&decompress, &[0xff; 3000], 3000), Err(Fault::Corrupt), "{compress:?}");
            let mut small = compressed(&compress, &body, body.len());
            let middle = small.len() / 2;
            small[middle..].fill(0xaa);
            assert!(decompressed(&decompress, &small, 100) != Ok(body.clone()), "{compress:?}");
        }
    }

    #[test]
    fn members_of_gzip_follow_each_other() {
        let [(gzip, gunzip), ..] = pairs();
        let two = [compressed(&gzip, b"one ", 10), compressed(&gzip, b"two", 10)].concat();
        assert_eq!(decompressed(&gunzip, &two, two.len()).unwrap(), b"one two");
    }
}
