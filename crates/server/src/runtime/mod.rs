//! Runtime layers: values of the bootstrap, of folders and of `/runtime_modify`, merged so that later layers win.

mod disk;

use disk::Disk;
use sota_config::{
    Node, Value,
    bootstrap::{RuntimeLayer, RuntimeSource},
};
use sota_plugin::runtime::Runtime;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The layers with what they hold, and the merged values that everybody reads.
pub(crate) struct RuntimeLayers {
    layers: Mutex<Vec<Layer>>,
    /// What everybody reads.
    pub runtime: Arc<Runtime>,
}

/// One layer.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// Its name.
    pub name: String,
    /// Whether `/runtime_modify` writes into it.
    pub is_admin: bool,
    /// Its own values.
    pub values: BTreeMap<String, String>,
    /// The name that it has with the control plane that brings it.
    resource: Option<String>,
    disk: Option<Disk>,
}

/// What came of reading the folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DiskOutcome {
    /// Whether something was read at all.
    pub has_read: bool,
    /// Layers that could not be read, and keep what they had.
    pub failed: usize,
    /// Layers whose folder is there.
    pub found: usize,
}

/// There is no layer that `/runtime_modify` could write into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoAdminLayer;

impl RuntimeLayers {
    /// The layers of a bootstrap, those of folders without values yet. `cluster` is the service cluster.
    pub(crate) fn new(models: &[RuntimeLayer], cluster: &str) -> Self {
        let layers: Vec<_> = models
            .iter()
            .map(|layer| {
                let mut values = BTreeMap::new();
                let resource = match &layer.source {
                    RuntimeSource::Rtds { name, .. } => Some(name.clone()),
                    _ => None,
                };
                let mut disk = None;
                match &layer.source {
                    RuntimeSource::Static(node) => flatten(node, &mut String::new(), &mut values),
                    RuntimeSource::Disk { symlink_root, subdirectory, append_service_cluster } => {
                        disk = Some(Disk::new(symlink_root, subdirectory, append_service_cluster.then_some(cluster)));
                    }
                    RuntimeSource::Admin | RuntimeSource::Rtds { .. } => {}
                }
                Layer {
                    name: layer.name.clone(),
                    is_admin: matches!(layer.source, RuntimeSource::Admin),
                    values,
                    resource,
                    disk,
                }
            })
            .collect();
        let runtime = Arc::new(Runtime::new(merged(&layers)));
        Self { layers: Mutex::new(layers), runtime }
    }

    /// The layers, lowest first.
    pub(crate) fn layers(&self) -> Vec<Layer> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the folders again whose link has moved.
    pub(crate) fn read_disks(&self) -> DiskOutcome {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outcome = DiskOutcome::default();
        for layer in layers.iter_mut() {
            let Some(disk) = &mut layer.disk else { continue };
            let has_moved = disk.has_moved();
            outcome.has_read |= has_moved;
            // Compat: a layer whose folder is not there has no values, and that is no error.
            let exists = disk.exists();
            outcome.found += usize::from(exists);
            if !has_moved {
                continue;
            }
            match if exists { disk.read() } else { Ok(BTreeMap::new()) } {
                Ok(values) => layer.values = values,
                Err(error) => {
                    outcome.failed += 1;
                    tracing::warn!(target: "config", "runtime layer {}: {error}; its values stay", layer.name);
                }
            }
        }
        if outcome.has_read {
            self.runtime.replace(merged(&layers));
        }
        outcome
    }

    /// Takes over what a control plane has brought; `None`: the layer has no values any more.
    pub(crate) fn set(&self, resource: &str, node: Option<&Node>) {
        let mut values = BTreeMap::new();
        node.into_iter().for_each(|node| flatten(node, &mut String::new(), &mut values));
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let own = layers.iter_mut().filter(|layer| layer.resource.as_deref() == Some(resource));
        own.for_each(|layer| layer.values.clone_from(&values));
        self.runtime.replace(merged(&layers));
    }

    /// Whether values stand in folders.
    pub(crate) fn has_disks(&self) -> bool {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|layer| layer.disk.is_some())
    }

    /// Sets values in the admin layer; an empty value takes its key out of it.
    pub(crate) fn modify(&self, values: impl IntoIterator<Item = (String, String)>) -> Result<(), NoAdminLayer> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let layer = layers.iter_mut().find(|layer| layer.is_admin).ok_or(NoAdminLayer)?;
        for (key, value) in values {
            if value.is_empty() {
                layer.values.remove(&key);
            } else {
                layer.values.insert(key, value);
            }
        }
        self.runtime.replace(merged(&layers));
        Ok(())
    }
}

fn merged(layers: &[Layer]) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for layer in layers {
        values.extend(layer.values.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    values
}

/// Nested maps become dotted keys. A map that reads as a fractional percent stays whole, as its JSON.
fn flatten(node: &Node, prefix: &mut String, values: &mut BTreeMap<String, String>) {
    let value = match &node.value {
        Value::Map(entries) if prefix.is_empty() || !node.has("numerator") => {
            for (key, node) in entries {
                let length = prefix.len();
                if length > 0 {
                    prefix.push('.');
                }
                prefix.push_str(key);
                flatten(node, prefix, values);
                prefix.truncate(length);
            }
            return;
        }
        Value::Map(_) => {
            let denominator = match node.str("denominator") {
                "" => "HUNDRED",
                name => name,
            };
            let numerator = node.f64("numerator").unwrap_or(0.0);
            format!("{{\"numerator\":{numerator},\"denominator\":\"{denominator}\"}}")
        }
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::UInt(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::String(text) => text.to_string(),
        Value::Null | Value::Bytes(_) | Value::Duration { .. } | Value::List(_) => return,
    };
    values.insert(prefix.clone(), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: Vec<(&str, Node)>) -> Node {
        Node::new(Value::Map(entries.into_iter().map(|(key, node)| (key.into(), node)).collect()))
    }

    #[test]
    fn later_layers_win_and_the_admin_layer_can_be_changed() {
        let number = |n| Node::new(Value::Int(n));
        let percent = map(vec![("numerator", number(5)), ("denominator", Node::string("TEN_THOUSAND"))]);
        let first = map(vec![("a", map(vec![("b", number(1)), ("c", number(2))])), ("p", percent)]);
        let second = map(vec![("a.b", number(3))]);
        let layer = |name: &str, source| RuntimeLayer { name: name.to_owned(), source };
        let layers = RuntimeLayers::new(
            &[
                layer("one", RuntimeSource::Static(Arc::new(first))),
                layer("two", RuntimeSource::Static(Arc::new(second))),
                layer("admin", RuntimeSource::Admin),
            ],
            "",
        );
        let runtime = &layers.runtime;
        assert_eq!((runtime.integer("a.b", 0), runtime.integer("a.c", 0)), (3, 2));
        assert_eq!(runtime.get("p").as_deref(), Some(r#"{"numerator":5,"denominator":"TEN_THOUSAND"}"#));
        layers.modify([("a.b".to_owned(), "9".to_owned())]).unwrap();
        assert_eq!(runtime.integer("a.b", 0), 9);
        layers.modify([("a.b".to_owned(), String::new())]).unwrap();
        assert_eq!(runtime.integer("a.b", 0), 3);
        let fixed = RuntimeLayers::new(&[layer("one", RuntimeSource::Static(Arc::new(Node::map())))], "");
        assert_eq!(fixed.modify([("x".to_owned(), "1".to_owned())]), Err(NoAdminLayer));
    }
}
