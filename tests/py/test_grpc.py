"""gRPC through the proxy with grpcio on both sides: calls of every kind, the gRPC filters, and answers of our own."""

import base64
import http.client
import struct
import sys
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/parity"))

import proxy

try:
    import grpc
except ImportError:
    grpc = None

# For what should happen at once, on a machine that is busy.
PATIENCE = 20
LARGE = bytes(n % 251 for n in range(1 << 20))

BOOTSTRAP = """
static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            validate_clusters: false
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {match: {prefix: /pkg.Svc/Late}, route: {cluster: grpc, timeout: 0.3s}}
              - match: {prefix: /pkg.Svc/Retried}
                route: {cluster: grpc, retry_policy: {retry_on: unavailable, num_retries: 3}}
              - {match: {prefix: /pkg.Svc/}, route: {cluster: grpc, timeout: 0s}}
              - {match: {prefix: /pkg.Missing/}, route: {cluster: missing}}
              - {match: {prefix: /pkg.Refused/}, route: {cluster: refused}}
              - {match: {prefix: /pkg.Empty/}, route: {cluster: empty}}
              - {match: {prefix: /pkg.Forbidden/}, direct_response: {status: 403, body: {inline_string: "not you"}}}
          http_filters:
          - name: envoy.filters.http.grpc_stats
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig
              stats_for_all_methods: true
          - name: envoy.filters.http.grpc_web
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb}
          - name: envoy.filters.http.grpc_http1_bridge
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_http1_bridge.v3.Config}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
"""

CLUSTER = """
  - name: %s
    type: STATIC
    connect_timeout: 2s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: %s, endpoints: [%s]}
"""
ENDPOINT = "{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}"


class Service:
    """What the methods of pkg.Svc do; messages are octets as they are."""

    def __init__(self):
        self.cancelled = threading.Event()
        self.tries = 0

    def echo(self, request, context):
        context.send_initial_metadata((("x-seen", dict(context.invocation_metadata()).get("x-asked", "")),))
        context.set_trailing_metadata((("x-trailer", "end"), ("x-octets-bin", b"\x00\x01")))
        return request

    def fail(self, request, context):
        context.set_trailing_metadata((("x-trailer", "failed"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "not here: 100%")

    def retried(self, request, context):
        self.tries += 1
        if self.tries < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return b"third"

    def count(self, request, context):
        for number in range(int(request)):
            yield b"%d" % number

    def half(self, request, context):
        yield b"one"
        context.abort(grpc.StatusCode.DATA_LOSS, "the rest is lost")

    def gather(self, requests, context):
        return b",".join(requests)

    def chat(self, requests, context):
        for request in requests:
            yield b"re: " + request

    def wait(self, request, context):
        context.add_callback(self.cancelled.set)
        self.cancelled.wait(PATIENCE)
        return b"too late"

    def handler(self):
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        methods = {
            "Echo": unary(self.echo), "Fail": unary(self.fail), "Retried": unary(self.retried),
            "Count": stream(self.count), "Half": stream(self.half),
            "Gather": grpc.stream_unary_rpc_method_handler(self.gather),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "Wait": unary(self.wait), "Late": unary(self.wait),
        }
        return grpc.method_handlers_generic_handler("pkg.Svc", methods)


@unittest.skipUnless(grpc, "grpcio is not there")
class Grpc(unittest.TestCase):
    def setUp(self):
        self.service = Service()
        self.server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 4 << 20)])
        self.server.add_generic_rpc_handlers((self.service.handler(),))
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.addCleanup(self.server.stop, None)
        folder = tempfile.TemporaryDirectory(prefix="grpc-")
        self.addCleanup(folder.cleanup)
        hosts = {"grpc": ENDPOINT % port, "refused": ENDPOINT % proxy.free_port(), "empty": ""}
        bootstrap = BOOTSTRAP + "".join(CLUSTER % (name, name, hosts[name]) for name in hosts)
        self.proxy = proxy.Proxy("sota", proxy.main_binary(), bootstrap, Path(folder.name))
        self.addCleanup(self.proxy.close)
        self.port = self.proxy.ports["front"]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.addCleanup(self.channel.close)

    def unary(self, path):
        return self.channel.unary_unary(path)

    def error(self, path, **options):
        with self.assertRaises(grpc.RpcError) as raised:
            self.unary(path)(b"", timeout=options.pop("timeout", PATIENCE), **options)
        return raised.exception

    def await_stat(self, name, value):
        deadline = time.monotonic() + PATIENCE
        while self.proxy.stats().get(name) != str(value) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertEqual(self.proxy.stats().get(name), str(value), name)

    def test_unary_calls_with_metadata_both_ways(self):
        reply, call = self.unary("/pkg.Svc/Echo").with_call(
            b"hello", metadata=(("x-asked", "1"),), timeout=PATIENCE)
        self.assertEqual((reply, call.code()), (b"hello", grpc.StatusCode.OK))
        self.assertEqual(dict(call.initial_metadata())["x-seen"], "1")
        trailing = dict(call.trailing_metadata())
        self.assertEqual((trailing["x-trailer"], trailing["x-octets-bin"]), ("end", b"\x00\x01"))

    def test_large_messages_pass_both_ways(self):
        with ThreadPoolExecutor(4) as pool:
            replies = pool.map(lambda _: self.unary("/pkg.Svc/Echo")(LARGE, timeout=PATIENCE), range(12))
            self.assertTrue(all(reply == LARGE for reply in replies))

    def test_streams_pass_message_by_message(self):
        count = self.channel.unary_stream("/pkg.Svc/Count")(b"100", timeout=PATIENCE)
        self.assertEqual(list(count), [b"%d" % number for number in range(100)])
        gather = self.channel.stream_unary("/pkg.Svc/Gather")
        self.assertEqual(gather(iter([b"a", b"b", b"c"]), timeout=PATIENCE), b"a,b,c")
        # Each message waits for the answer to the one before: nothing may be collected.
        answered = threading.Semaphore(1)

        def questions():
            for number in range(20):
                answered.acquire(timeout=PATIENCE)
                yield b"%d" % number

        answers = []
        for answer in self.channel.stream_stream("/pkg.Svc/Chat")(questions(), timeout=PATIENCE):
            answers.append(answer)
            answered.release()
        self.assertEqual(answers, [b"re: %d" % number for number in range(20)])

    def test_failures_keep_status_message_and_trailers(self):
        error = self.error("/pkg.Svc/Fail")
        self.assertEqual((error.code(), error.details()), (grpc.StatusCode.NOT_FOUND, "not here: 100%"))
        self.assertEqual(dict(error.trailing_metadata())["x-trailer"], "failed")
        received, call = [], self.channel.unary_stream("/pkg.Svc/Half")(b"", timeout=PATIENCE)
        with self.assertRaises(grpc.RpcError):
            for message in call:
                received.append(message)
        self.assertEqual((received, call.code()), ([b"one"], grpc.StatusCode.DATA_LOSS))
        self.assertEqual(self.error("/pkg.Svc/Nothing").code(), grpc.StatusCode.UNIMPLEMENTED)

    def test_calls_are_tried_again_by_status(self):
        self.assertEqual(self.unary("/pkg.Svc/Retried")(b"", timeout=PATIENCE), b"third")
        self.assertEqual(self.proxy.stats()["cluster.grpc.upstream_rq_retry"], "2")

    def test_a_deadline_ends_the_call_on_the_server_too(self):
        self.assertEqual(self.error("/pkg.Svc/Wait", timeout=0.3).code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertTrue(self.service.cancelled.wait(PATIENCE))

    def test_a_cancelled_call_ends_on_the_server_too(self):
        call = self.unary("/pkg.Svc/Wait").future(b"", timeout=PATIENCE)
        self.await_stat("cluster.grpc.upstream_rq_active", 1)
        call.cancel()
        self.assertTrue(self.service.cancelled.wait(PATIENCE))
        self.await_stat("cluster.grpc.upstream_rq_active", 0)

    def test_answers_of_our_own_are_grpc(self):
        code = grpc.StatusCode
        expected = {
            "/pkg.None/Call": (code.UNIMPLEMENTED, ""),
            "/pkg.Missing/Call": (code.UNAVAILABLE, ""),
            "/pkg.Empty/Call": (code.UNAVAILABLE, "no healthy upstream"),
            "/pkg.Forbidden/Call": (code.PERMISSION_DENIED, "not you"),
        }
        for path, (status, details) in expected.items():
            error = self.error(path)
            self.assertEqual((error.code(), error.details()), (status, details), path)
        refused = self.error("/pkg.Refused/Call")
        self.assertEqual(refused.code(), code.UNAVAILABLE)
        self.assertIn("connection", refused.details())
        late = self.error("/pkg.Svc/Late")
        self.assertEqual((late.code(), late.details()), (code.UNAVAILABLE, "upstream request timeout"))
        # Each of them is an answer, and the connection goes on.
        self.assertEqual(self.unary("/pkg.Svc/Echo")(b"on", timeout=PATIENCE), b"on")
        self.assertEqual(self.proxy.stats()["http.front.downstream_cx_total"], "1")

    def test_stats_count_calls_and_messages(self):
        self.unary("/pkg.Svc/Echo")(b"a", timeout=PATIENCE)
        self.error("/pkg.Svc/Fail")
        list(self.channel.unary_stream("/pkg.Svc/Count")(b"5", timeout=PATIENCE))
        self.await_stat("cluster.grpc.grpc.pkg.Svc.Count.success", 1)
        stats, prefix = self.proxy.stats(), "cluster.grpc.grpc.pkg.Svc."
        for name, value in {
            "Echo.0": 1, "Echo.success": 1, "Echo.total": 1, "Fail.5": 1, "Fail.failure": 1,
            "Count.request_message_count": 1, "Count.response_message_count": 5,
        }.items():
            self.assertEqual(stats.get(prefix + name), str(value), name)

    def post(self, path, body, **fields):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        self.addCleanup(connection.close)
        connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in fields.items()})
        response = connection.getresponse()
        return response, response.read()

    def test_grpc_web_over_http1(self):
        response, body = self.post("/pkg.Svc/Echo", frame(b"web"), content_type="application/grpc-web+proto")
        self.assertEqual((response.status, response.getheader("content-type")), (200, "application/grpc-web+proto"))
        messages, trailers = web_parts(body)
        self.assertEqual((messages, trailers["grpc-status"], trailers["x-trailer"]), ([b"web"], "0", "end"))
        # An answer of trailers alone has them as its fields.
        response, body = self.post("/pkg.Svc/Fail", frame(b""), content_type="application/grpc-web+proto")
        self.assertEqual((response.status, response.getheader("grpc-status"), body), (200, "5", b""))
        text = base64.b64encode(frame(b"text"))
        response, body = self.post("/pkg.Svc/Echo", text, content_type="application/grpc-web-text",
                                   accept="application/grpc-web-text")
        self.assertEqual(web_parts(decoded(body))[0], [b"text"])

    def test_the_bridge_makes_grpc_of_http1(self):
        response, body = self.post("/pkg.Svc/Echo", frame(b"bridge"), content_type="application/grpc", te="trailers")
        self.assertEqual((response.status, response.getheader("grpc-status"), body), (200, "0", frame(b"bridge")))
        self.assertEqual(response.getheader("content-length"), str(len(body)))
        response, _ = self.post("/pkg.Svc/Half", frame(b""), content_type="application/grpc", te="trailers")
        self.assertEqual((response.status, response.getheader("grpc-status")), (503, "15"))


def frame(message):
    return struct.pack(">BI", 0, len(message)) + message


def web_parts(body):
    """Messages and trailers in a body of gRPC-Web."""
    messages, trailers = [], {}
    while body:
        kind, length = struct.unpack(">BI", body[:5])
        part, body = body[5 : 5 + length], body[5 + length :]
        if kind & 0x80:
            pairs = (line.partition(":") for line in part.decode().splitlines())
            trailers = {name: value.strip() for name, _, value in pairs}
        else:
            messages.append(part)
    return messages, trailers


def decoded(text):
    """Base64 that was made in pieces, each with an end of its own."""
    return b"".join(base64.b64decode(text[at : at + 4]) for at in range(0, len(text), 4))


if __name__ == "__main__":
    unittest.main()
