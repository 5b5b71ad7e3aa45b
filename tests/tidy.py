#!/usr/bin/env python3
"""The tree's own rules, those that no compiler and no linter knows. Prints each breach; the exit code says if any.

- a file that a document names exists;
- crates depend on each other only along the arrows of ARCHITECTURE.md;
- modules of the data plane use only those that stand after them in its lib.rs;
- no glob import of the parent outside of tests, no mark for unfinished work;
- every file of the data plane opens with a module comment;
- files over 600 lines without their tests are listed, which is a question and not a breach.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {"target", ".git", ".venv", "corpus", "findings"}

# crate -> the crates of the workspace that it may use (dev-dependencies are free)
ARROWS = {
    "sota-config": set(),
    "sota-plugin": {"sota-config"},
    "sota-codec": {"sota-plugin", "sota-config"},
    "sota-envoy": {"sota-config"},
    "sota-proxy": {"sota-plugin", "sota-codec", "sota-config"},
    "sota-extensions": {"sota-plugin", "sota-codec", "sota-config"},
    "sota-server": {"sota-config", "sota-plugin", "sota-codec", "sota-proxy", "sota-envoy"},
    "sota-testkit": set(),
    "sota-samples": {"sota-codec"},
    "sota-mesh": {"sota-config", "sota-plugin", "sota-envoy", "sota-proxy", "sota-extensions", "sota-server"},
}
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b|\b(todo|unimplemented)!\(")
LONG = 600


def files(pattern):
    for path in sorted(ROOT.rglob(pattern)):
        if not SKIPPED & set(path.relative_to(ROOT).parts):
            yield path, path.relative_to(ROOT)


def documents(breaches):
    for path, name in files("*.md"):
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if not re.match(r"[a-z]+:", target) and not (path.parent / target).exists():
                breaches.append(f"{name}: links to {target}, which does not exist")
        for target in re.findall(r"`([\w./-]+/[\w.-]+\.(?:rs|md|py|yaml|toml|txt|sh))`", text):
            if not any((base / target).exists() for base in (ROOT, path.parent, ROOT / "crates/proxy/src")):
                breaches.append(f"{name}: names {target}, which does not exist")


def arrows(breaches):
    for path, name in files("Cargo.toml"):
        manifest = tomllib.loads(path.read_text())
        crate = manifest.get("package", {}).get("name")
        if crate not in ARROWS:
            continue
        used = {other for other in manifest.get("dependencies", {}) if other.startswith("sota-")}
        for other in sorted(used - ARROWS[crate]):
            breaches.append(f"{name}: {crate} may not depend on {other}")


def downward(breaches):
    """The modules of crates/proxy are declared in the order of the path; arrows between them only point down."""
    src = ROOT / "crates/proxy/src"
    order = re.findall(r"^(?:pub(?:\(crate\))? )?mod (\w+);", (src / "lib.rs").read_text(), flags=re.M)
    rank = {module: number for number, module in enumerate(order)}
    for path in sorted(src.rglob("*.rs")):
        own = path.relative_to(src).parts[0].removesuffix(".rs")
        if own not in rank or path.name == "tests.rs":
            continue
        text = path.read_text().split("#[cfg(test)]")[0]
        for used in sorted(set(re.findall(r"\bcrate::(\w+)", text)) & rank.keys()):
            if rank[used] < rank[own]:
                breaches.append(f"{path.relative_to(ROOT)}: {own} uses {used}, which stands above it")


def sources(breaches, long):
    for path, name in files("*.rs"):
        lines = path.read_text().splitlines()
        in_tests = path.name == "tests.rs" or "tests" in name.parts
        first_test = next((i for i, line in enumerate(lines) if line.startswith("#[cfg(test)]")), len(lines))
        if not in_tests and first_test > LONG:
            long.append(f"{name}: {first_test} lines")
        for number, line in enumerate(lines, 1):
            if UNFINISHED.search(line):
                breaches.append(f"{name}:{number}: unfinished: {line.strip()}")
            if "use super::*" in line and not in_tests and number <= first_test:
                breaches.append(f"{name}:{number}: imports everything of its parent")
        if "src" in name.parts and not in_tests and not any(line.startswith("//!") for line in lines[:3]):
            breaches.append(f"{name}: opens without a module comment")


def main():
    breaches, long = [], []
    documents(breaches)
    arrows(breaches)
    downward(breaches)
    sources(breaches, long)
    for line in long:
        print(f"long: {line}")
    for line in breaches:
        print(line)
    print(f"tidy: {len(breaches)} breaches")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
