//! One message to a collector of telemetry, over a cluster: by gRPC or by a `POST`.

use crate::{
    grpc::{GrpcError, GrpcStream},
    router,
    upstream::Clusters,
};
use bytes::Bytes;
use sota_config::tracing::Collector;
use sota_plugin::http::{HeaderId, Method, RequestHead};
use std::time::Duration;

/// For a call without a timeout of its own.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How a message fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The collector took it.
    Taken,
    /// The collector refused it.
    Refused,
    /// It did not reach the collector, or there was no answer in time.
    Failed,
    /// There is no such cluster.
    NoCluster,
}

/// Sends a message to a collector. `method`: of the gRPC service; `content_type`: over HTTP.
pub async fn send(
    clusters: &Clusters,
    collector: &Collector,
    method: &str,
    content_type: &str,
    body: Bytes,
) -> Outcome {
    match collector {
        Collector::Grpc { cluster, authority, metadata, timeout } => {
            let authority = if authority.is_empty() { cluster } else { authority };
            let Some(cluster) = clusters.get(cluster) else { return Outcome::NoCluster };
            let call = GrpcStream::unary(&cluster, method, authority, metadata, &body);
            match tokio::time::timeout(timeout.unwrap_or(TIMEOUT), call).await {
                Ok(Ok(_)) => Outcome::Taken,
                Ok(Err(GrpcError::Status(..))) => Outcome::Refused,
                Ok(Err(_)) | Err(_) => Outcome::Failed,
            }
        }
        Collector::Http { cluster, authority, path, headers, timeout } => {
            let Some(cluster) = clusters.get(cluster) else { return Outcome::NoCluster };
            let Ok(mut head) = RequestHead::new(Method::Post, authority, path) else { return Outcome::Failed };
            head.headers.set_sanitized(HeaderId::ContentType, content_type);
            for (name, value) in headers {
                let _ = head.headers.append(name.as_str(), value.as_bytes());
            }
            match tokio::time::timeout(*timeout, router::call(&cluster, head, body)).await {
                Ok(Ok(response)) if response.status.is_success() => Outcome::Taken,
                Ok(Ok(_)) => Outcome::Refused,
                Ok(Err(_)) | Err(_) => Outcome::Failed,
            }
        }
    }
}
