//! Memory for heads, lent to connections while they read.

use sota_plugin::http::{Headers, RequestHead, ResponseHead};

/// Heads that are used again and again. A worker has one for all its connections and gives heads back when their
/// message is done, so that a message allocates nothing in the steady state.
#[derive(Debug, Default)]
pub struct HeadPool {
    #[expect(clippy::vec_box, reason = "events carry boxes, and these are they")]
    requests: Vec<Box<RequestHead>>,
    #[expect(clippy::vec_box, reason = "events carry boxes, and these are they")]
    responses: Vec<Box<ResponseHead>>,
    #[expect(clippy::vec_box, reason = "events carry boxes, and these are they")]
    trailers: Vec<Box<Headers>>,
    /// For strings in Huffman code.
    pub(super) strings: Vec<u8>,
    /// For cookie crumbs.
    pub(super) cookies: Vec<u8>,
}

/// More heads than this are freed.
const MAX_KEPT: usize = 64;

macro_rules! kept {
    ($take:ident, $give:ident, $field:ident, $head:ty) => {
        pub(super) fn $take(&mut self) -> Box<$head> {
            self.$field.pop().unwrap_or_default()
        }

        /// Gives a head back for another message.
        pub fn $give(&mut self, mut head: Box<$head>) {
            if self.$field.len() < MAX_KEPT {
                head.recycle();
                self.$field.push(head);
            }
        }
    };
}

impl HeadPool {
    /// An empty pool, which owns no memory.
    pub fn new() -> Self {
        Self::default()
    }

    kept!(take_request, give_request, requests, RequestHead);
    kept!(take_response, give_response, responses, ResponseHead);
    kept!(take_trailers, give_trailers, trailers, Headers);
}
