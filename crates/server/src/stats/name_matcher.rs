//! Which stats exist, and which histograms have which buckets: matchers over whole stat names.

use super::StatsError;
use sota_config::{
    bootstrap::{HistogramBuckets, StatsMatcher},
    matcher::StringMatcher as Config,
};
use sota_plugin::matcher::StringMatcher;
use std::sync::Arc;

/// `stats_config.stats_matcher`, compiled.
#[derive(Debug)]
pub(super) enum Existence {
    All,
    None,
    Include(Vec<StringMatcher>),
    Exclude(Vec<StringMatcher>),
}

impl Existence {
    pub(super) fn new(config: &StatsMatcher) -> Result<Self, StatsError> {
        let compile = |matchers: &[Config]| matchers.iter().map(compile).collect::<Result<Vec<_>, _>>();
        Ok(match config {
            StatsMatcher::All => Self::All,
            StatsMatcher::None => Self::None,
            StatsMatcher::Include(matchers) => Self::Include(compile(matchers)?),
            StatsMatcher::Exclude(matchers) => Self::Exclude(compile(matchers)?),
        })
    }

    pub(super) fn allows(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Include(matchers) => matchers.iter().any(|matcher| matcher.matches(name.as_bytes())),
            Self::Exclude(matchers) => !matchers.iter().any(|matcher| matcher.matches(name.as_bytes())),
        }
    }
}

/// `stats_config.histogram_bucket_settings`, compiled: the bounds of a histogram by its name.
#[derive(Debug)]
pub(super) struct BucketBounds {
    rules: Vec<(StringMatcher, Arc<[f64]>)>,
    default: Arc<[f64]>,
}

impl BucketBounds {
    pub(super) fn new(config: &[HistogramBuckets]) -> Result<Self, StatsError> {
        let rule = |rule: &HistogramBuckets| {
            let mut bounds = rule.buckets.clone();
            bounds.sort_unstable_by(f64::total_cmp);
            Ok((compile(&rule.matcher)?, bounds.into()))
        };
        Ok(Self { rules: config.iter().map(rule).collect::<Result<_, _>>()?, default: DEFAULT_BOUNDS.into() })
    }

    pub(super) fn of(&self, name: &str) -> &Arc<[f64]> {
        self.rules
            .iter()
            .find(|(matcher, _)| matcher.matches(name.as_bytes()))
            .map_or(&self.default, |(_, bounds)| bounds)
    }
}

fn compile(config: &Config) -> Result<StringMatcher, StatsError> {
    StringMatcher::build(config).map_err(StatsError::Matcher)
}

/// Envoy's bounds where the configuration says nothing.
const DEFAULT_BOUNDS: [f64; 19] =
    [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6];

#[cfg(test)]
mod tests {
    use super::*;
    use sota_config::matcher::StringPattern;

    fn matcher(pattern: StringPattern, ignore_case: bool) -> Config {
        Config { pattern, ignore_case }
    }

    #[test]
    fn lists_include_or_exclude() {
        let web = || vec![matcher(StringPattern::Prefix("cluster.web.".into()), false)];
        let include = Existence::new(&StatsMatcher::Include(web())).unwrap();
        let exclude = Existence::new(&StatsMatcher::Exclude(web())).unwrap();
        for (name, is_web) in [("cluster.web.rq", true), ("cluster.api.rq", false), ("http.cluster.web.", false)] {
            assert_eq!((include.allows(name), exclude.allows(name)), (is_web, !is_web), "{name}");
        }
        assert!(Existence::new(&StatsMatcher::All).unwrap().allows("x"));
        assert!(!Existence::new(&StatsMatcher::None).unwrap().allows("x"));
    }

    #[test]
    fn an_expression_matches_the_whole_name() {
        let either = compile(&matcher(StringPattern::Regex("rq|cx".into()), false)).unwrap();
        assert!(either.matches(b"cx") && !either.matches(b"cx_total"));
        let bad = StatsMatcher::Exclude(vec![matcher(StringPattern::Regex("(".into()), false)]);
        assert!(matches!(Existence::new(&bad), Err(StatsError::Matcher(_))));
    }

    #[test]
    fn the_first_matching_bounds_count() {
        let rule = |prefix: &str, buckets: &[f64]| HistogramBuckets {
            matcher: matcher(StringPattern::Prefix(prefix.into()), false),
            buckets: buckets.to_vec(),
        };
        let bounds = BucketBounds::new(&[rule("a.b", &[5.0, 1.0]), rule("a", &[2.0])]).unwrap();
        assert_eq!(bounds.of("a.bc")[..], [1.0, 5.0]);
        assert_eq!(bounds.of("a.c")[..], [2.0]);
        assert_eq!(bounds.of("b").len(), 19);
    }
}
