//! Configurations and what comes of them, one file for each case in `tests/golden/`.
//!
//! A file is YAML, a line `----`, and the outcome. A first line `# dialect: NAME` stands for `-t NAME`. The outcome is
//! either every finding as `render` shows it without the source lines, or `ok` and excerpts of the model: lines of its
//! debug output that must be there in this order, and warnings before them. `UPDATE_GOLDEN=1` writes the findings anew.

mod common;

use common::{Registry, options, repository, without_sources};
use sota_config::{ConfigErrors, Severity};
use sota_envoy::{LoadOptions, Loaded, load};
use std::{fmt::Write, fs};

const SEPARATOR: &str = "\n----\n";

fn show(findings: &ConfigErrors) -> String {
    findings.0.iter().fold(String::new(), |mut out, e| {
        let warning = if e.severity == Severity::Warning { "warning: " } else { "" };
        let _ = writeln!(out, "{}:{}: {warning}{e}", e.mark.line, e.mark.column);
        out
    })
}

fn run(text: &str) -> Result<Loaded, ConfigErrors> {
    let registry = Registry::default();
    let dialect = text.lines().next().and_then(|line| line.strip_prefix("# dialect: "));
    load(text.as_bytes(), "case.yaml", &LoadOptions { dialect, ..options(&registry) })
}

/// The lines of `expected` that are missing, in their order, from `shown`.
fn missing<'a>(expected: impl Iterator<Item = &'a str>, shown: &str) -> Option<&'a str> {
    let mut lines = shown.lines().map(str::trim);
    expected.into_iter().find(|wanted| !lines.any(|line| line == wanted.trim()))
}

#[test]
fn every_case() {
    let mut failed = Vec::new();
    let mut cases = 0;
    let folder = repository("crates/envoy/tests/golden");
    for entry in fs::read_dir(folder).expect("the folder of cases") {
        let path = entry.expect("a readable folder").path();
        let whole = fs::read_to_string(&path).expect("a readable case");
        let (text, expected) = whole.split_once(SEPARATOR).unwrap_or((&whole, ""));
        let text = format!("{text}\n");
        cases += 1;
        let outcome = match run(&text) {
            Err(findings) => show(&findings),
            Ok(loaded) => {
                let warnings = show(&loaded.warnings);
                let model = format!("{:#?}", without_sources(loaded.bootstrap));
                let found = expected.strip_prefix("ok\n").and_then(|rest| rest.strip_prefix(&warnings)).map(|rest| {
                    missing(rest.lines(), &model).map(|line| format!("the model has no line `{line}` there\n{model}"))
                });
                match found {
                    Some(None) => continue,
                    Some(Some(reason)) => reason,
                    None => format!("ok\n{warnings}"),
                }
            }
        };
        if outcome == expected {
            continue;
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() && !outcome.starts_with("the model") {
            fs::write(&path, format!("{text}----\n{outcome}")).expect("the case can be written");
        }
        failed.push(format!("{}\nexpected:\n{expected}\nfound:\n{outcome}", path.display()));
    }
    assert!(cases >= 25, "only {cases} cases");
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
