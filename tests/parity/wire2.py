"""The client of an exchange over HTTP/2: its requests are written in the form of HTTP/1.1 and leave as streams."""

import socket

from translate import Parts
from wire import LINGER, Message

try:
    import h2.config
    import h2.connection
    import h2.events
    import h2.exceptions
except ImportError:
    h2 = None


class Http2:
    """A connection. What is sent may break the rules; what is received may not."""

    def __init__(self, sock):
        if h2 is None:
            raise OSError("the package h2 is missing: run with the Python of .venv")
        self.sock = sock
        # Field names and values leave as they are written.
        config = h2.config.H2Configuration(header_encoding="latin-1", validate_outbound_headers=False,
                                           normalize_outbound_headers=False)
        self.connection = h2.connection.H2Connection(config=config)
        self.connection.initiate_connection()
        self.messages, self.awaited, self.stream, self.parts = {}, [], None, None
        self.ended = ""
        self.flush()

    def flush(self):
        self.sock.sendall(self.connection.data_to_send())

    def send(self, text, is_whole):
        """A request, or what follows in the body of the last one; `is_whole`: nothing follows it."""
        if self.stream is None:
            head, _, body = text.partition(b"\r\n\r\n")
            self.stream = self.connection.get_next_available_stream_id()
            self.messages[self.stream] = Message(end="silent")
            self.awaited.append(self.stream)
            self.connection.send_headers(self.stream, fields(head.decode("latin-1")), end_stream=is_whole and not body)
        else:
            body = text
        if body:
            self.connection.send_data(self.stream, body, end_stream=is_whole)
        if is_whole:
            self.stream = None
        self.flush()

    def send_translated(self, text):
        """A request in the form of HTTP/1.1, or a piece of it, as HTTP/2 would have it said."""
        if self.parts is None:
            self.parts = Parts(None)
        for kind, *part in self.parts.take(text):
            if kind == "head":
                start, given, is_whole = part
                self.stream = self.connection.get_next_available_stream_id()
                self.messages[self.stream] = Message(end="silent")
                self.awaited.append(self.stream)
                written = "\r\n".join([start, *(f"{name}: {value}" for name, value in given)])
                self.connection.send_headers(self.stream, fields(written), end_stream=is_whole)
            elif kind == "data":
                self.send_data(*part)
            else:
                self.connection.send_headers(self.stream, part[0], end_stream=True)
        if self.parts.state == "over":
            self.parts, self.stream = None, None
        self.flush()

    def send_data(self, data, is_whole):
        while len(data) > (room := self.room()):
            self.connection.send_data(self.stream, data[:room])
            self.flush()
            data = data[room:]
            while not self.room():
                if not self.receive():
                    raise OSError("the window stays closed")
        self.connection.send_data(self.stream, data, end_stream=is_whole)

    def room(self):
        return min(self.connection.local_flow_control_window(self.stream), self.connection.max_outbound_frame_size)

    def reset(self):
        self.connection.reset_stream(self.awaited[-1], 8)
        self.flush()

    def response(self, _to_head=False):
        """The next response, in the order of the requests."""
        stream = self.awaited.pop(0) if self.awaited else None
        if stream is None:
            return Message(end="no request")
        message = self.messages[stream]
        while message.end == "silent" and not self.ended and self.receive():
            pass
        if message.end == "silent" and self.ended:
            message.end = self.ended
        return message

    def state(self, _announced):
        self.sock.settimeout(LINGER)
        while not self.ended and self.receive():
            pass
        return self.ended or "open"

    def receive(self):
        try:
            block = self.sock.recv(65536)
        except socket.timeout:
            return False
        except OSError:
            block = b""
        if not block:
            self.ended = self.ended or "closed"
            return False
        try:
            for event in self.connection.receive_data(block):
                self.note(event)
            self.flush()
        except h2.exceptions.ProtocolError as error:
            self.ended = f"malformed: {error}"
        except OSError:
            self.ended = self.ended or "closed"
        return True

    def note(self, event):
        message = self.messages.get(getattr(event, "stream_id", None))
        kinds = h2.events
        if isinstance(event, kinds.ConnectionTerminated):
            self.ended = f"closed, GOAWAY {int(event.error_code)}"
        elif message is None:
            return
        elif isinstance(event, (kinds.ResponseReceived, kinds.InformationalResponseReceived)):
            plain = [(name, value) for name, value in event.headers if not name.startswith(":")]
            start = f"HTTP/2 {dict(event.headers)[':status']} "
            if isinstance(event, kinds.ResponseReceived):
                message.start, message.fields = start, plain
            else:
                message.informational.append((start, plain))
        elif isinstance(event, kinds.DataReceived):
            message.body += event.data
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, kinds.TrailersReceived):
            message.trailers = event.headers
        elif isinstance(event, kinds.StreamEnded):
            message.end = "complete"
        elif isinstance(event, kinds.StreamReset) and message.end != "complete":
            message.end = f"RST_STREAM {int(event.error_code)}"


def fields(head):
    """The fields of a request: pseudo-header fields of its first line and of `host`, unless they are written out."""
    start, *lines = head.split("\r\n")
    rest = []
    for line in lines:
        # Behind the colon of a pseudo-header field's own name.
        name, _, value = line[1:].partition(":")
        rest.append((line[:1] + name, value.strip(" ")))
    if start.startswith(":"):
        name, _, value = start[1:].partition(":")
        return [(":" + name, value.strip(" ")), *rest]
    method, target, _ = start.split(" ", 2)
    pseudo = [(":method", method), (":scheme", "http"), (":path", target)]
    authority = [(":authority", value) for name, value in rest if name == "host"]
    return pseudo + authority + [(name, value) for name, value in rest if name != "host"]
