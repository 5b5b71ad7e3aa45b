//! SETTINGS (RFC 9113 §6.5): ours to write, the peer's to obey.

use super::{
    ConnectionError, ErrorCode,
    frame::{self, MAX_31, MAX_PAYLOAD, kind},
    options::Options,
};

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// The window that every stream and connection begins with.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;

/// What the peer allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerSettings {
    /// Octets of HPACK table.
    pub header_table_size: u32,
    /// Streams that we may have open; no limit until the peer says so.
    pub max_concurrent_streams: u32,
    /// Octets that we may send on a new stream.
    pub initial_window_size: u32,
    /// Octets of payload that a frame of ours may have.
    pub max_frame_size: u32,
    /// Octets of a head by the RFC's count that the peer wants to take; advice.
    pub max_header_list_size: u32,
    /// Extended CONNECT (RFC 8441).
    pub enable_connect_protocol: bool,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            header_table_size: 4096,
            max_concurrent_streams: u32::MAX,
            initial_window_size: DEFAULT_WINDOW,
            max_frame_size: MAX_PAYLOAD,
            max_header_list_size: u32::MAX,
            enable_connect_protocol: false,
        }
    }
}

impl PeerSettings {
    /// Takes over a SETTINGS payload, whose length is a multiple of six. The last of several values counts: what
    /// lies between them is never in force.
    pub(super) fn apply(&mut self, payload: &[u8], from_server: bool) -> Result<(), ConnectionError> {
        let (parameters, _) = payload.as_chunks::<6>();
        for [a, b, value @ ..] in parameters {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                HEADER_TABLE_SIZE => self.header_table_size = value,
                // A server may only say 0 (RFC 9113 §6.5.2).
                ENABLE_PUSH if value > 1 || from_server && value == 1 => {
                    return Err(ConnectionError::protocol("invalid SETTINGS_ENABLE_PUSH"));
                }
                MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = value,
                INITIAL_WINDOW_SIZE if value > MAX_31 => {
                    let code = ErrorCode::FLOW_CONTROL_ERROR;
                    return Err(ConnectionError::new(code, "invalid SETTINGS_INITIAL_WINDOW_SIZE"));
                }
                INITIAL_WINDOW_SIZE => self.initial_window_size = value,
                MAX_FRAME_SIZE if !(MAX_PAYLOAD..1 << 24).contains(&value) => {
                    return Err(ConnectionError::protocol("invalid SETTINGS_MAX_FRAME_SIZE"));
                }
                MAX_FRAME_SIZE => self.max_frame_size = value,
                MAX_HEADER_LIST_SIZE => self.max_header_list_size = value,
                // Once allowed it stays so (RFC 8441 §3).
                ENABLE_CONNECT_PROTOCOL if value > 1 || value == 0 && self.enable_connect_protocol => {
                    return Err(ConnectionError::protocol("invalid SETTINGS_ENABLE_CONNECT_PROTOCOL"));
                }
                ENABLE_CONNECT_PROTOCOL => self.enable_connect_protocol = value == 1,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Appends our settings: those that Envoy sends.
pub(super) fn write(options: &Options, is_client: bool, out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(30);
    let mut put = |id: u16, value: u32| {
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    };
    if is_client {
        put(ENABLE_PUSH, 0);
    }
    put(HEADER_TABLE_SIZE, options.hpack_table_size);
    put(ENABLE_CONNECT_PROTOCOL, u32::from(options.allow_connect));
    put(MAX_CONCURRENT_STREAMS, options.max_concurrent_streams);
    put(INITIAL_WINDOW_SIZE, options.initial_stream_window);
    frame::write(out, kind::SETTINGS, 0, 0, &[&payload]);
}
