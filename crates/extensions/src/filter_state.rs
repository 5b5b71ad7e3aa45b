//! `envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue`: what a connection or a request leaves for later
//! filters, matchers and logs.

use crate::format;
use sota_config::{ConfigError, Node};
use sota_plugin::{
    FactoryContext,
    format::{Format, FormatCx},
    info::{FilterStateValue, HashableString},
};
use std::rc::Rc;

/// The cluster that the TCP proxy of a connection goes to, whatever it is configured to.
pub(crate) const TCP_PROXY_CLUSTER: &str = "envoy.tcp_proxy.cluster";

/// What is left, and under which name.
pub(crate) struct ValueToSet {
    pub(crate) key: String,
    kind: Kind,
    format: Format,
    skip_if_empty: bool,
}

/// What is made of the text.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    /// Hash policies may name it.
    Hashable,
}

impl ValueToSet {
    /// The list of this name. `keys`: names of objects that have a reader of their own here.
    pub(crate) fn read_all(
        node: &Node,
        name: &str,
        keys: &[&str],
        cx: &FactoryContext<'_>,
    ) -> Result<Box<[Self]>, ConfigError> {
        let values = node.list(name).iter().enumerate();
        values.map(|(at, item)| Self::read(item, &format!("{name}[{at}]"), keys, cx)).collect()
    }

    fn read(node: &Node, path: &str, keys: &[&str], cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let key = node.str("object_key");
        let factory = match node.str("factory_key") {
            "" => key,
            factory => factory,
        };
        let kind = match factory {
            "envoy.string" => Kind::Text,
            "envoy.hashable_string" | "istio.hashable_string" => Kind::Hashable,
            _ if keys.contains(&factory) && factory == key => Kind::Text,
            _ => {
                let reason =
                    format!("nothing here reads objects of \"{factory}\"; text has the factory_key \"envoy.string\"");
                return Err(cx.error(&format!("{path}.factory_key"), node.field("factory_key").mark, reason));
            }
        };
        let format = format::substitution(node.field("format_string"), &format!("{path}.format_string"), cx)?;
        Ok(Self { key: key.to_owned(), kind, format, skip_if_empty: node.bool("skip_if_empty") })
    }

    /// The value now; `None`: nothing is to be left.
    pub(crate) fn make(&self, cx: &FormatCx<'_>) -> Option<Rc<dyn FilterStateValue>> {
        let mut text = Vec::new();
        self.format.write(cx, &mut text);
        if text.is_empty() && self.skip_if_empty {
            return None;
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        Some(match self.kind {
            Kind::Text => Rc::new(text),
            Kind::Hashable => Rc::new(HashableString(text)),
        })
    }
}
