//! `docs/writing-a-filter.md` shows this crate and nothing else.

use std::{fs, path::Path, process::Command};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The code blocks of a language, in order.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let parts = document.split(&fence).skip(1);
    parts.map(|part| part.split_once("```").expect("a block that ends").0.to_owned()).collect()
}

#[test]
fn the_document_shows_the_source() {
    let blocks = blocks(&read("../../docs/writing-a-filter.md"), "rust");
    let (main, library) = blocks.split_last().expect("blocks of code");
    let source = read("src/lib.rs");
    let (shown, _) = source.split_once("\n#[cfg(test)]").expect("tests at the end");
    assert_eq!(library.join("\n"), shown);
    assert_eq!(*main, read("src/main.rs"));
}

#[test]
fn the_configuration_of_the_document_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stamp.yaml");
    let blocks = blocks(&read("../../docs/writing-a-filter.md"), "yaml");
    let validate = |yaml: &str| {
        fs::write(&file, yaml).unwrap();
        let binary = env!("CARGO_BIN_EXE_header-stamp");
        let output = Command::new(binary).arg("validate").arg("-c").arg(&file).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(blocks.len(), 2, "one native, one Envoy's");
    for (yaml, field) in blocks.iter().zip(["{value: native", ", value: first"]) {
        let (is_valid, output) = validate(yaml);
        assert!(is_valid, "{output}");
        let (is_valid, output) = validate(&yaml.replace(field, &field.replace("value", "valeu")));
        assert!(!is_valid && output.contains("unknown field \"valeu\"; did you mean \"value\"?"), "{output}");
    }
}
