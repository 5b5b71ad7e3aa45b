#!/usr/bin/env python3
"""Counts which configurations of a corpus `sota-mesh validate` accepts, and which fields the others need.

    corpus.py FOLDER --sota BINARY [--write crates/envoy/src/corpus.txt]

The corpus is a folder of bootstraps (YAML or JSON, in folders by their origin) that Envoy accepts. In them `@CERTS@` stands for
a folder with crt.pem and key.pem, `@CERTIFICATE@` and `@PRIVATE_KEY@` for the PEM texts of these; a certificate whose key is left
out is another one here. What --write makes is part of the support page.
"""

import argparse
import collections
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path


# A certificate in a block of YAML, and behind it the place of its key.
KEY_LEFT_OUT = re.compile(
    r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----(\s+private_key:\s+inline_string: \|\s+@PRIVATE_KEY@)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--sota", required=True, help="the binary")
    parser.add_argument("--write", type=Path, help="put the tally into this file")
    parser.add_argument("--list", action="store_true", help="show each refused file with its errors")
    arguments = parser.parse_args()

    accepted, refused = collections.Counter(), {}
    with tempfile.TemporaryDirectory() as folder:
        certificate(Path(folder))
        for path in sorted(arguments.corpus.rglob("*")):
            if not path.is_file():
                continue
            origin = path.relative_to(arguments.corpus).parts[0]
            errors = validate(arguments.sota, path, Path(folder))
            accepted[origin, not errors] += 1
            if errors:
                refused[path.relative_to(arguments.corpus)] = errors
    if sum(accepted.values()) == 0:
        sys.exit(f"{arguments.corpus}: no files")
    if arguments.list:
        for path, errors in refused.items():
            print(path, *errors, sep="\n    ")
    report = tally(accepted, refused)
    print(report)
    if arguments.write:
        arguments.write.write_text(report)


def certificate(folder):
    """A self-signed one, which is its own authority."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                    "-subj", "/CN=corpus", "-keyout", folder / "key.pem", "-out", folder / "crt.pem"],
                   check=True, capture_output=True)


def validate(binary, path, folder):
    """The errors that are reported of a file, the place left out of each."""
    text = KEY_LEFT_OUT.sub(r"@CERTIFICATE@\1", path.read_text())
    for name, value in (("@CERTS@", str(folder)), ("@CERTIFICATE@", (folder / "crt.pem").read_text()),
                        ("@PRIVATE_KEY@", (folder / "key.pem").read_text())):
        # A text of several lines stands in a block, at the block's indentation, or in a quoted string.
        text = re.sub(rf"^( +){name}$", lambda found: re.sub("^", found[1], value.strip(), flags=re.MULTILINE), text,
                      flags=re.MULTILINE)
        text = text.replace(name, json.dumps(value)[1:-1])
    filled = folder / f"bootstrap{path.suffix}"
    filled.write_text(text)
    done = subprocess.run([binary, "validate", "-c", str(filled)], capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        return []
    errors = re.findall(rf"^{re.escape(str(filled))}(?::\d+)*: (?!warning: )(.*)$", done.stdout + done.stderr, re.MULTILINE)
    return errors or [(done.stdout + done.stderr).strip()[-300:]]


def reason(error):
    """What is missing, without the place where: of a field, the message that has it is told by the last name of the place."""
    told = re.search(r'(?:(\w+)(?:\[[^]]*\])*: )?(the (?:field|type|value) ".*)', error)
    if not told:
        return re.sub(r"^\S+: ", "", error)
    name, text = told.groups()
    text = re.sub(r'"type.googleapis.com/([^"]*)"', r"`\1`", text)
    return text if text.startswith("the type") else f"`{name}`: {text}"


def tally(accepted, refused):
    origins = sorted({origin for origin, _ in accepted})
    total = sum(accepted.values())
    whole = sum(count for (_, is_accepted), count in accepted.items() if is_accepted)
    lines = [f"Of {total} configurations of public projects that Envoy 1.40 accepts, {whole} ({100 * whole // total} %) are accepted whole.", "",
             "| origin | accepted | of |", "|---|---|---|"]
    lines += [f"| {origin} | {accepted[origin, True]} | {accepted[origin, True] + accepted[origin, False]} |" for origin in origins]
    reasons = [set(map(reason, errors)) for errors in refused.values()]
    why = collections.Counter(text for file in reasons for text in file)
    alone = collections.Counter(text for file in reasons if len(file) == 1 for text in file)
    lines += ["", "What the others are refused for:", "", "| files | of them, for this alone | reason |", "|---|---|---|"]
    lines += [f"| {count} | {alone[text]} | {text.replace('|', '&#124;')} |" for text, count in why.most_common()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
