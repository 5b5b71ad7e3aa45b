//! What `docs/zeromq.md` shows is valid.

use std::path::Path;
use std::process::Command;

const CLUSTERS: &str = "clusters:
- {name: workers, endpoints: ['127.0.0.1:1']}
- {name: web, endpoints: ['127.0.0.1:2']}
";

/// Secrets of the examples are in places that this host lacks.
const SECRETS: [(&str, &str); 2] = [
    ("{filename: /run/secrets/me}", "{inline_string: secret}"),
    ("{environment_variable: CURVE_SECRET_KEY}", "{inline_string: \"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs\"}"),
];

/// An example as a whole document.
fn document(example: &str) -> String {
    let indented = |by: &str| example.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
    if example.starts_with("listeners:") {
        example.to_owned()
    } else if example.starts_with("security:") {
        let fields = indented("      ");
        format!("listeners:\n- address: 127.0.0.1:0\n  filters:\n  - name: zmq\n    config:\n{fields}{CLUSTERS}")
    } else {
        format!("listeners:\n- address: 127.0.0.1:0\n{}{CLUSTERS}", indented("  "))
    }
}

#[test]
fn the_examples_of_the_page_are_valid() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/zeromq.md");
    let page = SECRETS.iter().fold(std::fs::read_to_string(page).unwrap(), |page, (from, to)| page.replace(from, to));
    let folder = sota_testkit::temp_dir();
    let examples: Vec<&str> =
        page.split("```yaml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect();
    assert!(examples.len() >= 5);
    for example in examples {
        let file = folder.path().join("example.yaml");
        std::fs::write(&file, document(example)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sota-mesh"));
        let checked = command.args(["validate", "-c"]).arg(&file).output().unwrap();
        assert!(checked.status.success(), "{example}\n{}", String::from_utf8_lossy(&checked.stderr));
    }
}
