//! HTTP requests of our own, over clusters as those of clients take them: for collectors of telemetry and the like.

use super::{
    exchange::{Exchange, Link},
    forward::client_options,
    outgoing::Behind,
};
use crate::{
    upstream::{Cluster, LbContext},
    wire::{Part, ResponseEvent},
};
use bytes::Bytes;
use sota_plugin::http::{HeaderId, RequestHead, ResponseHead, StatusCode};
use std::{
    future::poll_fn,
    rc::Rc,
    task::{Poll, ready},
};

/// More of a response is not waited for.
const MAX_RESPONSE: usize = 1 << 20;

/// How a request went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no host.
    #[error("the cluster has no healthy host")]
    NoHost,
    /// The host cannot be reached, or does not answer as HTTP has it.
    #[error("{0}")]
    Failed(String),
}

/// Sends a request and waits for the head of the response; its body is dropped. Give it a timeout: it has none of its own.
pub async fn call(cluster: &Rc<Cluster>, mut head: RequestHead, body: Bytes) -> Result<ResponseHead, CallError> {
    head.headers.set_sanitized(HeaderId::ContentLength, itoa::Buffer::new().format(body.len()));
    let host = cluster.choose_host(&LbContext { request: Some(&head), ..LbContext::default() });
    let host = host.ok_or(CallError::NoHost)?;
    let connection = cluster.http_connection(&host, None, 0).await;
    let connection = connection.map_err(|failure| CallError::Failed(failure.details()))?;
    let options = client_options(cluster);
    let behind = if body.is_empty() { Behind::Nothing } else { Behind::Body };
    let exchange = Exchange::begin(Link::Http(connection), &head, behind, &options, body.len() + 1);
    let mut exchange = exchange.map_err(|_| CallError::Failed("the request cannot be begun".to_owned()))?;
    let mut response = ResponseHead::new(StatusCode::OK);
    let (mut is_sent, mut has_ended) = (body.is_empty(), body.is_empty());
    poll_fn(|cx| {
        if !is_sent && let Poll::Ready(sent) = exchange.poll_data(cx, &body) {
            is_sent = true;
            has_ended = sent.is_ok() && exchange.end(None, &options).is_ok();
        }
        if is_sent {
            let _ = exchange.poll_flush(cx);
        }
        loop {
            match ready!(exchange.poll_head(cx, &options, &mut response)) {
                Ok(ResponseEvent::Informational) => {}
                Ok(ResponseEvent::Head { .. }) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(CallError::Failed(error.to_string()))),
            }
        }
    })
    .await?;
    let mut left = MAX_RESPONSE;
    let is_whole = poll_fn(|cx| {
        loop {
            match ready!(exchange.poll_part(cx, &options)) {
                Ok(Part::Data(_)) => {
                    let taken = exchange.with_data(|data| (data.len(), data.len())).unwrap_or_default();
                    left = left.saturating_sub(taken);
                    if left == 0 {
                        return Poll::Ready(false);
                    }
                }
                Ok(Part::Trailers(_)) => {}
                Ok(Part::End) => return Poll::Ready(true),
                Err(_) => return Poll::Ready(false),
            }
        }
    })
    .await;
    cluster.count_response(response.status, true, Some(&host));
    if is_whole && has_ended {
        exchange.release();
    }
    Ok(response)
}
