#!/usr/bin/env python3
"""Measures Envoy, nginx, HAProxy and ours beside each other: one worker on one core each, the same work, rounds in turn.

Every proxy is pinned to CPU 0, the load (wrk, h2load) and the origin (nginx) to CPU 1. All proxies are up all the time; in each
round each of them is measured once, in an order that turns from round to round. Printed are medians over the rounds, and
for each peer the median of the paired ratios ours / peer: the two numbers of a pair come from the same round, so that
what the machine does meanwhile falls on both.

CPU is the processor time of all threads of a proxy (/proc/PID/task/*/schedstat) divided by the requests that the load counted.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from loads import LOADS, measure_load, measure_rate, measure_workers
from peers import PEERS, StartError
from sizes import IDLE_CASES, SCALE_CASES, measure_idle, measure_scale, measure_start

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs/performance.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

# What makes the table of each case.
CASES = {
    **{case: measure_load for case in LOADS},
    "rate": lambda _, *arguments: measure_rate(*arguments),
    "workers": lambda _, *arguments: measure_workers(*arguments),
    "start": lambda _, *arguments: measure_start(*arguments),
    **{case: measure_idle for case in IDLE_CASES},
    **{case: measure_scale for case in SCALE_CASES},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sota", help="the binary to measure; without it only the peers are")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--cases", default="h1-1k,start", help=f"of {','.join(CASES)}; or all")
    parser.add_argument("--peers", default=",".join(PEERS), help="which proxies")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    arguments = parser.parse_args()
    cases = list(CASES) if arguments.cases == "all" else arguments.cases.split(",")
    if unknown := set(cases) - set(CASES):
        sys.exit(f"no such case: {' '.join(unknown)}")

    proxies = available(arguments)
    out = [CASES[case](case, proxies, arguments) for case in cases]
    report = header(proxies) + "\n\n".join(out)
    print("\n" + report)
    if arguments.write:
        write(report)


def available(arguments):
    """The proxies that can be measured, by name; says what is missing."""
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt-get install wrk nginx haproxy")
    if not shutil.which("h2load"):
        sys.exit("h2load is missing: apt-get install nghttp2-client")
    if not shutil.which("nginx"):
        sys.exit("nginx is missing, which is the origin too: apt-get install nginx")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two processors are needed: one for the proxy, one for load and origin")
    found = {}
    for name in arguments.peers.split(","):
        if name not in PEERS:
            sys.exit(f"no such peer: {name}")
        binary = arguments.sota if name == "sota" else PEERS[name].find()
        if binary and Path(binary).exists():
            found[name] = (PEERS[name], str(Path(binary).resolve()))
        else:
            print(f"{name} is missing and is left out ({PEERS[name].missing})", flush=True)
    if not found:
        sys.exit("nothing to measure")
    return found


def header(proxies):
    versions = ", ".join(f"{peer.title} {peer.version(binary)}".strip() for peer, binary in proxies.values())
    command = " ".join(["python3 benches/run.py", *sys.argv[1:]])
    kernel = os.uname().release.split("-")[0]
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return f"{date}, {os.cpu_count()} processors, Linux {kernel}; {versions}.\n\n    {command}\n\n"


def write(report):
    text = REPORT.read_text()
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    REPORT.write_text(f"{before}{BEGIN}\n\n{report.rstrip()}\n\n{END}{after}")
    print(f"written to {REPORT.relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        main()
    except StartError as error:
        sys.exit(str(error))
