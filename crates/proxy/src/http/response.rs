//! Fields that the connection manager adds to every response: `date`, `server`, `x-request-id`, `via`.

use sota_config::http::{HttpConnectionManager, ServerHeaderTransformation};
use sota_plugin::http::{HeaderId, RequestHead, ResponseHead};
use std::{
    cell::Cell,
    time::{SystemTime, UNIX_EPOCH},
};

/// What is added, as configured.
#[derive(Debug, Clone)]
pub struct ResponseFields {
    server_name: Box<str>,
    transformation: ServerHeaderTransformation,
    via: Box<str>,
    always_set_request_id: bool,
}

impl ResponseFields {
    /// As the connection manager is configured.
    pub fn build(config: &HttpConnectionManager) -> Self {
        Self {
            server_name: config.server_name.as_str().into(),
            transformation: config.server_header_transformation,
            via: config.via.as_str().into(),
            always_set_request_id: config.always_set_request_id_in_response,
        }
    }

    /// Adds the fields. Those about the connection are not touched. `request`: as it went upstream, if there was one
    /// that could be read. `date`: of [`DateCache`]; a date that the response has is kept.
    pub fn apply(&self, head: &mut ResponseHead, request: Option<&RequestHead>, date: impl FnOnce() -> Date) {
        let headers = &mut head.headers;
        if !headers.contains(HeaderId::Date) {
            headers.append_sanitized(HeaderId::Date, date());
        }
        let overwrite = match self.transformation {
            ServerHeaderTransformation::Overwrite => true,
            ServerHeaderTransformation::AppendIfAbsent => !headers.contains(HeaderId::Server),
            ServerHeaderTransformation::PassThrough => false,
        };
        if overwrite {
            headers.set_sanitized(HeaderId::Server, self.server_name.as_bytes());
        }
        if let Some(request) = request
            && (self.always_set_request_id || request.headers.contains(HeaderId::XEnvoyForceTrace))
            && let Some(id) = request.headers.get(HeaderId::XRequestId)
        {
            headers.set_sanitized(HeaderId::XRequestId, id);
        }
        if !self.via.is_empty() {
            let _ = headers.append_to(HeaderId::Via, ", ", self.via.as_bytes());
        }
    }
}

/// A date in the form of RFC 9110 §5.6.7, such as `Sun, 06 Nov 1994 08:49:37 GMT`.
pub type Date = [u8; 29];

/// A worker's date: formatted once a second.
#[derive(Debug)]
pub struct DateCache {
    second: Cell<u64>,
    text: Cell<Date>,
}

impl Default for DateCache {
    fn default() -> Self {
        Self { second: Cell::new(0), text: Cell::new(*b"Thu, 01 Jan 1970 00:00:00 GMT") }
    }
}

impl DateCache {
    /// The text for this time.
    pub fn get(&self, now: SystemTime) -> Date {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second.get() {
            // A year of more than four digits keeps the date before it.
            if let Ok(text) = Date::try_from(httpdate::fmt_http_date(now).into_bytes()) {
                self.text.set(text);
                self.second.set(second);
            }
        }
        self.text.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sota_plugin::http::{Method, StatusCode};
    use std::time::Duration;

    fn fields(transformation: ServerHeaderTransformation, via: &str, always_set_request_id: bool) -> ResponseFields {
        ResponseFields { server_name: "mine".into(), transformation, via: via.into(), always_set_request_id }
    }

    fn response(fields: &ResponseFields, given: &[(&str, &str)], request: &[(&str, &str)]) -> String {
        let mut head = ResponseHead::new(StatusCode::OK);
        head.headers = given.iter().copied().collect();
        let mut from = RequestHead::new(Method::Get, "h", "/").unwrap();
        from.headers = request.iter().copied().collect();
        fields.apply(&mut head, Some(&from), || DateCache::default().get(UNIX_EPOCH));
        let mut lines = Vec::new();
        head.headers.write_lines(&mut lines);
        String::from_utf8(lines).unwrap().replace("Thu, 01 Jan 1970 00:00:00 GMT", "<date>")
    }

    #[test]
    fn server_date_and_via() {
        use ServerHeaderTransformation::{AppendIfAbsent, Overwrite, PassThrough};
        let origin: &[_] = &[("server", "origin"), ("date", "then"), ("via", "1.1 origin")];
        for (transformation, via, given, expected) in [
            (Overwrite, "", &[][..], "date: <date>\r\nserver: mine\r\n"),
            (Overwrite, "", origin, "server: mine\r\ndate: then\r\nvia: 1.1 origin\r\n"),
            (AppendIfAbsent, "", &[], "date: <date>\r\nserver: mine\r\n"),
            (AppendIfAbsent, "me", origin, "server: origin\r\ndate: then\r\nvia: 1.1 origin, me\r\n"),
            (PassThrough, "me", &[], "date: <date>\r\nvia: me\r\n"),
            (PassThrough, "", origin, "server: origin\r\ndate: then\r\nvia: 1.1 origin\r\n"),
        ] {
            assert_eq!(response(&fields(transformation, via, false), given, &[]), expected);
        }
    }

    #[test]
    fn request_id() {
        let id = ("x-request-id", "mine");
        let pass = |always| fields(ServerHeaderTransformation::PassThrough, "", always);
        assert_eq!(response(&pass(false), &[], &[id]), "date: <date>\r\n");
        assert_eq!(response(&pass(true), &[], &[id]), "date: <date>\r\nx-request-id: mine\r\n");
        assert_eq!(response(&pass(true), &[], &[]), "date: <date>\r\n");
        let forced = response(&pass(false), &[], &[id, ("x-envoy-force-trace", "1")]);
        assert_eq!(forced, "date: <date>\r\nx-request-id: mine\r\n");
    }

    #[test]
    fn dates_follow_the_clock() {
        let cache = DateCache::default();
        let at = |seconds, millis| UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(millis);
        assert_eq!(&cache.get(at(784_111_777, 0)), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&cache.get(at(784_111_777, 999)), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&cache.get(at(784_111_778, 0)), b"Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
