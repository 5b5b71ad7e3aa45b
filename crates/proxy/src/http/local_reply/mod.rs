//! Answers of our own: what configuration maps them to, and the form in which they leave.

use crate::router::SelectedRoute;
use bytes::Bytes;
use sota_config::{
    ConfigError, ConfigErrors, Mark,
    access_log::FormatString,
    http::{LocalReplyConfig, LocalReplyMapper},
};
use sota_plugin::{
    FactoryContext,
    access_log::LogKind,
    filter::LocalReply,
    format::{Format, FormatCx},
    http::{GrpcStatus, HeaderId, Method, RequestHead, ResponseHead, StatusCode, grpc_message},
    info::StreamInfo,
    matcher::{AccessLogFilter, HeaderMutations},
};
use std::sync::Arc;

const TEXT: &str = "text/plain";
const JSON: &str = "application/json";
const GRPC: &str = "application/grpc";

/// A compiled [`LocalReplyConfig`].
#[derive(Debug, Default)]
pub struct LocalReplies {
    mappers: Box<[Mapper]>,
    body_format: Option<BodyFormat>,
}

#[derive(Debug)]
struct Mapper {
    filter: AccessLogFilter,
    status: Option<StatusCode>,
    body: Option<Bytes>,
    body_format: Option<BodyFormat>,
    headers: HeaderMutations,
}

#[derive(Debug)]
struct BodyFormat {
    format: Format,
    content_type: Box<str>,
}

/// An answer as it leaves.
#[derive(Debug)]
pub struct LocalResponse {
    /// Its head; nothing about the connection.
    pub head: ResponseHead,
    /// Its body: empty in an answer to HEAD and to gRPC.
    pub body: Bytes,
    /// What access logs print for `%LOCAL_REPLY_BODY%`.
    pub text: Bytes,
}

impl LocalReplies {
    /// Fails with everything that is wrong with formats, filters and fields; `cx` says where the connection manager
    /// stands.
    pub fn build(config: &LocalReplyConfig, cx: &FactoryContext<'_>) -> Result<Self, ConfigErrors> {
        let dot = if cx.path.is_empty() { "" } else { "." };
        let mut errors = Vec::new();
        let mut mappers = Vec::new();
        for (number, mapper) in config.mappers.iter().enumerate() {
            match Mapper::build(mapper, cx) {
                Ok(mapper) => mappers.push(mapper),
                Err(error) => {
                    let path = format!("{}{dot}local_reply_config.mappers[{number}]", cx.path);
                    errors.push(error.at(&path, cx.mark));
                }
            }
        }
        let body_format = config.body_format.as_ref().map(BodyFormat::build).transpose().unwrap_or_else(|error| {
            errors.push(error.at(&format!("{}{dot}local_reply_config.body_format", cx.path), cx.mark));
            None
        });
        if errors.is_empty() { Ok(Self { mappers: mappers.into(), body_format }) } else { Err(ConfigErrors(errors)) }
    }

    /// Makes the answer, and notes its status, details and flag in `info`. `route`: the one that was chosen, whose
    /// changes the answer gets.
    pub fn prepare(
        &self,
        reply: &LocalReply,
        request: Option<&RequestHead>,
        route: Option<&SelectedRoute>,
        info: &mut StreamInfo,
    ) -> LocalResponse {
        info.response_code_details = Some(reply.details.clone());
        if let Some(flag) = reply.flag {
            info.response_flags.set(flag);
        }
        let mut head = ResponseHead::new(reply.status);
        match route {
            // Compat: what a filter or the router adds counts for more than the route's changes, but not the other way
            // round where the route itself answers.
            Some(route) if route.forward().is_some() => {
                route.finalize_response(&mut head, request, info);
                let _ = head.headers.append_all(&reply.headers);
            }
            Some(route) => {
                head.headers = reply.headers.clone();
                route.finalize_response(&mut head, request, info);
            }
            None => head.headers = reply.headers.clone(),
        }
        // Compat: the route's changes do not see it yet, mappers and formats do.
        info.response_code = Some(reply.status);
        let (text, content_type) = self.rewrite(reply, &mut head, request, info);
        let is_head = request.is_some_and(|request| request.method == Method::Head);
        if info.is_grpc {
            as_grpc(&mut head, reply.grpc_status, &text, content_type, is_head);
            return LocalResponse { head, body: Bytes::new(), text };
        }
        // RFC 9110 §6.4.1: these have no body, whatever a format makes.
        let has_body = !text.is_empty() && !matches!(head.status.as_u16(), 204 | 304);
        if !has_body {
            head.headers.remove(HeaderId::ContentLength);
            head.headers.remove(HeaderId::ContentType);
        } else {
            head.headers.set_sanitized(HeaderId::ContentLength, itoa::Buffer::new().format(text.len()));
            if let Some(content_type) = content_type.as_str() {
                head.headers.set_sanitized(HeaderId::ContentType, content_type);
            }
        }
        let body = if is_head || !has_body { Bytes::new() } else { text.clone() };
        LocalResponse { head, body, text }
    }

    /// Applies the first mapper that matches, and the format. Gives the body and its content type.
    fn rewrite<'a>(
        &'a self,
        reply: &LocalReply,
        head: &mut ResponseHead,
        request: Option<&RequestHead>,
        info: &mut StreamInfo,
    ) -> (Bytes, ContentType<'a>) {
        let given = head.headers.get(HeaderId::ContentType).map(<[u8]>::to_vec);
        let mut text = reply.body.clone();
        let mut format = self.body_format.as_ref();
        if let Some(mapper) = self.mappers.iter().find(|mapper| mapper.filter.matches_local_reply(info, request)) {
            if let Some(body) = &mapper.body {
                text = body.clone();
            }
            mapper.headers.apply_response(head, request, info);
            if let Some(status) = mapper.status {
                head.status = status;
                info.response_code = Some(status);
            }
            format = mapper.body_format.as_ref().or(format);
        }
        if let Some(format) = format {
            text = format.write(&text, head, request, info);
        }
        let now = head.headers.get(HeaderId::ContentType);
        let is_mapped = now != given.as_deref();
        let sets = now.is_none() || (text != reply.body && !is_mapped);
        let name = format.map_or(TEXT, |format| &format.content_type);
        (text, ContentType { name, sets })
    }
}

/// The content type of a body, and whether it takes the place of what the head says.
#[derive(Clone, Copy)]
struct ContentType<'a> {
    name: &'a str,
    sets: bool,
}

impl<'a> ContentType<'a> {
    fn as_str(self) -> Option<&'a str> {
        self.sets.then_some(self.name)
    }
}

impl Mapper {
    fn build(config: &LocalReplyMapper, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let runtime: &Arc<_> = cx.runtime;
        let status = match config.status_code {
            Some(code) => Some(
                StatusCode::from_u16(code)
                    .ok_or_else(|| ConfigError::new("status_code", Mark::NONE, format!("{code} is no HTTP status")))?,
            ),
            None => None,
        };
        let format = config.body_format.as_ref().map(BodyFormat::build).transpose();
        Ok(Self {
            filter: AccessLogFilter::build(&config.filter, runtime).map_err(|error| error.at("filter", Mark::NONE))?,
            status,
            body: config.body.as_deref().map(Bytes::copy_from_slice),
            body_format: format.map_err(|error| error.at("body_format_override", Mark::NONE))?,
            headers: HeaderMutations::build(&config.headers).map_err(|error| error.at("headers_to_add", Mark::NONE))?,
        })
    }
}

impl BodyFormat {
    fn build(config: &FormatString) -> Result<Self, ConfigError> {
        let format = Format::build(config)?;
        let default = if format.is_json() { JSON } else { TEXT };
        let content_type = config.content_type.as_deref().filter(|name| !name.is_empty()).unwrap_or(default);
        Ok(Self { content_type: content_type.into(), format })
    }

    fn write(&self, text: &Bytes, head: &ResponseHead, request: Option<&RequestHead>, info: &StreamInfo) -> Bytes {
        let body = String::from_utf8_lossy(text);
        let cx =
            FormatCx { request, response: Some(head), local_reply_body: &body, ..FormatCx::new(info, LogKind::NotSet) };
        let mut out = Vec::new();
        if self.format.is_json() {
            // A JSON body ends with a line feed, as a line of a log does.
            self.format.write_log(&cx, &mut out);
        } else {
            self.format.write(&cx, &mut out);
        }
        out.into()
    }
}

/// Clients of gRPC get status 200 and what happened in `grpc-status` and `grpc-message`.
fn as_grpc(
    head: &mut ResponseHead,
    grpc_status: Option<u32>,
    text: &Bytes,
    content_type: ContentType<'_>,
    is_head: bool,
) {
    let http_status = std::mem::replace(&mut head.status, StatusCode::OK);
    let headers = &mut head.headers;
    headers.set_sanitized(HeaderId::ContentType, GRPC);
    if headers.get(HeaderId::GrpcStatus).unwrap_or_default().is_empty() {
        let status = grpc_status.map_or_else(|| GrpcStatus::from_http(http_status).0, i64::from);
        headers.set_sanitized(HeaderId::GrpcStatus, itoa::Buffer::new().format(status));
    }
    if !text.is_empty() && !is_head {
        let message = match text.strip_suffix(b"\n") {
            Some(line) if content_type.name == JSON => line,
            _ => text,
        };
        headers.set_sanitized(HeaderId::GrpcMessage, grpc_message(message));
    }
    headers.remove(HeaderId::ContentLength);
}

#[cfg(test)]
mod tests;
