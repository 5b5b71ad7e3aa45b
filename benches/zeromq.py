#!/usr/bin/env python3
"""ZeroMQ through the broker beside libzmq's own `zmq_proxy`: processor time of the proxy alone, for each message.

The same clients and workers, in this process, talk through either. Both proxies have one core's worth of work at most;
what is compared is how much of it a message costs. Rounds alternate, and the median counts. Then the memory of idle
connections. `--rounds N`, `--sota PATH`.
"""

import argparse
import multiprocessing
import os
import resource
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import zmq

IDLE = 10_000
CONFIG = """admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners:
  - name: zmq
    address: {{socket_address: {{address: 127.0.0.1, port_value: {front}}}}}
    filter_chains:
    - filters:
      - name: zmq
        typed_config: {{"@type": type.sota.com/sota.filters.network.zmq, routes: [{{cluster: workers}}]}}
  clusters:
  - name: workers
    type: STATIC
    load_assignment:
      cluster_name: workers
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {back}}}}}}}}}]}}]
"""


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def cpu(pid):
    """Seconds of processor time of all threads of a process."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


class Sota:
    name = "sota-mesh"

    def __init__(self, binary, kinds, front, back):
        admin = free_port()
        self.folder = tempfile.TemporaryDirectory()
        config = Path(self.folder.name) / "zmq.yaml"
        config.write_text(CONFIG.format(admin=admin, front=front, back=back))
        self.process = subprocess.Popen([binary, "start", "-c", str(config), "--concurrency", "1"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(500):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready")
                return
            except OSError:
                time.sleep(0.02)
        raise SystemExit("sota-mesh does not start")

    @property
    def pid(self):
        return self.process.pid

    def stop(self):
        self.process.kill()
        self.process.wait()


def forward(kinds, front, back):
    context = zmq.Context()
    frontend, backend = (context.socket(getattr(zmq, kind)) for kind in kinds)
    frontend.bind(f"tcp://127.0.0.1:{front}")
    backend.connect(f"tcp://127.0.0.1:{back}")
    zmq.proxy(frontend, backend)


class Libzmq:
    name = "zmq_proxy"

    def __init__(self, _, kinds, front, back):
        self.process = multiprocessing.get_context("spawn").Process(target=forward, args=(kinds, front, back))
        self.process.start()

    @property
    def pid(self):
        return self.process.pid

    def stop(self):
        self.process.kill()
        self.process.join()


def answer(rep, count):
    for _ in range(count):
        rep.send(rep.recv())


def request_reply(context, front, back, count, size):
    """Four REQ clients, one after the other in turns, so that four requests are under way."""
    rep = context.socket(zmq.REP)
    rep.bind(f"tcp://127.0.0.1:{back}")
    reqs = [context.socket(zmq.REQ) for _ in range(4)]
    for req in reqs:
        req.connect(f"tcp://127.0.0.1:{front}")
    body = b"x" * size
    rounds = count // 4
    thread = threading.Thread(target=answer, args=(rep, rounds * 4 + 4))
    thread.start()

    def turn(times):
        for _ in range(times):
            for req in reqs:
                req.send(body)
            for req in reqs:
                assert req.recv() == body

    turn(1)
    yield
    turn(rounds)
    thread.join()
    for made in [rep, *reqs]:
        made.close(0)


def push_pull(context, front, back, count, size):
    pull = context.socket(zmq.PULL)
    pull.bind(f"tcp://127.0.0.1:{back}")
    push = context.socket(zmq.PUSH)
    push.connect(f"tcp://127.0.0.1:{front}")
    body = b"x" * size
    push.send(body)
    assert pull.recv() == body
    yield
    thread = threading.Thread(target=lambda: [push.send(body) for _ in range(count)])
    thread.start()
    for _ in range(count):
        pull.recv()
    thread.join()
    for made in (pull, push):
        made.close(0)


CASES = {
    "REQ/REP, 100 octets": (("ROUTER", "DEALER"), request_reply, 20_000, 100),
    "PUSH/PULL, 100 octets": (("PULL", "PUSH"), push_pull, 300_000, 100),
    "PUSH/PULL, 1 MiB": (("PULL", "PUSH"), push_pull, 1_000, 1 << 20),
    "REQ/REP, 1 MiB": (("ROUTER", "DEALER"), request_reply, 500, 1 << 20),
}


def measure(peer, binary, kinds, case, count, size):
    """Microseconds of processor time for each message of a client."""
    front, back = free_port(), free_port()
    proxy = peer(binary, kinds, front, back)
    try:
        run = case(zmq.Context.instance(), front, back, count, size)
        next(run)
        before = cpu(proxy.pid)
        for _ in run:
            pass
        return (cpu(proxy.pid) - before) / count * 1e6
    finally:
        proxy.stop()


def rss_anon(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


def idle(binary):
    """Octets of memory for each of many connections that do nothing behind their handshake."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE + 1000
    if hard < wanted:
        return None
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    front = free_port()
    proxy = Sota(binary, (), front, free_port())
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x01\x03\0\0"

    def connect():
        sock = socket.create_connection(("127.0.0.1", front))
        sock.sendall(greeting)
        got = 0
        while got < 14:
            got += len(sock.recv(64))
        return sock

    try:
        everybody = [connect() for _ in range(100)]
        before = rss_anon(proxy.pid)
        everybody += [connect() for _ in range(IDLE)]
        return (rss_anon(proxy.pid) - before) / IDLE
    finally:
        proxy.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sota", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{'µs of CPU for each message':28}{'sota-mesh':>12}{'zmq_proxy':>12}{'ratio':>8}")
    for name, (kinds, case, count, size) in CASES.items():
        results = {Sota: [], Libzmq: []}
        for _ in range(arguments.rounds):
            for peer, found in results.items():
                found.append(measure(peer, arguments.sota, kinds, case, count, size))
        ours, theirs = (statistics.median(found) for found in results.values())
        print(f"{name:28}{ours:12.2f}{theirs:12.2f}{ours / theirs:8.2f}", flush=True)
    each = idle(arguments.sota)
    print(f"{IDLE} idle connections: " + (f"{each:.0f} octets each" if each else "not enough file descriptors"))


if __name__ == "__main__":
    main()
    os._exit(0)
