"""The origin server's side of a connection with HTTP/2."""

import threading
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from translate import Parts
from wire import Message

PREFACE = b"PRI * HTTP/2"


class Http2Origin:
    """A connection: each request is answered by a thread of its own."""

    def __init__(self, sock, seen, reply_to):
        self.sock, self.seen, self.reply_to = sock, seen, reply_to
        config = h2.config.H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=False)
        self.connection = h2.connection.H2Connection(config=config)
        self.streams = {}
        # Guards the connection; told of each change of its windows.
        self.changed = threading.Condition()

    def serve(self):
        with self.changed:
            self.connection.initiate_connection()
            self.flush()
        try:
            while block := self.sock.recv(65536):
                with self.changed:
                    for event in self.connection.receive_data(block):
                        self.note(event)
                    self.flush()
                    self.changed.notify_all()
        except (OSError, h2.exceptions.ProtocolError):
            pass
        for message in self.streams.values():
            message.end = "closed" if message.end == "silent" else message.end

    def flush(self):
        self.sock.sendall(self.connection.data_to_send())

    def note(self, event):
        kinds, stream = h2.events, getattr(event, "stream_id", None)
        message = self.streams.get(stream)
        if isinstance(event, kinds.RequestReceived):
            pseudo = dict(event.headers)
            start = f"{pseudo.get(':method')} {pseudo.get(':path')} HTTP/2"
            fields = [(name, value) for name, value in event.headers if name not in (":method", ":path")]
            message = self.streams[stream] = Message(start, fields, end="silent")
            self.seen(message)
        elif message is None:
            return
        elif isinstance(event, kinds.DataReceived):
            message.body += event.data
            self.connection.acknowledge_received_data(event.flow_controlled_length, stream)
        elif isinstance(event, kinds.TrailersReceived):
            message.trailers = event.headers
        elif isinstance(event, kinds.StreamReset) and message.end == "silent":
            message.end = f"RST_STREAM {int(event.error_code)}"
        elif isinstance(event, kinds.StreamEnded):
            message.end = "complete"
            threading.Thread(target=self.answer, args=(stream, message), daemon=True).start()

    def answer(self, stream, message):
        parts = Parts(False if message.start.startswith("HEAD ") else None)
        try:
            for action, value in self.reply_to(message):
                if action == "send":
                    self.send(stream, parts.take(value))
                elif action == "wait":
                    time.sleep(value)
                elif action == "reset":
                    with self.changed:
                        self.connection.reset_stream(stream, 2)
                        self.flush()
                elif action == "close":
                    self.sock.shutdown(2)
                elif action == "silence":
                    return
        except (OSError, h2.exceptions.ProtocolError):
            # The proxy has given up.
            return

    def send(self, stream, parts):
        for kind, *part in parts:
            if kind == "data":
                self.send_data(stream, *part)
                continue
            with self.changed:
                if kind == "head":
                    start, fields, is_whole = part
                    status = (":status", start.split(" ")[1])
                    self.connection.send_headers(stream, [status, *fields], end_stream=is_whole)
                else:
                    self.connection.send_headers(stream, part[0], end_stream=True)
                self.flush()

    def send_data(self, stream, data, is_whole):
        with self.changed:
            while len(data) > (room := self.room(stream)):
                self.connection.send_data(stream, data[:room])
                self.flush()
                data = data[room:]
                if not self.changed.wait_for(lambda: self.room(stream), 6):
                    return
            self.connection.send_data(stream, data, end_stream=is_whole)
            self.flush()

    def room(self, stream):
        return min(self.connection.local_flow_control_window(stream), self.connection.max_outbound_frame_size)
