"""The libzmq side of the test beside this file: runs the scenarios given as arguments, one after the other.

A scenario is `name,socket type,mechanism`. With `connect PORT` the sockets connect to that port; with `bind` they bind,
and each port is printed as a line. Whatever goes wrong is an exception, and the exit code tells.
"""

import signal
import sys
import time

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

# The keys in the manual of zmq_curve.
CLIENT = (b"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID", b"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs")
SERVER = (b"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7", b"JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6")
MESSAGES = [
    [b"x"],
    [b""],
    [b"a", b"", b"c"],
    [b"s" * 255],
    [b"l" * 256, b"m" * 65535],
    [b"M" * (1 << 20)],
]

context = zmq.Context()
# Of a socket that is to be refused: made before it connects.
monitors = []


def make(kind, mechanism, binds):
    socket = context.socket(getattr(zmq, kind))
    socket.linger = 1000
    socket.rcvtimeo = 5000
    if mechanism.startswith("PLAIN") and binds:
        socket.plain_server = True
    elif mechanism.startswith("PLAIN"):
        socket.plain_username = b"me"
        socket.plain_password = b"wrong" if mechanism == "PLAIN-BAD" else b"secret"
    elif mechanism == "CURVE" and binds:
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = SERVER
    elif mechanism.startswith("CURVE"):
        socket.curve_publickey, socket.curve_secretkey = CLIENT
        socket.curve_serverkey = CLIENT[0] if mechanism == "CURVE-BAD" else SERVER[0]
    return socket


def expect(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r:.200} instead of {wanted!r:.200}")


def echo(socket, kind, place):
    """Sends, and gets the same back; a ROUTER names its peer first."""
    front = []
    if kind == "ROUTER":
        front = [b"peer"]
    for message in MESSAGES:
        socket.send_multipart(front + message)
        expect(socket.recv_multipart(), front + message)


def pipeline(socket, kind, place):
    for number in range(2000):
        socket.send_multipart([b"", str(number).encode()])
    for number in range(2000):
        expect(socket.recv_multipart(), [b"", str(number).encode()])


def respond(socket, kind, place):
    """Answers what comes until the answer to `end` is out."""
    while True:
        frames = socket.recv_multipart()
        socket.send_multipart(frames)
        if frames[-1] == b"end":
            return


def subscribe(socket, kind, place):
    socket.setsockopt(zmq.SUBSCRIBE, b"AB") if kind == "SUB" else socket.send(b"\x01AB")
    expect(socket.recv_multipart(), [b"AB1", b"second"])
    socket.setsockopt(zmq.UNSUBSCRIBE, b"AB") if kind == "SUB" else socket.send(b"\x00AB")
    socket.setsockopt(zmq.SUBSCRIBE, b"") if kind == "SUB" else socket.send(b"\x01")
    expect(socket.recv_multipart(), [b"bye"])


def publish(socket, kind, place):
    """Publishes until the subscriber has gone away."""
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    for _ in range(500):
        socket.send_multipart([b"other", b"0"])
        socket.send_multipart([b"A", b"1"])
        if monitor.poll(10):
            socket.disable_monitor()
            return
    raise AssertionError("nobody went away")


def push(socket, kind, place):
    for message in MESSAGES:
        socket.send_multipart(message)
    time.sleep(0.05)


def pull(socket, kind, place):
    for message in MESSAGES:
        expect(socket.recv_multipart(), message)


def heartbeat(socket, kind, place):
    """Lives on the peer's PONGs alone, and then speaks."""
    time.sleep(0.4)
    socket.send(b"alive")
    expect(socket.recv(), b"alive")


def greet(socket, kind, place):
    """Is content with the handshake."""
    while recv_monitor_message(monitors[0])["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED:
        pass
    socket.disable_monitor()
    monitors.pop().close()


def refused(socket, kind, place):
    """Sees an event that says so."""
    wanted = {
        # libzmq 4.3 has a slip in PLAIN's ERROR, so that it does not know the right one.
        "protocol": zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        "closed": zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    }[place]
    while True:
        if not monitors[0].poll(5000):
            raise AssertionError("not refused")
        if recv_monitor_message(monitors[0])["event"] & wanted:
            socket.disable_monitor()
            monitors.pop().close()
            return


def main():
    signal.alarm(30)
    binds, port, scenarios = sys.argv[1] == "bind", sys.argv[2], sys.argv[3:]
    authenticator = None
    if binds:
        # A PLAIN server lets nobody in without one.
        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        authenticator.configure_plain(domain="*", passwords={"me": "secret"})
        authenticator.configure_curve(domain="*", location=zmq.auth.CURVE_ALLOW_ANY)
    for scenario in scenarios:
        name, kind, mechanism = scenario.split(",")
        name, _, place = name.partition(":")
        socket = make(kind, mechanism, binds)
        if name == "heartbeat":
            socket.heartbeat_ivl = 50
            socket.heartbeat_timeout = 200
            socket.heartbeat_ttl = 1000
        if name in ("refused", "greet"):
            monitors.append(socket.get_monitor_socket())
        if kind in ("REQ", "DEALER") and not binds:
            socket.routing_id = b"libzmq"
        if binds:
            print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
        else:
            if kind == "ROUTER":
                socket.setsockopt(zmq.CONNECT_ROUTING_ID, b"peer")
            socket.connect(f"tcp://127.0.0.1:{port}")
        globals()[name](socket, kind, place)
        print(f"done {scenario}", file=sys.stderr, flush=True)
        socket.close()
    if authenticator:
        authenticator.stop()
    context.term()


main()
