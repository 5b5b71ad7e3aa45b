//! Every example of the native dialect's page is a good configuration, when what it leaves out is there.

mod common;

use common::{Registry, options, repository};
use sota_envoy::{LoadOptions, load, render};
use std::fs;

/// An example with the parts around it that it does not show.
fn whole(example: &str) -> String {
    let indented = |by: &str| example.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
    match example.lines().next().unwrap_or("") {
        "routes:" => format!(
            "listeners:\n- address: 127.0.0.1:80\n  http:\n{}clusters: [{{name: web}}, {{name: beta}}, {{name: users}}]\n",
            indented("    ")
        ),
        "filters:" => {
            format!("listeners:\n- address: 127.0.0.1:80\n  http:\n    routes: []\n{}", indented("    "))
        }
        _ if example.contains("db.example") => format!("{example}clusters: [{{name: db}}, {{name: rest}}]\n"),
        _ => example.to_owned(),
    }
}

#[test]
fn every_example_of_the_native_dialect_loads() {
    let page = fs::read_to_string(repository("docs/native-configuration.md")).expect("the page");
    let examples: Vec<_> =
        page.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```")).map(|(text, _)| text).collect();
    assert!(examples.len() >= 5, "{}", examples.len());
    let registry = Registry::default();
    for example in examples {
        let text = whole(example);
        let loaded = load(text.as_bytes(), "x", &LoadOptions { dialect: Some("sota"), ..options(&registry) });
        let loaded = loaded.unwrap_or_else(|e| panic!("{}", render(&e, "x", text.as_bytes())));
        assert_eq!(loaded.warnings.0, [], "{text}");
    }
}
