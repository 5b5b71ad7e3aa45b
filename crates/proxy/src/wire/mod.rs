//! HTTP over a [`Socket`](crate::socket::Socket), in both roles: what stands between the codecs, which know bytes, and the
//! connection manager and the router, which know messages.

pub mod http1;
