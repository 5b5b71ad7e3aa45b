"""Reads case files: a configuration and the exchanges to run on it."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLACES = ("listener", "hcm", "route_config", "http_filters", "clusters")
# The fields of an access-log line, in the order in which they are written.
LOG_FIELDS = {
    "code": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "termination": "%CONNECTION_TERMINATION_DETAILS%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "authority": "%REQ(:AUTHORITY)%",
    "protocol": "%PROTOCOL%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
    "route": "%ROUTE_NAME%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "upstream": "%UPSTREAM_HOST%",
    "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}

# How the origin is spoken to in each pairing.
OPTIONS = (
    'typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": '
    "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {%s}}}"
)
UPSTREAM = {
    "h1": OPTIONS % "http_protocol_options: {enable_trailers: true}",
    "h2": OPTIONS % "http2_protocol_options: {}",
}


class CaseError(Exception):
    pass


@dataclass
class Exchange:
    name: str
    steps: list
    responses: int = 1
    logs: int = 1
    head: bool = False
    http2: bool = False
    # With HTTP/2, though it is written for HTTP/1.1.
    translated: bool = False
    listener: str = "front"


@dataclass
class Case:
    name: str
    sections: dict = field(default_factory=dict)
    replies: dict = field(default_factory=dict)
    exchanges: list = field(default_factory=list)
    stats: list = field(default_factory=list)
    values: dict = field(default_factory=lambda: {"origin_options": ""})

    def variants(self):
        """The case itself, or where it has a section `pairings` one for each pairing of protocols."""
        if "pairings" not in self.sections:
            return [self]
        return [self.paired(downstream, upstream) for downstream in UPSTREAM for upstream in UPSTREAM]

    def paired(self, downstream, upstream):
        is_http2 = downstream == "h2"
        exchanges = [replace(exchange, http2=is_http2, translated=is_http2) for exchange in self.exchanges]
        name = f"{self.name}-{downstream}-{upstream}"
        return replace(self, name=name, exchanges=exchanges, values={"origin_options": UPSTREAM[upstream]})

    def log_fields(self):
        """Operators by name, from the section `log`; None if lines are compared whole."""
        if "log_format" in self.sections:
            return None
        if "log" not in self.sections:
            return LOG_FIELDS
        return dict(line.split(" ", 1) for line in self.sections["log"].splitlines() if line.strip())

    def bootstrap(self, values):
        """The configuration with its places filled and `${name}` replaced."""
        values = self.values | values
        fields = self.log_fields()
        if fields is not None:
            operators = "|".join(fields.values()).replace('"', '\\"') + "\\n"
            values = values | {"log_format": f'log_format: {{text_format_source: {{inline_string: "{operators}"}}}}'}
        else:
            values = values | {"log_format": " ".join(self.sections["log_format"].split("\n")).strip() or "{}"}
            values["log_format"] = "" if values["log_format"] == "{}" else values["log_format"]
        text = self.sections.get("bootstrap")
        if text is None:
            text = (HERE / "skeleton.yaml").read_text()
            for place in PLACES:
                text = fill(text, place, self.sections.get(place, ""))

        def value(found):
            if found.group(1) not in values:
                raise CaseError(f"{self.name}: unknown value {found.group(0)}")
            return str(values[found.group(1)])

        return re.sub(r"\$\{(\w+)\}", value, text)


def fill(text, place, content):
    """Puts `content` in the place of the line `{{place}}`, at its indentation."""
    out = []
    for line in text.splitlines():
        if line.strip() == "{{" + place + "}}":
            indent = line[: len(line) - len(line.lstrip())]
            out += [indent + inner if inner.strip() else "" for inner in content.splitlines()]
        else:
            out.append(line)
    return "\n".join(out) + "\n"


def load(path):
    case = Case(path.stem)
    kind, title, lines = None, "", []

    def finish():
        if kind is None:
            return
        if kind in PLACES or kind in ("bootstrap", "log", "log_format", "pairings"):
            case.sections[kind] = "\n".join(lines) + "\n"
        elif kind == "reply":
            case.replies[title] = steps(lines, path)
        elif kind == "exchange":
            case.exchanges.append(exchange(title, lines, path))
        elif kind == "stats":
            case.stats += [line.strip() for line in lines if line.strip()]
        elif kind != "comment":
            raise CaseError(f"{path}: unknown section {kind}")

    for line in path.read_text().split("\n"):
        if line.startswith("==="):
            finish()
            kind, _, title = line[3:].strip().partition(" ")
            lines = []
        else:
            lines.append(line)
    # The file's own last line end is no line.
    if lines and lines[-1] == "":
        lines.pop()
    finish()
    return case


def exchange(title, lines, path):
    name, *options = title.split()
    made = Exchange(name, steps(lines, path))
    logs = None
    for option in options:
        key, _, value = option.partition("=")
        if key == "responses":
            made.responses = int(value)
        elif key == "logs":
            logs = int(value)
        elif key == "head":
            made.head = True
        elif key == "http2":
            made.http2 = True
        elif key == "listener":
            made.listener = value
        else:
            raise CaseError(f"{path}: {name}: unknown option {option}")
    reads = sum(1 for step in made.steps if step[0] == "read")
    made.logs = made.responses + reads if logs is None else logs
    return made


def steps(lines, path):
    """The bytes and actions of a reply or an exchange."""
    out, pending = [], b""
    for line in lines:
        if line.startswith("%"):
            action, _, value = line[1:].partition(" ")
            if action not in ("wait", "close", "reset", "read", "silence", "fill"):
                raise CaseError(f"{path}: unknown action {line}")
            if action == "fill":
                pending += b"x" * int(value)
                continue
            if pending:
                out.append(("send", pending))
                pending = b""
            out.append((action, float(value) if value else None))
        elif line.endswith("\\") and not line.endswith("\\\\"):
            pending += unescape(line[:-1])
        else:
            pending += unescape(line) + b"\r\n"
    if pending:
        out.append(("send", pending))
    return out


def unescape(text):
    plain = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}
    out, at = b"", 0
    for found in re.finditer(r"\\(x([0-9a-fA-F]{2})|[rnt0\\])", text):
        out += text[at : found.start()].encode()
        out += bytes([int(found.group(2), 16)]) if found.group(2) else plain[found.group(1)]
        at = found.end()
    return out + text[at:].encode()
