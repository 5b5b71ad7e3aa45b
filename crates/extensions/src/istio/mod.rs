//! Istio's own extensions, as `istiod` configures them in every sidecar and gateway.

pub(crate) mod alpn;
pub(crate) mod metadata_exchange;
pub(crate) mod peer_metadata;
pub(crate) mod stats;
mod structure;
mod workload;

pub(crate) use structure::fuzz as fuzz_structure;
