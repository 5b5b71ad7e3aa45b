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
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peers import GRPC_MESSAGE, PEERS, Origin, StartError, end, free_port, tree

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs/performance.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

# name: (title, path, connections, header fields, protocol: HTTP/1 or TCP on both sides, HTTP/2 to HTTP/1, gRPC)
LOADS = {
    "h1-1k": ("GET of 1 KiB, 64 keep-alive connections", "/1k", 64, (), "http"),
    "h1-64k": ("GET of 64 KiB, 64 keep-alive connections", "/64k", 64, (), "http"),
    "h1-1m": ("GET of 1 MiB, 16 keep-alive connections", "/1m", 16, (), "http"),
    "h1-new": ("GET of 1 KiB, a new connection for each", "/1k", 64, ("Connection: close",), "http"),
    "h2-1k": ("GET of 1 KiB by HTTP/2, 8 connections of 16 streams; HTTP/1.1 to the origin", "/1k", 8, (), "h2"),
    "grpc": ("Unary gRPC call of 100 octets, 8 connections of 16 streams; HTTP/2 to the origin", "/grpc", 8,
             ("content-type: application/grpc", "te: trailers"), "grpc"),
    "tcp-1k": ("TCP proxy, GET of 1 KiB, 64 keep-alive connections", "/1k", 64, (), "tcp"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sota", help="the binary to measure; without it only the peers are")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--cases", default="h1-1k,start", help=f"of {','.join(LOADS)},start; or all")
    parser.add_argument("--peers", default=",".join(PEERS), help="which proxies")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    arguments = parser.parse_args()
    cases = [*LOADS, "start"] if arguments.cases == "all" else arguments.cases.split(",")
    if unknown := set(cases) - {*LOADS, "start"}:
        sys.exit(f"no such case: {' '.join(unknown)}")

    proxies = available(arguments)
    out = []
    for case in cases:
        if case != "start":
            out.append(measure_load(case, proxies, arguments))
    if "start" in cases:
        out.append(measure_start(proxies, arguments))
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


def measure_load(case, proxies, arguments):
    title, *_, protocol = LOADS[case]
    proxies = {name: entry for name, entry in proxies.items() if able(*entry, protocol)}
    names = list(proxies)
    rows = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        folder = Path(folder)
        running, origin = {}, Origin(folder / "origin")
        try:
            for name, (peer, binary) in proxies.items():
                (folder / name).mkdir()
                to = origin.h2_port if protocol == "grpc" else origin.port
                running[name] = peer(binary, folder / name, to, protocol)
                load(running[name].port, case, 1)
            for number in range(arguments.rounds):
                turn = names[number % len(names):] + names[: number % len(names)]
                for name in turn:
                    rows[name].append(one(running[name], case, arguments.seconds))
                shown = " ".join(f"{name} {rows[name][-1]['cpu']:.1f}" for name in names)
                print(f"{case} round {number + 1}: {shown}", flush=True)
        finally:
            for proxy in running.values():
                proxy.stop()
            origin.stop()
    lines = [f"### {title} (`{case}`, {arguments.rounds} rounds of {arguments.seconds} s)", ""]
    lines += ["| | CPU µs/request | min–max | requests/s | p50 ms | p99 ms | failed | ours / it |",
              "|---|---|---|---|---|---|---|---|"]
    for name in names:
        row = rows[name]
        cpu = [sample["cpu"] for sample in row]
        ratio = paired(rows, name, "cpu")
        lines.append(
            f"| {proxies[name][0].title} | {median(cpu):.1f} | {min(cpu):.1f}–{max(cpu):.1f} "
            f"| {median(s['rps'] for s in row):.0f} | {median(s['p50'] for s in row):.2f} "
            f"| {median(s['p99'] for s in row):.2f} | {sum(s['failed'] for s in row)} | {ratio} |"
        )
    return "\n".join(lines)


def able(peer, _binary, protocol):
    lacks = peer.lacks(protocol)
    if lacks:
        print(f"{peer.title} is left out of the {protocol} cases ({lacks})", flush=True)
    return not lacks


def paired(rows, name, key):
    if "sota" not in rows or name == "sota":
        return ""
    return f"{median(ours[key] / its[key] for ours, its in zip(rows['sota'], rows[name])):.2f}"


def median(values):
    return statistics.median(list(values))


def one(proxy, case, seconds):
    before = tree(proxy.pid).cpu_ns()
    sample = load(proxy.port, case, seconds)
    spent = tree(proxy.pid).cpu_ns() - before
    sample["cpu"] = spent / 1000 / max(sample["requests"], 1)
    return sample


def load(port, case, seconds):
    _, path, connections, fields, protocol = LOADS[case]
    tool = h2load if protocol in ("h2", "grpc") else wrk
    return tool(port, path, connections, fields, seconds)


def h2load(port, path, connections, fields, seconds):
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log, body = Path(folder) / "log", Path(folder) / "body"
        command = ["taskset", "-c", "1", "h2load", "-t", "1", "-c", str(connections), "-m", "16", "-D", str(seconds),
                   "--log-file", str(log)]
        for field in fields:
            command += ["-H", field]
        if path == "/grpc":
            body.write_bytes(GRPC_MESSAGE)
            command += ["-d", str(body)]
        done = subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True,
                              timeout=seconds + 60)
        found = re.search(r"requests: .* (\d+) done, (\d+) succeeded", done.stdout)
        if done.returncode != 0 or not found:
            raise StartError(f"h2load failed: {done.stdout}{done.stderr}")
        requests, good = map(int, found.groups())
        times = sorted(int(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines())
    if not times:
        raise StartError(f"no request was answered: {done.stdout}")
    return {
        "requests": requests,
        "rps": requests / seconds,
        "p50": times[len(times) // 2],
        "p99": times[len(times) * 99 // 100],
        "failed": requests - good,
    }


def wrk(port, path, connections, fields, seconds):
    whole = f"{seconds}s"
    command = ["taskset", "-c", "1", "wrk", "-t", "1", "-c", str(connections), "-d", whole, "--latency"]
    for field in fields:
        command += ["-H", field]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, timeout=seconds + 60)
    text = done.stdout
    if done.returncode != 0 or "requests in" not in text:
        raise StartError(f"wrk failed: {text}{done.stderr}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return {
        "requests": int(re.search(r"(\d+) requests in", text).group(1)),
        "rps": float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1)),
        "p50": milliseconds(re.search(r"^ +50% +(\S+)", text, re.M).group(1)),
        "p99": milliseconds(re.search(r"^ +99% +(\S+)", text, re.M).group(1)),
        "failed": (sum(map(int, errors.groups())) if errors else 0) + (int(bad.group(1)) if bad else 0),
    }


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit]


def measure_start(proxies, arguments):
    """Memory one second after ready, and the time until then, with conf/simple.yaml or the peer's like of it."""
    rows = {name: [] for name in proxies}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        origin = Origin(Path(folder) / "origin")
        try:
            for number in range(arguments.rounds):
                for name, (peer, binary) in proxies.items():
                    own = Path(folder) / f"{name}{number}"
                    own.mkdir()
                    rows[name].append(start_once(peer, binary, own, origin.port))
                shown = " ".join(f"{name} {row[-1]['rss']:.1f} MB {row[-1]['ready']:.0f} ms" for name, row in rows.items())
                print(f"start round {number + 1}: {shown}", flush=True)
        finally:
            origin.stop()
    lines = [f"### Start with `conf/simple.yaml` (`start`, {arguments.rounds} rounds)", ""]
    lines += ["| | RSS MB | RssAnon MB | ready ms |", "|---|---|---|---|"]
    for name in proxies:
        row = rows[name]
        lines.append(f"| {proxies[name][0].title} | {median(s['rss'] for s in row):.1f} "
                     f"| {median(s['anon'] for s in row):.1f} | {median(s['ready'] for s in row):.0f} |")
    lines += ["", "Memory is that of all processes of a proxy, 1 s after it was ready; ready is the first answered request."]
    return "\n".join(lines)


def start_once(peer, binary, folder, origin):
    port = free_port()
    command, ready_port = peer.simple(binary, folder, port, origin)
    started = time.monotonic()
    process = subprocess.Popen(["taskset", "-c", "0", *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        while not answers(ready_port):
            if process.poll() is not None:
                raise StartError(f"{peer.title} ended with {process.returncode}: {' '.join(command)}")
            if time.monotonic() - started > 20:
                raise StartError(f"{peer.title} is not ready after 20 s")
            time.sleep(0.0005)
        ready = (time.monotonic() - started) * 1000
        time.sleep(1)
        memory = tree(process.pid)
        return {"ready": ready, "rss": memory.kib("VmRSS") * 1024 / 1e6, "anon": memory.kib("RssAnon") * 1024 / 1e6}
    finally:
        end(process)


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            return sock.recv(12).startswith(b"HTTP/1.1")
    except OSError:
        return False


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
