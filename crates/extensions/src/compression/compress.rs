//! Compressing a body piece by piece.

use super::Coding;
use crate::data_source;
use brotli::{
    CompressorWriter,
    enc::{BrotliEncoderParams, backward_references::BrotliEncoderMode},
};
use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use sota_config::{ConfigError, Node};
use sota_plugin::FactoryContext;
use std::io::{self, Write as _};
use zstd::stream::{
    raw::{CParameter, Encoder as RawZstd},
    write::Encoder as Zstd,
};

/// Room that the output grows by.
const STEP: usize = 4096;

/// What makes compressors.
#[derive(Debug, Clone)]
pub(crate) enum CompressorLibrary {
    /// `envoy.extensions.compression.gzip.compressor.v3.Gzip`
    Gzip { level: u32, window_bits: u8 },
    /// `envoy.extensions.compression.brotli.compressor.v3.Brotli`
    Brotli { quality: i32, window_bits: i32, block_bits: i32, mode: BrotliEncoderMode, no_context: bool },
    /// `envoy.extensions.compression.zstd.compressor.v3.Zstd`
    Zstd { level: i32, checksum: bool, dictionary: Vec<u8> },
}

/// A body that is being compressed.
pub(crate) enum Compressor {
    Gzip(Compress),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(Zstd<'static, Vec<u8>>),
    /// Its end was written.
    Done,
}

impl CompressorLibrary {
    /// `envoy.config.core.v3.TypedExtensionConfig` in a field.
    pub(crate) fn read(node: &Node, field: &str, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let node = node.field(field);
        let config = node.field("typed_config");
        let int = |key: &str, default: i32| config.uint(key).and_then(|n| i32::try_from(n).ok()).unwrap_or(default);
        Ok(match Coding::of(node, "compressor", field, cx)? {
            Coding::Gzip => Self::Gzip {
                level: gzip_level(config.str("compression_level")),
                window_bits: config.uint("window_bits").and_then(|n| u8::try_from(n).ok()).unwrap_or(12).clamp(9, 15),
            },
            Coding::Brotli => Self::Brotli {
                quality: int("quality", 3),
                window_bits: int("window_bits", 18),
                block_bits: int("input_block_bits", 24),
                mode: match config.str("encoder_mode") {
                    "TEXT" => BrotliEncoderMode::BROTLI_MODE_TEXT,
                    "FONT" => BrotliEncoderMode::BROTLI_MODE_FONT,
                    _ => BrotliEncoderMode::BROTLI_MODE_GENERIC,
                },
                no_context: config.bool("disable_literal_context_modeling"),
            },
            Coding::Zstd => Self::Zstd {
                level: int("compression_level", 3),
                checksum: config.bool("enable_checksum"),
                dictionary: data_source::read(
                    config.field("dictionary"),
                    &format!("{field}.typed_config.dictionary"),
                    cx,
                )?,
            },
        })
    }

    pub(crate) fn coding(&self) -> Coding {
        match self {
            Self::Gzip { .. } => Coding::Gzip,
            Self::Brotli { .. } => Coding::Brotli,
            Self::Zstd { .. } => Coding::Zstd,
        }
    }

    /// For one body. Fails when there is no memory for it.
    pub(crate) fn start(&self) -> io::Result<Compressor> {
        Ok(match self {
            Self::Gzip { level, window_bits } => {
                Compressor::Gzip(Compress::new_gzip(Compression::new(*level), *window_bits))
            }
            Self::Brotli { quality, window_bits, block_bits, mode, no_context } => {
                let params = BrotliEncoderParams {
                    quality: *quality,
                    lgwin: *window_bits,
                    lgblock: *block_bits,
                    mode: *mode,
                    disable_literal_context_modeling: i32::from(*no_context),
                    ..BrotliEncoderParams::default()
                };
                Compressor::Brotli(Box::new(CompressorWriter::with_params(Vec::new(), STEP, &params)))
            }
            Self::Zstd { level, checksum, dictionary } => {
                let mut encoder = match dictionary.as_slice() {
                    [] => RawZstd::new(*level)?,
                    dictionary => RawZstd::with_dictionary(*level, dictionary)?,
                };
                encoder.set_parameter(CParameter::ChecksumFlag(*checksum))?;
                Compressor::Zstd(Zstd::with_encoder(Vec::new(), encoder))
            }
        })
    }
}

/// `envoy.extensions.compression.gzip.compressor.v3.Gzip.CompressionLevel`
fn gzip_level(name: &str) -> u32 {
    match name {
        "BEST_SPEED" => 1,
        "BEST_COMPRESSION" => 9,
        other => other.strip_prefix("COMPRESSION_LEVEL_").and_then(|level| level.parse().ok()).unwrap_or(6),
    }
}

impl Compressor {
    /// The octets for a piece of the body: all that the receiver needs to read it. With `end`, those that end it too.
    pub(crate) fn compress(&mut self, data: &[u8], end: bool) -> io::Result<Bytes> {
        let out = match self {
            Self::Gzip(gzip) => deflate(gzip, data, end)?,
            Self::Brotli(brotli) => {
                brotli.write_all(data)?;
                if !end {
                    brotli.flush()?;
                }
                std::mem::take(brotli.get_mut())
            }
            Self::Zstd(zstd) => {
                zstd.write_all(data)?;
                if end {
                    zstd.do_finish()?
                } else {
                    zstd.flush()?
                }
                std::mem::take(zstd.get_mut())
            }
            Self::Done => return Ok(Bytes::new()),
        };
        if !end {
            return Ok(out.into());
        }
        Ok(match std::mem::replace(self, Self::Done) {
            Self::Brotli(brotli) => [out, brotli.into_inner()].concat().into(),
            _ => out.into(),
        })
    }
}

fn deflate(gzip: &mut Compress, data: &[u8], end: bool) -> io::Result<Vec<u8>> {
    let flush = if end { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut out = Vec::with_capacity(STEP.min(data.len()) + 64);
    let begin = gzip.total_in();
    loop {
        let used = usize::try_from(gzip.total_in() - begin).unwrap_or(usize::MAX);
        let status = gzip.compress_vec(data.get(used..).unwrap_or_default(), &mut out, flush)?;
        let is_done = match status {
            Status::StreamEnd => true,
            // Room was left, so there is nothing more to write.
            Status::Ok | Status::BufError => !end && out.len() < out.capacity(),
        };
        if is_done {
            return Ok(out);
        }
        out.reserve(STEP);
    }
}
