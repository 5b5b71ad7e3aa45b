//! What a decoder accepts, and when it is worth its while to look again.

use sota_config::http::UnderscoreAction;

/// Limits and switches of a head decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Octets of a head, start line and final empty line included, and of trailers; default 60 KiB.
    pub max_head_bytes: usize,
    /// Fields of a head, duplicates counted, and of trailers; default 100.
    pub max_fields: usize,
    /// Take absolute-form targets; default true.
    pub allow_absolute_form: bool,
    /// Take `Content-Length` beside `Transfer-Encoding: chunked`; the length is dropped and the connection closed
    /// after the message. Default false.
    pub allow_chunked_length: bool,
    /// Take methods that nobody registered; default false.
    pub allow_custom_methods: bool,
    /// What to do with names that have an underscore; default: nothing.
    pub underscores: UnderscoreAction,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            max_head_bytes: 60 * 1024,
            max_fields: 100,
            allow_absolute_form: true,
            allow_chunked_length: false,
            allow_custom_methods: false,
            underscores: UnderscoreAction::Allow,
        }
    }
}

/// How far a head that has not arrived whole was looked at, so that a head that comes octet by octet costs linear
/// time. Kept beside the bytes of an incomplete head; a complete head resets it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadProgress {
    seen: usize,
    tried: usize,
}

/// A head this short is always parsed again, so that what is wrong is noticed at once.
const ALWAYS: usize = 512;

impl HeadProgress {
    /// Whether to parse `buf` now: it is short, has doubled since the last time, or its new part may end the head.
    pub(super) fn should_parse(&mut self, buf: &[u8]) -> bool {
        if buf.len() < self.seen {
            // The caller dropped something in front (empty lines): begin anew.
            *self = Self::default();
        }
        let ends = self.seen == 0 || has_empty_line(buf, self.seen.saturating_sub(3));
        self.seen = buf.len();
        let worth = ends || buf.len() <= ALWAYS || buf.len() >= self.tried.saturating_mul(2);
        if worth {
            self.tried = buf.len();
        }
        worth
    }
}

/// Whether a line end at or behind `from` is followed by another.
fn has_empty_line(buf: &[u8], from: usize) -> bool {
    let new = buf.get(from..).unwrap_or_default();
    memchr::memchr_iter(b'\n', new).any(|at| {
        let rest = new.get(at + 1..).unwrap_or_default();
        rest.starts_with(b"\r\n") || rest.starts_with(b"\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_head_is_parsed_few_times_and_at_its_end() {
        let mut head = b"GET / HTTP/1.1\r\n".to_vec();
        while head.len() < 50_000 {
            head.extend_from_slice(b"x: y\r\n");
        }
        head.extend_from_slice(b"\r\n");
        let mut progress = HeadProgress::default();
        let mut work = 0;
        let mut last = false;
        for end in 1..=head.len() {
            last = progress.should_parse(&head[..end]);
            if last {
                work += end;
            }
        }
        assert!(last, "the complete head must be parsed");
        assert!(work < 5 * head.len() + ALWAYS * ALWAYS, "{work} octets parsed for {}", head.len());
    }
}
