//! What is asked of `/stats`: the query string, read as Envoy does.

use regex::Regex;
use sota_plugin::stats::Kind;

/// What is asked of `/stats` and `/stats/prometheus`.
#[derive(Debug, Clone, Default)]
pub struct StatsQuery {
    /// `format`.
    pub format: Format,
    /// `usedonly`: only stats that were ever written.
    pub used_only: bool,
    /// `filter`: only stats in whose name this is found.
    pub filter: Option<Regex>,
    /// `type`: only stats of this kind.
    pub kind: Option<Kind>,
    /// `histogram_buckets`.
    pub buckets: BucketsMode,
    /// `text_readouts`: Prometheus gets text readouts too, as gauges with the text in a label.
    pub text_readouts: bool,
    /// `hidden=only`: Envoy's hidden gauges alone; there are none here.
    pub hidden_only: bool,
}

/// How stats are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `name: value` lines; `text/plain`.
    #[default]
    Text,
    /// One object; `application/json`.
    Json,
    /// Prometheus' text format 0.0.4; `text/plain`.
    Prometheus,
}

impl Format {
    /// The `content-type` that Envoy answers with.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Text | Self::Prometheus => "text/plain; charset=UTF-8",
        }
    }
}

/// What is shown of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BucketsMode {
    /// The default: quantiles, and for Prometheus cumulative buckets.
    #[default]
    Unset,
    /// Counts up to each configured bound.
    Cumulative,
    /// Counts between the configured bounds.
    Disjoint,
    /// Every bucket there is, and quantiles.
    Detailed,
    /// Quantiles.
    Summary,
}

impl StatsQuery {
    /// Reads what stands behind the `?` of `/stats`, or of `/stats/prometheus` with that format as the default. Unknown parameters mean
    /// nothing. The error is the body of a 400.
    pub fn parse(query: &str, default: Format) -> Result<Self, String> {
        let mut parsed = Self { format: default, ..Self::default() };
        let mut seen: Vec<String> = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (name, value) = (decode(name), decode(value));
            // The first value of a parameter counts.
            if !seen.contains(&name) {
                parsed.set(&name, &value)?;
                seen.push(name);
            }
        }
        if parsed.format == Format::Prometheus
            && !matches!(parsed.buckets, BucketsMode::Unset | BucketsMode::Summary | BucketsMode::Cumulative)
        {
            return Err("unsupported prometheus histogram bucket mode".into());
        }
        Ok(parsed)
    }

    /// Whether stats of this kind are asked for.
    pub(super) fn wants(&self, kind: Kind) -> bool {
        !self.hidden_only && self.kind.is_none_or(|wanted| wanted == kind)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match (name, value) {
            ("usedonly", _) => self.used_only = true,
            ("text_readouts", _) => self.text_readouts = true,
            ("filter" | "type" | "hidden" | "format", "") => {}
            ("filter", regex) => {
                let filter = Regex::new(regex).map_err(|error| {
                    // The last line says what is wrong, those before show where.
                    let error = error.to_string();
                    let cause = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                    format!("Invalid re2 regex: {cause}: {regex}")
                })?;
                self.filter = Some(filter);
            }
            ("type", kind) => {
                self.kind = match kind {
                    "All" => None,
                    "Counters" => Some(Kind::Counter),
                    "Gauges" => Some(Kind::Gauge),
                    "Histograms" => Some(Kind::Histogram),
                    "TextReadouts" => Some(Kind::TextReadout),
                    _ => return Err("invalid &type= param".into()),
                };
            }
            ("hidden", which) => match which {
                "include" | "exclude" => {}
                "only" => self.hidden_only = true,
                _ => return Err("usage: /stats?hidden=(include|only|exclude)\n\n".into()),
            },
            ("format", format) => {
                self.format = match format {
                    "text" => Format::Text,
                    "json" => Format::Json,
                    "prometheus" => Format::Prometheus,
                    "html" => return Err(format!("HTML {NO_HTML}")),
                    "active-html" => return Err(format!("Active HTML {NO_HTML}")),
                    _ => return Err("usage: /stats?format=(html|active-html|json|prometheus|text)\n\n".into()),
                };
            }
            ("histogram_buckets", mode) => {
                self.buckets = match mode {
                    "" | "none" => BucketsMode::Unset,
                    "cumulative" => BucketsMode::Cumulative,
                    "disjoint" => BucketsMode::Disjoint,
                    "detailed" => BucketsMode::Detailed,
                    "summary" => BucketsMode::Summary,
                    _ => return Err(BUCKETS_USAGE.into()),
                };
            }
            _ => {}
        }
        Ok(())
    }
}

/// What an Envoy built without HTML says.
const NO_HTML: &str = "output was disabled by building with --define=admin_html=disabled";
const BUCKETS_USAGE: &str = "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n";

/// Percent-decoding; what is no valid escape stays.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digit = |n: usize| tail.get(n).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read() {
        let query = StatsQuery::parse(
            "usedonly&filter=a%2Eb%7Cc&type=Gauges&format=json&histogram_buckets=disjoint&x=y",
            Format::Text,
        );
        let query = query.unwrap();
        assert!(query.used_only && query.wants(Kind::Gauge) && !query.wants(Kind::Counter));
        assert_eq!(query.filter.map(|filter| filter.as_str().to_owned()).as_deref(), Some("a.b|c"));
        assert_eq!((query.format, query.buckets), (Format::Json, BucketsMode::Disjoint));

        let query = StatsQuery::parse("type=&format=&filter=&format=json&%zz=%", Format::Prometheus).unwrap();
        assert_eq!(query.format, Format::Prometheus, "the first value counts, and it is empty");
        assert!(query.filter.is_none() && query.wants(Kind::Counter) && query.wants(Kind::TextReadout));
        assert!(!StatsQuery::parse("hidden=only", Format::Text).unwrap().wants(Kind::Gauge));
    }

    #[test]
    fn errors_are_those_of_envoy() {
        for (query, expected) in [
            ("type=gauges", "invalid &type= param"),
            ("format=xml", "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n"),
            ("hidden=x", "usage: /stats?hidden=(include|only|exclude)\n\n"),
            ("format=html", "HTML output was disabled by building with --define=admin_html=disabled"),
            ("histogram_buckets=all", BUCKETS_USAGE),
            ("format=prometheus&histogram_buckets=detailed", "unsupported prometheus histogram bucket mode"),
        ] {
            assert_eq!(StatsQuery::parse(query, Format::Text).err().as_deref(), Some(expected));
        }
        let error = StatsQuery::parse("filter=(", Format::Text).err().unwrap_or_default();
        assert!(error.starts_with("Invalid re2 regex: ") && error.ends_with(": ("), "{error}");
    }
}
