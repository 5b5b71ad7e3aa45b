"""Cases under load: what is asked for, the tools that ask, and the tables of what came of it."""

import re
import statistics
import subprocess
import tempfile
from pathlib import Path

from peers import GRPC_MESSAGE, PROTOCOLS, Origin, StartError, tree

# name: (title, path, connections, header fields, protocol)
LOADS = {
    "h1-1k": ("GET of 1 KiB, 64 keep-alive connections", "/1k", 64, (), "http"),
    "h1-64k": ("GET of 64 KiB, 64 keep-alive connections", "/64k", 64, (), "http"),
    "h1-1m": ("GET of 1 MiB, 16 keep-alive connections", "/1m", 16, (), "http"),
    "h1-new": ("GET of 1 KiB, a new connection for each", "/1k", 64, ("Connection: close",), "http"),
    "h1-h2": ("GET of 1 KiB, 64 keep-alive connections; HTTP/2 to the origin", "/1k", 64, (), "http-h2"),
    "h1-chain": ("GET of 1 KiB through a sidecar's chain: JSON access log, RBAC, changed fields, retries", "/1k", 64, (), "chain"),
    "h2-1k": ("GET of 1 KiB by HTTP/2, 8 connections of 16 streams; HTTP/1.1 to the origin", "/1k", 8, (), "h2"),
    "grpc": ("Unary gRPC call of 100 octets, 8 connections of 16 streams; HTTP/2 to the origin", "/grpc", 8,
             ("content-type: application/grpc", "te: trailers"), "grpc"),
    "tls-h1": ("GET of 1 KiB by TLS 1.3, 64 keep-alive connections; clear to the origin", "/1k", 64, (), "tls"),
    "tls-h2": ("GET of 1 KiB by TLS 1.3 and HTTP/2, 8 connections of 16 streams; clear HTTP/1.1 to the origin", "/1k", 8,
               (), "tls-h2"),
    "tcp-1k": ("TCP proxy, GET of 1 KiB, 64 keep-alive connections", "/1k", 64, (), "tcp"),
    "tcp-64k": ("TCP proxy, GET of 64 KiB, 64 keep-alive connections", "/64k", 64, (), "tcp"),
    "tcp-1m": ("TCP proxy, GET of 1 MiB, 16 keep-alive connections", "/1m", 16, (), "tcp"),
}


def measure_load(case, proxies, arguments):
    """A table of processor time, throughput and latency when as much is asked as the load can."""
    title, *_, protocol = LOADS[case]
    proxies = able(proxies, protocol)
    rows = {name: [] for name in proxies}

    def measure(running, names):
        for name in names:
            rows[name].append(one(running[name], case, arguments.seconds))

    def shown():
        return " ".join(f"{name} {row[-1]['cpu']:.1f}" for name, row in rows.items())

    rounds(case, proxies, arguments, protocol, measure, shown)
    lines = [f"### {title} (`{case}`, {arguments.rounds} rounds of {arguments.seconds} s)", ""]
    lines += ["| | CPU µs/request | min–max | requests/s | p50 ms | p99 ms | failed | ours / it |",
              "|---|---|---|---|---|---|---|---|"]
    for name, row in rows.items():
        cpu = [sample["cpu"] for sample in row]
        lines.append(
            f"| {proxies[name][0].title} | {median(cpu):.1f} | {min(cpu):.1f}–{max(cpu):.1f} "
            f"| {median(s['rps'] for s in row):.0f} | {median(s['p50'] for s in row):.2f} "
            f"| {median(s['p99'] for s in row):.2f} | {sum(s['failed'] for s in row)} | {paired(rows, name, 'cpu')} |"
        )
    return "\n".join(lines)


def measure_rate(proxies, arguments):
    """A table of latencies when all are asked equally often: half as often as the slowest of them could answer."""
    rows = {name: [] for name in proxies}
    rate = 0

    def measure(running, names):
        nonlocal rate
        if not rate:
            rate = int(min(one(proxy, "h1-1k", 1)["rps"] for proxy in running.values()) / 2 / 64) * 64
        for name in names:
            rows[name].append(h2load(running[name].port, "/1k", 64, (), arguments.seconds, "http", rate))

    def shown():
        return " ".join(f"{name} {row[-1]['p99']:.2f}" for name, row in rows.items())

    rounds("rate", proxies, arguments, "http", measure, shown)
    title = f"Latency of a GET of 1 KiB at {rate} requests a second"
    lines = [f"### {title}, 64 keep-alive connections (`rate`, {arguments.rounds} rounds of {arguments.seconds} s)", ""]
    lines += ["| | p50 ms | p99 ms | p99.9 ms | requests/s | failed | p50: ours / it | p99: ours / it |",
              "|---|---|---|---|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(
            f"| {proxies[name][0].title} | {median(s['p50'] for s in row):.2f} | {median(s['p99'] for s in row):.2f} "
            f"| {median(s['p99.9'] for s in row):.2f} | {median(s['rps'] for s in row):.0f} "
            f"| {sum(s['failed'] for s in row)} | {paired(rows, name, 'p50')} | {paired(rows, name, 'p99')} |"
        )
    return "\n".join(lines)


def measure_workers(proxies, arguments):
    """A table of the processor time of one and of two workers."""
    one_row, two_row = ({name: [] for name in proxies} for _ in range(2))

    def measure(running, names):
        for name in names:
            for number, row in ((1, one_row), (2, two_row)):
                row[name].append(one(running[name, number], "h1-1k", arguments.seconds))

    def shown():
        return " ".join(f"{name} {row[-1]['cpu']:.1f} {two_row[name][-1]['cpu']:.1f}" for name, row in one_row.items())

    rounds("workers", proxies, arguments, "http", measure, shown, workers=(1, 2))
    lines = [f"### One worker and two, GET of 1 KiB (`workers`, {arguments.rounds} rounds of {arguments.seconds} s)", ""]
    lines += ["| | CPU µs/request, one worker | two | two / one | requests/s, one worker | two |", "|---|---|---|---|---|---|"]
    for name in proxies:
        pairs = list(zip(one_row[name], two_row[name]))
        cpu, rps = ([median(pair[at][key] for pair in pairs) for at in (0, 1)] for key in ("cpu", "rps"))
        ratio = median(two["cpu"] / single["cpu"] for single, two in pairs)
        lines.append(f"| {proxies[name][0].title} | {cpu[0]:.1f} | {cpu[1]:.1f} | {ratio:.2f} | {rps[0]:.0f} | {rps[1]:.0f} |")
    lines += ["", "The second worker shares its processor with load and origin."]
    return "\n".join(lines)


def rounds(case, proxies, arguments, protocol, measure, shown, workers=(1,)):
    """Starts everybody, and has them measured in an order that turns from round to round."""
    names = list(proxies)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        folder = Path(folder)
        running, origin = {}, Origin(folder / "origin")
        to = origin.h2_port if PROTOCOLS[protocol][1] == "h2" else origin.port
        try:
            for name, (peer, binary) in proxies.items():
                for number in workers:
                    own = folder / f"{name}{number}"
                    own.mkdir()
                    proxy = peer(binary, own, to, protocol, number)
                    running[name if workers == (1,) else (name, number)] = proxy
                    load(proxy.port, case if case in LOADS else "h1-1k", 1)
            for number in range(arguments.rounds):
                measure(running, names[number % len(names):] + names[: number % len(names)])
                print(f"{case} round {number + 1}: {shown()}", flush=True)
        finally:
            for proxy in running.values():
                proxy.stop()
            origin.stop()


def able(proxies, protocol):
    """Those that can do it; says of the others why not."""
    found = {}
    for name, (peer, binary) in proxies.items():
        if lacks := peer.lacks(protocol):
            print(f"{peer.title} is left out of the {protocol} cases: {lacks}", flush=True)
        else:
            found[name] = (peer, binary)
    return found


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
    tool = h2load if PROTOCOLS[protocol][0] == "h2" else wrk
    return tool(port, path, connections, fields, seconds, protocol)


def url(port, path, protocol):
    return f"http{'s' if PROTOCOLS[protocol][2] else ''}://127.0.0.1:{port}{path}"


def h2load(port, path, connections, fields, seconds, protocol, rate=0):
    """HTTP/2 with 16 streams for each connection, or HTTP/1.1. `rate`: requests a second, of all connections."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log, body = Path(folder) / "log", Path(folder) / "body"
        command = ["taskset", "-c", "1", "h2load", "-t", "1", "-c", str(connections), "-D", str(seconds),
                   "--log-file", str(log)]
        command += ["-m", "16"] if PROTOCOLS[protocol][0] == "h2" else ["--h1"]
        if rate:
            command += [f"--rps={rate // connections}"]
        for field in fields:
            command += ["-H", field]
        if path == "/grpc":
            body.write_bytes(GRPC_MESSAGE)
            command += ["-d", str(body)]
        done = subprocess.run([*command, url(port, path, protocol)], capture_output=True, text=True, timeout=seconds + 60)
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
        "p99.9": times[len(times) * 999 // 1000],
        "failed": requests - good,
    }


def wrk(port, path, connections, fields, seconds, protocol):
    command = ["taskset", "-c", "1", "wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--latency"]
    for field in fields:
        command += ["-H", field]
    done = subprocess.run([*command, url(port, path, protocol)], capture_output=True, text=True, timeout=seconds + 60)
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
