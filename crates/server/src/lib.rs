//! The process: bootstrap, workers, publishing, drain, signals, stats, admin.

pub mod stats;
