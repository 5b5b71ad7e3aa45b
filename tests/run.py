#!/usr/bin/env python3
"""Runs every test of the project and adds up the results.

First it fetches what the tests need: the Debian packages of tests/packages.txt (as root; otherwise the tests that miss
one skip themselves) and a Python virtual environment with the real peers of tests/requirements.txt. Then it runs
`cargo test` over the workspace, documentation tests included, and the Python tests of tests/py. The last line is
`N passed, N failed, N skipped`; the exit code is 0 only if nothing failed, and in CI only if nothing was skipped.

A Rust test that can't run here says so with `sota_testkit::skip!`, which writes the reason to the file that
SOTA_TEST_SKIPS names: the test harness itself knows no skipping.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"


def say(text):
    print(f"== {text}", flush=True)


def ci():
    return os.environ.get("CI", "").lower() in ("true", "1")


def missing_packages():
    """The packages of tests/packages.txt that are not installed; all of them where there is no dpkg."""
    names = []
    for line in (ROOT / "tests/packages.txt").read_text().splitlines():
        name = line.split("#")[0].strip()
        if name:
            names.append(name)
    # A Python of Debian's comes without what `python3 -m venv` needs.
    if not has_module("ensurepip"):
        names.append("python3-venv")
    if not shutil.which("dpkg-query"):
        return names
    return [name for name in names if not installed(name)]


def has_module(name):
    return subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True).returncode == 0


def installed(package):
    done = subprocess.run(["dpkg-query", "-W", "-f=${Status}", package], capture_output=True, text=True)
    return done.returncode == 0 and done.stdout.strip() == "install ok installed"


def install_packages():
    missing = missing_packages()
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        say(f"not installed: {', '.join(missing)} (tests that need them are skipped; install them, or run as root)")
        return
    say(f"installing {', '.join(missing)}")
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            print(done.stdout)
            say(f"{' '.join(command)} failed; tests that need these packages are skipped")
            return


def make_venv():
    """The virtual environment with the real peers; made again when tests/requirements.txt changes."""
    requirements = ROOT / "tests/requirements.txt"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    stamp = VENV / "requirements.sha256"
    if stamp.exists() and stamp.read_text() == wanted:
        return True
    say("making .venv with the packages of tests/requirements.txt")
    shutil.rmtree(VENV, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(VENV)],
        [str(VENV / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)],
    ):
        done = subprocess.run(command, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            say(f"{' '.join(command)} failed; tests that need these peers are skipped")
            return False
    stamp.write_text(wanted)
    return True


class Totals:
    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.skipped = 0
        self.failures = []
        self.skips = []

    def fail(self, what, count=1):
        self.failed += count
        self.failures.append(what)


def run_cargo(totals, extra):
    """`cargo test`, its output passed on as it comes, its result lines added up."""
    cargo = os.environ.get("CARGO") or "cargo"
    with tempfile.TemporaryDirectory() as scratch:
        skips = Path(scratch) / "skips"
        env = dict(os.environ, SOTA_TEST_SKIPS=str(skips), CARGO_TERM_COLOR="never")
        # CARGO as an environment variable would replace the cargo that build scripts and tests see.
        env.pop("CARGO", None)
        command = [cargo, "test", "--workspace", "--no-fail-fast"]
        if ci():
            command.append("--locked")
        command += extra
        say(" ".join(command))
        before = totals.failed
        child = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True, errors="replace", bufsize=1)
        for line in child.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            result = re.match(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;", line)
            if result:
                passed, failed, ignored = map(int, result.groups())
                totals.passed += passed
                totals.failed += failed
                totals.skipped += ignored
            failure = re.match(r"test (.+) \.\.\. FAILED", line)
            if failure:
                totals.failures.append(failure.group(1))
        if child.wait() != 0 and totals.failed == before:
            totals.fail(f"cargo test ended with code {child.returncode} (it did not build, or a test binary died)")
        if skips.exists():
            for line in skips.read_text(errors="replace").splitlines():
                # A skipped test returns early, so the harness counted it as passed.
                totals.passed -= 1
                totals.skipped += 1
                totals.skips.append(line)


class Counting(unittest.TextTestResult):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1


def run_python(totals):
    """The Python tests, in the virtual environment where it could be made, so that they find the real peers."""
    if not any((ROOT / "tests/py").glob("test_*.py")):
        return
    say("python tests")
    python = VENV / "bin/python"
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [str(python if python.exists() else sys.executable), __file__, "--python-report", str(report)]
        code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL).returncode
        if not report.exists():
            totals.fail(f"the python tests ended with code {code}")
            return
        result = json.loads(report.read_text())
    totals.passed += result["passed"]
    totals.skipped += len(result["skipped"])
    totals.skips += result["skipped"]
    for name in result["failed"]:
        totals.fail(name)


def report_python(path):
    folder = ROOT / "tests/py"
    suite = unittest.defaultTestLoader.discover(str(folder), pattern="test_*.py", top_level_dir=str(folder))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=Counting).run(suite)
    Path(path).write_text(json.dumps({
        "passed": result.passed,
        "skipped": [f"{test}: {reason}" for test, reason in result.skipped],
        "failed": [str(test) for test, _ in result.failures + result.errors],
    }))
    return 0 if result.wasSuccessful() else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare-only", action="store_true", help="fetch what the tests need and stop")
    parser.add_argument("cargo", nargs="*", help="further arguments for cargo test, after --")
    parser.add_argument("--python-report", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.python_report:
        return report_python(arguments.python_report)
    started = time.monotonic()

    install_packages()
    venv = make_venv()
    if arguments.prepare_only:
        return 0 if venv else 1

    totals = Totals()
    run_cargo(totals, arguments.cargo)
    run_python(totals)

    print()
    for line in totals.skips:
        print(f"skipped: {line}")
    for name in totals.failures:
        print(f"failed: {name}")
    say(f"{time.monotonic() - started:.0f} seconds")
    code = 0 if totals.failed == 0 and totals.passed > 0 else 1
    if ci() and totals.skipped:
        print("in CI no test may be skipped")
        code = 1
    print(f"{totals.passed} passed, {totals.failed} failed, {totals.skipped} skipped", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
