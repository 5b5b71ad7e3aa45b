"""The proxies that are compared, each set up as its own documentation advises: kept upstream connections, no access log,
one worker, pinned to CPU 0."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class StartError(Exception):
    pass


def free_port():
    # Below the ports of outgoing connections, so that none of those takes it first.
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as sock:
            try:
                sock.bind(("0.0.0.0", port))
                return port
            except OSError:
                pass


class tree:
    """A process and all it started."""

    def __init__(self, pid):
        self.pids = [pid]
        for parent in self.pids:
            for task in Path(f"/proc/{parent}/task").glob("*/children"):
                try:
                    self.pids += [int(child) for child in task.read_text().split()]
                except OSError:
                    pass

    def cpu_ns(self):
        total = 0
        for pid in self.pids:
            for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                try:
                    total += int(task.read_text().split()[0])
                except OSError:
                    pass
        return total

    def kib(self, key):
        total = 0
        for pid in self.pids:
            try:
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith(key + ":"):
                        total += int(line.split()[1])
            except OSError:
                pass
        return total


def end(process):
    """Ends a process and all it started: who they are can only be asked while it lives, and it goes first, or it would
    start others in their place."""
    for pid in tree(process.pid).pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    process.wait()


class Running:
    """A process pinned to a CPU that listens on `port` once it is constructed."""

    @staticmethod
    def lacks(_protocol):
        """What would have to be installed for a case; nothing by default."""
        return ""

    def launch(self, command, folder, port, cpu=0):
        self.port = port
        self.log = folder / "output"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(["taskset", "-c", str(cpu), *command], stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=out)
        self.pid = self.process.pid
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise StartError(f"{command[0]} ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        self.stop()
        raise StartError(f"{command[0]} does not listen after 20 s")

    def stop(self):
        end(self.process)


# A gRPC message of 100 octets: the call and its answer.
GRPC_MESSAGE = b"\0\0\0\0\x64" + b"x" * 100

NGINX_BASE = """daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
{body}
"""

NGINX_TEMPORARY = """client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;"""


def nginx_command(folder, body):
    config = folder / "nginx.conf"
    config.write_text(NGINX_BASE.format(folder=folder, body=body))
    return [shutil.which("nginx"), "-c", str(config), "-p", str(folder), "-e", "stderr"]


class Origin(Running):
    """nginx with a few files in memory, on CPU 1 beside the load. `h2_port` speaks HTTP/2 and answers gRPC calls."""

    def __init__(self, folder):
        folder.mkdir()
        files = folder / "files"
        files.mkdir()
        for name, size in (("1k", 1024), ("64k", 65536), ("1m", 1 << 20)):
            (files / name).write_bytes(b"x" * size)
        (files / "grpc").write_bytes(GRPC_MESSAGE)
        os.chmod(folder.parent, 0o755)
        port, self.h2_port = free_port(), free_port()
        temporary = NGINX_TEMPORARY.format(folder=folder)
        # nginx answers a POST for a file with 405 unless told otherwise.
        body = f"""http {{
  {temporary}
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
  keepalive_requests 100000000; keepalive_timeout 600s;
  open_file_cache max=10; open_file_cache_valid 600s;
  server {{ listen 127.0.0.1:{port} backlog=4096; root {files}; }}
  server {{
    listen 127.0.0.1:{self.h2_port} http2 backlog=4096; root {files};
    location = /grpc {{ default_type application/grpc; error_page 405 =200 /grpc; add_trailer grpc-status 0; }}
  }}
}}"""
        self.launch(nginx_command(folder, body), folder, port, cpu=1)


class Nginx(Running):
    title = "nginx"
    missing = "apt-get install nginx"
    PROXY_PASS = 'proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";'
    GRPC_PASS = "grpc_pass grpc://origin;"
    # Debian ships TCP proxying as a module of its own.
    STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

    @classmethod
    def lacks(cls, protocol):
        return "apt-get install libnginx-mod-stream" if protocol == "tcp" and not cls.STREAM.exists() else ""

    @staticmethod
    def find():
        return shutil.which("nginx")

    @staticmethod
    def version(binary):
        done = subprocess.run([binary, "-v"], capture_output=True, text=True)
        return done.stderr.rpartition("/")[2].split()[0]

    def __init__(self, binary, folder, origin, protocol):
        port = free_port()
        temporary = NGINX_TEMPORARY.format(folder=folder)
        if protocol == "tcp":
            body = f"stream {{ server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass 127.0.0.1:{origin}; }} }}"
            command = nginx_command(folder, body)
            config = folder / "nginx.conf"
            config.write_text(f"load_module {self.STREAM};\n{config.read_text()}")
        else:
            body = f"""http {{
  {temporary}
  access_log off; tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout 600s; proxy_max_temp_file_size 0;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 128; keepalive_requests 100000000; keepalive_timeout 600s; }}
  server {{
    listen 127.0.0.1:{port} {"" if protocol == "http" else "http2"} backlog=4096;
    location / {{ {self.GRPC_PASS if protocol == "grpc" else self.PROXY_PASS} }}
  }}
}}"""
            command = nginx_command(folder, body)
        self.launch(command, folder, port)

    @staticmethod
    def simple(_binary, folder, port, origin):
        os.chmod(folder, 0o755)
        temporary = NGINX_TEMPORARY.format(folder=folder)
        body = f"""http {{
  {temporary}
  access_log off;
  upstream some {{ server 127.0.0.1:{origin}; server 127.0.0.1:{origin}; keepalive 64; }}
  upstream a {{ server 127.0.0.1:{origin}; keepalive 64; }}
  upstream b {{ server 127.0.0.1:{origin}; keepalive 64; }}
  server {{
    listen {port};
    proxy_http_version 1.1; proxy_set_header Connection "";
    location = /sleep {{ proxy_pass http://a; }}
    location = /bar {{ proxy_pass http://b; }}
    location / {{ proxy_pass http://some; }}
  }}
}}"""
        return nginx_command(folder, body), port


class HAProxy(Running):
    title = "HAProxy"
    missing = "apt-get install haproxy"

    @staticmethod
    def find():
        return shutil.which("haproxy")

    @staticmethod
    def version(binary):
        done = subprocess.run([binary, "-v"], capture_output=True, text=True)
        return done.stdout.split()[2].split("-")[0]

    BASE = """global
  nbthread 1
  maxconn 4096
defaults
  mode {mode}
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  {options}
"""

    def __init__(self, binary, folder, origin, protocol):
        port = free_port()
        mode = "tcp" if protocol == "tcp" else "http"
        options = "option splice-auto" + ("\n  option http-keep-alive\n  http-reuse always" if mode == "http" else "")
        speaks = " proto h2" if protocol in ("h2", "grpc") else ""
        asks = " proto h2" if protocol == "grpc" else ""
        config = folder / "haproxy.cfg"
        config.write_text(self.BASE.format(mode=mode, options=options) + f"""frontend front
  bind 127.0.0.1:{port} backlog 4096{speaks}
  default_backend origin
backend origin
  server one 127.0.0.1:{origin}{asks}
""")
        self.launch([binary, "-f", str(config), "-db"], folder, port)

    @staticmethod
    def simple(binary, folder, port, origin):
        config = folder / "haproxy.cfg"
        config.write_text(HAProxy.BASE.format(mode="http", options="http-reuse always") + f"""frontend front
  bind :{port}
  use_backend a if {{ path /sleep }}
  use_backend b if {{ path /bar }}
  default_backend some
backend some
  server one 127.0.0.1:{origin}
  server two 127.0.0.1:{origin}
backend a
  server one 127.0.0.1:{origin}
backend b
  server two 127.0.0.1:{origin}
""")
        return [binary, "-f", str(config), "-db"], port


HTTP_FILTER = """      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: origin}}]}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"""
TCP_FILTER = """      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: front
          cluster: origin
"""


HTTP2_CLUSTER = """    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
"""


def bootstrap(port, origin, protocol):
    """The same document for Envoy and for ours."""
    return f"""static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
{TCP_FILTER if protocol == "tcp" else HTTP_FILTER}  clusters:
  - name: origin
    type: STATIC
{HTTP2_CLUSTER if protocol == "grpc" else ""}    load_assignment:
      cluster_name: origin
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {origin}}}}}}}}}]}}]
"""


def simple_config(folder, port, origin):
    """conf/simple.yaml on ports of our own."""
    text = (ROOT / "conf/simple.yaml").read_text()
    for known, wanted in ((8888, port), (8889, origin), (8890, origin)):
        text, count = re.subn(rf"port_value: {known}\b", f"port_value: {wanted}", text)
        if not count:
            raise StartError(f"conf/simple.yaml has no port {known}")
    path = folder / "simple.yaml"
    path.write_text(text)
    return str(path)


class Envoy(Running):
    title = "Envoy"
    missing = "python3 tests/run.py --prepare-only"
    FLAGS = ["--concurrency", "1", "--disable-hot-restart", "-l", "error"]

    @staticmethod
    def find():
        if path := os.environ.get("ENVOY_BIN"):
            return path
        for path in (ROOT / ".venv/lib").glob("python*/site-packages/envoy/_bin/envoy"):
            return str(path)
        return None

    @staticmethod
    def version(binary):
        done = subprocess.run([binary, "--version"], capture_output=True, text=True)
        found = re.search(r"/(\d+\.\d+\.\d+)/", done.stdout)
        return found.group(1) if found else ""

    def __init__(self, binary, folder, origin, protocol):
        port = free_port()
        config = folder / "bootstrap.yaml"
        config.write_text(bootstrap(port, origin, protocol))
        self.launch([binary, "-c", str(config), *self.FLAGS], folder, port)

    @classmethod
    def simple(cls, binary, folder, port, origin):
        return [binary, "-c", simple_config(folder, port, origin), *cls.FLAGS], port


class Sota(Running):
    title = "sota-mesh"
    missing = "make"

    @staticmethod
    def find():
        return None

    @staticmethod
    def version(binary):
        done = subprocess.run([binary, "--version"], capture_output=True, text=True)
        return done.stdout.split()[-1] if done.stdout.split() else ""

    def __init__(self, binary, folder, origin, protocol):
        port = free_port()
        config = folder / "bootstrap.yaml"
        config.write_text(bootstrap(port, origin, protocol))
        self.launch([binary, "start", "-c", str(config), "--concurrency", "1"], folder, port)

    @staticmethod
    def simple(binary, folder, port, origin):
        return [binary, "start", "-c", simple_config(folder, port, origin), "--concurrency", "1"], port


PEERS = {"sota": Sota, "envoy": Envoy, "nginx": Nginx, "haproxy": HAProxy}
