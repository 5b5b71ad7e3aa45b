//! HTTP over a [`Socket`](crate::socket::Socket), in both roles: what stands between the codecs, which know bytes, and the
//! connection manager and the router, which know messages.

pub mod http1;
pub mod http2;
mod message;
mod server;

pub use message::{BodyError, ClientError, Part, RequestError, RequestStart, ResponseEvent, WriteError};
pub use server::ServerStream;
