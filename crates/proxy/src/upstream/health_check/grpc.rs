//! Checks by `grpc.health.v1.Health/Check`.

use super::{
    Checks, Failed, Passed,
    exchange::Answer,
    peer::{Peer, Speaks},
};
use crate::upstream::host::Host;
use sota_codec::protobuf::{self, Value};
use sota_plugin::http::{GrpcStatus, HeaderId, Method};
use std::sync::Arc;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// A longer answer is none: it holds one number.
const MOST: usize = 4096;
/// What stands before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

impl Checks {
    pub(super) async fn check_grpc(
        &self,
        service: &str,
        authority: &str,
        host: &Arc<Host>,
        peer: &mut Option<Peer>,
    ) -> Result<Passed, Failed> {
        let authority = self.authority(host, authority);
        let mut request = self.request(Method::Post, authority, PATH, host)?;
        request.headers.set_sanitized("te", "trailers");
        request.headers.set_sanitized(HeaderId::ContentType, "application/grpc");
        request
            .headers
            .set_sanitized("grpc-timeout", format!("{}m", self.checker.model.timeout.as_millis().min(99_999_999)));
        self.change(&mut request, host);
        let answer = self.exchange(host, peer, Speaks::Http2, &request, &message(service), MOST).await?;
        let status = GrpcStatus::of(answer.trailers.as_deref(), Some(&answer.head), Some(answer.head.status));
        if status != Some(GrpcStatus(0)) || !is_serving(&answer) {
            return Err(Failed::answer(false, None));
        }
        Ok(Passed { degraded: false })
    }
}

/// A framed `HealthCheckRequest`.
fn message(service: &str) -> Vec<u8> {
    let mut body = Vec::new();
    if !service.is_empty() {
        // Field 1, with a length.
        body.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            body.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        body.push(length as u8);
        body.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&body);
    framed
}

/// Whether the answer is one whole `HealthCheckResponse` that says so.
fn is_serving(answer: &Answer) -> bool {
    let Some((&[compressed, a, b, c, d], message)) = answer.body.split_first_chunk::<PREFIX>() else { return false };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    compressed == 0 && length == message.len() && serving_status(message) == Some(SERVING)
}

/// The number of field 1; the last counts, and without one it is 0. `None`: it is no message.
fn serving_status(message: &[u8]) -> Option<u64> {
    let mut status = 0;
    for field in protobuf::fields(message) {
        if let (1, Value::Varint(value)) = field.ok()? {
            status = value;
        }
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_health_service() {
        assert_eq!(message(""), [0, 0, 0, 0, 0]);
        assert_eq!(message("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(message(&"x".repeat(200))[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
        assert_eq!(serving_status(&[]), Some(0));
        assert_eq!(serving_status(&[8, 1]), Some(1));
        assert_eq!(serving_status(&[8, 1, 8, 2]), Some(2));
        assert_eq!(serving_status(&[0x12, 1, b'x', 8, 1]), Some(1), "fields of later versions");
        for broken in [&[8][..], &[8, 0x80], &[0x12, 5, 1], &[0x0b], &[0xff; 12]] {
            assert_eq!(serving_status(broken), None, "{broken:?}");
        }
    }
}
