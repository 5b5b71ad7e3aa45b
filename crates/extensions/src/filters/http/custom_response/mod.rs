//! `envoy.filters.http.custom_response`: replaces responses, by what they and their requests are.

mod input;

use crate::{data_source, format, header_options, match_tree};
use bytes::Bytes;
use input::{Input, Subject};
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    access_log::LogKind,
    cx::StreamCx,
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, LocalReply, per_stream},
    format::{Format, FormatCx},
    http::{HeaderId, ResponseHead, StatusCode},
    info::Details,
    matcher::HeaderMutations,
};
use std::{any::Any, sync::Arc};

/// Its leaves are handed to replies, which outlive the look-up.
type Tree = match_tree::Tree<Input, Arc<Policy>>;

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.custom_response",
    short_name: "custom_response",
    type_urls: &["envoy.extensions.filters.http.custom_response.v3.CustomResponse"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.custom_response.v3.CustomResponse"],
};

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    Ok(per_stream(read(config, cx)?, |tree, _| Some(Filter { tree: Arc::clone(tree), is_ours: false })))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    Ok(Arc::new(read(config, cx)?))
}

/// `envoy.extensions.filters.http.custom_response.v3.CustomResponse`
fn read(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Tree, ConfigError> {
    const FIELD: &str = "custom_response_matcher";
    let none = Node::map();
    let node = match config {
        TypedConfig::Value { node, .. } => node,
        _ => &none,
    };
    Tree::read(node.field(FIELD), FIELD, &|node, path, cx| Policy::read(node, path, cx).map(Arc::new), cx)
}

/// `envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy`
#[derive(Debug)]
struct Policy {
    body: Bytes,
    /// With the content type that it has been given.
    format: Option<(Format, Option<String>)>,
    /// `None`: that of the response.
    status: Option<StatusCode>,
    headers: HeaderMutations,
    details: ResponseDetails,
}

#[derive(Debug)]
enum ResponseDetails {
    None,
    /// Those of the response.
    Kept,
    Own(String),
}

impl Policy {
    fn read(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        const LOCAL: &str = "envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy";
        let config = node.field("typed_config");
        let path = format!("{path}.typed_config");
        let url = config.str("@type");
        if url.rsplit_once('/').map_or(url, |(_, name)| name) != LOCAL {
            return Err(cx.error(&path, config.mark, format!("\"{url}\" is no policy here; there is {LOCAL}")));
        }
        let format = config.get("body_format").map(|format| {
            let read = format::substitution(format, &format!("{path}.body_format"), cx)?;
            // Compat: without one it is text, also where it is JSON.
            let content_type = Some(format.str("content_type")).filter(|text| !text.is_empty());
            Ok((read, content_type.map(str::to_owned)))
        });
        Ok(Self {
            body: data_source::read(config.field("body"), &format!("{path}.body"), cx)?.into(),
            format: format.transpose()?,
            status: config.uint("status_code").and_then(|code| StatusCode::from_u16(u16::try_from(code).ok()?)),
            headers: header_options::additions(config, "response_headers_to_add", cx)?,
            details: if config.bool("preserve_response_code_details") {
                ResponseDetails::Kept
            } else {
                match config.str("response_code_details") {
                    "" => ResponseDetails::None,
                    details => ResponseDetails::Own(details.to_owned()),
                }
            },
        })
    }

    fn reply(&self, head: &ResponseHead, cx: &StreamCx<'_>) -> LocalReply {
        let info = &*cx.info;
        let local_reply_body = String::from_utf8_lossy(&self.body);
        let values = FormatCx {
            request: cx.request,
            response: Some(head),
            local_reply_body: &local_reply_body,
            ..FormatCx::new(info, LogKind::NotSet)
        };
        let body = match &self.format {
            Some((format, _)) => {
                let mut out = Vec::new();
                if format.is_json() {
                    format.write_log(&values, &mut out)
                } else {
                    format.write(&values, &mut out)
                }
                out.into()
            }
            None => self.body.clone(),
        };
        let details: Details = match &self.details {
            ResponseDetails::None => "".into(),
            ResponseDetails::Kept => info.response_code_details.clone().unwrap_or_default(),
            ResponseDetails::Own(details) => details.clone().into(),
        };
        let mut reply = LocalReply::new(self.status.unwrap_or(head.status), body, details);
        if let Some((_, Some(content_type))) = &self.format {
            reply.headers.set_sanitized(HeaderId::ContentType, content_type);
        }
        // These see the new response, not the one that it replaces.
        self.headers.apply(&mut reply.headers, &FormatCx { response: None, ..values });
        reply
    }
}

struct Filter {
    tree: Arc<Tree>,
    /// What comes is the filter's own reply.
    is_ours: bool,
}

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        if self.is_ours || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return FilterStatus::Continue;
        }
        let subject = Subject { head, request: cx.request, info: cx.info };
        // The most specific level that knows what to do.
        let levels: Vec<&Tree> = cx.route_configs().collect();
        let levels = levels.into_iter().rev().chain([&*self.tree]);
        let policy = levels.into_iter().find_map(|tree| tree.find(&subject)).cloned();
        match policy {
            Some(policy) => {
                self.is_ours = true;
                FilterStatus::reply(policy.reply(head, cx))
            }
            None => FilterStatus::Continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Route, Stream, building, config, lines, request, unchecked};
    use sota_plugin::http::Method;

    const MESSAGE: &str = EXTENSION.type_urls[0];

    fn input(kind: &str, more: &str) -> String {
        format!("{{name: i, typed_config: {{\"@type\": type.googleapis.com/envoy.type.matcher.v3.{kind}{more}}}}}")
    }

    fn policy(fields: &str) -> String {
        format!(
            "{{action: {{name: p, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.http.custom_response.\
             local_response_policy.v3.LocalResponsePolicy, {fields}}}}}}}"
        )
    }

    fn says(text: &str) -> String {
        policy(&format!("body: {{inline_string: {text}}}"))
    }

    fn single(input: &str, value: &str) -> String {
        format!("{{single_predicate: {{input: {input}, value_match: {{exact: '{value}'}}}}}}")
    }

    fn list(predicate: &str, action: &str) -> String {
        format!(
            "custom_response_matcher: {{matcher_list: {{matchers: [{{predicate: {predicate}, on_match: {action}}}]}}}}"
        )
    }

    /// What a response becomes.
    fn send(yaml: &str, head: ResponseHead, route: Option<Route>) -> String {
        let worker = FakeWorker::default();
        let factory = building(|cx| build(&config(MESSAGE, yaml), cx)).unwrap().for_worker(&worker.cx());
        let mut stream = Stream::new(&worker, request(Method::Get, "/p", &[("x-a", "A")]), route);
        stream.info.response_code_details = Some("via_upstream".into());
        stream.info.response_code = Some(head.status);
        let mut filter = factory.new_filter(&stream.info).unwrap();
        let mut head = head;
        match stream.on_response(|cx| filter.on_response_headers(&mut head, true, cx)) {
            FilterStatus::Continue => "passes".to_owned(),
            FilterStatus::Reply(reply) => {
                let again = stream.on_response(|cx| filter.on_response_headers(&mut head, true, cx));
                assert!(matches!(again, FilterStatus::Continue), "the reply itself passes");
                let body = String::from_utf8_lossy(&reply.body).into_owned();
                format!("{} {body} {:?} {}", reply.status.as_str(), lines(&reply.headers), reply.details)
            }
            _ => unreachable!("the filter neither holds nor waits"),
        }
    }

    fn head(status: u16) -> ResponseHead {
        ResponseHead::new(StatusCode::from_u16(status).unwrap()).with("x-r", "R")
    }

    #[test]
    fn every_input() {
        for (predicate, good, bad) in [
            (single(&input("HttpResponseStatusCodeMatchInput", ""), "503"), 503, 502),
            (single(&input("HttpResponseStatusCodeClassMatchInput", ""), "5xx"), 502, 404),
        ] {
            let yaml = list(&predicate, &says("sorry"));
            assert_eq!(send(&yaml, head(good), None), format!("{good} sorry [] "));
            assert_eq!(send(&yaml, head(bad), None), "passes");
        }
        for (input, value) in [
            (input("HttpRequestHeaderMatchInput", ", header_name: x-a"), "A"),
            (input("HttpResponseHeaderMatchInput", ", header_name: x-r"), "R"),
            (input("HttpResponseLocalReplyMatchInput", ""), "false"),
        ] {
            assert!(send(&list(&single(&input, value), &says("x")), head(200), None).starts_with("200 x"), "{input}");
            assert_eq!(send(&list(&single(&input, "other"), &says("x")), head(200), None), "passes");
        }
    }

    #[test]
    fn predicates_and_maps() {
        let status = input("HttpResponseStatusCodeMatchInput", "");
        let [a, b] = ["500", "501"].map(|code| single(&status, code));
        let both = format!("{{or_matcher: {{predicate: [{a}, {b}]}}}}");
        assert_eq!(send(&list(&both, &says("x")), head(501), None), "501 x [] ");
        let neither = format!("{{not_matcher: {both}}}");
        assert_eq!(send(&list(&neither, &says("x")), head(501), None), "passes");
        let none = format!("{{and_matcher: {{predicate: [{a}, {b}]}}}}");
        assert_eq!(send(&list(&none, &says("x")), head(501), None), "passes");
        let map = format!(
            "custom_response_matcher: {{matcher_tree: {{input: {status}, prefix_match_map: {{map: {{'5': {}, '50': {}}}}}}}, \
             on_no_match: {}}}",
            says("five"),
            says("fifty"),
            says("else")
        );
        for (status, text) in [(500, "fifty"), (511, "five"), (404, "else")] {
            assert_eq!(send(&map, head(status), None), format!("{status} {text} [] "));
        }
    }

    #[test]
    fn what_a_policy_says() {
        let any = single(&input("HttpResponseStatusCodeClassMatchInput", ""), "5xx");
        let full = "status_code: 499, body: {inline_string: why}, body_format: {text_format_source: {inline_string: \
                    '%LOCAL_REPLY_BODY% %RESPONSE_CODE% %REQ(:path)%'}, content_type: text/x}, response_headers_to_add: \
                    [{header: {key: x-was, value: '%RESP(x-r)%%REQ(x-a)%'}}], response_code_details: mine";
        let expected = "499 why 503 /p [\"content-type: text/x\", \"x-was: A\"] mine";
        assert_eq!(send(&list(&any, &policy(full)), head(503), None), expected);
        let kept = policy("preserve_response_code_details: true");
        assert_eq!(send(&list(&any, &kept), head(503), None), "503  [] via_upstream");
    }

    #[test]
    fn the_most_specific_level_that_matches() {
        let status = |code: &str| single(&input("HttpResponseStatusCodeMatchInput", ""), code);
        let level = |yaml: String| building(|cx| build_route(&config(MESSAGE, &yaml), cx)).unwrap();
        let route = || {
            let levels = [list(&status("500"), &says("host")), list(&status("501"), &says("route"))];
            Some(Route { configs: levels.into_iter().map(level).collect(), ..Route::default() })
        };
        let class = single(&input("HttpResponseStatusCodeClassMatchInput", ""), "5xx");
        let filter = list(&class, &says("filter"));
        for (status, text) in [(500, "host"), (501, "route"), (502, "filter")] {
            assert_eq!(send(&filter, head(status), route()), format!("{status} {text} [] "));
        }
    }

    #[test]
    fn errors_have_a_place() {
        let error = |yaml: &str| building(|cx| build(&unchecked(yaml), cx).err()).unwrap().path;
        let bad =
            list("{single_predicate: {input: {typed_config: {'@type': x}}, value_match: {exact: a}}}", &says("x"));
        let at = "here.custom_response_matcher.matcher_list.matchers[0]";
        assert_eq!(error(&bad), format!("{at}.predicate.single_predicate.input"));
        let any = single(&input("HttpResponseStatusCodeMatchInput", ""), "1");
        let bad = list(&any, "{action: {typed_config: {'@type': x}}}");
        assert_eq!(error(&bad), format!("{at}.on_match.action.typed_config"));
    }
}
