//! Tests of routing as a whole.
