//! gRPC calls of extensions: a service stands on a cluster, and is reached as requests reach it.

use crate::{FactoryContext, cx::WorkerCx, http::GrpcStatus};
use bytes::Bytes;
use sota_config::{ConfigError, Node};
use std::{
    future::poll_fn,
    task::{Context, Poll},
    time::Duration,
};

/// How a call went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrpcError {
    /// There is no such cluster.
    #[error("there is no cluster \"{0}\"")]
    NoCluster(String),
    /// There is no host.
    #[error("the cluster has no healthy host")]
    NoHost,
    /// The host cannot be reached.
    #[error("{0}")]
    Connect(String),
    /// The cluster does not speak HTTP/2.
    #[error("the cluster does not speak HTTP/2; set http2_protocol_options")]
    NotHttp2,
    /// The call could not be begun, or its connection or stream was lost.
    #[error("{0}")]
    Lost(String),
    /// There was no answer in time.
    #[error("there was no answer in time")]
    Timeout,
    /// The peer has ended the call with this status.
    #[error("the call ended with {}{}", code_name(*.0), if .1.is_empty() { String::new() } else { format!(": {}", .1) })]
    Status(GrpcStatus, String),
    /// It is no gRPC that the peer speaks.
    #[error("{0}")]
    Malformed(&'static str),
}

fn code_name(status: GrpcStatus) -> String {
    status.snake_case().map_or_else(|| status.0.to_string(), str::to_owned)
}

/// A call that is open, for the data plane. Dropped before its end, it is reset.
pub trait CallServices {
    /// Puts a message behind those that wait to be sent.
    fn send(&mut self, message: &[u8]);
    /// Nothing follows what waits.
    fn end(&mut self);
    /// Octets that wait to be sent.
    fn unsent(&self) -> usize;
    /// Sends what waits; ready with the next message, or with the end of the call, which is an error here.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, GrpcError>>;
}

/// A call that is open. Messages leave while the next one of the peer is waited for.
pub struct Call(Box<dyn CallServices>);

impl Call {
    /// For the data plane.
    pub fn new(services: Box<dyn CallServices>) -> Self {
        Self(services)
    }

    /// Puts a message behind those that wait to be sent.
    pub fn send(&mut self, message: &[u8]) {
        self.0.send(message);
    }

    /// Octets that wait to be sent.
    pub fn unsent(&self) -> usize {
        self.0.unsent()
    }

    /// The next message. Nothing is lost when it is not waited for to the end.
    pub async fn message(&mut self) -> Result<Bytes, GrpcError> {
        poll_fn(|cx| self.0.poll_message(cx)).await
    }
}

/// A service (`envoy.config.core.v3.GrpcService`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcService {
    /// The cluster on which it stands.
    pub cluster: String,
    /// `:authority`; empty: the cluster's name.
    pub authority: String,
    /// Further fields of its calls.
    pub metadata: Vec<(String, String)>,
    /// For one call; `None`: as the caller has it.
    pub timeout: Option<Duration>,
}

impl GrpcService {
    /// Reads the message of this name in a configuration that was checked.
    pub fn read(config: &Node, field: &str, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let node = config.field(field);
        let Some(envoy) = node.get("envoy_grpc") else {
            return Err(cx.error(&format!("{field}.envoy_grpc"), node.mark, "the field is required"));
        };
        let cluster = envoy.str("cluster_name").to_owned();
        if cx.clusters.is_some_and(|exists| !exists(&cluster)) {
            let reason = format!("unknown cluster \"{}\"", cluster.escape_debug());
            return Err(cx.error(&format!("{field}.envoy_grpc.cluster_name"), envoy.mark, reason));
        }
        let pair = |node: &Node| (node.str("key").to_ascii_lowercase(), node.str("value").to_owned());
        Ok(Self {
            cluster,
            authority: envoy.str("authority").to_owned(),
            metadata: node.list("initial_metadata").iter().map(pair).collect(),
            timeout: node.duration("timeout"),
        })
    }

    /// One message there, one back, within the service's timeout or else within this one.
    pub async fn unary(
        &self,
        worker: &WorkerCx,
        path: &str,
        message: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, GrpcError> {
        let exchange = async {
            let mut call = worker.grpc_call(self, path).await?;
            call.send(message);
            call.0.end();
            let answer = call.message().await?;
            match call.message().await {
                Err(GrpcError::Status(GrpcStatus::OK, _)) => Ok(answer),
                Err(error) => Err(error),
                Ok(_) => Err(GrpcError::Malformed("there are two answers")),
            }
        };
        worker.timeout(self.timeout.unwrap_or(timeout), exchange).await.unwrap_or(Err(GrpcError::Timeout))
    }
}
