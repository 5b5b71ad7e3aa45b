"""Starts a proxy, Envoy or ours, on a bootstrap, and asks its admin interface."""

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
START = 20.0


class StartError(Exception):
    pass


def envoy_binary():
    if path := os.environ.get("ENVOY_BIN"):
        return path
    for path in (ROOT / ".venv/lib").glob("python*/site-packages/envoy/_bin/envoy"):
        return str(path)
    return None


def free_port():
    # Below the ports of outgoing connections, so that none of those takes it first.
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


class Proxy:
    """`kind` is 'envoy' or 'sota'; the process ends with `close`."""

    def __init__(self, kind, binary, bootstrap, folder):
        self.kind = kind
        self.admin_port = free_port()
        config = folder / "bootstrap.yaml"
        config.write_text(
            "admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}\n%s" % (self.admin_port, bootstrap)
        )
        if kind == "envoy":
            command = [binary, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error",
                       "--file-flush-interval-msec", "10"]
        else:
            command = [binary, "start", "-c", str(config), "--concurrency", "1"]
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            self.await_ready()
            self.ports = self.listeners()
        except BaseException:
            self.close()
            raise

    def await_ready(self):
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise StartError(f"{self.kind} ended with {self.process.returncode}:\n{self.printed()}")
            try:
                if self.admin("/ready")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.01)
        raise StartError(f"{self.kind} is not ready after {START} s:\n{self.printed()}")

    def printed(self):
        return self.output.read_text(errors="replace")[-4000:]

    def admin(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()

    def listeners(self):
        ports = {}
        for line in self.admin("/listeners")[1].splitlines():
            name, _, address = line.rpartition("::")
            port = address.rpartition(":")[2]
            # A pipe has none.
            if port.isdigit():
                ports[name] = int(port)
        return ports

    def stats(self):
        out = {}
        for line in self.admin("/stats")[1].splitlines():
            name, _, value = line.rpartition(": ")
            out[name] = value
        return out

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def main_binary():
    for folder in ("debug", "release"):
        path = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / folder / "sota-mesh"
        if path.exists():
            return str(path)
    sys.exit("no sota-mesh binary: build it first")
