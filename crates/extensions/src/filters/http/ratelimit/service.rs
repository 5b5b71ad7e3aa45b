//! What is said to a rate-limit service and what it says (`envoy.service.ratelimit.v3`).

use sota_codec::protobuf::{Malformed, Message, Value, fields};
use sota_config::{Node, Value as Tree};
use sota_plugin::rate_limit::Descriptor;
use std::{fmt::Write, time::Duration};

/// The method.
pub(super) const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

const OVER_LIMIT: u64 = 2;

/// A `RateLimitRequest`.
pub(super) fn request(domain: &str, descriptors: &[Descriptor], hits: u64) -> Vec<u8> {
    let mut out = Message::new();
    out.string(1, domain);
    for descriptor in descriptors {
        out.message(2, |out| {
            for (key, value) in &descriptor.entries {
                out.message(1, |out| {
                    out.string(1, key).string(2, value);
                });
            }
            if let Some(hits) = descriptor.hits {
                out.message(3, |out| {
                    out.uint(1, hits);
                });
            }
            out.uint(4, descriptor.is_negative.into());
        });
    }
    out.uint(3, hits);
    out.into_bytes()
}

/// A `RateLimitResponse`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Response {
    pub(super) is_over_limit: bool,
    pub(super) response_headers: Vec<(String, Vec<u8>)>,
    pub(super) request_headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) metadata: Option<Node>,
    statuses: Vec<Status>,
}

/// What it says of one descriptor.
#[derive(Debug, Default, PartialEq)]
struct Status {
    limit: Option<Limit>,
    remaining: u64,
    reset: u64,
}

#[derive(Debug, Default, PartialEq)]
struct Limit {
    requests: u64,
    /// In seconds; 0 where it is not known.
    window: u64,
    name: String,
}

impl Response {
    pub(super) fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let mut response = Self::default();
        for field in fields(message) {
            match field? {
                (1, Value::Varint(code)) => response.is_over_limit = code == OVER_LIMIT,
                (2, Value::Bytes(status)) => response.statuses.push(Status::decode(status)?),
                (3, Value::Bytes(header)) => response.response_headers.push(self::header(header)?),
                (4, Value::Bytes(header)) => response.request_headers.push(self::header(header)?),
                (5, Value::Bytes(body)) => response.body = body.to_vec(),
                (6, Value::Bytes(tree)) => response.metadata = Some(structure(tree, MOST_NESTED)?),
                _ => {}
            }
        }
        Ok(response)
    }

    /// `x-ratelimit-limit`, `-remaining` and `-reset` of the descriptor that has least left, in the form of the draft.
    pub(super) fn x_ratelimit_headers(&self) -> Option<(String, u64, u64)> {
        let limited = || self.statuses.iter().filter_map(|status| Some((status, status.limit.as_ref()?)));
        // Of equal ones the first.
        let (least, limit) =
            limited().reduce(|least, other| if other.0.remaining < least.0.remaining { other } else { least })?;
        let mut text = limit.requests.to_string();
        for (_, limit) in limited().filter(|(_, limit)| limit.window > 0) {
            // Writing to a string does not fail.
            let _ = write!(text, ", {};w={}", limit.requests, limit.window);
            if !limit.name.is_empty() {
                let _ = write!(text, ";name=\"{}\"", limit.name);
            }
        }
        Some((text, least.remaining, least.reset))
    }

    /// Seconds until the descriptor that has least left is filled again.
    pub(super) fn reset(&self) -> Option<u64> {
        self.statuses.iter().map(|status| status.reset).filter(|seconds| *seconds > 0).max()
    }
}

impl Status {
    fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let mut status = Self::default();
        for field in fields(message) {
            match field? {
                (2, Value::Bytes(limit)) => status.limit = Some(Limit::decode(limit)?),
                (3, Value::Varint(remaining)) => status.remaining = remaining,
                (4, Value::Bytes(duration)) => status.reset = self::duration(duration)?.as_secs(),
                _ => {}
            }
        }
        Ok(status)
    }
}

impl Limit {
    fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let mut limit = Self::default();
        for field in fields(message) {
            match field? {
                (1, Value::Varint(requests)) => limit.requests = requests,
                (2, Value::Varint(unit)) => limit.window = seconds(unit),
                (3, Value::Bytes(name)) => limit.name = text(name)?,
                _ => {}
            }
        }
        Ok(limit)
    }
}

/// The window of a `RateLimit.Unit`.
const fn seconds(unit: u64) -> u64 {
    const DAY: u64 = 24 * 60 * 60;
    match unit {
        1 => 1,
        2 => 60,
        3 => 60 * 60,
        4 => DAY,
        5 => 30 * DAY,
        6 => 365 * DAY,
        7 => 7 * DAY,
        _ => 0,
    }
}

fn duration(message: &[u8]) -> Result<Duration, Malformed> {
    let mut seconds = 0;
    for field in fields(message) {
        if let (1, Value::Varint(value)) = field? {
            seconds = value.cast_signed().max(0).cast_unsigned();
        }
    }
    Ok(Duration::from_secs(seconds))
}

/// A `HeaderValue`: a name in lower case and its value.
fn header(message: &[u8]) -> Result<(String, Vec<u8>), Malformed> {
    let (mut name, mut value) = (String::new(), Vec::new());
    for field in fields(message) {
        match field? {
            (1, Value::Bytes(text)) => name = self::text(text)?.to_ascii_lowercase(),
            (2 | 3, Value::Bytes(text)) => value = text.to_vec(),
            _ => {}
        }
    }
    Ok((name, value))
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed)
}

/// Metadata is not read deeper than this.
const MOST_NESTED: u32 = 32;

/// A `google.protobuf.Struct`.
fn structure(message: &[u8], depth: u32) -> Result<Node, Malformed> {
    let mut pairs = Vec::new();
    for field in fields(message) {
        if let (1, Value::Bytes(entry)) = field? {
            let (mut key, mut value) = (String::new(), Node::new(Tree::Null));
            for field in fields(entry) {
                match field? {
                    (1, Value::Bytes(name)) => key = text(name)?,
                    (2, Value::Bytes(content)) => value = tree(content, depth)?,
                    _ => {}
                }
            }
            pairs.push((key.into(), value));
        }
    }
    Ok(Node::new(Tree::Map(pairs)))
}

/// A `google.protobuf.Value`.
fn tree(message: &[u8], depth: u32) -> Result<Node, Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed)?;
    let mut found = Tree::Null;
    for field in fields(message) {
        found = match field? {
            (2, Value::Fixed64(bits)) => Tree::Float(f64::from_bits(bits)),
            (3, Value::Bytes(content)) => Node::string(text(content)?).value,
            (4, Value::Varint(flag)) => Tree::Bool(flag != 0),
            (5, Value::Bytes(content)) => structure(content, depth)?.value,
            (6, Value::Bytes(list)) => {
                let mut items = Vec::new();
                for field in fields(list) {
                    if let (1, Value::Bytes(item)) = field? {
                        items.push(tree(item, depth)?);
                    }
                }
                Tree::List(items)
            }
            _ => found,
        };
    }
    Ok(Node::new(found))
}

/// What is read can be told.
pub(crate) fn fuzz_response(data: &[u8]) {
    if let Ok(response) = Response::decode(data) {
        let _ = (response.x_ratelimit_headers(), response.reset());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(requests: u64, unit: u64, remaining: u64, reset: u64) -> impl FnOnce(&mut Message) {
        move |out| {
            out.uint(1, 1).message(2, |out| {
                out.uint(1, requests).uint(2, unit);
            });
            out.uint(3, remaining).message(4, |out| {
                out.uint(1, reset);
            });
        }
    }

    #[test]
    fn what_is_least_is_told() {
        let mut message = Message::new();
        message.uint(1, 2).message(2, status(5, 2, 3, 10)).message(2, status(100, 3, 1, 20)).message(3, |out| {
            out.string(1, "X-A").string(2, "b");
        });
        let response = Response::decode(message.as_bytes()).unwrap();
        assert!(response.is_over_limit);
        assert_eq!(response.response_headers, [("x-a".to_owned(), b"b".to_vec())]);
        assert_eq!(response.x_ratelimit_headers(), Some(("100, 5;w=60, 100;w=3600".to_owned(), 1, 20)));
        assert_eq!(Response::decode(&[]).unwrap().x_ratelimit_headers(), None);
        assert_eq!(Response::decode(&[0x12, 9]), Err(Malformed));
    }

    #[test]
    fn metadata_is_read_and_not_too_deep() {
        let nested = |levels: usize| {
            let mut value = Message::new();
            value.string(3, "x");
            for _ in 0..levels {
                let mut outer = Message::new();
                outer.message(5, |out| {
                    out.message(1, |out| {
                        out.string(1, "k").bytes(2, value.as_bytes());
                    });
                });
                value = outer;
            }
            let mut message = Message::new();
            message.message(6, |out| {
                out.message(1, |out| {
                    out.string(1, "k").bytes(2, value.as_bytes());
                });
            });
            message.into_bytes()
        };
        let metadata = Response::decode(&nested(1)).unwrap().metadata.unwrap();
        assert_eq!(metadata.field("k").str("k"), "x");
        assert_eq!(Response::decode(&nested(40)), Err(Malformed));
    }
}
