//! Runtime values: numbers and switches that may change while the process runs (layers of the bootstrap and
//! `/runtime_modify`).

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

/// The merged layers. Readers take a snapshot when they are built or look a key up per request only where
/// configuration names one.
#[derive(Debug, Default)]
pub struct Runtime {
    values: RwLock<Arc<BTreeMap<String, String>>>,
}

impl Runtime {
    /// With these final values.
    pub fn new(values: BTreeMap<String, String>) -> Self {
        Self { values: RwLock::new(Arc::new(values)) }
    }

    /// All values as they are now.
    pub fn snapshot(&self) -> Arc<BTreeMap<String, String>> {
        self.values.read().map(|values| Arc::clone(&values)).unwrap_or_default()
    }

    /// Replaces all values.
    pub fn replace(&self, values: BTreeMap<String, String>) {
        if let Ok(mut slot) = self.values.write() {
            *slot = Arc::new(values);
        }
    }

    /// The value of a key as text.
    pub fn get(&self, key: &str) -> Option<String> {
        self.values.read().ok()?.get(key).cloned()
    }

    /// The value of a key as a whole number, or the default when it is absent or no number.
    pub fn integer(&self, key: &str, default: u64) -> u64 {
        self.get(key).and_then(|text| text.trim().parse().ok()).unwrap_or(default)
    }

    /// The value of a key as a switch.
    pub fn enabled(&self, key: &str, default: bool) -> bool {
        match self.get(key).as_deref().map(str::trim) {
            Some("true" | "1") => true,
            Some("false" | "0") => false,
            _ => default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_defaults() {
        let runtime = Runtime::new([("n".to_owned(), "7".to_owned()), ("b".to_owned(), "false".to_owned())].into());
        assert_eq!((runtime.integer("n", 1), runtime.integer("x", 1), runtime.integer("b", 3)), (7, 1, 3));
        assert!(!runtime.enabled("b", true) && runtime.enabled("x", true));
        runtime.replace(BTreeMap::new());
        assert_eq!(runtime.get("n"), None);
    }
}
