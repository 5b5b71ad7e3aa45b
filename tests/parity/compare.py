"""Runs a case on one proxy and compares what two of them did."""

import base64
import gzip
import re
import socket
import struct
import tempfile
import time
import zlib
from pathlib import Path

from origin import BlackHole, Origin, refused_port
from proxy import Proxy
from wire import PATIENCE, Reader
from wire2 import Http2

# How long access-log lines are awaited.
LOG_PATIENCE = 1.5


def run(case, kind, binary):
    """All that was seen, made comparable: {exchange: {aspect: value}}; stats stand under the exchange ''."""
    origin, hole = Origin(case.replies), BlackHole()
    refused, refused_number = refused_port()
    try:
        with tempfile.TemporaryDirectory(prefix="parity-") as name:
            folder = Path(name)
            log = folder / "access.log"
            log.touch()
            values = {"origin": origin.port, "hole": hole.port, "refused": refused_number, "log": log, "folder": folder}
            proxy = Proxy(kind, binary, case.bootstrap(values), folder)
            ports = {origin.port: "<origin>", hole.port: "<hole>", refused_number: "<refused>"}
            ports |= {port: f"<{listener}>" for listener, port in proxy.ports.items()}
            ports[proxy.admin_port] = "<admin>"
            try:
                seen = {}
                for exchange in case.exchanges:
                    seen[exchange.name] = perform(exchange, proxy, origin, log, ports, case.log_fields())
                seen[""] = stats(case, proxy)
                if proxy.process.poll() is not None:
                    seen[""]["process"] = f"ended with {proxy.process.returncode}"
                return seen
            finally:
                proxy.close()
    finally:
        origin.close()
        hole.close()
        refused.close()


def stats(case, proxy):
    if not case.stats:
        return {}
    # Gauges need a moment to fall after the last connection.
    time.sleep(0.1)
    values = proxy.stats()
    return {f"stat:{name}": values.get(name, "-") for name in case.stats}


def perform(exchange, proxy, origin, log, ports, log_fields):
    before = len(lines(log))
    port = proxy.admin_port if exchange.listener == "admin" else proxy.ports.get(exchange.listener)
    if port is None:
        return {"connection": f"no listener {exchange.listener}"}
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ports = ports | {sock.getsockname()[1]: "<client>"}
    reader, responses, state = Http2(sock) if exchange.http2 else Reader(sock), [], None
    with sock:
        for number, (action, value) in enumerate(exchange.steps):
            try:
                if action == "send" and exchange.translated:
                    reader.send_translated(value)
                elif action == "send" and exchange.http2:
                    # What follows a wait belongs to the same request; a reset ends it unfinished.
                    following = exchange.steps[number + 1][0] if number + 1 < len(exchange.steps) else "read"
                    reader.send(value, following in ("read", "close"))
                elif action == "send":
                    sock.sendall(value)
                elif action == "wait":
                    time.sleep(value)
                elif action == "read":
                    responses.append(reader.response())
                elif action == "close" and exchange.http2:
                    pass
                elif action == "close":
                    sock.shutdown(socket.SHUT_WR)
                elif action == "reset" and exchange.http2:
                    reader.reset()
                    state = "open"
                    break
                elif action == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    state = "reset by the client"
                    break
            except OSError:
                # The proxy has refused already; its answer is what counts.
                break
        if state is None:
            for number in range(exchange.responses):
                responses.append(reader.response(exchange.head and number == exchange.responses - 1))
                if responses[-1].end != "complete":
                    break
            last = responses[-1].value("connection") if responses else None
            state = reader.state(last == "close")
    deadline = time.monotonic() + LOG_PATIENCE
    while len(lines(log)) < before + exchange.logs and time.monotonic() < deadline:
        time.sleep(0.01)
    if exchange.logs == 0:
        time.sleep(0.05)
    # Whether a close becomes a reset depends on whether the proxy had read all that was sent: a race.
    seen = {"connection": "closed" if state == "reset" else state, "count": str(len(responses))}
    for number, response in enumerate(responses):
        prefix = f"{number + 1}." if len(responses) > 1 else ""
        describe(seen, prefix, response, ports)
    upstream = origin.take()
    seen["upstream-count"] = str(len(upstream))
    for number, request in enumerate(upstream):
        describe(seen, f"upstream{number + 1 if number else ''}.", request, ports)
    written = lines(log)[before:]
    seen["log-count"] = str(len(written))
    for number, line in enumerate(written):
        prefix = f"log{number + 1}:" if len(written) > 1 else "log:"
        if log_fields is None:
            seen[prefix + "line"] = plain(without_times(line), ports)
            continue
        values = line.split("|")
        values += ["?"] * (len(log_fields) - len(values))
        for key, value in zip(log_fields, values):
            seen[prefix + key] = plain(value, ports)
    return seen


def without_times(line):
    """A line in Envoy's default format, or JSON, with its times made equal."""
    line = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "<time>", line)
    line = re.sub(r'^(\[\S+\] ".*?" \d+ \S+ \d+ \d+) \d+ (\d+|-) ', r"\1 <ms> <ms> ", line)
    return re.sub(r'("\w*(?:time|duration)":)"?\d+"?', r"\1<ms>", line)


def lines(log):
    # The part after the last line end is not written out yet.
    return log.read_text(errors="replace").split("\n")[:-1]


def describe(seen, prefix, message, ports):
    """Adds a message: its start line, its fields by name, its body, and how it ended."""
    start = message.start
    if start.startswith("HTTP/"):
        version, status, reason = (start.split(" ", 2) + ["", ""])[:3]
        seen[f"{prefix}status"] = status
        seen[f"{prefix}reason"] = reason
        seen[f"{prefix}version"] = version
    else:
        seen[f"{prefix}start"] = plain(start, ports)
    add_fields(seen, f"{prefix}header:", message.fields, ports)
    add_fields(seen, f"{prefix}trailer:", message.trailers, ports)
    for number, (line, fields) in enumerate(message.informational):
        seen[f"{prefix}informational{number}"] = line
        add_fields(seen, f"{prefix}informational{number}:", fields, ports)
    body = decoded(message)
    text = body.decode("latin-1") if len(body) <= 2000 else f"{len(body)} bytes, hash {hash(body)}"
    seen[f"{prefix}body"] = plain(text, ports)
    nothing = message.end == "reset" and not start
    seen[f"{prefix}end"] = "closed" if nothing else message.end


def decoded(message):
    """The body as what it stands for: libraries compress differently. A coding that is not known here hides it."""
    coding = message.value("content-encoding")
    if coding not in ("gzip", "br", "zstd") or not message.body:
        return message.body
    try:
        return b"(gzip) " + gzip.decompress(message.body) if coding == "gzip" else f"({coding})".encode()
    except (OSError, EOFError, zlib.error):
        return message.body


def add_fields(seen, prefix, fields, ports):
    for name, value in fields:
        name = name.lower()
        if name == "date" and re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", value):
            value = "<date>"
        elif name in ("x-envoy-upstream-service-time", "x-envoy-expected-rq-timeout-ms", "age") and value.isdigit():
            value = "<number>"
        elif name == "set-cookie":
            value = re.sub(r'"([A-Za-z0-9+/]{8,}=*)"', lambda found: f"<{opened(found[1])}>", value)
        key = prefix + name
        seen[key] = seen[key] + " || " + plain(value, ports) if key in seen else plain(value, ports)


def opened(text):
    """What base64 stands for, so that the ports in it can be named."""
    try:
        return base64.b64decode(text).decode("latin-1")
    except ValueError:
        return text


def plain(text, ports):
    """Ports and ids by name."""
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "<time>", text)
    text = re.sub(r"\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b", "<uuid>", text)
    # After a colon, as in an address or in JSON, or alone.
    return re.sub(r"(^|: ?)(\d{4,5})\b", lambda found: found[1] + ports.get(int(found[2]), found[2]), text)


def differences(envoy, ours):
    """[(exchange, aspect, Envoy's value, ours)], '-' where there is none."""
    out = []
    for exchange in envoy:
        left, right = envoy[exchange], ours.get(exchange, {})
        for aspect in sorted(left.keys() | right.keys()):
            a, b = left.get(aspect, "-"), right.get(aspect, "-")
            if a != b:
                out.append((exchange, aspect, a, b))
    return out
