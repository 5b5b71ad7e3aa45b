//! Which stats exist, and which histograms have which buckets: matchers over whole stat names.

use super::StatsError;
use regex::Regex;
use sota_config::{
    bootstrap::{HistogramBuckets, StatsMatcher},
    matcher::{StringMatcher, StringPattern},
};
use std::sync::Arc;

/// `stats_config.stats_matcher`, compiled.
#[derive(Debug)]
pub(super) enum Existence {
    All,
    None,
    Include(Vec<NameMatcher>),
    Exclude(Vec<NameMatcher>),
}

impl Existence {
    pub(super) fn new(config: &StatsMatcher) -> Result<Self, StatsError> {
        let compile = |matchers: &[StringMatcher]| matchers.iter().map(NameMatcher::new).collect::<Result<Vec<_>, _>>();
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
            Self::Include(matchers) => matchers.iter().any(|matcher| matcher.matches(name)),
            Self::Exclude(matchers) => !matchers.iter().any(|matcher| matcher.matches(name)),
        }
    }
}

/// `stats_config.histogram_bucket_settings`, compiled: the bounds of a histogram by its name.
#[derive(Debug)]
pub(super) struct BucketBounds {
    rules: Vec<(NameMatcher, Arc<[f64]>)>,
    default: Arc<[f64]>,
}

impl BucketBounds {
    pub(super) fn new(config: &[HistogramBuckets]) -> Result<Self, StatsError> {
        let rule = |rule: &HistogramBuckets| {
            let mut bounds = rule.buckets.clone();
            bounds.sort_unstable_by(f64::total_cmp);
            Ok((NameMatcher::new(&rule.matcher)?, bounds.into()))
        };
        Ok(Self { rules: config.iter().map(rule).collect::<Result<_, _>>()?, default: DEFAULT_BOUNDS.into() })
    }

    pub(super) fn of(&self, name: &str) -> &Arc<[f64]> {
        self.rules.iter().find(|(matcher, _)| matcher.matches(name)).map_or(&self.default, |(_, bounds)| bounds)
    }
}

/// A `StringMatcher`, compiled.
#[derive(Debug)]
pub(super) enum NameMatcher {
    Exact(String, bool),
    Prefix(String, bool),
    Suffix(String, bool),
    Contains(String, bool),
    Regex(Regex),
}

impl NameMatcher {
    pub(super) fn new(config: &StringMatcher) -> Result<Self, StatsError> {
        let ignore_case = config.ignore_case;
        let text = |text: &String| if ignore_case { text.to_ascii_lowercase() } else { text.clone() };
        Ok(match &config.pattern {
            StringPattern::Exact(exact) => Self::Exact(text(exact), ignore_case),
            StringPattern::Prefix(prefix) => Self::Prefix(text(prefix), ignore_case),
            StringPattern::Suffix(suffix) => Self::Suffix(text(suffix), ignore_case),
            StringPattern::Contains(part) => Self::Contains(text(part), ignore_case),
            StringPattern::Regex(regex) => Self::Regex(super::compile(&format!("^(?:{regex})$"))?),
        })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact, false) => name == exact,
            Self::Prefix(prefix, false) => name.starts_with(prefix),
            Self::Suffix(suffix, false) => name.ends_with(suffix),
            Self::Contains(part, false) => name.contains(part),
            Self::Exact(exact, true) => name.eq_ignore_ascii_case(exact),
            Self::Prefix(prefix, true) => name.to_ascii_lowercase().starts_with(prefix),
            Self::Suffix(suffix, true) => name.to_ascii_lowercase().ends_with(suffix),
            Self::Contains(part, true) => name.to_ascii_lowercase().contains(part),
            Self::Regex(regex) => regex.is_match(name),
        }
    }
}

/// Envoy's bounds where the configuration says nothing.
const DEFAULT_BOUNDS: [f64; 19] =
    [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6];

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(pattern: StringPattern, ignore_case: bool) -> StringMatcher {
        StringMatcher { pattern, ignore_case }
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
    fn every_pattern_matches_its_way() {
        let matches =
            |pattern, ignore_case, name: &str| NameMatcher::new(&matcher(pattern, ignore_case)).unwrap().matches(name);
        assert!(matches(StringPattern::Exact("aB".into()), false, "aB"));
        assert!(!matches(StringPattern::Exact("aB".into()), false, "ab"));
        assert!(matches(StringPattern::Exact("aB".into()), true, "Ab"));
        assert!(matches(StringPattern::Suffix("_MS".into()), true, "rq_ms"));
        assert!(matches(StringPattern::Contains("Q_".into()), true, "rq_ms"));
        assert!(!matches(StringPattern::Contains("Q_".into()), false, "rq_ms"));
        assert!(matches(StringPattern::Regex("rq|cx".into()), false, "cx"));
        assert!(!matches(StringPattern::Regex("rq|cx".into()), false, "cx_total"), "the whole name has to match");
        assert!(NameMatcher::new(&matcher(StringPattern::Regex("(".into()), false)).is_err());
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
