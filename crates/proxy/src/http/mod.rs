//! The HTTP connection manager.

pub mod forwarded;
pub mod local_reply;
pub mod machine_address;
pub mod normalize;
mod referer;
pub mod request_id;
pub mod response;
