"""Takes messages written in the form of HTTP/1.1 apart into what HTTP/2 says instead."""

# What HTTP/2 says by itself.
LEFT_OUT = ("connection", "keep-alive", "transfer-encoding")


class Parts:
    """One message, given in any pieces."""

    def __init__(self, has_body=None):
        # Whether a body follows, where that cannot be told from the head: answers to HEAD have none.
        self.has_body = has_body
        self.text = b""
        self.state = "head"
        self.left = 0

    def take(self, text):
        """What `text` completes: ('head', start line, fields, is whole), ('data', octets, is whole) or
        ('trailers', fields)."""
        self.text += text
        out = []
        while part := getattr(self, self.state)():
            out.append(part)
        return out

    def head(self):
        head, end, rest = self.text.partition(b"\r\n\r\n")
        if not end:
            return None
        self.text = rest
        start, *lines = head.decode("latin-1").split("\r\n")
        fields = read_fields(lines)
        values = dict(fields)
        if start.split(" ")[1].startswith("1"):
            return ("head", start, fields, False)
        self.left = int(values.get("content-length", "0"))
        if self.has_body is False or start.split(" ")[1] in ("204", "304"):
            self.state = "over"
        elif "chunked" in values.get("transfer-encoding", ""):
            self.state = "chunk"
        else:
            self.state = "length" if self.left else "over"
        kept = [(name, value) for name, value in fields if name not in LEFT_OUT]
        return ("head", start, kept, self.state == "over")

    def length(self):
        data, self.text = self.text[: self.left], self.text[self.left :]
        self.left -= len(data)
        if not self.left:
            self.state = "over"
        return ("data", data, not self.left) if data else None

    def chunk(self):
        line, end, rest = self.text.partition(b"\r\n")
        size = int(line.split(b";")[0], 16) if end else 0
        if end and not size:
            self.state = "over"
            trailers = read_fields(rest.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")) if rest.strip() else []
            return ("trailers", trailers) if trailers else ("data", b"", True)
        if not end or len(rest) < size + 2:
            return None
        self.text = rest[size + 2 :]
        return ("data", rest[:size], False)

    def over(self):
        return None


def read_fields(lines):
    pairs = (line.partition(":") for line in lines if line)
    return [(name.lower(), value.strip(" ")) for name, _, value in pairs]
