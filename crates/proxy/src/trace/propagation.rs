//! How a trace is told from hop to hop: `traceparent` and `tracestate` (W3C Trace Context), and B3 in both forms.

use sota_plugin::{
    http::{HeaderId, Headers},
    info::TraceInfo,
};

const TRACESTATE: &str = "tracestate";

/// What a request says of the trace that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) trace_id: u128,
    /// The span of whoever sent it.
    pub(super) span_id: u64,
    /// The parent of that span, as far as it is told (B3).
    pub(super) parent_id: Option<u64>,
    /// Whether the trace is reported; `None`: that is left to us (B3).
    pub(super) is_sampled: Option<bool>,
    pub(super) is_64bit: bool,
    pub(super) state: Box<str>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// Fields that cannot be understood.
    Malformed,
    /// Only whether the trace is to be reported (B3).
    Decision(bool),
    Trace(Incoming),
}

/// Exactly `N` lower- or upper-case hexadecimal digits.
fn digits<const N: usize>(text: &[u8]) -> Option<u128> {
    let all = text.len() == N && text.iter().all(u8::is_ascii_hexdigit);
    u128::from_str_radix(std::str::from_utf8(text).ok().filter(|_| all)?, 16).ok()
}

fn span_id(text: &[u8]) -> Option<u64> {
    digits::<16>(text).and_then(|id| u64::try_from(id).ok()).filter(|id| *id != 0)
}

/// W3C Trace Context, version 00.
pub(super) fn read_w3c(headers: &Headers) -> Found {
    let Some(text) = headers.get(HeaderId::Traceparent) else { return Found::Nothing };
    let state = headers.get_joined(TRACESTATE).unwrap_or_default();
    let state = std::str::from_utf8(&state).unwrap_or_default().into();
    let mut parts = text.split(|octet| *octet == b'-');
    let mut next = || parts.next().unwrap_or_default();
    let (version, trace, span, flags) = (next(), next(), next(), next());
    let is_known = digits::<2>(version).is_some_and(|version| version != 0xff) && text.len() == 55;
    let trace_id = digits::<32>(trace).filter(|id| *id != 0);
    match (trace_id, span_id(span), digits::<2>(flags)) {
        (Some(trace_id), Some(span_id), Some(flags)) if is_known => Found::Trace(Incoming {
            trace_id,
            span_id,
            parent_id: None,
            is_sampled: Some(flags & 1 == 1),
            is_64bit: false,
            state,
        }),
        _ => Found::Malformed,
    }
}

/// B3: the single field, or else the several.
pub(super) fn read_b3(headers: &Headers) -> Found {
    match headers.get(HeaderId::B3) {
        Some(text) => read_b3_single(text),
        None => read_b3_multi(headers),
    }
}

/// `TRACE-SPAN[-SAMPLED[-PARENT]]`, or only the decision.
fn read_b3_single(text: &[u8]) -> Found {
    match text {
        b"0" => return Found::Decision(false),
        b"1" | b"d" => return Found::Decision(true),
        _ => {}
    }
    let parts: Vec<_> = text.split(|octet| *octet == b'-').collect();
    let (trace, span, rest) = match parts.as_slice() {
        [trace, span, rest @ ..] if rest.len() <= 2 => (*trace, *span, rest),
        _ => return Found::Malformed,
    };
    let is_sampled = match rest.first() {
        None => None,
        Some(&b"0") => Some(false),
        Some(&(b"1" | b"d")) => Some(true),
        Some(_) => return Found::Malformed,
    };
    let parent_id = match rest.get(1).map(|text| span_id(text)) {
        Some(None) => return Found::Malformed,
        parent => parent.flatten(),
    };
    b3_trace(trace, span, parent_id, is_sampled)
}

fn read_b3_multi(headers: &Headers) -> Found {
    let is_debug = headers.get(HeaderId::XB3Flags) == Some(b"1");
    let is_sampled = match headers.get(HeaderId::XB3Sampled) {
        Some(b"1" | b"true") => Some(true),
        Some(b"0" | b"false") => Some(false),
        _ => None,
    };
    let is_sampled = if is_debug { Some(true) } else { is_sampled };
    match (headers.get(HeaderId::XB3Traceid), headers.get(HeaderId::XB3Spanid)) {
        (Some(trace), Some(span)) => {
            let parent = headers.get(HeaderId::XB3Parentspanid).filter(|text| !text.is_empty());
            match parent.map(span_id) {
                Some(None) => Found::Malformed,
                parent => b3_trace(trace, span, parent.flatten(), is_sampled),
            }
        }
        (None, None) => is_sampled.map_or(Found::Nothing, Found::Decision),
        _ => Found::Malformed,
    }
}

fn b3_trace(trace: &[u8], span: &[u8], parent_id: Option<u64>, is_sampled: Option<bool>) -> Found {
    let is_64bit = trace.len() == 16;
    let trace_id = if is_64bit { digits::<16>(trace) } else { digits::<32>(trace) };
    match (trace_id.filter(|id| *id != 0), span_id(span)) {
        (Some(trace_id), Some(span_id)) => {
            Found::Trace(Incoming { trace_id, span_id, parent_id, is_sampled, is_64bit, state: "".into() })
        }
        _ => Found::Malformed,
    }
}

/// The span that the next hop is told of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing<'a> {
    pub(super) trace: &'a TraceInfo,
    pub(super) span_id: u64,
    pub(super) parent_id: Option<u64>,
}

/// Writes `traceparent`, and `tracestate` where there is one.
pub(super) fn write_w3c(span: Outgoing<'_>, headers: &mut Headers) {
    let Outgoing { trace, span_id, .. } = span;
    let flags = u8::from(trace.is_sampled);
    headers.set_sanitized(HeaderId::Traceparent, format!("00-{:032x}-{span_id:016x}-{flags:02x}", trace.trace_id));
    if !trace.state.is_empty() {
        headers.set_sanitized(TRACESTATE, &*trace.state);
    }
}

/// Writes the several fields of B3.
pub(super) fn write_b3(span: Outgoing<'_>, headers: &mut Headers) {
    let Outgoing { trace, span_id, parent_id } = span;
    headers.set_sanitized(HeaderId::XB3Traceid, trace.trace_id_text());
    headers.set_sanitized(HeaderId::XB3Spanid, format!("{span_id:016x}"));
    match parent_id {
        Some(parent) => headers.set_sanitized(HeaderId::XB3Parentspanid, format!("{parent:016x}")),
        None => drop(headers.remove(HeaderId::XB3Parentspanid)),
    }
    headers.set_sanitized(HeaderId::XB3Sampled, if trace.is_sampled { "1" } else { "0" });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(all: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in all {
            headers.append(*name, value.as_bytes()).unwrap();
        }
        headers
    }

    const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
    const SPAN: u64 = 0xb7ad_6b71_6920_3331;

    fn trace(is_sampled: Option<bool>) -> Incoming {
        Incoming { trace_id: TRACE, span_id: SPAN, parent_id: None, is_sampled, is_64bit: false, state: "".into() }
    }

    #[test]
    fn w3c() {
        let read = |text: &str| read_w3c(&fields(&[("traceparent", text)]));
        let wanted = |sampled| Found::Trace(trace(Some(sampled)));
        assert_eq!(read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), wanted(true));
        assert_eq!(read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"), wanted(false));
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        ] {
            assert_eq!(read(bad), Found::Malformed, "{bad}");
        }
        assert_eq!(read_w3c(&fields(&[])), Found::Nothing);
        let both = fields(&[
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ]);
        assert!(matches!(read_w3c(&both), Found::Trace(Incoming { state, .. }) if &*state == "a=1,b=2"));
    }

    #[test]
    fn b3() {
        let single = |text: &str| read_b3(&fields(&[("b3", text)]));
        assert_eq!(single("0"), Found::Decision(false));
        assert_eq!(single("d"), Found::Decision(true));
        let long = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        assert_eq!(single(long), Found::Trace(trace(None)));
        assert_eq!(single(&format!("{long}-1")), Found::Trace(trace(Some(true))));
        let parent = Found::Trace(Incoming { parent_id: Some(5), ..trace(Some(false)) });
        assert_eq!(single(&format!("{long}-0-0000000000000005")), parent);
        for bad in
            ["", "x", "1-2", &format!("{long}-7"), &format!("{long}-1-x"), &format!("{long}-1-0000000000000005-")]
        {
            assert_eq!(single(bad), Found::Malformed, "{bad}");
        }
        let multi = [("x-b3-traceid", "8448eb211c80319c"), ("x-b3-spanid", "b7ad6b7169203331"), ("x-b3-flags", "1")];
        let short = Incoming { trace_id: 0x8448_eb21_1c80_319c, is_64bit: true, ..trace(Some(true)) };
        assert_eq!(read_b3(&fields(&multi)), Found::Trace(short));
        assert_eq!(read_b3(&fields(&multi[..1])), Found::Malformed);
        assert_eq!(read_b3(&fields(&[("x-b3-sampled", "0")])), Found::Decision(false));
        assert_eq!(read_b3(&fields(&[])), Found::Nothing);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let trace = TraceInfo {
            trace_id: TRACE,
            span_id: SPAN,
            parent_id: None,
            is_sampled: true,
            is_64bit: false,
            is_shared: false,
            state: "a=1".into(),
            operation: "".into(),
            decorated: None,
        };
        let out = Outgoing { trace: &trace, span_id: SPAN, parent_id: Some(7) };
        let mut headers = Headers::new();
        write_w3c(out, &mut headers);
        write_b3(out, &mut headers);
        assert!(matches!(read_w3c(&headers), Found::Trace(Incoming { trace_id: TRACE, span_id: SPAN, .. })));
        assert!(matches!(read_b3(&headers), Found::Trace(Incoming { trace_id: TRACE, parent_id: Some(7), .. })));
    }
}
