//! Redis as a protocol of requests and answers.

use bytes::{Bytes, BytesMut};
use sota_codec::resp::{Decoder, Limits, Value};
use sota_plugin::{
    protocol::{CallError, Malformed, Order, Protocol},
    upstream::UpstreamError,
};

/// The protocol.
pub(super) struct Redis;

/// The words of a command; `None`: the client sent a value that is no command.
pub(super) type Words = Option<Vec<Bytes>>;

/// Reads one direction; which one shows with the first use.
#[derive(Default)]
pub(super) struct State(Option<Decoder>);

impl State {
    fn decode(&mut self, inline: bool, buffer: &mut BytesMut) -> Result<Option<Value>, Malformed> {
        let decoder = self.0.get_or_insert_with(|| Decoder::new(Limits { inline, ..Limits::default() }));
        decoder.decode(buffer).map_err(|error| Malformed(error.to_string().into()))
    }
}

impl Protocol for Redis {
    type Request = Words;
    type Response = Value;
    type State = State;

    const NAME: &'static str = "redis";
    const ORDER: Order = Order::InOrder;

    fn decode_request(&self, state: &mut State, buffer: &mut BytesMut) -> Result<Option<Words>, Malformed> {
        Ok(state.decode(true, buffer)?.map(words))
    }

    fn encode_request(&self, _: &mut State, request: &Words, _: u64, out: &mut Vec<u8>) {
        Value::encode_command(request.as_deref().unwrap_or_default(), out);
    }

    fn decode_response(&self, state: &mut State, buffer: &mut BytesMut) -> Result<Option<Value>, Malformed> {
        state.decode(false, buffer)
    }

    fn encode_response(&self, _: &mut State, response: &Value, _: u64, out: &mut Vec<u8>) {
        response.encode(out);
    }

    fn failure(&self, _: &Words, error: &CallError) -> Value {
        failure(error)
    }
}

/// What a client is told when no host answered.
pub(super) fn failure(error: &CallError) -> Value {
    Value::error(match error {
        CallError::NoRoute | CallError::Upstream(UpstreamError::UnknownCluster(_) | UpstreamError::NoHost(_)) => {
            "no upstream host"
        }
        _ => "upstream failure",
    })
}

fn words(value: Value) -> Words {
    let Value::Array(items) = value else { return None };
    let words: Option<Vec<_>> = items
        .into_iter()
        .map(|item| match item {
            Value::Bulk(word) => Some(word),
            _ => None,
        })
        .collect();
    words.filter(|words| !words.is_empty())
}
