//! HTTP/2 on a port that speaks HTTP/1 only: recognising it, and the answer that says so.

/// What every HTTP/2 client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The whole answer to it: the server's preface (an empty SETTINGS frame, RFC 9113 §3.4), then GOAWAY with last
/// stream 0 and error code HTTP_1_1_REQUIRED (0xd, §7). The connection is closed behind it.
pub const GOAWAY_HTTP_1_1_REQUIRED: &[u8] = &[
    0, 0, 0, 4, 0, 0, 0, 0, 0, // SETTINGS, no parameter
    0, 0, 8, 7, 0, 0, 0, 0, 0, // GOAWAY, eight octets, on stream 0
    0, 0, 0, 0, 0, 0, 0, 0xd, // last stream, error code
];

/// How a connection's first bytes compare with the preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preface {
    /// The preface, whole.
    Complete,
    /// The bytes so far are its beginning.
    Partial,
    /// Something else.
    Other,
}

/// Compares the first bytes of a connection with the preface.
pub fn detect(bytes: &[u8]) -> Preface {
    if bytes.starts_with(PREFACE) {
        Preface::Complete
    } else if PREFACE.starts_with(bytes) {
        Preface::Partial
    } else {
        Preface::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detection() {
        for len in 0..PREFACE.len() {
            assert_eq!(detect(&PREFACE[..len]), Preface::Partial);
        }
        assert_eq!(detect(PREFACE), Preface::Complete);
        assert_eq!(detect(&[PREFACE, b"more"].concat()), Preface::Complete);
        assert_eq!(detect(b"PRI * HTTP/2.1"), Preface::Other);
        assert_eq!(detect(b"GET"), Preface::Other);
    }

    #[test]
    fn the_answer_is_two_frames() {
        let (settings, goaway) = GOAWAY_HTTP_1_1_REQUIRED.split_at(9);
        assert_eq!((settings[3], &settings[..3]), (4, &[0, 0, 0][..]));
        assert_eq!((goaway[3], &goaway[..3], goaway.len()), (7, &[0, 0, 8][..], 17));
        assert_eq!(goaway[16], 0xd);
    }
}
