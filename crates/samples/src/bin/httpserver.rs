//! `httpserver PORT`: answers every request with one JSON line of the request's body and headers, and prints it.
//!
//! The line is what Go's `encoding/json` makes of a map, and the response what Go's `net/http` makes of a handler that
//! writes it: the original demo server was such a program, and people compare.

use sota_samples::{canonical_header_name, is_token, push_json_string};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Request line and fields together; Go's default is 1 MiB.
const MAX_HEAD_BYTES: usize = 1 << 20;
/// The body is held in memory, so it needs an end.
const MAX_BODY_BYTES: usize = 64 << 20;
/// From this size on Go no longer knows the length when it writes the head.
const GO_WRITE_BUFFER_BYTES: usize = 2048;

fn main() -> ExitCode {
    let Some(port) = std::env::args().nth(1) else {
        println!("please input port");
        return ExitCode::from(2);
    };
    let Ok(port) = port.parse::<u16>() else {
        eprintln!("not a port: {port}");
        return ExitCode::from(2);
    };
    let listener = match listen(port) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("port {port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Ok(address) = listener.local_addr() {
        eprintln!("listening on {address}");
    }
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                if let Err(error) = thread::Builder::new().spawn(move || serve(stream)) {
                    eprintln!("no thread for a connection: {error}");
                }
            }
            Err(error) => {
                eprintln!("accept: {error}");
                // Out of file descriptors: give connections time to end instead of spinning.
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
    ExitCode::SUCCESS
}

/// Listens on every address, IPv6 and IPv4, or IPv4 alone where there is no IPv6.
fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
        _ => TcpListener::bind(("0.0.0.0", port)),
    })
}

fn serve(stream: TcpStream) {
    // Small answers must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let Ok(reading) = stream.try_clone() else { return };
    let mut reader = BufReader::new(reading);
    let mut writer = stream;
    loop {
        match read_request(&mut reader, &mut writer) {
            Ok(Some(request)) => {
                let line = request.json_line();
                print!("{line}");
                let _ = io::stdout().flush();
                if write_response(&mut writer, &request, &line).is_err() || request.close {
                    return;
                }
            }
            Ok(None) => return,
            Err(Refusal::Io) => return,
            Err(Refusal::Status(status)) => {
                let _ = write!(
                    writer,
                    "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n{status}",
                    status.split(": ").next().unwrap_or(status)
                );
                return;
            }
        }
    }
}

struct Request {
    head_only: bool,
    http11: bool,
    /// The connection ends after this request.
    close: bool,
    /// An HTTP/1.0 client asked to go on.
    keep_alive_10: bool,
    header: BTreeMap<String, Vec<Vec<u8>>>,
    body: Vec<u8>,
}

/// Why a request is not answered by the handler.
enum Refusal {
    Io,
    Status(&'static str),
}

const BAD_REQUEST: Refusal = Refusal::Status("400 Bad Request");

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl Request {
    /// `{"body":"...","header":{"K":["v"]}}` and a newline, keys sorted.
    fn json_line(&self) -> String {
        let mut out = String::from("{\"body\":");
        push_json_string(&mut out, &self.body);
        out.push_str(",\"header\":{");
        for (i, (name, values)) in self.header.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            push_json_string(&mut out, name.as_bytes());
            out.push_str(":[");
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                push_json_string(&mut out, value);
            }
            out.push(']');
        }
        out.push_str("}}\n");
        out
    }
}

/// Reads one request; `None` when the client closed between two.
fn read_request(reader: &mut impl BufRead, writer: &mut impl Write) -> Result<Option<Request>, Refusal> {
    let mut room = MAX_HEAD_BYTES;
    let Some(line) = read_line(reader, &mut room)? else { return Ok(None) };
    let line = String::from_utf8(line).map_err(|_| BAD_REQUEST)?;
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(BAD_REQUEST);
    };
    if !is_token(method) || target.is_empty() {
        return Err(BAD_REQUEST);
    }
    let http11 = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ if version.starts_with("HTTP/") => {
            return Err(Refusal::Status("505 HTTP Version Not Supported: unsupported protocol version"));
        }
        _ => return Err(BAD_REQUEST),
    };
    let mut header = read_fields(reader, &mut room)?;

    let hosts = header.remove("Host").unwrap_or_default();
    if hosts.len() > 1 {
        return Err(Refusal::Status("400 Bad Request: too many Host headers"));
    }
    if hosts.is_empty() && http11 {
        return Err(Refusal::Status("400 Bad Request: missing required Host header"));
    }
    let body = read_body(reader, writer, http11, &mut room, &mut header)?;
    // Go's server answers old caches' way of asking as the new one.
    if !header.contains_key("Cache-Control")
        && header.get("Pragma").and_then(|values| values.first()).is_some_and(|value| value == b"no-cache")
    {
        header.insert("Cache-Control".to_owned(), vec![b"no-cache".to_vec()]);
    }
    let says = |token: &str| header.get("Connection").is_some_and(|values| has_token(values, token));
    let keep_alive_10 = !http11 && says("keep-alive") && !says("close");
    let close = says("close") || (!http11 && !keep_alive_10);
    Ok(Some(Request { head_only: method == "HEAD", http11, close, keep_alive_10, header, body }))
}

/// A line without its end; `None` at the end of the stream. Takes what it read from `room`, which is a limit.
fn read_line(reader: &mut impl BufRead, room: &mut usize) -> Result<Option<Vec<u8>>, Refusal> {
    let mut line = Vec::new();
    let n = reader.by_ref().take(*room as u64).read_until(b'\n', &mut line)?;
    if n == 0 && *room > 0 {
        return Ok(None);
    }
    *room -= n;
    if line.pop() != Some(b'\n') {
        return Err(if *room == 0 { Refusal::Status("431 Request Header Fields Too Large") } else { Refusal::Io });
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(line))
}

fn read_fields(reader: &mut impl BufRead, room: &mut usize) -> Result<BTreeMap<String, Vec<Vec<u8>>>, Refusal> {
    let mut header = BTreeMap::<String, Vec<Vec<u8>>>::new();
    loop {
        let line = read_line(reader, room)?.ok_or(Refusal::Io)?;
        if line.is_empty() {
            return Ok(header);
        }
        let colon = line.iter().position(|&b| b == b':').ok_or(BAD_REQUEST)?;
        let (name, value) = line.split_at(colon);
        let name = str::from_utf8(name).map_err(|_| BAD_REQUEST)?;
        let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
        if !is_token(name) || value.iter().any(|&b| b != b'\t' && (b < 0x20 || b == 0x7f)) {
            return Err(BAD_REQUEST);
        }
        header.entry(canonical_header_name(name)).or_default().push(value.to_vec());
    }
}

/// Reads the body that the framing fields announce, and removes those that Go's server keeps for itself.
fn read_body(
    reader: &mut impl BufRead,
    writer: &mut impl Write,
    http11: bool,
    room: &mut usize,
    header: &mut BTreeMap<String, Vec<Vec<u8>>>,
) -> Result<Vec<u8>, Refusal> {
    let encoding = header.remove("Transfer-Encoding");
    header.remove("Trailer");
    let lengths = header.get("Content-Length").cloned().unwrap_or_default();
    let expects = header.get("Expect").is_some_and(|values| has_token(values, "100-continue"));
    if header.contains_key("Expect") && !expects {
        return Err(Refusal::Status("417 Expectation Failed"));
    }
    let chunked = match encoding {
        Some(values) if http11 => {
            if values.len() != 1 || !values.iter().all(|value| value.eq_ignore_ascii_case(b"chunked")) {
                return Err(Refusal::Status("501 Not Implemented: unsupported transfer encoding"));
            }
            header.remove("Content-Length");
            true
        }
        _ => false,
    };
    let length = if chunked { 0 } else { content_length(&lengths)? };
    if length > MAX_BODY_BYTES {
        return Err(Refusal::Status("413 Request Entity Too Large"));
    }
    if expects && http11 && (chunked || length > 0) {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if chunked {
        return read_chunks(reader, room);
    }
    let mut body = Vec::new();
    if reader.by_ref().take(length as u64).read_to_end(&mut body)? < length {
        return Err(Refusal::Io);
    }
    Ok(body)
}

fn content_length(values: &[Vec<u8>]) -> Result<usize, Refusal> {
    let Some(first) = values.first() else { return Ok(0) };
    if first.is_empty() || !first.iter().all(u8::is_ascii_digit) || values.iter().any(|value| value != first) {
        return Err(BAD_REQUEST);
    }
    str::from_utf8(first).ok().and_then(|digits| digits.parse().ok()).ok_or(BAD_REQUEST)
}

fn read_chunks(reader: &mut impl BufRead, room: &mut usize) -> Result<Vec<u8>, Refusal> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader, room)?.ok_or(Refusal::Io)?;
        let digits = line.split(|&b| b == b';').next().unwrap_or_default().trim_ascii_end();
        if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(BAD_REQUEST);
        }
        let size = str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
        let size = size.ok_or(BAD_REQUEST)?;
        if size == 0 {
            // The trailers are read and, as the original's handler never looked at them, dropped.
            read_fields(reader, room)?;
            return Ok(body);
        }
        if body.len() + size > MAX_BODY_BYTES {
            return Err(Refusal::Status("413 Request Entity Too Large"));
        }
        if reader.by_ref().take(size as u64).read_to_end(&mut body)? < size {
            return Err(Refusal::Io);
        }
        if !read_line(reader, room)?.ok_or(Refusal::Io)?.is_empty() {
            return Err(BAD_REQUEST);
        }
    }
}

fn has_token(values: &[Vec<u8>], token: &str) -> bool {
    values
        .iter()
        .flat_map(|value| value.split(|&b| b == b','))
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Writes the answer with the fields and in the order of Go's server.
fn write_response(writer: &mut impl Write, request: &Request, line: &str) -> io::Result<()> {
    let version = if request.http11 { "HTTP/1.1" } else { "HTTP/1.0" };
    let date = http_date(SystemTime::now());
    let mut out = format!("{version} 200 OK\r\nDate: {date}\r\n").into_bytes();
    let small = line.len() <= GO_WRITE_BUFFER_BYTES;
    if small {
        write!(out, "Content-Length: {}\r\n", line.len())?;
    }
    out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n");
    // Without a length an HTTP/1.0 body ends with the connection.
    if request.http11 && request.close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if request.keep_alive_10 && small {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    let chunked = !small && request.http11 && !request.head_only;
    if chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !request.head_only {
        if chunked {
            write!(out, "{:x}\r\n{line}\r\n0\r\n\r\n", line.len())?;
        } else {
            out.extend_from_slice(line.as_bytes());
        }
    }
    writer.write_all(&out)?;
    if request.keep_alive_10 && !small {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    Ok(())
}

/// The form of RFC 9110 §5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of year 0, so that the leap day is a year's last.
    let from_march = days + 719_468;
    let (era, day_of_era) = (from_march / 146_097, from_march % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[(month - 1) as usize],
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_standard() {
        let at = |seconds| http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(at(4_107_542_399), "Sun, 28 Feb 2100 23:59:59 GMT");
        assert_eq!(at(1_798_761_599), "Thu, 31 Dec 2026 23:59:59 GMT");
    }
}
