"""HTTP/1.1 messages read the plain way, for both ends of an exchange."""

import socket
from dataclasses import dataclass, field

# How long a peer waits for the next byte.
PATIENCE = 6.0
# A connection that shows nothing for this long after the last response is called open.
LINGER = 0.12
ANNOUNCED = 2.0


class Cut(Exception):
    """The other side ended in the middle: 'closed', 'reset' or 'silent'."""


@dataclass
class Message:
    start: str = ""
    fields: list = field(default_factory=list)
    body: bytes = b""
    trailers: list = field(default_factory=list)
    informational: list = field(default_factory=list)
    # 'complete', or what cut it off
    end: str = "complete"

    def value(self, name):
        return next((value for key, value in self.fields if key.lower() == name), None)


class Reader:
    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""

    def fill(self):
        try:
            block = self.sock.recv(65536)
        except socket.timeout:
            raise Cut("silent") from None
        except OSError:
            raise Cut("reset") from None
        if not block:
            raise Cut("closed")
        self.buffer += block

    def line(self):
        while b"\r\n" not in self.buffer:
            self.fill()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line.decode("latin-1")

    def exactly(self, message, count):
        while count:
            if not self.buffer:
                self.fill()
            part, self.buffer = self.buffer[:count], self.buffer[count:]
            message.body += part
            count -= len(part)

    def fields(self):
        out = []
        while line := self.line():
            name, _, value = line.partition(":")
            out.append((name, value.strip()))
        return out

    def body(self, message, is_response, to_head=False):
        status = int(message.start.split()[1]) if is_response else 0
        if to_head or 100 <= status < 200 or status in (204, 304):
            return
        encoding = (message.value("transfer-encoding") or "").lower()
        length = message.value("content-length")
        if "chunked" in encoding:
            while size := int(self.line().split(";")[0], 16):
                self.exactly(message, size)
                self.line()
            message.trailers = self.fields()
        elif length is not None:
            self.exactly(message, int(length))
        elif is_response:
            try:
                while True:
                    self.exactly(message, 1)
            except Cut as cut:
                if str(cut) != "closed":
                    raise

    def request_head(self):
        """None when the other side closed instead."""
        message = Message()
        try:
            message.start = self.line()
        except Cut:
            return None
        message.fields = self.fields()
        return message

    def response(self, to_head=False):
        message = Message()
        try:
            while True:
                message.start = self.line()
                message.fields = self.fields()
                status = message.start.split()[1] if " " in message.start else ""
                if not (status.startswith("1") and status != "101"):
                    break
                message.informational.append((message.start, message.fields))
            self.body(message, True, to_head)
        except Cut as cut:
            message.end = str(cut)
        except (ValueError, IndexError):
            message.end = "malformed"
        return message

    def state(self, announced):
        """What has become of the connection: 'open', 'closed', 'reset', or bytes that nobody awaited.

        `announced`: the last response said that it ends, which may take as long as a delayed close.
        """
        self.sock.settimeout(ANNOUNCED if announced else LINGER)
        try:
            while True:
                self.fill()
        except Cut as cut:
            state = {"silent": "open"}.get(str(cut), str(cut))
        return state if not self.buffer else f"{state} after {self.buffer[:200]!r}"
