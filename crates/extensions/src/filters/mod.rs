//! Filters, in the folders of Envoy's categories.

pub(crate) mod listener;
pub(crate) mod network;
