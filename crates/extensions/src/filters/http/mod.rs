//! HTTP filters.

pub(crate) mod buffer;
pub(crate) mod cors;
pub(crate) mod header_mutation;
pub(crate) mod health_check;
pub(crate) mod sota_router;
