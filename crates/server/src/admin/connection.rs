//! A connection to the admin interface: HTTP/1.1, one request after the other.

use super::{Body, Reply, Request, commands};
use crate::server::Server;
use sota_codec::http1::{
    BodyDecoder, BodyEvent, BodyLength, ConnectionField, DecodeOptions, HeadEncoding, HeadProgress, Http1Error,
    LAST_CHUNK, RequestInfo, RequestOutcome, decode_request, encode_chunk, encode_response_head,
};
use sota_plugin::http::{HeaderId, Method, Protocol, RequestHead, ResponseHead, StatusCode};
use std::{
    io,
    rc::Rc,
    time::{Duration, SystemTime},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Without a request, or without the peer taking an answer, a connection ends after this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Parameters of a POST may be this long.
const MAX_BODY: usize = 64 * 1024;

/// Serves one connection to its end. What goes wrong on it ends it: there is nobody to tell.
pub(super) async fn serve(server: Rc<Server>, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut input = Vec::new();
    let stats = &server.admin_stats;
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    while let Ok(true) = exchange(&server, &mut stream, &mut input).await {}
    let _ = stream.shutdown().await;
    stats.downstream_cx_active.dec();
}

/// One request and its answer. Whether another may follow.
async fn exchange<S>(server: &Rc<Server>, stream: &mut S, input: &mut Vec<u8>) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = RequestHead::default();
    let info = match read_head(stream, input, &mut head).await? {
        Some(Ok(info)) => info,
        Some(Err(error)) => {
            server.admin_stats.count(error.status());
            let reply = Reply::error(error.status(), error.to_string());
            write(stream, reply, &head, false).await?;
            return Ok(false);
        }
        None => return Ok(false),
    };
    input.drain(..info.consumed);
    let Some(body) = read_body(stream, input, &info).await? else {
        let reply = Reply::error(StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large");
        write(stream, reply, &head, false).await?;
        return Ok(false);
    };
    let path = String::from_utf8_lossy(head.path_only()).into_owned();
    let query = String::from_utf8_lossy(head.query().unwrap_or_default()).into_owned();
    let request = Request {
        is_post: head.method == Method::Post,
        path: &path,
        query: &query,
        body: std::str::from_utf8(&body).unwrap_or_default(),
    };
    let stats = &server.admin_stats;
    stats.downstream_rq_total.inc();
    stats.downstream_rq_active.inc();
    let reply = commands::answer(server, &request).await;
    stats.count(reply.status);
    let written = write(stream, reply, &head, info.keep_alive).await;
    stats.downstream_rq_active.dec();
    written.map(|()| info.keep_alive)
}

async fn read_head<S>(
    stream: &mut S,
    input: &mut Vec<u8>,
    head: &mut RequestHead,
) -> io::Result<Option<Result<RequestInfo, Http1Error>>>
where
    S: AsyncRead + Unpin,
{
    let (options, mut progress) = (DecodeOptions::default(), HeadProgress::default());
    loop {
        if !input.is_empty() {
            match decode_request(input, &options, &mut progress, head) {
                Ok(RequestOutcome::Head(info)) => return Ok(Some(Ok(info))),
                Ok(RequestOutcome::NeedMore) => {}
                Ok(RequestOutcome::Http2Preface) => return Ok(Some(Err(Http1Error::RequestLine))),
                Err(error) => return Ok(Some(Err(error))),
            }
        }
        if read_more(stream, input).await? == 0 {
            return Ok(None);
        }
    }
}

/// The body; `None` when it is too long to be parameters.
async fn read_body<S>(stream: &mut S, input: &mut Vec<u8>, info: &RequestInfo) -> io::Result<Option<Vec<u8>>>
where
    S: AsyncRead + Unpin,
{
    let mut decoder = BodyDecoder::new(info.body, &DecodeOptions::default());
    let mut body = Vec::new();
    loop {
        let (used, event) = decoder.decode(input).map_err(io::Error::other)?;
        let is_end = match event {
            BodyEvent::Data(data) => {
                body.extend_from_slice(data);
                false
            }
            BodyEvent::NeedMore => {
                input.drain(..used);
                if read_more(stream, input).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                continue;
            }
            BodyEvent::Trailers(_) => false,
            BodyEvent::End => true,
        };
        input.drain(..used);
        if body.len() > MAX_BODY {
            return Ok(None);
        }
        if is_end {
            return Ok(Some(body));
        }
    }
}

async fn read_more(stream: &mut (impl AsyncRead + Unpin), input: &mut Vec<u8>) -> io::Result<usize> {
    let mut piece = [0; 4096];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    input.extend_from_slice(piece.get(..read).unwrap_or_default());
    Ok(read)
}

/// Writes an answer the way Envoy's admin interface does: chunked, and not to be cached.
async fn write<S>(stream: &mut S, reply: Reply, request: &RequestHead, keep_alive: bool) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    let is_head = request.method == Method::Head;
    let is_10 = request.protocol == Protocol::Http10;
    let mut head = ResponseHead::new(reply.status)
        .with(HeaderId::ContentType, reply.content_type)
        .with(HeaderId::CacheControl, "no-cache, max-age=0")
        .with("x-content-type-options", "nosniff")
        .with(HeaderId::Date, httpdate::fmt_http_date(SystemTime::now()))
        .with(HeaderId::Server, "envoy");
    let mut encoding = HeadEncoding::new(if is_10 { BodyLength::UntilClose } else { BodyLength::Chunked });
    if is_10 {
        encoding.protocol = Protocol::Http10;
    }
    if !keep_alive {
        encoding.connection = ConnectionField::Close;
    }
    head.protocol = encoding.protocol;
    let mut out = Vec::new();
    encode_response_head(&head, &encoding, is_head, &mut out);
    if !is_head {
        let frame = |piece: &[u8], out: &mut Vec<u8>| {
            if is_10 { out.extend_from_slice(piece) } else { encode_chunk(piece, out) }
        };
        match reply.body {
            Body::Whole(text) => frame(text.as_bytes(), &mut out),
            Body::Pieces(pieces) => {
                for piece in pieces {
                    frame(&piece, &mut out);
                    send(stream, &mut out).await?;
                    // Others have their turn while a large answer is made.
                    tokio::task::yield_now().await;
                }
            }
        }
        if !is_10 {
            out.extend_from_slice(LAST_CHUNK);
        }
    }
    send(stream, &mut out).await
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), out: &mut Vec<u8>) -> io::Result<()> {
    tokio::time::timeout(PATIENCE, stream.write_all(out)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    out.clear();
    Ok(())
}
