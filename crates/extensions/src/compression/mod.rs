//! Compression libraries: gzip (RFC 1952), brotli (RFC 7932) and zstd (RFC 8878), as filters configure them.

mod compress;
mod decompress;

pub(crate) use compress::{Compressor, CompressorLibrary};
pub(crate) use decompress::{Decompressor, DecompressorLibrary, Fault};

use sota_config::{ConfigError, Node};
use sota_plugin::FactoryContext;

/// A coding of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

impl Coding {
    /// As `content-encoding` names it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// As stats name it, with the dot.
    pub(crate) fn stat_prefix(self) -> &'static str {
        match self {
            Self::Gzip => "gzip.",
            Self::Brotli => "brotli.",
            Self::Zstd => "zstd.",
        }
    }

    /// From the type of a library's configuration, such as
    /// `envoy.extensions.compression.gzip.compressor.v3.Gzip`; `part` is `compressor` or `decompressor`.
    fn of(node: &Node, part: &str, field: &str, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let config = node.field("typed_config");
        let url = config.str("@type");
        let name = url.rsplit('/').next().unwrap_or_default();
        let found = [(Self::Gzip, "gzip", "Gzip"), (Self::Brotli, "brotli", "Brotli"), (Self::Zstd, "zstd", "Zstd")]
            .into_iter()
            .find(|(_, folder, message)| *name == format!("envoy.extensions.compression.{folder}.{part}.v3.{message}"));
        found.map(|(coding, ..)| coding).ok_or_else(|| {
            let path = format!("{field}.typed_config");
            cx.error(&path, config.mark, format!("\"{url}\" is no {part}; there are gzip, brotli and zstd"))
        })
    }
}
