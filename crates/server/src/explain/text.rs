//! An explanation for a terminal: a column of steps, and what each came to.

use super::ExplainOptions;
use sota_proxy::explain::{
    ClusterExplanation, Explanation, ForwardExplanation, HttpExplanation, Question, Share, Tried,
};
use std::fmt::Write;

/// The width of the column of steps.
const STEP: usize = 15;
const YES: &str = "\u{2713}";
const NO: &str = "\u{2717}";

pub(super) fn render(request: &ExplainOptions, question: &Question, explanation: &Explanation) -> String {
    let mut page = Page(String::new());
    let assumed = if request.source.is_none() { " (assumed; --source says another)" } else { "" };
    page.line(&format!("{} {} from {}{assumed}", request.method, request.url, question.source));
    page.line("");
    page.tried("listener", &explanation.listeners);
    page.tried("filter chain", &explanation.filter_chains);
    page.list("network", &explanation.network_filters);
    if let Some(http) = &explanation.http {
        page.http(http);
    }
    page.shares("cluster", explanation.tcp.iter().map(|(share, _)| share));
    for (_, cluster) in explanation.tcp.iter().filter(|(share, _)| share.is_chosen) {
        page.cluster(cluster);
    }
    page.list("note", &explanation.notes);
    page.line("");
    page.step("=>", &explanation.outcome);
    page.0
}

struct Page(String);

impl Page {
    fn line(&mut self, text: &str) {
        self.0.push_str(text.trim_end());
        self.0.push('\n');
    }

    fn step(&mut self, step: &str, text: &str) {
        self.line(&format!("{step:<STEP$}{text}"));
    }

    /// Several lines, the first of which has the step's name.
    fn list<T: AsRef<str>>(&mut self, step: &str, lines: impl IntoIterator<Item = T>) {
        let mut step = step;
        for line in lines {
            self.step(step, line.as_ref());
            step = "";
        }
    }

    fn tried(&mut self, step: &str, tried: &[Tried]) {
        self.list(
            step,
            tried.iter().map(|one| match &one.rejected {
                None => format!("{YES} {}", one.name),
                Some(reason) => format!("{NO} {}: {reason}", one.name),
            }),
        );
    }

    fn shares<'a>(&mut self, step: &str, shares: impl Iterator<Item = &'a Share>) {
        self.list(
            step,
            shares.map(|share| {
                let mark = if share.is_chosen { YES } else { " " };
                let part = if share.per_mille == 1000 {
                    String::new()
                } else {
                    format!(", {}.{} % of the requests", share.per_mille / 10, share.per_mille % 10)
                };
                format!("{mark} {}{part}", share.name)
            }),
        );
    }

    fn http(&mut self, http: &HttpExplanation) {
        self.list("head", &http.changes);
        self.tried("virtual host", &http.virtual_hosts);
        self.tried("route", &http.routes);
        let width = http.filters.iter().map(|filter| filter.name.len()).max().unwrap_or(0);
        self.list(
            "filters",
            http.filters
                .iter()
                .map(|filter| format!("{} {:<width$}  {}", if filter.runs { YES } else { NO }, filter.name, filter.by)),
        );
        if let Some(forward) = &http.forward {
            self.forward(forward);
        }
    }

    fn forward(&mut self, forward: &ForwardExplanation) {
        self.list("sent", &forward.sent);
        let pairs = |pairs: &[(&'static str, String)]| {
            pairs.iter().map(|(name, text)| format!("{name}: {text}")).collect::<Vec<_>>()
        };
        self.list("timeouts", pairs(&forward.timeouts));
        match forward.retries.is_empty() {
            true => self.step("retries", "none"),
            false => self.list("retries", pairs(&forward.retries)),
        }
        self.shares("cluster", forward.clusters.iter());
        if let Some(hash) = forward.hash {
            self.step("hash", &format!("{hash:016x}"));
        }
        self.cluster(&forward.cluster);
    }

    fn cluster(&mut self, cluster: &ClusterExplanation) {
        self.list("", cluster.facts.iter().map(|(name, text)| format!("  {name}: {text}")));
        let mut lines: Vec<String> = cluster
            .hosts
            .iter()
            .map(|host| {
                let is_chosen = cluster.chosen.as_deref() == Some(&*host.address);
                let mut line = format!("{} {}", if is_chosen { YES } else { " " }, host.address);
                if !host.hostname.is_empty() {
                    let _ = write!(line, " ({})", host.hostname);
                }
                let _ = write!(line, ", weight {}", host.weight);
                if host.priority > 0 {
                    let _ = write!(line, ", priority {}", host.priority);
                }
                if !host.locality.is_empty() {
                    let _ = write!(line, ", {}", host.locality);
                }
                let _ = write!(line, ", {}", host.health);
                line
            })
            .collect();
        if cluster.more_hosts > 0 {
            lines.push(format!("  and {} more", cluster.more_hosts));
        }
        self.list("endpoints", lines);
    }
}
