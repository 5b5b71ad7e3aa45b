"""Clients and workers of the tests beside this file: `peers.py SCENARIO PROXY_PORT ADMIN_PORT WORKER_PORTS ARGUMENTS`.

Whatever goes wrong is an exception, and the exit code tells.
"""

import os
import random
import signal
import socket as sockets
import struct
import sys
import threading
import time
import urllib.error
import urllib.request

import zmq
from zmq.utils.monitor import recv_monitor_message

# The keys in the manual of zmq_curve.
CLIENT = (b"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID", b"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs")
SERVER = (b"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7", b"JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6")
PATIENCE_MS = 20_000
TYPES = "PAIR PUB SUB REQ REP DEALER ROUTER PULL PUSH XPUB XSUB".split()

context = zmq.Context()
proxy_port = admin_port = 0
worker_ports = []


# Helpers


def make(kind, **options):
    made = context.socket(getattr(zmq, kind))
    made.linger = 0
    made.rcvtimeo = made.sndtimeo = PATIENCE_MS
    for name, value in options.items():
        setattr(made, name, value)
    return made


def client(kind, port=None, **options):
    made = make(kind, **options)
    made.connect(f"tcp://127.0.0.1:{port or proxy_port}")
    return made


def worker(kind, index=0, **options):
    made = make(kind, **options)
    made.bind(f"tcp://127.0.0.1:{worker_ports[index]}")
    return made


def expect(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r:.300} instead of {wanted!r:.300}")


def stats():
    text = urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/stats").read().decode()
    pairs = (line.rsplit(": ", 1) for line in text.splitlines() if ": " in line)
    return {name: int(value) for name, value in pairs if value.lstrip("-").isdigit()}


def stat(name):
    return stats().get(name, 0)


def wait_until(what, condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            ours = {name: value for name, value in stats().items() if name.startswith("zmq.") and value}
            raise AssertionError(f"{what}: not within {seconds} s: {ours}")
        time.sleep(0.02)


def wait_stat(name, value, seconds=20):
    wait_until(f"{name} {value}", lambda: stat(name) == value, seconds)


class Raw:
    """A socket that speaks exactly the bytes it is given."""

    def __init__(self, port=None, sock=None):
        self.sock = sock or sockets.create_connection(("127.0.0.1", port or proxy_port))
        self.sock.settimeout(20)
        self.sock.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)

    def send(self, data):
        self.sock.sendall(data)

    def read(self, size):
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise AssertionError(f"closed after {data!r}")
            data += piece
        return data

    def closed(self, seconds=5):
        """Whether the other side ends the connection within this time; what it sends before does not count."""
        self.sock.settimeout(seconds)
        try:
            while self.sock.recv(65536):
                pass
            return True
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        finally:
            self.sock.settimeout(20)

    def frame(self):
        flags, = self.read(1)
        size = struct.unpack(">Q", self.read(8))[0] if flags & 2 else self.read(1)[0]
        return flags, self.read(size)

    def message(self):
        frames = []
        while True:
            flags, body = self.frame()
            if flags & 4:
                continue
            frames.append(body)
            if not flags & 1:
                return frames


SIGNATURE = b"\xff" + bytes(8) + b"\x7f"


def frame(body, more=False, flags=0):
    flags |= int(more)
    if len(body) > 255:
        return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body
    return bytes([flags, len(body)]) + body


def message(*frames):
    return b"".join(frame(body, index + 1 < len(frames)) for index, body in enumerate(frames))


def greet_2_0(raw, kind, identity=b""):
    """As libzmq 3.2 does; returns the socket type of the other side."""
    raw.send(b"\xff" + bytes(7) + bytes([len(identity) + 1]) + b"\x7f")
    raw.read(10)
    raw.send(bytes([1, TYPES.index(kind)]))
    raw.read(1)
    raw.send(frame(identity))
    theirs, = raw.read(1)
    raw.frame()
    return TYPES[theirs]


def ready(kind):
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind.encode()
    return frame(body, flags=4)


def greet_3(raw, kind, minor=0, major=3, eager=False):
    rest = bytes([minor]) + b"NULL".ljust(20, b"\0") + bytes(32)
    if eager:
        raw.send(SIGNATURE + bytes([major]) + rest)
        raw.read(64)
    else:
        raw.send(SIGNATURE)
        raw.read(10)
        raw.send(bytes([major]))
        raw.read(1)
        raw.send(rest)
        raw.read(53)
    raw.send(ready(kind))
    flags, body = raw.frame()
    expect((flags, body[:6]), (4, b"\x05READY"))
    return body


def in_background(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def serve(sock, name=b"", count=None):
    """A REP or ROUTER that answers with its name and what it was asked."""
    served = 0
    while count is None or served < count:
        try:
            frames = sock.recv_multipart()
        except (zmq.Again, zmq.ContextTerminated, zmq.ZMQError):
            return
        sock.send_multipart(frames[:-1] + [name + frames[-1]])
        served += 1


# Without routes


def echo_req():
    req = client("REQ")
    for size in (0, 1, 255, 256, 65535, 1 << 20):
        req.send(b"x" * size)
        expect(req.recv(), b"x" * size)
    for frames in ([b"a", b"", b"c"], [b""], [b"", b""], [b"y" * 300] * 20):
        req.send_multipart(frames)
        expect(req.recv_multipart(), frames)


def echo_dealer():
    dealer = client("DEALER")
    for size in (0, 1, 255, 256, 65535, 1 << 20, (16 << 20) - 1, 16 << 20):
        dealer.send_multipart([b"n%d" % size, b"x" * size])
        expect(dealer.recv_multipart(), [b"n%d" % size, b"x" * size])
    dealer.send(b"x" * ((16 << 20) + 1))
    wait_stat("zmq.frame_too_large", 1)


def echo_pipeline():
    dealer = client("DEALER", sndhwm=0, rcvhwm=0)
    for count in (200, 100_000):
        for number in range(count):
            dealer.send(b"%d" % number)
        for number in range(count):
            expect(dealer.recv(), b"%d" % number)


def echo_router():
    router = make("ROUTER", router_mandatory=1)
    router.setsockopt(zmq.CONNECT_ROUTING_ID, b"mesh")
    router.connect(f"tcp://127.0.0.1:{proxy_port}")
    wait_stat("zmq.cx_ready", 1)
    router.send_multipart([b"mesh", b"one", b"two"])
    expect(router.recv_multipart(), [b"mesh", b"one", b"two"])


def echo_identities():
    everybody = []
    for identity in (b"me", b"me", b"i" * 255, None):
        req = client("REQ", **({"routing_id": identity} if identity else {}))
        everybody.append(req)
        req.send(b"x")
    for req in everybody:
        expect(req.recv(), b"x")


def echo_monitor():
    for kind, wanted in (("REQ", zmq.EVENT_HANDSHAKE_SUCCEEDED), ("PUB", zmq.EVENT_DISCONNECTED)):
        made = make(kind)
        monitor = made.get_monitor_socket()
        made.connect(f"tcp://127.0.0.1:{proxy_port}")
        while True:
            assert monitor.poll(10_000), f"{kind}: no event"
            if recv_monitor_message(monitor)["event"] & wanted:
                break
        made.disable_monitor()
        made.close()


def echo_reconnects():
    """Given the pid of a proxy on this port that is about to be replaced: the test does that."""
    req = client("REQ", req_relaxed=1, req_correlate=1, rcvtimeo=500)
    answered = 0
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and answered < 60:
        req.send(b"x")
        try:
            req.recv()
            answered += 1
        except zmq.Again:
            pass
        print("answered", answered, flush=True)
        time.sleep(0.05)
    expect(answered, 60)


def wrong_types(face="ROUTER"):
    """Each type that does not fit is closed at once, and counted, in the version where libzmq would not notice."""
    before = stat("zmq.socket_type_mismatch")
    wrong = [kind for kind in TYPES if kind not in ("REQ", "DEALER", "ROUTER")]
    for kind in wrong:
        raw = Raw()
        raw.send(SIGNATURE + bytes([1, TYPES.index(kind)]) + frame(b""))
        began = time.monotonic()
        assert raw.closed(), kind
        assert time.monotonic() - began < 2, kind
    wait_stat("zmq.socket_type_mismatch", before + len(wrong))
    raw = Raw()
    raw.send(SIGNATURE + bytes([1, 11]))
    assert raw.closed()
    wait_stat("zmq.socket_type_mismatch", before + len(wrong) + 1)
    wait_stat("zmq.cx_active", 0)


def old_versions():
    """libzmq 3.2 as client, 3.0 peers, eager peers, versions to come; and 1.0 where it is allowed."""
    for kind in ("REQ", "DEALER", "ROUTER"):
        raw = Raw()
        expect(greet_2_0(raw, kind, b"me"), "ROUTER")
        raw.send(message(b"", b"Hi", b"x" * 256))
        expect(raw.message(), [b"", b"Hi", b"x" * 256])
    for revision in (1, 2):
        raw = Raw()
        raw.send(SIGNATURE + bytes([revision, TYPES.index("DEALER")]) + frame(b"") + message(b"q"))
        raw.read(10 + 1 + 1)
        expect(raw.frame(), (0, b""))
        expect(raw.message(), [b"q"])
    for major, minor, eager in ((3, 0, False), (3, 1, True), (3, 7, True), (4, 0, False), (255, 255, True)):
        raw = Raw()
        greet_3(raw, "DEALER", minor, major, eager)
        raw.send(message(b"a", b"b"))
        expect(raw.message(), [b"a", b"b"])
    raw = Raw()
    # Anonymous; then a message of an empty frame and one of two octets.
    raw.send(b"\x01\x00")
    raw.send(b"\x01\x01" + b"\x03\x00Hi")
    expect(raw.read(10)[:1], b"\xff")
    expect(raw.read(4 + 2)[-6:], b"\x01\x01\x03\x00Hi")


def golden():
    """What we send, octet by octet."""
    raw = Raw()
    expect(raw.read(10), b"\xff" + bytes(7) + b"\x01\x7f")
    raw.send(SIGNATURE)
    expect(raw.read(1), b"\x03")
    raw.send(b"\x01\x03" + b"\0\0")
    expect(raw.read(3), b"\x06\0\0")
    raw.send(b"\x01\x00" + b"\x00\x02Hi" + b"\x02" + struct.pack(">Q", 256) + b"x" * 256)
    expect(raw.read(6), b"\x01\x00\x00\x02Hi")
    expect(raw.read(265), b"\x02" + struct.pack(">Q", 256) + b"x" * 256)
    raw = Raw()
    raw.send(SIGNATURE + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32) + ready("REQ"))
    expect(raw.read(64), b"\xff" + bytes(7) + b"\x01\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32))
    body = b"\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\0"
    expect(raw.frame(), (4, body))
    raw.send(frame(b"\x04PING\0\0ctx", flags=4))
    expect(raw.frame(), (4, b"\x04PONGctx"))


def random_splits():
    chance = random.Random(7)
    stream = SIGNATURE + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32) + ready("DEALER")
    messages = [[bytes([chance.randrange(256)]) * chance.choice((0, 1, 254, 255, 256, 3000))
                 for _ in range(chance.randrange(1, 5))] for _ in range(30)]
    stream += b"".join(message(*frames) for frames in messages)
    for most in (1, 7, 100, 5000):
        raw = Raw()
        data = stream if most > 1 else stream[: len(stream) // 8]

        def feed():
            at = 0
            while at < len(data):
                size = chance.randrange(1, most + 1)
                raw.send(data[at : at + size])
                at += size

        feeding = in_background(feed)
        raw.read(64)
        raw.frame()
        for frames in messages if most > 1 else messages[:2]:
            expect(raw.message(), frames)
        feeding.join()


def heartbeats():
    """libzmq's own, and ours to a peer that does not answer."""
    dealer = client("DEALER", heartbeat_ivl=50, heartbeat_timeout=500, heartbeat_ttl=1000)
    time.sleep(1.5)
    dealer.send(b"alive")
    expect(dealer.recv(), b"alive")
    expect(stat("zmq.cx_total"), 1)
    raw = Raw()
    greet_3(raw, "DEALER", 1)
    flags, body = raw.frame()
    expect((flags, body[:5]), (4, b"\x04PING"))
    assert raw.closed(5), "silence is not noticed"
    wait_stat("zmq.heartbeat_timeout", 1)
    # A time to live that the peer asked for.
    raw = Raw()
    greet_3(raw, "DEALER", 1)
    raw.send(frame(b"\x04PING" + struct.pack(">H", 3), flags=4))
    assert raw.closed(5)
    wait_stat("zmq.heartbeat_timeout", 2)
    expect(stat("zmq.cx_active"), 1)


def ipv6():
    req = make("REQ", ipv6=1)
    req.connect(f"tcp://[::1]:{proxy_port}")
    req.send(b"six")
    expect(req.recv(), b"six")


def ipc(path):
    req = make("REQ")
    req.connect(f"ipc://{path}")
    req.send(b"local")
    expect(req.recv(), b"local")


def shared_port():
    """HTTP and ZMTP on one port."""
    req = client("REQ")
    req.send(b"x")
    expect(req.recv(), b"x")
    answer = urllib.request.urlopen(f"http://127.0.0.1:{proxy_port}/").read()
    expect(answer, b"http here")
    expect(stat("zmq_inspector.zmtp_found"), 1)


# Bad peers


def limit(name):
    """One row of the table of limits; the configuration of the test makes them small."""

    def connected(kind="DEALER", minor=1):
        raw = Raw()
        greet_3(raw, kind, minor)
        return raw

    def closes(raw, counter, seconds=5):
        assert raw.closed(seconds), f"{name} is not closed"
        wait_stat(f"zmq.{counter}", 1)

    if name == "frame":
        raw = connected()
        raw.send(b"\x02" + struct.pack(">Q", 1001))
        closes(raw, "frame_too_large")
    elif name == "huge_length":
        raw = connected()
        raw.send(b"\x02" + b"\xff" * 8)
        closes(raw, "protocol_error")
    elif name == "message":
        raw = connected()
        raw.send(frame(b"x" * 900, more=True) * 3)
        closes(raw, "message_too_large")
    elif name == "frames":
        raw = connected()
        raw.send(frame(b"", more=True) * 11)
        closes(raw, "too_many_frames")
    elif name == "slow_handshake":
        raw = Raw()
        for octet in SIGNATURE:
            raw.send(bytes([octet]))
            time.sleep(0.02)
        closes(raw, "handshake_timeout")
    elif name == "silent":
        closes(Raw(), "handshake_timeout")
    elif name == "http":
        raw = Raw()
        raw.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        closes(raw, "not_zmtp", 1)
    elif name == "tls":
        raw = Raw()
        raw.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        closes(raw, "not_zmtp", 1)
    elif name == "reserved_flags":
        raw = connected()
        raw.send(b"\x08\x02hi")
        closes(raw, "protocol_error")
    elif name == "command_of_2_0":
        raw = Raw()
        greet_2_0(raw, "DEALER")
        raw.send(b"\x04\x05\x04PING")
        closes(raw, "protocol_error")
    elif name == "command_with_more":
        raw = connected()
        raw.send(b"\x05\x05\x04PING")
        closes(raw, "protocol_error")
    elif name == "empty_command":
        raw = connected()
        raw.send(b"\x04\x01\x00")
        closes(raw, "protocol_error")
    elif name == "command":
        raw = connected()
        raw.send(b"\x06" + struct.pack(">Q", 9000))
        closes(raw, "command_too_large")
    elif name == "ping_context":
        raw = connected()
        raw.send(frame(b"\x04PING\0\0" + b"c" * 17, flags=4))
        closes(raw, "protocol_error")
    elif name == "identity":
        raw = Raw()
        raw.send(SIGNATURE + b"\x01\x05" + b"\x02" + struct.pack(">Q", 256))
        closes(raw, "identity_refused")
    elif name == "reserved_identity":
        raw = Raw()
        raw.send(SIGNATURE + b"\x01\x05" + frame(b"\0id"))
        closes(raw, "identity_refused")
    elif name == "metadata":
        raw = Raw()
        raw.send(SIGNATURE + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32))
        raw.send(b"\x06" + struct.pack(">Q", 1 << 31))
        closes(raw, "metadata_too_large")
    elif name == "properties":
        raw = Raw()
        raw.send(SIGNATURE + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32))
        raw.send(frame(b"\x05READY" + b"\x01a\0\0\0\0" * 65, flags=4))
        closes(raw, "metadata_too_large")
    elif name == "downgrade":
        raw = Raw()
        raw.send(SIGNATURE + b"\x01\x05")
        closes(raw, "version_refused")
    elif name == "topic":
        raw = connected("SUB")
        raw.send(frame(b"\x01" + b"t" * 101))
        closes(raw, "topic_too_long")
    elif name == "subscriptions":
        raw = connected("SUB")
        for number in range(6):
            raw.send(frame(b"\x01%d" % number))
        closes(raw, "too_many_subscriptions")
    elif name == "half_open":
        waiting = [Raw() for _ in range(2)]
        wait_stat("zmq.cx_active", 2)
        assert Raw().closed(2)
        wait_stat("zmq.cx_handshakes_exceeded", 1)
        greet_3(waiting[0], "DEALER", 1)
        greet_3(Raw(), "DEALER", 1)
    elif name == "does_not_read":
        raw = connected()
        raw.sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        raw.sock.settimeout(8)
        try:
            while True:
                raw.send(message(b"x" * 900) * 50)
        except (TimeoutError, ConnectionError):
            pass
        wait_stat("zmq.write_timeout", 1)
    elif name == "ping_flood":
        raw = connected()
        began = time.monotonic()
        raw.send(frame(b"\x04PING\0\0", flags=4) * 1000 + message(b"end"))
        pongs = 0
        while True:
            flags, body = raw.frame()
            if flags & 4:
                pongs += 1
            elif body == b"end":
                break
        # Ten a second; on a busy machine it takes some.
        assert pongs <= 11 + 10 * (time.monotonic() - began), pongs
    else:
        raise AssertionError(name)
    wait_until("the connection is forgotten", lambda: name in ("half_open", "ping_flood") or stat("zmq.cx_active") == 0)


# Security


def plain():
    good = client("REQ", plain_username=b"me", plain_password=b"secret")
    good.send(b"x")
    expect(good.recv(), b"x")
    for user, password in ((b"me", b"wrong"), (b"you", b"secret")):
        bad = client("REQ", plain_username=user, plain_password=password, rcvtimeo=500)
        bad.send(b"x")
        try:
            raise AssertionError(bad.recv())
        except zmq.Again:
            bad.close()
    assert stat("zmq.authentication_failed") >= 2
    # libzmq sees for itself that NULL does not fit.
    raw = Raw()
    raw.send(SIGNATURE + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32))
    assert raw.closed()
    wait_stat("zmq.mechanism_mismatch", 1)
    raw = Raw()
    raw.send(SIGNATURE + b"\x01\x03\0\0")
    assert raw.closed()
    wait_stat("zmq.version_refused", 1)


def curve():
    def caller(keys, server_key, **options):
        return client("REQ", curve_publickey=keys[0], curve_secretkey=keys[1], curve_serverkey=server_key, **options)

    good = caller(CLIENT, SERVER[0])
    for body in (b"x", b"", b"y" * 100_000):
        good.send(body)
        expect(good.recv(), body)
    for keys, server_key, counter in (
        (zmq.curve_keypair(), SERVER[0], "authentication_failed"),
        (CLIENT, zmq.curve_keypair()[0], "curve_failed"),
    ):
        bad = caller(keys, server_key, rcvtimeo=500)
        bad.send(b"x")
        wait_until(counter, lambda: stat(f"zmq.{counter}") >= 1)
        bad.close()


def curve_passthrough():
    """Only the ends know the keys."""
    rep = worker("REP", curve_server=True, curve_publickey=SERVER[0], curve_secretkey=SERVER[1])
    in_background(serve, rep, b"got ")
    reqs = []
    for _ in range(3):
        req = client("REQ", curve_publickey=CLIENT[0], curve_secretkey=CLIENT[1], curve_serverkey=SERVER[0])
        reqs.append(req)
        for number in range(20):
            req.send(b"%d" % number)
            expect(req.recv(), b"got %d" % number)
    expect(stat("zmq.cx_ready"), 3)
    raw = Raw()
    raw.send(b"POST / HTTP/1.1\r\n\r\n")
    assert raw.closed()
    wait_stat("zmq.not_zmtp", 1)


def upstream_secured(mechanism):
    """The broker proves to the worker who it is."""
    from zmq.auth.thread import ThreadAuthenticator

    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    authenticator.configure_plain(domain="*", passwords={"mesh": "secret"})
    authenticator.configure_curve(domain="*", location=zmq.auth.CURVE_ALLOW_ANY)
    options = {"plain_server": True}
    if mechanism == "curve":
        options = {"curve_server": True, "curve_publickey": SERVER[0], "curve_secretkey": SERVER[1]}
    rep = worker("REP", **options)
    in_background(serve, rep, b"got ")
    req = client("REQ")
    req.send(b"x")
    expect(req.recv(), b"got x")
    authenticator.stop()


# With routes: requests


def requests():
    """REQ and DEALER clients share three REP workers; each gets its turn."""
    reps = [worker("REP", index) for index in range(3)]
    for index, rep in enumerate(reps):
        in_background(serve, rep, b"%d:" % index)
    req = client("REQ")
    for body in (b"", b"x", b"y" * 300, b"z" * (1 << 20)):
        req.send_multipart([b"a", body])
        frames = req.recv_multipart()
        expect([frames[0], frames[1][2:]], [b"a", body])
    wait_until("all are connected", lambda: stat("zmq.upstream_cx_ready") >= 3)
    counts = [0, 0, 0]
    for number in range(30):
        req.send(b"%d" % number)
        who, body = req.recv().split(b":")
        expect(body, b"%d" % number)
        counts[int(who)] += 1
    expect(counts, [10, 10, 10])
    dealer = client("DEALER")
    for number in range(300):
        dealer.send_multipart([b"", b"%d" % number])
    answers = sorted(int(dealer.recv_multipart()[1].split(b":")[1]) for _ in range(300))
    expect(answers, list(range(300)))
    wait_stat("zmq.requests_active", 0)
    expect(stat("zmq.requests"), stat("zmq.replies"))


def health_check():
    """Hosts are connected to without a client; one that speaks something else is left out until it speaks ZMTP."""
    impostor = sockets.create_server(("127.0.0.1", worker_ports[1]))

    def answer_otherwise():
        while True:
            try:
                accepted, _ = impostor.accept()
            except OSError:
                return
            accepted.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            accepted.close()

    in_background(answer_otherwise)
    in_background(serve, worker("REP", 0), b"0:")
    wait_until("the worker is found well", lambda: stat("zmq.upstream_cx_ready") == 1)
    wait_until("the other one is tried again", lambda: stat("zmq.upstream_cx_failed") >= 3)
    expect(stat("zmq.cx_total"), 0)
    req = client("REQ")
    for number in range(20):
        req.send(b"%d" % number)
        expect(req.recv(), b"0:%d" % number)
    impostor.shutdown(sockets.SHUT_RDWR)
    impostor.close()
    in_background(serve, worker("REP", 1), b"1:")
    wait_until("both are well", lambda: stat("zmq.upstream_cx_ready") == 2)
    answers = set()
    for number in range(4):
        req.send(b"x")
        answers.add(req.recv())
    expect(answers, {b"0:x", b"1:x"})


def many_clients():
    """On all workers of the proxy: nobody gets the answer of somebody else."""
    for index in range(2):
        in_background(serve, worker("ROUTER", index))

    def ask(name):
        req = client("REQ")
        for number in range(50):
            body = b"%d %d" % (name, number)
            req.send(body)
            if req.recv() != body:
                failures.append(name)
        done.append(name)

    failures, done = [], []
    threads = [in_background(ask, name) for name in range(20)]
    for thread in threads:
        thread.join(30)
    expect((failures, len(done)), ([], 20))


def router_workers():
    """Workers of the guide's kind: a ROUTER that answers out of order, several times, with the envelope it got."""
    router = worker("ROUTER")
    dealer = client("DEALER")
    dealer.send_multipart([b"client", b"", b"first"])
    dealer.send_multipart([b"client", b"", b"second"])
    first, second = router.recv_multipart(), router.recv_multipart()
    expect((len(first), first[2:]), (5, [b"client", b"", b"first"]))
    router.send_multipart(second[:-1] + [b"answer two"])
    router.send_multipart(first[:-1] + [b"answer one"])
    router.send_multipart(first[:-1] + [b"more"])
    answers = [dealer.recv_multipart() for _ in range(3)]
    expect(answers, [[b"client", b"", body] for body in (b"answer two", b"answer one", b"more")])
    router.send_multipart([first[0], b"no such ", b"", b"x"])
    router.send_multipart([first[0], b"short"])
    wait_stat("zmq.reply_unexpected", 2)


def routes():
    """By the first frame of the body, by another one, and to nobody."""
    for index in range(3):
        in_background(serve, worker("REP", index), b"%d " % index)
    req = client("REQ")
    for frames, who in (([b"a.1", b"x"], b"0"), ([b"q", b"special"], b"1"), ([b"b", b"x"], b"2")):
        req.send_multipart(frames)
        expect(req.recv_multipart()[-1][:1], who)
    dealer = client("DEALER")
    dealer.send_multipart([b"id", b"", b"nowhere", b"x"])
    expect(dealer.recv_multipart(), [b"id", b"", b"ERR no route"])
    expect(stat("zmq.no_route"), 1)


def reply_timeout():
    """A worker that keeps a request; one that dies with it; one that is not there."""
    rep = worker("REP")
    req = client("REQ")
    req.send(b"kept")
    expect(rep.recv(), b"kept")
    began = time.monotonic()
    expect(req.recv(), b"ERR reply timeout")
    assert 0.4 < time.monotonic() - began < 5
    expect(stat("zmq.reply_timeout"), 1)
    # Its late answer is for nobody.
    req.send(b"next")
    rep.send(b"late")
    expect(rep.recv(), b"next")
    rep.send(b"answer")
    expect(req.recv(), b"answer")
    wait_stat("zmq.reply_unexpected", 1)
    req.send(b"dying")
    expect(rep.recv(), b"dying")
    rep.close()
    expect(req.recv(), b"ERR worker lost")
    req.send(b"nobody")
    expect(req.recv(), b"ERR no worker in time")
    wait_stat("zmq.requests_active", 0)


def failure_closes():
    """Without `on_failure: reply` the client is closed, and its libzmq begins anew."""
    rep = worker("REP")
    req = client("REQ", req_relaxed=1, req_correlate=1)
    req.send(b"kept")
    rep.recv()
    wait_stat("zmq.reply_timeout", 1)
    rep.send(b"late")
    wait_until("the client has come back", lambda: stat("zmq.cx_total") >= 2)
    in_background(serve, rep)
    req.send(b"again")
    expect(req.recv(), b"again")


def worker_restarts():
    rep = worker("REP")
    serving = in_background(serve, rep, b"", 1)
    req = client("REQ")
    req.send(b"x")
    expect(req.recv(), b"x")
    serving.join(10)
    rep.close()
    wait_stat("zmq.upstream_cx_ready", 0)
    req.send(b"waits")
    time.sleep(0.5)
    in_background(serve, worker("REP"))
    expect(req.recv(), b"waits")


def orphans():
    """Requests that were queued for a worker which breaks and stays away are given up."""
    listener = sockets.create_server(("127.0.0.1", worker_ports[0]))
    listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    dealer = client("DEALER", sndhwm=0)
    number = 60
    for _ in range(number):
        dealer.send(bytes(200_000))
    connection, _ = listener.accept()
    raw = Raw(sock=connection)
    greet_2_0(raw, "REP")
    wait_stat("zmq.requests_active", number)
    connection.close()
    listener.close()
    answers = [dealer.recv() for _ in range(number)]
    late = answers.count(b"ERR no worker in time")
    expect(late + answers.count(b"ERR worker lost"), number)
    if not late:
        raise AssertionError("all requests were sent: the test tests nothing")
    expect(stat("zmq.requests_active"), 0)


def broken_midway():
    """Nothing is seen of a message that was not whole."""
    pull = worker("PULL")
    raw = Raw()
    greet_3(raw, "PUSH", 1)
    raw.send(frame(b"never", more=True) + frame(b"seen", more=True) + b"\x00\x0512")
    time.sleep(0.2)
    raw.sock.close()
    wait_stat("zmq.truncated", 1)
    push = client("PUSH")
    push.send(b"whole")
    expect(pull.recv_multipart(), [b"whole"])


def in_flight_cap():
    """A client that asks without end is read no further than its cap."""
    router = worker("ROUTER")
    dealer = client("DEALER")
    for number in range(30):
        dealer.send_multipart([b"", b"%d" % number])
    held = [router.recv_multipart() for _ in range(5)]
    router.rcvtimeo = 300
    try:
        raise AssertionError(router.recv_multipart())
    except zmq.Again:
        router.rcvtimeo = PATIENCE_MS
    expect(stat("zmq.requests_active"), 5)
    for number in range(30):
        router.send_multipart(held.pop(0))
        expect(dealer.recv_multipart(), [b"", b"%d" % number])
        if number < 25:
            held.append(router.recv_multipart())


def chain():
    """A proxy behind a proxy: two addresses in front of each request."""
    in_background(serve, worker("REP"), b"got ")
    req = client("REQ")
    for number in range(20):
        req.send(b"%d" % number)
        expect(req.recv(), b"got %d" % number)


def raw_2_0_worker():
    """libzmq 3.2 as a worker: we connect, it speaks 2.0."""
    listener = sockets.create_server(("127.0.0.1", worker_ports[0]))
    req = client("REQ")
    req.send(b"old")
    raw = Raw(sock=listener.accept()[0])
    expect(greet_2_0(raw, "REP"), "DEALER")
    frames = raw.message()
    expect((len(frames[0]), frames[1:]), (8, [b"", b"old"]))
    raw.send(message(*frames))
    expect(req.recv(), b"old")


# With routes: publications


def pubsub():
    pub = worker("XPUB", xpub_verboser=1)
    subs = {}
    for topics in ((b"A",), (b"",), (b"AB", b"AB"), (b"C",)):
        sub = client("SUB")
        for topic in topics:
            sub.subscribe(topic)
        subs[topics] = sub
    wanted = {b"\x01A", b"\x01", b"\x01AB", b"\x01C"}
    seen = set()
    while seen != wanted:
        seen.add(pub.recv())
    wait_until("all have said what they want", lambda: stat("zmq.cx_ready") == 4)
    pub.send_multipart([b"ABC", b"1"])
    for topics, sub in subs.items():
        if topics != (b"C",):
            expect(sub.recv_multipart(), [b"ABC", b"1"])
    # One of two is taken back.
    subs[(b"AB", b"AB")].unsubscribe(b"AB")
    time.sleep(0.2)
    pub.send_multipart([b"ABC", b"2"])
    expect(subs[(b"AB", b"AB")].recv_multipart(), [b"ABC", b"2"])
    subs[(b"AB", b"AB")].unsubscribe(b"AB")
    expect(pub.recv(), b"\x00AB")
    subs[(b"C",)].close()
    expect(pub.recv(), b"\x00C")
    expect(subs[(b"A",)].recv_multipart(), [b"ABC", b"2"])


def one_subscription_upstream():
    """However many clients want the same."""
    pub = worker("XPUB", xpub_verboser=1)
    subs = [client("SUB") for _ in range(10)]
    for sub in subs:
        sub.subscribe(b"T")
    expect(pub.recv(), b"\x01T")
    wait_stat("zmq.cx_ready", 10)
    time.sleep(0.3)
    pub.rcvtimeo = 300
    try:
        raise AssertionError(pub.recv())
    except zmq.Again:
        pub.rcvtimeo = PATIENCE_MS
    pub.send(b"T1")
    for sub in subs:
        expect(sub.recv(), b"T1")
    for sub in subs:
        sub.close()
    expect(pub.recv(), b"\x00T")


def replay():
    """A publisher that comes back is told again; and there may be several."""
    first, second = worker("XPUB", 0), worker("XPUB", 1)
    sub = client("SUB")
    sub.subscribe(b"T")
    expect((first.recv(), second.recv()), (b"\x01T", b"\x01T"))
    second.send(b"T2")
    expect(sub.recv(), b"T2")
    first.close()
    wait_stat("zmq.upstream_cx_ready", 1)
    first = worker("XPUB", 0)
    expect(first.recv(), b"\x01T")
    first.send(b"T1")
    expect(sub.recv(), b"T1")


def slow_subscriber():
    """It misses what it has no room for; the others do not."""
    pub = worker("PUB", sndhwm=0)
    slow = Raw()
    slow.sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    greet_3(slow, "SUB", 1)
    slow.send(frame(b"\x09SUBSCRIBE", flags=4))
    quick = client("SUB", rcvhwm=0)
    quick.subscribe(b"")
    wait_stat("zmq.upstream_cx_ready", 1)
    time.sleep(0.5)
    for number in range(3000):
        pub.send(b"%d " % number + b"x" * 10_000)
        if number % 20 == 0:
            time.sleep(0.005)
    for number in range(3000):
        assert quick.recv().startswith(b"%d " % number), number
    assert stat("zmq.slow_subscriber_dropped") > 0


def publishers():
    """Clients that publish: to subscribers on every worker of the proxy, and to those of the cluster."""
    upstream = worker("SUB")
    upstream.subscribe(b"T")
    subs = [client("SUB") for _ in range(8)]
    for sub in subs:
        sub.subscribe(b"T")
    pubs = [client("PUB"), client("XPUB")]
    wait_stat("zmq.cx_ready", 10)
    wait_until("the cluster is connected to", lambda: stat("zmq.upstream_cx_ready") >= 1)
    # libzmq says what it wants when the application asks it for something.
    upstream.poll(500)
    for sub in subs:
        sub.poll(10)
    for number, pub in enumerate(pubs):
        pub.send_multipart([b"T%d" % number, b"x"])
        pub.send(b"other")
    for sub in [*subs, upstream]:
        expect(sorted(sub.recv_multipart()[0] for _ in pubs), [b"T0", b"T1"])
    # Spread over the workers, as the system does it: all of them were reached.
    expect(stat("zmq.bus_dropped"), 0)


def raw_subscriptions():
    """A 2.0 and a 3.0 subscriber say what they want in messages, a 3.1 one in commands."""
    pub = worker("XPUB")
    raws = []
    for greet in (lambda raw: greet_2_0(raw, "SUB"), lambda raw: greet_3(raw, "SUB", 0), lambda raw: greet_3(raw, "SUB", 1)):
        raw = Raw()
        greet(raw)
        raws.append(raw)
    raws[0].send(frame(b"\x01A"))
    raws[1].send(frame(b"\x01A"))
    raws[2].send(frame(b"\x09SUBSCRIBEA", flags=4))
    expect(pub.recv(), b"\x01A")
    time.sleep(0.3)
    pub.send(b"A1")
    for raw in raws:
        expect(raw.message(), [b"A1"])


# With routes: work


def pipeline():
    """Evenly to three; one dies, and nothing but what it had taken is lost."""
    pulls = [worker("PULL", index) for index in range(3)]
    push = client("PUSH")
    push.send(b"first")
    wait_until("all are connected", lambda: stat("zmq.upstream_cx_ready") == 3)
    poller = zmq.Poller()
    for pull in pulls:
        poller.register(pull, zmq.POLLIN)
    counts = {pull: 0 for pull in pulls}
    for number in range(300):
        push.send(b"%d" % number)
    while sum(counts.values()) < 301:
        ready_ones = dict(poller.poll(10_000))
        assert ready_ones, counts.values()
        for pull in ready_ones:
            pull.recv()
            counts[pull] += 1
    assert all(90 <= count <= 111 for count in counts.values()), counts
    poller.unregister(pulls[2])
    pulls[2].close()
    wait_stat("zmq.upstream_cx_ready", 2)
    got = 0
    for number in range(200):
        push.send(b"%d" % number)
    while got < 200:
        ready_ones = dict(poller.poll(10_000))
        assert ready_ones, got
        for pull in ready_ones:
            pull.recv()
            got += 1


def worker_dies_midway():
    """One dies with work: what the system had taken for it is lost, what waited for it goes to the others, once."""
    dying = worker("PULL", 2, rcvhwm=1, rcvbuf=4096)
    pulls = [worker("PULL", index) for index in range(2)]
    push = client("PUSH", sndtimeo=60_000)
    push.send(b"first")
    wait_until("all are connected", lambda: stat("zmq.upstream_cx_ready") == 3)
    number = 900
    sending = in_background(lambda: [push.send(b"%d " % at + bytes(50_000)) for at in range(number)])
    poller = zmq.Poller()
    for pull in pulls:
        poller.register(pull, zmq.POLLIN)
    got = []

    def receive():
        while ready_ones := poller.poll(2_000):
            got.extend(pull.recv().split(b" ")[0] for pull, _ in ready_ones)

    receive()
    sending.join(60)
    kept = number - len(got)
    assert kept > 200, kept
    dying.close()
    wait_stat("zmq.upstream_cx_ready", 2)
    receive()
    expect(len(set(got)), len(got))
    lost = number - len(got)
    assert lost < kept - 50, (kept, lost)


def back_pressure():
    """Workers that do not read stop the source; nothing is lost."""
    pull = worker("PULL", rcvhwm=1)
    push = client("PUSH", sndhwm=1, sndtimeo=1000)
    sent = 0
    try:
        while sent < 100_000:
            push.send(b"%d " % sent + b"x" * 10_000)
            sent += 1
    except zmq.Again:
        pass
    assert 0 < sent < 10_000, sent
    for number in range(sent):
        assert pull.recv().startswith(b"%d " % number), number


def late_worker():
    """Work waits until there is somebody to do it."""
    push = client("PUSH")
    for number in range(10):
        push.send(b"%d" % number)
    time.sleep(1)
    pull = worker("PULL")
    for number in range(10):
        expect(pull.recv(), b"%d" % number)


def pullers():
    """PUSH workers behind the proxy, PULL clients in front of it."""
    pushes = [worker("PUSH", index) for index in range(2)]
    pulls = [client("PULL") for _ in range(3)]
    wait_stat("zmq.cx_ready", 3)
    wait_until("connected", lambda: stat("zmq.upstream_cx_ready") >= 2)
    for number in range(60):
        pushes[number % 2].send(b"%d" % number)
    poller = zmq.Poller()
    for pull in pulls:
        poller.register(pull, zmq.POLLIN)
    got, by = [], set()
    while len(got) < 60:
        ready_ones = dict(poller.poll(10_000))
        assert ready_ones, len(got)
        for pull in ready_ones:
            got.append(int(pull.recv()))
            by.add(pull)
    expect((sorted(got), len(by)), (list(range(60)), 3))


def pairs():
    """PAIR to PAIR, and a client that is a REP."""
    there = worker("PAIR")
    here = client("PAIR")
    here.send(b"up")
    expect(there.recv(), b"up")
    there.send_multipart([b"down", b"x" * 70_000])
    expect(here.recv_multipart(), [b"down", b"x" * 70_000])
    here.close()
    wait_stat("zmq.upstream_cx_ready", 0)


def reps_in_front():
    req = worker("REQ")
    rep = client("REP")
    req.send(b"question")
    expect(rep.recv(), b"question")
    rep.send(b"answer")
    expect(req.recv(), b"answer")


def all_faces():
    """One listener for every type of socket, in 2.0 as in 3.1, and for a peer that waits for our type."""
    for greet in (greet_2_0, lambda raw, kind: greet_3(raw, kind, 1)):
        for kind in TYPES:
            raw = Raw()
            face = greet(raw, kind)
            wanted = {"REQ": "ROUTER", "DEALER": "ROUTER", "ROUTER": "ROUTER", "SUB": "XPUB", "XSUB": "XPUB",
                      "PUB": "XSUB", "XPUB": "XSUB", "PUSH": "PULL", "PULL": "PUSH", "PAIR": "PAIR",
                      "REP": "DEALER"}[kind]
            if isinstance(face, bytes):
                assert wanted.encode() in face, (kind, face)
            else:
                expect(face, {"XPUB": "PUB", "XSUB": "SUB"}.get(wanted, wanted))
    raw = Raw()
    raw.send(SIGNATURE + b"\x01")
    raw.read(11)
    expect(raw.read(1), bytes([TYPES.index("ROUTER")]))


# The bridge


def bridge():
    """POST becomes a request of ZeroMQ."""
    in_background(serve, worker("REP"), b"got ")

    def post(body, path="/rpc/x"):
        request = urllib.request.Request(f"http://127.0.0.1:{proxy_port}{path}", data=body)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    for body in (b"x", b"", b"y" * 100_000):
        expect(post(body), (200, b"got " + body))
    expect(post(b"x" * 200_001)[0], 413)
    expect(post(b"x", "/other"), (200, b"not bridged"))
    expect(urllib.request.urlopen(f"http://127.0.0.1:{proxy_port}/rpc/x").read(), b"not bridged")


def bridge_fails():
    router, codes = worker("ROUTER"), []

    def post():
        request = urllib.request.Request(f"http://127.0.0.1:{proxy_port}/rpc/", data=b"x")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    expect(post(), 504)
    asking = in_background(lambda: codes.append(post()))
    router.recv_multipart()
    frames = router.recv_multipart()
    expect(frames[2:], [b"", b"front", b"x"])
    router.close()
    asking.join(20)
    expect(codes, [502])
    expect(post(), 503)
    expect(stat("zmq.requests_active"), 0)


def request_stat(name):
    return stat(f"zmq_request_proxy.x.{name}")


def proxied_requests(log):
    for index, name in enumerate((b"one ", b"two ")):
        in_background(serve, worker("REP", index), name)
    req = client("REQ")
    names = set()
    for number in range(10):
        req.send_multipart([b"hello", b"%d" % number])
        first, second = req.recv_multipart()
        expect((first, second[4:]), (b"hello", b"%d" % number))
        names.add(second[:4])
    expect(names, {b"one ", b"two "})
    req.send(b"y" * 300_000)
    expect(len(req.recv()), 300_004)
    # A DEALER may have many requests under way, with envelopes of its own.
    dealer = client("DEALER")
    for number in range(50):
        dealer.send_multipart([b"hop", b"", b"%d" % number])
    answers = [dealer.recv_multipart() for _ in range(50)]
    expect({tuple(answer[:2]) for answer in answers}, {(b"hop", b"")})
    expect(sorted(int(answer[2][4:]) for answer in answers), list(range(50)))
    # What no host answers is answered by the proxy.
    req.send(b"lost.x")
    answer = req.recv()
    if not answer.startswith(b"ERR "):
        raise AssertionError(answer)
    expect(request_stat("downstream_rq_total"), 62)
    expect((request_stat("rq_success"), request_stat("rq_unanswered")), (61, 1))
    expect(stat("cluster.workers.upstream_rq_total"), 61)
    # Connections are shared, and are looked after while nothing is asked.
    time.sleep(0.5)
    expect(stat("cluster.workers.upstream_cx_total"), 2)
    expect(stat("cluster.workers.upstream_cx_active"), 2)
    wait_until("log", lambda: open(log).read().count("\n") == 62)
    expect(open(log).read().split("\n")[-2].split(" ")[:2], ["nobody", "UF"])
    # Whoever cannot ask is refused.
    monitor_refused("SUB")


def monitor_refused(kind):
    sock = make(kind)
    monitor = sock.get_monitor_socket()
    monitor.rcvtimeo = PATIENCE_MS
    sock.connect(f"tcp://127.0.0.1:{proxy_port}")
    while recv_monitor_message(monitor)["event"] not in (zmq.EVENT_DISCONNECTED, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
        pass
    sock.close()


def proxied_by_hash():
    for index in range(3):
        in_background(serve, worker("REP", index), b"%d " % index)
    seen = {}
    for _ in range(4):
        req = client("REQ")
        for key in range(30):
            req.send_multipart([b"x", b"key%d" % key])
            seen.setdefault(key, set()).add(req.recv_multipart()[-1][:1])
    expect({len(workers) for workers in seen.values()}, {1})
    expect(set().union(*seen.values()), {b"0", b"1", b"2"})


def proxied_retries(log):
    """A worker that takes requests and does not answer them, and one that does."""
    silent = worker("ROUTER", 0)
    in_background(serve, worker("REP", 1), b"two ")
    req = client("REQ")
    for number in range(4):
        req.send(b"%d" % number)
        expect(req.recv(), b"two %d" % number)
    if not request_stat("rq_retry"):
        raise AssertionError("no retry")
    silent.close()
    for number in range(4):
        req.send(b"%d" % number)
        expect(req.recv(), b"two %d" % number)


def proxied_once(log):
    """What may have been done is not done again."""
    router = worker("ROUTER", 0)
    req = client("REQ")
    req.send(b"x")
    expect(router.recv_multipart()[-1], b"x")
    answer = req.recv()
    if not answer.startswith(b"ERR ") or b"in time" not in answer:
        raise AssertionError(answer)
    router.rcvtimeo = 300
    try:
        raise AssertionError(router.recv_multipart())
    except zmq.Again:
        pass
    # A late answer is nobody's.
    expect((request_stat("rq_timeout"), request_stat("rq_retry")), (1, 0))


def proxied_secured(log):
    from zmq.auth.thread import ThreadAuthenticator

    auth = ThreadAuthenticator(context)
    auth.start()
    auth.configure_plain(domain="*", passwords={"mesh": "other"})
    try:
        in_background(serve, worker("REP", 0, plain_server=True), b"got ")
        good = client("REQ", plain_username=b"me", plain_password=b"secret")
        good.send(b"x")
        expect(good.recv(), b"got x")
        bad = client("REQ", plain_username=b"me", plain_password=b"guess", rcvtimeo=500)
        bad.send(b"x")
        try:
            raise AssertionError(bad.recv())
        except zmq.Again:
            pass
        expect(request_stat("downstream_rq_total"), 1)
    finally:
        auth.stop()


def proxied_garbage(log):
    in_background(serve, worker("REP"), b"got ")
    for data in (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", SIGNATURE + b"\x03\x00NULL" + b"x" * 100, b"\xff" * 64):
        raw = Raw()
        raw.send(data)
        expect(raw.closed(), True)
    wait_until("counted", lambda: request_stat("downstream_cx_protocol_error") == 3)
    big = client("REQ")
    big.send(b"x" * 1001)
    wait_until("counted", lambda: request_stat("downstream_cx_protocol_error") == 4)
    big.close()
    req = client("REQ")
    req.send(b"x")
    expect(req.recv(), b"got x")


def main():
    global proxy_port, admin_port, worker_ports
    signal.alarm(80)
    scenario, proxy, admin, workers, *arguments = sys.argv[1:]
    proxy_port, admin_port = int(proxy), int(admin)
    worker_ports = [int(port) for port in workers.split(",") if port]
    globals()[scenario](*arguments)
    print("done", flush=True)
    # Sockets of threads may still be open.
    os._exit(0)


main()
