//! A dispatcher and a protocol, as `docs/writing-a-protocol.md` builds them.

pub mod protocol;
pub mod relay;
