//! HTTP filters.

pub(crate) mod admission_control;
pub(crate) mod bandwidth_limit;
pub(crate) mod buffer;
pub(crate) mod compressor;
pub(crate) mod cors;
pub(crate) mod csrf;
pub(crate) mod custom_response;
pub(crate) mod decompressor;
pub(crate) mod fault;
mod grpc;
pub(crate) mod grpc_http1_bridge;
pub(crate) mod grpc_stats;
pub(crate) mod grpc_web;
pub(crate) mod header_mutation;
pub(crate) mod header_to_metadata;
pub(crate) mod health_check;
pub(crate) mod local_ratelimit;
pub(crate) mod ratelimit;
pub(crate) mod rbac;
pub(crate) mod set_filter_state;
pub(crate) mod set_metadata;
mod slow_body;
pub(crate) mod sota_router;
pub(crate) mod stateful_session;
pub(crate) mod zmq_bridge;

pub(crate) use grpc_web::fuzz_web_text;
pub(crate) use ratelimit::fuzz_response;
pub(crate) use stateful_session::fuzz_session;
