//! The trace that a stream belongs to.

/// A stream's place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceInfo {
    /// The trace.
    pub trace_id: u128,
    /// This stream's span.
    pub span_id: u64,
    /// The span that this one is within; `None` for the first of a trace.
    pub parent_id: Option<u64>,
    /// Whether the span is reported.
    pub is_sampled: bool,
    /// Ids of traces have 64 bits (Zipkin), so they print with 16 digits.
    pub is_64bit: bool,
    /// The span is the one that the client has begun (Zipkin).
    pub is_shared: bool,
    /// What came with the trace and passes through (`tracestate`).
    pub state: Box<str>,
    /// The name of the span.
    pub operation: Box<str>,
    /// The operation that the route's decorator tells the client of, behind an inbound listener.
    pub decorated: Option<Box<str>>,
}

impl TraceInfo {
    /// The trace's id as hexadecimal digits: 32, or 16 where ids have 64 bits.
    pub fn trace_id_text(&self) -> String {
        match self.is_64bit && self.trace_id <= u128::from(u64::MAX) {
            true => format!("{:016x}", self.trace_id),
            false => format!("{:032x}", self.trace_id),
        }
    }
}
