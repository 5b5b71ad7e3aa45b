"""Memory, and the time until a proxy is ready: at the start, with many idle connections, with large configurations."""

import resource
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

from loads import able, median
from peers import PROTOCOLS, Origin, StartError, end, free_port, tree

IDLE = 2000
# Connections that are there before memory is looked at first: what grows with the first of them is not theirs.
FIRST = 200
IDLE_CASES = {"idle-h1": ("HTTP/1.1", "http"), "idle-tls": ("HTTP/1.1 by TLS 1.3", "tls"), "idle-h2": ("HTTP/2", "h2")}
SCALE_CASES = {
    "clusters": ("3,000 clusters and virtual hosts", 3000, 1),
    "endpoints": ("100,000 endpoints in 100 clusters", 100, 1000),
}

# The certificate is nobody's.
TRUSTING = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TRUSTING.check_hostname, TRUSTING.verify_mode = False, ssl.CERT_NONE


def measure_start(proxies, arguments):
    """Memory one second after ready, and the time until then, with conf/simple.yaml or the peer's like of it."""
    def command(name, folder, origin):
        peer, binary = proxies[name]
        return peer.simple(binary, folder, free_port(), origin)

    lines = [f"### Start with `conf/simple.yaml` (`start`, {arguments.rounds} rounds)", ""]
    lines += starts("start", proxies, arguments.rounds, command)
    lines += ["", "Memory is that of all processes of a proxy, 1 s after it was ready; ready is the first answered request."]
    return "\n".join(lines)


def measure_scale(case, proxies, arguments):
    """The same with a large configuration, for those who read Envoy's."""
    title, clusters, each = SCALE_CASES[case]
    proxies = able(proxies, "chain")

    def command(name, folder, origin):
        peer, binary = proxies[name]
        port = free_port()
        return peer.command(binary, large(folder, port, origin, clusters, each), 1), port

    count = min(arguments.rounds, 3)
    lines = [f"### {title}, from YAML (`{case}`, {count} rounds)", ""]
    return "\n".join(lines + starts(case, proxies, count, command))


def large(folder, port, origin, clusters, each):
    """A bootstrap with a virtual host for each cluster; JSON is YAML."""
    def endpoint(cluster, number):
        # Only the first host of all is ever asked.
        address = "127.0.0.1" if cluster == number == 0 else f"10.{cluster % 250}.{number // 250}.{number % 250 + 1}"
        return f"{{endpoint: {{address: {{socket_address: {{address: {address}, port_value: {origin}}}}}}}}}"

    lines = [f"""static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:"""]
    for number in range(clusters):
        domain = '"*"' if number == 0 else f"service{number}.example"
        lines.append(f"            - {{name: host{number}, domains: [{domain}], "
                     f"routes: [{{match: {{prefix: /}}, route: {{cluster: cluster{number}}}}}]}}")
    lines.append("  clusters:")
    for number in range(clusters):
        lines.append(f"""  - name: cluster{number}
    type: STATIC
    load_assignment:
      cluster_name: cluster{number}
      endpoints:
      - lb_endpoints:""")
        lines += [f"        - {endpoint(number, at)}" for at in range(each)]
    path = folder / "large.yaml"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def starts(case, proxies, count, command):
    """Lines of a table: each proxy is started `count` times in turn."""
    rows = {name: [] for name in proxies}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        origin = Origin(Path(folder) / "origin")
        try:
            for number in range(count):
                for name in proxies:
                    own = Path(folder) / f"{name}{number}"
                    own.mkdir()
                    rows[name].append(start_once(proxies[name][0].title, *command(name, own, origin.port)))
                shown = " ".join(f"{name} {row[-1]['rss']:.1f} MB {row[-1]['ready']:.0f} ms" for name, row in rows.items())
                print(f"{case} round {number + 1}: {shown}", flush=True)
        finally:
            origin.stop()
    lines = ["| | RSS MB | RssAnon MB | ready ms |", "|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(f"| {proxies[name][0].title} | {median(s['rss'] for s in row):.1f} "
                     f"| {median(s['anon'] for s in row):.1f} | {median(s['ready'] for s in row):.0f} |")
    return lines


def start_once(title, command, port):
    started = time.monotonic()
    process = subprocess.Popen(["taskset", "-c", "0", *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        while not answers(port):
            if process.poll() is not None:
                raise StartError(f"{title} ended with {process.returncode}: {' '.join(command)}")
            if time.monotonic() - started > 60:
                raise StartError(f"{title} is not ready after 60 s")
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


def measure_idle(case, proxies, arguments):
    """Memory of a connection that waits for its second request."""
    title, protocol = IDLE_CASES[case]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + FIRST + 100:
        return f"### Idle connections of {title} (`{case}`)\n\nNot measured: {hard} open files are not enough."
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lines = [f"### {IDLE} idle connections of {title}, each after a request (`{case}`)", ""]
    lines += ["| | RSS KiB each | RssAnon KiB each |", "|---|---|---|"]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        folder = Path(folder)
        origin = Origin(folder / "origin")
        try:
            for name, (peer, binary) in proxies.items():
                own = folder / name
                own.mkdir()
                rss, anon = idle_once(peer(binary, own, origin.port, protocol), protocol)
                print(f"{case} {name}: {rss:.2f} {anon:.2f} KiB", flush=True)
                lines.append(f"| {peer.title} | {rss:.2f} | {anon:.2f} |")
        finally:
            origin.stop()
    return "\n".join(lines)


def idle_once(proxy, protocol):
    kept = []
    try:
        kept += [ask(proxy.port, protocol) for _ in range(FIRST)]
        before = memory(proxy)
        kept += [ask(proxy.port, protocol) for _ in range(IDLE)]
        return [(after - earlier) / IDLE for earlier, after in zip(before, memory(proxy))]
    finally:
        for sock in kept:
            sock.close()
        proxy.stop()


def memory(proxy):
    time.sleep(1)
    whole = tree(proxy.pid)
    return whole.kib("VmRSS"), whole.kib("RssAnon")


def ask(port, protocol):
    """A connection on which one request was answered."""
    down, _, secure = PROTOCOLS[protocol]
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if secure:
        sock = TRUSTING.wrap_socket(sock)
    if down == "h2":
        ask_http2(sock)
    else:
        sock.sendall(b"GET /1k HTTP/1.1\r\nhost: a\r\n\r\n")
        head, _, body = read_until(sock, b"", lambda got: b"\r\n\r\n" in got).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise StartError(f"answered: {head!r}")
        read_until(sock, body, lambda got: len(got) >= 1024)
    return sock


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def ask_http2(sock):
    # :method GET, :scheme http, :authority a, :path /1k by the static table of HPACK.
    fields = b"\x82\x86\x01\x01a\x04\x03/1k"
    sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(1, 5, 1, fields))
    got = b""
    while True:
        got = read_until(sock, got, lambda got: len(got) >= 9)
        length, kind, flags = int.from_bytes(got[:3], "big"), got[3], got[4]
        got = read_until(sock, got, lambda got: len(got) >= 9 + length)
        got, stream = got[9 + length:], int.from_bytes(got[5:9], "big")
        if kind == 4 and not flags & 1:
            sock.sendall(frame(4, 1, 0))
        if kind in (3, 7):
            raise StartError("the stream was not answered")
        if stream == 1 and kind in (0, 1) and flags & 1:
            return


def read_until(sock, got, is_enough):
    while not is_enough(got):
        more = sock.recv(65536)
        if not more:
            raise StartError(f"closed behind {got[-200:]!r}")
        got += more
    return got
