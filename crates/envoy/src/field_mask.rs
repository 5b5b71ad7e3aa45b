//! Field masks (`google.protobuf.FieldMask`): the parts of a message that are wanted, as paths.

use crate::table::{Kind, Message};
use sota_config::{Node, Value};
use std::borrow::Cow;

/// The paths of a mask, field names with dots between them. Without any, everything is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldMask(Vec<String>);

impl FieldMask {
    /// Paths with commas between them.
    pub fn parse(text: &str) -> Self {
        Self(text.split(',').filter(|path| !path.is_empty()).map(str::to_owned).collect())
    }

    /// The paths.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// What is wanted of one field: `None` when nothing is; an empty mask for the whole.
    pub fn below(&self, field: &str) -> Option<Self> {
        if self.0.is_empty() {
            return Some(Self::default());
        }
        let mut below = Vec::new();
        for path in &self.0 {
            match path.strip_prefix(field) {
                Some("") => return Some(Self::default()),
                Some(rest) => below.extend(rest.strip_prefix('.').map(str::to_owned)),
                None => {}
            }
        }
        (!below.is_empty()).then_some(Self(below))
    }

    /// Whether every path leads to a field of the message. None leads through repeated fields and through messages that
    /// hold any others.
    pub fn fits(&self, message: &str) -> bool {
        Message::find(message).is_some_and(|message| self.0.iter().all(|path| leads(message, path)))
    }

    /// What is wanted of a checked message.
    pub fn trim<'a>(&self, node: &'a Node, message: &str) -> Cow<'a, Node> {
        match Message::find(message) {
            Some(message) if !self.0.is_empty() => Cow::Owned(self.trim_message(node, message)),
            _ => Cow::Borrowed(node),
        }
    }

    fn trim_message(&self, node: &Node, message: Message) -> Node {
        let wanted = node.pairs().iter().filter_map(|(key, value)| {
            let field = message.field_by_key(key)?;
            let mask = self.below(field.name())?;
            let value = match field.kind() {
                Kind::Message(inner) if !mask.0.is_empty() => mask.trim_message(value, inner),
                _ => value.clone(),
            };
            Some((key.clone(), value))
        });
        Node { value: Value::Map(wanted.collect()), mark: node.mark }
    }
}

fn leads(message: Message, path: &str) -> bool {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let Some(field) = message.fields().find(|field| field.name() == name) else { return false };
    match (rest, field.kind()) {
        (None, _) => true,
        (Some(rest), Kind::Message(inner)) => {
            !field.is_repeated() && inner.well_known().is_none() && leads(inner, rest)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dump_json, parse_text};

    const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

    fn trimmed(mask: &str) -> Option<String> {
        let text = b"{name: a, connect_timeout: 1s, load_assignment: {cluster_name: a, policy: {}, endpoints: [{priority: 1}]}}";
        let (mask, node) = (FieldMask::parse(mask), parse_text(text).unwrap());
        let mut out = String::new();
        mask.fits(CLUSTER).then(|| dump_json(&mask.trim(&node, CLUSTER), CLUSTER, 0, &mut out).unwrap())?;
        Some(out.replace(['\n', ' '], ""))
    }

    #[test]
    fn paths_pick_fields() {
        for (mask, left) in [
            ("name", r#"{"name":"a"}"#),
            ("name,connect_timeout", r#"{"name":"a","connect_timeout":"1s"}"#),
            (
                "load_assignment.cluster_name,load_assignment.policy",
                r#"{"load_assignment":{"cluster_name":"a","policy":{}}}"#,
            ),
            ("load_assignment.endpoints", r#"{"load_assignment":{"endpoints":[{"priority":1}]}}"#),
            (
                "load_assignment.policy,load_assignment",
                r#"{"load_assignment":{"cluster_name":"a","endpoints":[{"priority":1}],"policy":{}}}"#,
            ),
            ("type", "{}"),
        ] {
            assert_eq!(trimmed(mask).as_deref(), Some(left), "{mask}");
        }
        let all = r#"{"name":"a","connect_timeout":"1s","load_assignment":{"cluster_name":"a","endpoints":[{"priority":1}],"policy":{}}}"#;
        assert_eq!(trimmed("").as_deref(), Some(all));
    }

    #[test]
    fn paths_that_lead_nowhere_do_not_fit() {
        for mask in [
            "nothing",
            "name.x",
            "loadAssignment",
            "load_assignment.endpoints.priority",
            "load_assignment.",
            "metadata.filter_metadata.a",
            "connect_timeout.seconds",
            "name,nothing",
        ] {
            assert_eq!(trimmed(mask), None, "{mask}");
        }
        assert!(!FieldMask::parse("a").fits("no.such.Message"));
    }
}
