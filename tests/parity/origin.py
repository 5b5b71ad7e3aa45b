"""The origin server behind the proxies: keeps what it was sent, answers as the case says."""

import re
import socket
import struct
import threading
import time

from wire import Cut, Reader

try:
    from origin2 import PREFACE, Http2Origin
except ImportError:
    PREFACE, Http2Origin = None, None

DEFAULT = [("send", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-origin: yes\r\n\r\nok")]


class Origin:
    def __init__(self, replies):
        self.replies = replies
        self.seen = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("", 0))
        self.port = self.listener.getsockname()[1]
        self.ended = threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def take(self):
        """The requests since the last call, whole or cut off."""
        with self.lock:
            seen, self.seen = self.seen, []
        return seen

    def serve(self, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = Reader(sock)
        with sock:
            if PREFACE and begins_with(sock, PREFACE):
                return Http2Origin(sock, self.note, self.reply_to).serve()
            while (message := self.head(reader)) is not None:
                self.note(message)
                if (message.value("expect") or "").lower() == "100-continue":
                    sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                # A reply may be wanted before the body is there.
                reply = self.reply_to(message)
                if not (reply and reply[0][0] == "early"):
                    try:
                        reader.body(message, False)
                    except (Cut, ValueError) as cut:
                        message.end = str(cut) if isinstance(cut, Cut) else "malformed"
                        return
                if not self.perform(sock, reply):
                    return

    def note(self, message):
        with self.lock:
            self.seen.append(message)

    def reply_to(self, message):
        return self.replies.get(name(message), DEFAULT)

    def head(self, reader):
        try:
            return reader.request_head()
        except Cut:
            return None

    def perform(self, sock, reply):
        """False when the connection has ended."""
        for action, value in reply:
            try:
                if action == "send":
                    sock.sendall(value)
                elif action == "wait":
                    time.sleep(value)
                elif action == "close":
                    return False
                elif action == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return False
                elif action == "silence":
                    sock.settimeout(30)
                    while sock.recv(65536):
                        pass
                    return False
            except OSError:
                return False
        return True

    def close(self):
        self.listener.close()


def begins_with(sock, text):
    """Whether the first octets are those; they stay where they are."""
    try:
        return sock.recv(len(text), socket.MSG_PEEK) == text
    except OSError:
        return False


def name(message):
    found = re.search(r"reply=([\w-]+)", message.start)
    return found.group(1) if found else (message.value("x-reply") or "")


class BlackHole:
    """A port that answers no SYN: a listener whose queue is full."""

    def __init__(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.queued = []
        for _ in range(64):
            sock = socket.socket()
            sock.settimeout(0.2)
            self.queued.append(sock)
            try:
                sock.connect(("127.0.0.1", self.port))
            except OSError:
                return
        raise RuntimeError("the queue of a listener never fills")

    def close(self):
        for sock in [*self.queued, self.listener]:
            sock.close()


def refused_port():
    """A port where nobody listens; it stays bound, so that nobody will."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock, sock.getsockname()[1]
