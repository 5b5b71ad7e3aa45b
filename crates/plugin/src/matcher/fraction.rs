//! A part of all requests.

use crate::runtime::Runtime;
use sota_config::matcher::FractionalPercent as Config;
use std::sync::Arc;

/// A compiled [`sota_config::matcher::FractionalPercent`]: a share that a runtime key may override.
#[derive(Debug, Clone)]
pub struct FractionalPercent {
    numerator: u64,
    denominator: u64,
    runtime: Option<(Box<str>, Arc<Runtime>)>,
}

impl FractionalPercent {
    /// A numerator above the denominator means always.
    pub fn build(config: &Config, runtime: &Arc<Runtime>) -> Self {
        let key = config.runtime_key.as_deref().filter(|key| !key.is_empty());
        Self {
            numerator: config.numerator.into(),
            // 0 cannot be configured; it would otherwise be a division by it.
            denominator: u64::from(config.denominator).max(1),
            runtime: key.map(|key| (key.into(), Arc::clone(runtime))),
        }
    }

    /// Whether this request belongs to the share, for a random number that is even over all of `u64` (or all of
    /// `u32`). The runtime value is a percentage, or a `FractionalPercent` in JSON.
    pub fn sample(&self, random: u64) -> bool {
        let (numerator, denominator) = self.overridden().unwrap_or((self.numerator, self.denominator));
        random % denominator < numerator
    }

    /// Like [`Self::sample`], with another runtime key, and with a numerator of the request's own that cannot raise the
    /// configured one.
    pub fn sample_for(&self, random: u64, key: Option<&str>, at_most: Option<u64>) -> bool {
        let key = key.or_else(|| self.runtime.as_ref().map(|(key, _)| &**key));
        let overridden = self.runtime.as_ref().zip(key).and_then(|((_, runtime), key)| read_share(&runtime.get(key)?));
        let numerator = at_most.map_or(self.numerator, |most| most.min(self.numerator));
        let (numerator, denominator) = overridden.unwrap_or((numerator, self.denominator));
        random % denominator < numerator
    }

    /// Like [`Self::sample`], but the runtime value counts in parts of the configured denominator: what
    /// `envoy.config.accesslog.v3.RuntimeFilter` means.
    pub fn sample_parts(&self, random: u64) -> bool {
        let numerator = match &self.runtime {
            Some((key, runtime)) => runtime.integer(key, self.numerator),
            None => self.numerator,
        };
        random % self.denominator < numerator
    }

    fn overridden(&self) -> Option<(u64, u64)> {
        let (key, runtime) = self.runtime.as_ref()?;
        read_share(&runtime.get(key)?)
    }
}

/// Numerator and denominator: a percentage, or a `FractionalPercent` in JSON.
fn read_share(text: &str) -> Option<(u64, u64)> {
    if let Ok(percent) = text.trim().parse() {
        return Some((percent, 100));
    }
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let denominator = match value.get("denominator").and_then(serde_json::Value::as_str) {
        Some("TEN_THOUSAND") => 10_000,
        Some("MILLION") => 1_000_000,
        Some("HUNDRED") | None => 100,
        Some(_) => return None,
    };
    Some((value.get("numerator").map_or(Some(0), serde_json::Value::as_u64)?, denominator))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_request() {
        let runtime = Arc::new(Runtime::new([("other".to_owned(), "70".to_owned())].into()));
        let config = Config { numerator: 50, denominator: 100, runtime_key: Some("k".to_owned()) };
        let fraction = FractionalPercent::build(&config, &runtime);
        let share = |key, most| (0..100).filter(|n| fraction.sample_for(*n, key, most)).count();
        assert_eq!((share(None, None), share(None, Some(20)), share(None, Some(80))), (50, 20, 50));
        assert_eq!((share(Some("other"), Some(20)), share(Some("absent"), None)), (70, 50));
    }

    #[test]
    fn shares_with_runtime_values() {
        let runtime = Arc::new(Runtime::default());
        let build = |numerator, denominator, key: Option<&str>| {
            let config = Config { numerator, denominator, runtime_key: key.map(str::to_owned) };
            FractionalPercent::build(&config, &runtime)
        };
        let share = |fraction: &FractionalPercent| (0..1_000_000).filter(|n| fraction.sample(*n)).count();
        assert_eq!(share(&build(0, 100, None)), 0);
        assert_eq!(share(&build(25, 100, None)), 250_000);
        assert_eq!(share(&build(1, 1_000_000, None)), 1);
        assert_eq!(share(&build(200, 100, None)), 1_000_000);
        assert_eq!(share(&build(1, 0, None)), 1_000_000);

        let fraction = build(1, 10_000, Some("k"));
        let parts = |fraction: &FractionalPercent| (0..1_000_000).filter(|n| fraction.sample_parts(*n)).count();
        assert_eq!((share(&fraction), parts(&fraction)), (100, 100));
        for (value, expected, expected_parts) in [
            ("50", 500_000, 5_000),
            ("150", 1_000_000, 15_000),
            ("{\"numerator\": 5, \"denominator\": \"TEN_THOUSAND\"}", 500, 100),
            ("{\"numerator\": 5}", 50_000, 100),
            ("{\"denominator\": \"MILLION\"}", 0, 100),
            ("{\"numerator\": 5, \"denominator\": \"DOZEN\"}", 100, 100),
            ("some", 100, 100),
        ] {
            runtime.replace([("k".to_owned(), value.to_owned())].into());
            assert_eq!((share(&fraction), parts(&fraction)), (expected, expected_parts), "{value}");
        }
    }
}
