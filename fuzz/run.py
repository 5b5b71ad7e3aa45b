#!/usr/bin/env python3
"""Builds the fuzz targets and runs each for a while. Exit code 1 if one found something."""

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What cargo-fuzz passes with `--sanitizer none`: coverage is a pass of the stable compiler.
COVERAGE = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
]


def targets():
    manifest = tomllib.loads((HERE / "Cargo.toml").read_text())
    return [binary["name"] for binary in manifest["bin"]]


def has(*command):
    if not shutil.which(command[0]):
        return False
    return subprocess.run(command, capture_output=True, cwd=HERE).returncode == 0


def cargo():
    return (os.environ.get("CARGO") or "cargo").split()


def environment(**more):
    env = dict(os.environ, **more)
    env.pop("CARGO", None)
    return env


def build_plain(chosen):
    """On stable, without cargo-fuzz; returns the folder of the binaries."""
    flags = " ".join(COVERAGE)
    # With an explicit target the flags don't reach build scripts and procedural macros.
    host = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    host = next(line.split()[1] for line in host.splitlines() if line.startswith("host:"))
    command = [*cargo(), "build", "--release", "--target", host, "--target-dir", str(HERE / "target")]
    command += [part for target in chosen for part in ("--bin", target)]
    if subprocess.run(command, cwd=HERE, env=environment(RUSTFLAGS=flags)).returncode != 0:
        sys.exit("the fuzz targets do not build")
    return HERE / "target" / host / "release"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="time for each target")
    parser.add_argument("targets", nargs="*", help=f"of {' '.join(targets())}")
    arguments = parser.parse_args()
    chosen = arguments.targets or targets()
    if unknown := set(chosen) - set(targets()):
        sys.exit(f"no such target: {' '.join(sorted(unknown))}")

    nightly = has("cargo", "+nightly", "fuzz", "--version")
    folder = None if nightly else build_plain(chosen)
    found = []
    for target in chosen:
        artifacts = HERE / "artifacts" / target
        discovered = artifacts / "discovered"
        discovered.mkdir(parents=True, exist_ok=True)
        corpus = HERE / "corpus" / target
        options = [f"-max_total_time={arguments.seconds}", f"-artifact_prefix={artifacts}/", "-timeout=10",
                   "-rss_limit_mb=2048", "-max_len=65536", "-print_final_stats=1", "-verbosity=0"]
        # What is new goes to the first folder; the committed seeds are only read.
        inputs = [str(discovered)] + ([str(corpus)] if corpus.exists() else [])
        print(f"== {target}, {arguments.seconds} s, {'cargo-fuzz' if nightly else 'stable, no sanitizer'}", flush=True)
        if nightly:
            command = ["cargo", "+nightly", "fuzz", "run", "--fuzz-dir", str(HERE), target, *inputs, "--", *options]
        else:
            command = [str(folder / target), *options, *inputs]
        log = artifacts / "log"
        with log.open("wb") as out:
            code = subprocess.run(command, cwd=HERE.parent, env=environment(), stdin=subprocess.DEVNULL, stdout=out,
                                  stderr=subprocess.STDOUT).returncode
        report = log.read_text(errors="replace").splitlines()
        print("\n".join(line for line in report if line.startswith("stat::") or line.startswith("SUMMARY")))
        if code != 0:
            print("\n".join(report[-40:]))
            found.append(target)
    if found:
        print(f"findings in {' '.join(found)}: see fuzz/artifacts/ and fuzz/README.md")
    print(f"fuzz: {len(chosen)} targets, {len(found)} with findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
