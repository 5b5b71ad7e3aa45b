//! What the fuzz targets run; a panic is a finding.

use crate::{
    compression::DecompressorLibrary,
    filters::http::{fuzz_response, fuzz_session, fuzz_web_text},
    istio::fuzz_structure,
};

/// Bodies as filters decompress them: the first octet chooses the coding and the size of the pieces.
pub fn fuzz_decompress(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    let library = match choice % 3 {
        0 => DecompressorLibrary::Gzip { window_bits: 15, max_ratio: 100 },
        1 => DecompressorLibrary::Brotli,
        _ => DecompressorLibrary::Zstd { dictionary: Vec::new() },
    };
    let Ok(mut decompressor) = library.start() else { return };
    for mut piece in body.chunks(usize::from(choice / 3) * 16 + 1) {
        while !piece.is_empty() {
            let Ok((used, out)) = decompressor.decompress(piece, 1024) else { return };
            assert!(used > 0 && used <= piece.len());
            let bound = decompressor.total_in().saturating_mul(100);
            assert!(decompressor.total_out() <= bound && out.len() as u64 <= bound, "a bomb went off");
            piece = piece.split_at_checked(used).map(|(_, rest)| rest).unwrap_or_default();
        }
    }
}

/// gRPC-Web as text, in pieces: what is encoded can be decoded, and the other way round.
pub fn fuzz_grpc_web(data: &[u8]) {
    fuzz_web_text(data);
}

/// The metadata that sidecars send to each other.
pub fn fuzz_peer_metadata(data: &[u8]) {
    fuzz_structure(data);
}

/// The cookies of sessions.
pub fn fuzz_session_cookie(data: &[u8]) {
    fuzz_session(data);
}

/// What a rate-limit service answers.
pub fn fuzz_rate_limit(data: &[u8]) {
    fuzz_response(data);
}
