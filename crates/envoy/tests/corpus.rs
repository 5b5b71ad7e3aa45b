//! Replays every seed and past finding of the fuzz targets, as they are and in simple mutations.

use sota_envoy::fuzzing;
use sota_testkit::replay_corpus;

/// So many places of a seed are changed.
const PLACES: usize = 5;

#[test]
fn yaml() {
    replay_corpus("yaml", PLACES, fuzzing::fuzz_yaml);
}

#[test]
fn check() {
    replay_corpus("check", PLACES, fuzzing::fuzz_check);
}

#[test]
fn wire() {
    replay_corpus("wire", PLACES, fuzzing::fuzz_wire);
}

#[test]
fn load() {
    replay_corpus("load", PLACES, fuzzing::fuzz_load);
}

#[test]
fn discovery() {
    replay_corpus("discovery", PLACES, fuzzing::fuzz_discovery);
}
