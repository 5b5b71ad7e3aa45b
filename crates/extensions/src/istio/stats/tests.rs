use super::*;
use crate::{
    istio::{peer_metadata::DOWNSTREAM_PEER, workload::Workload},
    testing::{FakeWorker, Stream, building, config, connection, request},
};
use sota_config::listener::TrafficDirection;
use sota_plugin::{
    http::{Method, StatusCode},
    info::{CertificateInfo, ConnectionSummary, TlsInfo},
    stats::labels,
};
use std::time::SystemTime;

const MESSAGE: &str = HTTP.type_urls[0];

fn certificate(uri: &str) -> Arc<CertificateInfo> {
    Arc::new(CertificateInfo {
        der: Box::default(),
        subject: Box::default(),
        issuer: Box::default(),
        serial: Box::default(),
        sha256: Box::default(),
        sha1: Box::default(),
        uri_sans: vec![uri.into()],
        dns_sans: Vec::new(),
        ip_sans: Vec::new(),
        email_sans: Vec::new(),
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH,
    })
}

/// What is counted, without the labels that are not asked for.
fn counted(worker: &FakeWorker, wanted: &[&str]) -> Vec<(String, u64)> {
    let counters = worker.counters().into_iter().map(|(name, count)| {
        let (metric, labels) = labels(&name).unwrap_or_else(|| panic!("{name}"));
        let labels =
            labels.iter().filter(|(label, _)| wanted.contains(label)).map(|(label, value)| format!(" {label}={value}"));
        (format!("{metric}{}", labels.collect::<String>()), count)
    });
    counters.collect()
}

/// A request through the filter, on a connection of a listener of this direction. The counters live as long as the
/// factory.
fn ask(
    yaml: &str,
    direction: TrafficDirection,
    prepare: impl FnOnce(&mut Stream),
) -> (FakeWorker, Box<dyn HttpFilterFactory>) {
    let worker = FakeWorker::default();
    let factory = building(|cx| build_http(&config(MESSAGE, yaml), cx)).unwrap().for_worker(&worker.cx());
    let mut stream = Stream::new(&worker, request(Method::Get, "/", &[]), None);
    let mut connection = connection();
    connection.traffic_direction = direction;
    stream.info.connection = Rc::new(connection);
    stream.info.response_code = Some(StatusCode::OK);
    prepare(&mut stream);
    let mut filter = factory.new_filter(&stream.info).unwrap();
    stream.on_response(|cx| filter.on_stream_complete(cx));
    (worker, factory)
}

#[test]
fn a_server_says_who_has_asked() {
    let (worker, _factory) = ask("{}", TrafficDirection::Inbound, |stream| {
        let peer = Workload { workload: "sleep".into(), namespace: "elsewhere".into(), ..Workload::default() };
        stream.info.filter_state.set(DOWNSTREAM_PEER, Rc::new(peer));
        let tls = TlsInfo {
            peer: vec![certificate("spiffe://cluster.local/ns/default/sa/sleep")],
            local: Some(certificate("spiffe://cluster.local/ns/default/sa/httpbin")),
            ..TlsInfo::default()
        };
        let _ = stream.info.connection.tls.set(Box::new(tls));
    });
    let wanted = [
        "reporter",
        "source_workload",
        "source_workload_namespace",
        "source_principal",
        "source_canonical_revision",
        "destination_principal",
        "destination_service",
        "request_protocol",
        "response_code",
        "response_flags",
        "connection_security_policy",
    ];
    assert_eq!(
        counted(&worker, &wanted),
        [(
            "istio_requests_total reporter=destination source_workload=sleep source_canonical_revision=latest \
             source_workload_namespace=default source_principal=spiffe://cluster.local/ns/default/sa/sleep \
             destination_principal=spiffe://cluster.local/ns/default/sa/httpbin destination_service=h \
             request_protocol=http response_code=200 response_flags=- connection_security_policy=mutual_tls"
                .to_owned(),
            1
        )]
    );
}

#[test]
fn a_client_says_whom_it_has_asked() {
    let node = |yaml: &str| match config("envoy.config.core.v3.Metadata", yaml) {
        TypedConfig::Value { node, .. } => node,
        _ => unreachable!("tests make trees"),
    };
    let (worker, _factory) = ask("{}", TrafficDirection::Outbound, |stream| {
        let upstream = &mut stream.info.upstream;
        upstream.cluster_metadata = Some(node(
            "filter_metadata: {istio: {services: [{host: httpbin.default.svc.cluster.local, name: httpbin, namespace: default}]}}",
        ));
        upstream.host_metadata =
            Some(node("filter_metadata: {istio: {workload: 'httpbin-v1;default;httpbin;v1;Kubernetes'}}"));
    });
    let wanted = [
        "reporter",
        "destination_workload",
        "destination_workload_namespace",
        "destination_service",
        "destination_service_name",
        "destination_service_namespace",
        "destination_cluster",
        "connection_security_policy",
    ];
    assert_eq!(
        counted(&worker, &wanted),
        [(
            "istio_requests_total reporter=source destination_workload=httpbin-v1 destination_workload_namespace=default \
             destination_service=httpbin.default.svc.cluster.local destination_service_name=httpbin \
             destination_service_namespace=default destination_cluster=Kubernetes connection_security_policy=unknown"
                .to_owned(),
            1
        )]
    );
}

#[test]
fn configuration_changes_labels() {
    let yaml = "metrics: [{name: requests_total, tags_to_remove: [response_flags, reporter], dimensions: {request_host: \
                request.host, source_app: \"'fixed'\"}}, {name: request_bytes, drop: true}]";
    let (worker, _factory) = ask(yaml, TrafficDirection::Outbound, |_| {});
    let wanted = ["reporter", "response_flags", "request_host", "source_app"];
    assert_eq!(counted(&worker, &wanted), [("istio_requests_total source_app=fixed request_host=h".to_owned(), 1)]);
    let yaml = "metrics: [{dimensions: {a: \"request.host + 'x'\"}}]";
    let error = building(|cx| build_http(&config(MESSAGE, yaml), cx)).err().unwrap();
    assert_eq!(
        error.to_string(),
        "here.metrics[0].dimensions[\"a\"]: there are no expressions (CEL) such as \"request.host + \\'x\\'\""
    );
}

#[test]
fn a_connection_is_counted_at_its_end() {
    let worker = FakeWorker::default();
    let factory = building(|cx| build_network(&config(MESSAGE, "{}"), cx)).unwrap().for_worker(&worker.cx());
    let info = Rc::new(connection());
    let filter = factory.new_filter(&info);
    let mut upstream = info.upstream.borrow_mut().take().unwrap();
    upstream.cluster = Some("PassthroughCluster".into());
    info.upstream.replace(Some(upstream));
    let summary = ConnectionSummary { bytes_received: 3, bytes_sent: 5, ..ConnectionSummary::default() };
    info.summary.replace(Some(Box::new(summary)));
    assert_eq!(worker.counters(), []);
    drop(filter);
    let wanted = ["destination_service_name", "request_protocol"];
    let labels = " destination_service_name=PassthroughCluster request_protocol=tcp";
    let expected = [("connections_closed", 1), ("connections_opened", 1), ("received_bytes", 3), ("sent_bytes", 5)];
    let expected = expected.map(|(name, count)| (format!("istio_tcp_{name}_total{labels}"), count));
    assert_eq!(counted(&worker, &wanted), expected);
}
