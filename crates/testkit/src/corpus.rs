//! Replaying the corpora of the fuzz targets in ordinary tests.

use std::{fs, path::Path};

/// Runs a fuzz target on every seed and past finding in `fuzz/corpus/TARGET`, as they are, and with cuts, removals,
/// doublings and replacements at up to `places` places.
#[track_caller]
pub fn replay_corpus(target: &str, places: usize, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut seeds = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        let seed = fs::read(&path).unwrap();
        println!("{}", path.display());
        run(&seed);
        mutations(&seed, places, run);
        seeds += 1;
    }
    assert!(seeds >= 4, "only {seeds} seeds in {}", folder.display());
}

fn mutations(seed: &[u8], places: usize, run: fn(&[u8])) {
    for at in (0..seed.len()).step_by(seed.len() / places + 1) {
        let (before, after) = seed.split_at(at);
        let Some((first, rest)) = after.split_first() else { continue };
        run(before);
        run(after);
        run(&[before, rest].concat());
        run(&[before, &[*first], after].concat());
        for octet in [0, b'\r', b'\n', b' ', b':', b'-', b'"', b'{', b'0', 0x7f, 0xff] {
            run(&[before, &[octet], rest].concat());
            run(&[before, &[octet], after].concat());
        }
    }
}
