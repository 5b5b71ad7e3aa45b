//! Routing: which route takes a request, and what that route makes of request and response.
//!
//! A [`RouteTable`] is built once from a route configuration and shared by all threads. Each worker has its [`Routes`],
//! which find the [`SelectedRoute`] of a request. [`Forward`] then takes the request to a host of its cluster and brings the response.

mod attempt;
mod call;
mod choice;
mod cluster_specifier;
mod dynamic;
mod exchange;
mod failure;
mod filter_configs;
mod forward;
mod internal_redirect;
mod match_tree;
mod matching;
mod mirror;
mod mutations;
mod outgoing;
mod path_tree;
mod raw_exchange;
mod redirect;
mod request_mutations;
pub mod retry_policy;
pub mod retry_state;
mod rewrite;
mod route;
mod route_stats;
mod search;
mod selected;
mod table;
#[cfg(test)]
mod tests;
pub mod timeouts;
mod virtual_clusters;
pub(crate) mod virtual_hosts;

pub use call::{CallError, call};
pub(crate) use choice::RequestChoice;
pub use dynamic::{Brought, DynamicRoutes};
pub use failure::UpstreamFault;
pub use forward::{Answer, Forward, ForwardCx, Router};
pub(crate) use internal_redirect::{Followed, NotFollowed};
pub(crate) use matching::Mismatch;
pub(crate) use request_mutations::RequestMutations;
pub use route::ForwardAction;
pub(crate) use search::Search;
pub use selected::SelectedRoute;
pub use table::{ClusterReference, RouteTable, Routes, not_found};

/// The path without query and fragment: what routes match.
pub(crate) fn path_without_query(path: &[u8]) -> &[u8] {
    memchr::memchr2(b'?', b'#', path).and_then(|end| path.get(..end)).unwrap_or(path)
}
