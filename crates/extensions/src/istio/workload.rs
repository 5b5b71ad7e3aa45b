//! Workloads: who is at an end of a connection, as labels of metrics say it.

use super::structure;
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, general_purpose::GeneralPurposeConfig},
};
use sota_config::{Node, Value, bootstrap::NodeInfo};
use sota_plugin::info::FilterStateValue;
use std::any::Any;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";
const OWNER_PREFIX: &str = "kubernetes://apis/apps/v1/namespaces/";
/// Octets of the metadata in a field; more is none.
const MAX_FIELD: usize = 64 * 1024;

/// A workload. What is not known is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Workload {
    /// Of the instance (the pod).
    pub(super) name: Box<str>,
    pub(super) namespace: Box<str>,
    pub(super) workload: Box<str>,
    pub(super) cluster: Box<str>,
    /// `deployment`, `pod`, `job`, `cronjob`.
    pub(super) kind: Box<str>,
    pub(super) canonical_name: Box<str>,
    pub(super) canonical_revision: Box<str>,
    pub(super) app: Box<str>,
    pub(super) version: Box<str>,
    pub(super) identity: Box<str>,
    pub(super) region: Box<str>,
    pub(super) zone: Box<str>,
    /// Further labels that are told.
    pub(super) labels: Vec<(Box<str>, Box<str>)>,
}

impl Workload {
    /// This proxy's own.
    pub(super) fn own(node: &NodeInfo, additional_labels: &[String]) -> Self {
        let none = Node::map();
        let node = node.node.as_deref().unwrap_or(&none);
        let mut own = Self::read(node.field("metadata"), additional_labels);
        let locality = node.field("locality");
        for (field, key) in [(&mut own.region, "region"), (&mut own.zone, "zone")] {
            if field.is_empty() {
                *field = locality.str(key).into();
            }
        }
        own
    }

    /// The metadata of a node, or what another sidecar has made of its own.
    pub(super) fn read(metadata: &Node, additional_labels: &[String]) -> Self {
        let text = |key: &str| Box::<str>::from(metadata.str(key));
        let labels = metadata.field("LABELS");
        let label = |keys: &[&str]| {
            let mut values = keys.iter().map(|key| labels.str(key)).filter(|value| !value.is_empty());
            Box::<str>::from(values.next().unwrap_or_default())
        };
        let workload = metadata.str("WORKLOAD_NAME");
        let further = additional_labels.iter().filter_map(|key| {
            let value = labels.get(key).and_then(Node::as_str)?;
            Some((key.as_str().into(), value.into()))
        });
        Self {
            name: text("NAME"),
            namespace: text("NAMESPACE"),
            workload: workload.into(),
            cluster: text("CLUSTER_ID"),
            kind: kind(metadata.str("OWNER"), workload).into(),
            canonical_name: label(&[CANONICAL_NAME]),
            canonical_revision: label(&[CANONICAL_REVISION]),
            app: label(&["app.kubernetes.io/name", "app"]),
            version: label(&["app.kubernetes.io/version", "version"]),
            identity: text("IDENTITY"),
            region: text("REGION"),
            zone: text("ZONE"),
            labels: further.collect(),
        }
    }

    /// What a control plane says of an endpoint: `WORKLOAD;NAMESPACE;SERVICE;REVISION;CLUSTER`.
    pub(super) fn of_endpoint(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        let mut next = || parts.next().map(Box::<str>::from);
        let (workload, namespace, canonical_name, canonical_revision, cluster) =
            (next()?, next()?, next()?, next()?, next()?);
        Some(Self { workload, namespace, canonical_name, canonical_revision, cluster, ..Self::default() })
    }

    /// As it stands in the field `x-envoy-peer-metadata`.
    pub(super) fn to_field(&self) -> String {
        let mut labels = vec![
            (CANONICAL_NAME, &*self.canonical_name),
            (CANONICAL_REVISION, &*self.canonical_revision),
            ("app", &*self.app),
            ("version", &*self.version),
        ];
        labels.extend(self.labels.iter().map(|(key, value)| (&**key, &**value)));
        let owner = match &*self.kind {
            "" => Box::default(),
            kind => format!("{OWNER_PREFIX}{}/{kind}s/{}", self.namespace, self.workload).into_boxed_str(),
        };
        let mut entries = texts(vec![
            ("NAME", &*self.name),
            ("NAMESPACE", &*self.namespace),
            ("WORKLOAD_NAME", &*self.workload),
            ("CLUSTER_ID", &*self.cluster),
            ("IDENTITY", &*self.identity),
            ("OWNER", &*owner),
            ("REGION", &*self.region),
            ("ZONE", &*self.zone),
        ]);
        entries.push(("LABELS".into(), Node::new(Value::Map(texts(labels)))));
        BASE64.encode(structure::encode(&Node::new(Value::Map(entries))))
    }

    /// The same, read.
    pub(super) fn from_field(field: &[u8], additional_labels: &[String]) -> Option<Self> {
        let bytes = BASE64.decode(field.get(..MAX_FIELD.min(field.len()))?).ok()?;
        Some(Self::read(&structure::decode(&bytes)?, additional_labels))
    }

    /// By the names of Envoy's tokens.
    fn tokens(&self) -> Vec<(&str, &str)> {
        vec![
            ("type", &*self.kind),
            ("workload", &*self.workload),
            ("name", &*self.name),
            ("cluster", &*self.cluster),
            ("namespace", &*self.namespace),
            ("service", &*self.canonical_name),
            ("revision", &*self.canonical_revision),
            ("app", &*self.app),
            ("version", &*self.version),
            ("identity", &*self.identity),
            ("region", &*self.region),
            ("zone", &*self.zone),
        ]
    }
}

/// Entries of a map; what is empty is left out.
fn texts(entries: Vec<(&str, &str)>) -> Vec<(std::sync::Arc<str>, Node)> {
    let entries = entries.into_iter().filter(|(_, value)| !value.is_empty());
    entries.map(|(key, value)| (key.into(), Node::string(value))).collect()
}

/// The kind of the owner `…/deployments/NAME`.
fn kind<'a>(owner: &'a str, workload: &str) -> &'a str {
    let rest = owner.strip_suffix(workload).and_then(|rest| rest.strip_suffix("s/"));
    let kind = rest.and_then(|rest| rest.rsplit_once('/')).map_or("", |(_, kind)| kind);
    if matches!(kind, "deployment" | "pod" | "job" | "cronjob") { kind } else { "" }
}

impl FilterStateValue for Workload {
    fn to_text(&self) -> Option<String> {
        let parts: Vec<_> = self.tokens().into_iter().filter(|(_, value)| !value.is_empty()).collect();
        Some(parts.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","))
    }

    fn to_node(&self) -> Option<Node> {
        let mut entries = texts(self.tokens());
        if !self.labels.is_empty() {
            let labels = self.labels.iter().map(|(key, value)| (&**key, &**value)).collect();
            entries.push(("labels".into(), Node::new(Value::Map(texts(labels)))));
        }
        Some(Node::new(Value::Map(entries)))
    }

    fn field(&self, name: &str) -> Option<String> {
        let tokens = self.tokens();
        let own = tokens.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        own.or_else(|| self.labels.iter().find(|(key, _)| **key == *name).map(|(_, value)| value.to_string()))
            .filter(|value| !value.is_empty())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unchecked;
    use sota_config::TypedConfig;
    use std::sync::Arc;

    fn node(yaml: &str) -> Arc<Node> {
        let TypedConfig::Value { node, .. } = unchecked(yaml) else { panic!() };
        node
    }

    const OWN: &str = "{metadata: {NAME: sleep-1, NAMESPACE: default, WORKLOAD_NAME: sleep, CLUSTER_ID: Kubernetes, OWNER: \
                       'kubernetes://apis/apps/v1/namespaces/default/deployments/sleep', LABELS: {app: sleep, role: r, \
                       version: v1, service.istio.io/canonical-name: sleep}}, locality: {region: eu}}";

    #[test]
    fn own_metadata_there_and_back() {
        let info = NodeInfo { node: Some(node(OWN)), ..NodeInfo::default() };
        let labels = ["role".to_owned()];
        let own = Workload::own(&info, &labels);
        assert_eq!((&*own.kind, &*own.canonical_name, &*own.region), ("deployment", "sleep", "eu"));
        let field = own.to_field();
        assert_eq!(Workload::from_field(field.as_bytes(), &labels), Some(own.clone()));
        let without_padding = field.trim_end_matches('=');
        assert_eq!(Workload::from_field(without_padding.as_bytes(), &labels), Some(own.clone()));
        assert_eq!(own.field("workload").as_deref(), Some("sleep"));
        assert_eq!(own.field("role").as_deref(), Some("r"));
        assert_eq!(own.field("zone"), None);
        assert!(own.to_node().unwrap().field("labels").has("role"));
        assert_eq!(Workload::from_field(b"?", &[]), None);
    }

    #[test]
    fn endpoints() {
        let found = Workload::of_endpoint("httpbin;default;httpbin;v1;Kubernetes").unwrap();
        assert_eq!((&*found.workload, &*found.cluster), ("httpbin", "Kubernetes"));
        assert_eq!(Workload::of_endpoint("a;b;c"), None);
    }
}
