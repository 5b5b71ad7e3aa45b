//! Checks by an HTTP request.

use super::{
    Checks, Failed, Passed,
    exchange::{Answer, has_in_order},
    peer::{Peer, Speaks},
};
use crate::upstream::host::{Host, HostState};
use sota_config::health_check::HttpHealthCheck;
use sota_plugin::{
    http::{HeaderId, Method, RequestHead, Scheme},
    info::{ConnectionInfo, StreamInfo},
};
use std::{rc::Rc, sync::Arc};

/// What checks call themselves, so that hosts and their logs know them as those of Envoy.
const USER_AGENT: &str = "Envoy/HC";
/// Where a host names the service that it is (`service_name_matcher`).
const HEALTHCHECKED_CLUSTER: &str = "x-envoy-upstream-healthchecked-cluster";

impl Checks {
    pub(super) async fn check_http(
        &self,
        check: &HttpHealthCheck,
        host: &Arc<Host>,
        peer: &mut Option<Peer>,
    ) -> Result<Passed, Failed> {
        let method = Method::from_bytes(check.method.as_bytes()).unwrap_or_default();
        let authority = self.authority(host, &check.host);
        let mut request = self.request(method, authority, &check.path, host)?;
        if !check.send.is_empty() {
            let mut text = itoa::Buffer::new();
            request.headers.set_sanitized(HeaderId::ContentLength, text.format(check.send.len()));
        }
        self.change(&mut request, host);
        let speaks = if check.http2 { Speaks::Http2 } else { Speaks::Http1 };
        let most = if check.receive.is_empty() { 0 } else { check.response_buffer_size };
        let answer = self.exchange(host, peer, speaks, &request, &check.send, most).await?;
        self.judge(check, host, &answer)
    }

    fn judge(&self, check: &HttpHealthCheck, host: &Host, answer: &Answer) -> Result<Passed, Failed> {
        let head = &answer.head;
        let status = head.status.as_u16();
        if !has_in_order(&answer.body, &check.receive) {
            return Err(Failed::answer(false, Some(status)));
        }
        if !check.expected_statuses.iter().any(|range| range.contains(&status)) {
            if head.headers.get(HeaderId::XEnvoyImmediateHealthCheckFail).is_some() {
                host.state().set(HostState::EXCLUDED, true);
            }
            let retriable = check.retriable_statuses.iter().any(|range| range.contains(&status));
            return Err(Failed::answer(retriable, Some(status)));
        }
        if let Some(wanted) = &self.checker.service_name {
            self.stats.verify_cluster.inc();
            let name = head.headers.get(HEALTHCHECKED_CLUSTER).unwrap_or_default();
            if !wanted.matches(name) {
                return Err(Failed::answer(false, Some(status)));
            }
        }
        Ok(Passed { degraded: head.headers.get(HeaderId::XEnvoyDegraded).is_some() })
    }

    /// A request of ours.
    pub(super) fn request(
        &self,
        method: Method,
        authority: &str,
        path: &str,
        host: &Host,
    ) -> Result<RequestHead, Failed> {
        let mut request = RequestHead::new(method, authority, path).map_err(|_| Failed::NETWORK)?;
        let transport = self.checker.model.transport_match.as_deref();
        request.scheme = match self.config.check_tls(host.spec(), transport) {
            Some(_) => Scheme::Https,
            None => Scheme::Http,
        };
        request.headers.set_sanitized(HeaderId::UserAgent, USER_AGENT);
        Ok(request)
    }

    /// Makes the changes that are configured.
    pub(super) fn change(&self, request: &mut RequestHead, host: &Host) {
        if self.checker.mutations.is_empty() {
            return;
        }
        let address = host.check_address();
        let connection = ConnectionInfo::new(0, address.clone(), address.clone());
        let mut info = StreamInfo::new(Rc::new(connection), 0, None);
        info.upstream.address = Some(address);
        info.upstream.host_metadata.clone_from(&host.spec().metadata);
        self.checker.mutations.apply_request(request, &info);
    }
}
