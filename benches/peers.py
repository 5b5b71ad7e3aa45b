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

# What is spoken: by clients, to the origin, and whether clients do so by TLS.
PROTOCOLS = {
    "http": ("http", "http", False),
    "chain": ("http", "http", False),
    "http-h2": ("http", "h2", False),
    "h2": ("h2", "http", False),
    "grpc": ("h2", "h2", False),
    "tls": ("http", "http", True),
    "tls-h2": ("h2", "http", True),
    "tcp": ("tcp", "tcp", False),
}


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


def cpus(workers):
    """For taskset: the proxy has CPU 0, and shares CPU 1 with load and origin when there are more workers."""
    return "0" if workers == 1 else f"0-{workers - 1}"


class Running:
    """A process pinned to a CPU that listens on `port` once it is constructed."""

    @staticmethod
    def lacks(_protocol):
        """Why it is not there in a case, or what would have to be installed; nothing by default."""
        return ""

    def launch(self, command, folder, port, cpu="0"):
        self.port = port
        self.log = folder / "output"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(["taskset", "-c", cpu, *command], stdin=subprocess.DEVNULL, stdout=out,
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


def certificate(folder):
    """Paths of a certificate, of its key, and of both in one file. P-256, as every client takes it."""
    chain, key, both = folder / "tls.crt", folder / "tls.key", folder / "tls.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(chain)],
                   check=True, capture_output=True)
    both.write_text(chain.read_text() + key.read_text())
    return chain, key, both


NO_CHAIN = "such a chain of filters is Envoy's"

# A gRPC message of 100 octets: the call and its answer.
GRPC_MESSAGE = b"\0\0\0\0\x64" + b"x" * 100

NGINX_BASE = """daemon off;
worker_processes {workers};
pid {folder}/pid;
error_log stderr crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
{body}
"""

NGINX_TEMPORARY = """client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;"""


def nginx_command(folder, body, workers=1):
    config = folder / "nginx.conf"
    config.write_text(NGINX_BASE.format(folder=folder, body=body, workers=workers))
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
        self.launch(nginx_command(folder, body), folder, port, "1")


class Nginx(Running):
    title = "nginx"
    missing = "apt-get install nginx"
    PROXY_PASS = 'proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";'
    GRPC_PASS = "grpc_pass grpc://origin;"
    # Debian ships TCP proxying as a module of its own.
    STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

    @classmethod
    def lacks(cls, protocol):
        if protocol == "chain":
            return NO_CHAIN
        if protocol == "http-h2":
            return "it speaks HTTP/2 to an origin for gRPC alone"
        return "apt-get install libnginx-mod-stream" if protocol == "tcp" and not cls.STREAM.exists() else ""

    @staticmethod
    def find():
        return shutil.which("nginx")

    @staticmethod
    def version(binary):
        done = subprocess.run([binary, "-v"], capture_output=True, text=True)
        return done.stderr.rpartition("/")[2].split()[0]

    def __init__(self, binary, folder, origin, protocol, workers=1):
        port = free_port()
        down, _, secure = PROTOCOLS[protocol]
        temporary = NGINX_TEMPORARY.format(folder=folder)
        speaks = (" ssl" if secure else "") + (" http2" if down == "h2" else "")
        tls = ""
        if secure:
            chain, key, _ = certificate(folder)
            tls = f"ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;"
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
    listen 127.0.0.1:{port}{speaks}{" reuseport" if workers > 1 else ""} backlog=4096; {tls}
    location / {{ {self.GRPC_PASS if protocol == "grpc" else self.PROXY_PASS} }}
  }}
}}"""
            command = nginx_command(folder, body, workers)
        self.launch(command, folder, port, cpus(workers))

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
    def lacks(protocol):
        return NO_CHAIN if protocol == "chain" else ""

    @staticmethod
    def find():
        return shutil.which("haproxy")

    @staticmethod
    def version(binary):
        done = subprocess.run([binary, "-v"], capture_output=True, text=True)
        return done.stdout.split()[2].split("-")[0]

    BASE = """global
  nbthread {workers}
  maxconn 4096
defaults
  mode {mode}
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  {options}
"""

    def __init__(self, binary, folder, origin, protocol, workers=1):
        port = free_port()
        mode = "tcp" if protocol == "tcp" else "http"
        options = "option splice-auto" + ("\n  option http-keep-alive\n  http-reuse always" if mode == "http" else "")
        down, up, secure = PROTOCOLS[protocol]
        speaks = " proto h2" if down == "h2" else ""
        asks = " proto h2" if up == "h2" else ""
        if secure:
            speaks = f" ssl crt {certificate(folder)[2]} alpn {'h2' if down == 'h2' else 'http/1.1'}"
        config = folder / "haproxy.cfg"
        config.write_text(self.BASE.format(mode=mode, options=options, workers=workers) + f"""frontend front
  bind 127.0.0.1:{port} backlog 4096{speaks}
  default_backend origin
backend origin
  server one 127.0.0.1:{origin}{asks}
""")
        self.launch([binary, "-f", str(config), "-db"], folder, port, cpus(workers))

    @staticmethod
    def simple(binary, folder, port, origin):
        config = folder / "haproxy.cfg"
        config.write_text(HAProxy.BASE.format(mode="http", options="http-reuse always", workers=1) + f"""frontend front
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


# What a sidecar has in its way: a JSON access log, rules of who may do what, changed fields on both sides, retries.
CHAIN_FILTER = """      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: "{log}"
              log_format:
                json_format:
                  time: "%START_TIME%"
                  method: "%REQ(:METHOD)%"
                  path: "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"
                  protocol: "%PROTOCOL%"
                  code: "%RESPONSE_CODE%"
                  details: "%RESPONSE_CODE_DETAILS%"
                  flags: "%RESPONSE_FLAGS%"
                  received: "%BYTES_RECEIVED%"
                  sent: "%BYTES_SENT%"
                  duration: "%DURATION%"
                  agent: "%REQ(USER-AGENT)%"
                  id: "%REQ(X-REQUEST-ID)%"
                  authority: "%REQ(:AUTHORITY)%"
                  host: "%UPSTREAM_HOST%"
                  cluster: "%UPSTREAM_CLUSTER%"
                  client: "%DOWNSTREAM_REMOTE_ADDRESS%"
                  route: "%ROUTE_NAME%"
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              request_headers_to_add: [{{header: {{key: x-mesh, value: sidecar}}}}]
              response_headers_to_add: [{{header: {{key: x-served-by, value: "%UPSTREAM_CLUSTER%"}}}}]
              response_headers_to_remove: [x-powered-by]
              routes:
              - name: everything
                match: {{prefix: /}}
                route:
                  cluster: origin
                  timeout: 15s
                  retry_policy: {{retry_on: "connect-failure,refused-stream,reset", num_retries: 2}}
          http_filters:
          - name: envoy.filters.http.rbac
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                policies:
                  reading:
                    permissions: [{{and_rules: {{rules: [{{url_path: {{path: {{prefix: /}}}}}}, {{header: {{name: ":method", string_match: {{exact: GET}}}}}}]}}}}]
                    principals: [{{direct_remote_ip: {{address_prefix: 127.0.0.0, prefix_len: 8}}}}]
          - name: envoy.filters.http.header_mutation
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
              mutations:
                request_mutations: [{{append: {{header: {{key: x-zone, value: a}}}}}}]
                response_mutations: [{{remove: server-timing}}]
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"""
TLS = """      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [{alpn}]
            tls_certificates: [{{certificate_chain: {{filename: "{chain}"}}, private_key: {{filename: "{key}"}}}}]
"""


def bootstrap(folder, port, origin, protocol):
    """The same document for Envoy and for ours, as a file."""
    down, up, secure = PROTOCOLS[protocol]
    tls = ""
    if secure:
        chain, key, _ = certificate(folder)
        tls = TLS.format(alpn="h2" if down == "h2" else "http/1.1", chain=chain, key=key)
    served = CHAIN_FILTER.format(log=folder / "access.log") if protocol == "chain" else HTTP_FILTER
    path = folder / "bootstrap.yaml"
    path.write_text(f"""static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
{TCP_FILTER if down == "tcp" else served}{tls}  clusters:
  - name: origin
    type: STATIC
{HTTP2_CLUSTER if up == "h2" else ""}    load_assignment:
      cluster_name: origin
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {origin}}}}}}}}}]}}]
""")
    return str(path)


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
    FLAGS = ["--disable-hot-restart", "-l", "error", "--concurrency"]

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

    def __init__(self, binary, folder, origin, protocol, workers=1):
        port = free_port()
        config = bootstrap(folder, port, origin, protocol)
        self.launch(self.command(binary, config, workers), folder, port, cpus(workers))

    @classmethod
    def command(cls, binary, config, workers):
        return [binary, "-c", config, *cls.FLAGS, str(workers)]

    @classmethod
    def simple(cls, binary, folder, port, origin):
        return cls.command(binary, simple_config(folder, port, origin), 1), port


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

    def __init__(self, binary, folder, origin, protocol, workers=1):
        port = free_port()
        config = bootstrap(folder, port, origin, protocol)
        self.launch(self.command(binary, config, workers), folder, port, cpus(workers))

    @staticmethod
    def command(binary, config, workers):
        return [binary, "start", "-c", config, "--concurrency", str(workers)]

    @classmethod
    def simple(cls, binary, folder, port, origin):
        return cls.command(binary, simple_config(folder, port, origin), 1), port


PEERS = {"sota": Sota, "envoy": Envoy, "nginx": Nginx, "haproxy": HAProxy}
