//! `envoy.filters.http.header_mutation`: adds, replaces and removes fields of requests and responses, first as the
//! filter says, then as the levels of the route do.

use crate::{header_options, matchers};
use sota_config::{ConfigError, Node, TypedConfig, route::HeaderMutations as FieldConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::StreamCx,
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, per_stream},
    http::{RequestHead, ResponseHead},
    info::StreamInfo,
    matcher::{HeaderMutations, StringMatcher},
};
use std::{any::Any, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.header_mutation",
    short_name: "header_mutation",
    type_urls: &["envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute"],
};

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let config = match config {
        TypedConfig::Value { node, .. } => Config {
            mutations: Mutations::read(node, cx)?,
            most_specific_wins: node.bool("most_specific_header_mutations_wins"),
        },
        _ => Config::default(),
    };
    Ok(per_stream(config, |config, _| Some(Filter(Arc::clone(config)))))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    Ok(Arc::new(match config {
        TypedConfig::Value { node, .. } => Mutations::read(node, cx)?,
        _ => Mutations::default(),
    }))
}

#[derive(Debug, Default)]
struct Config {
    mutations: Mutations,
    /// Of the route's levels the most specific one comes last, not first.
    most_specific_wins: bool,
}

/// `envoy.extensions.filters.http.header_mutation.v3.Mutations`, in the order in which they are carried out.
#[derive(Debug, Default)]
struct Mutations {
    request: Vec<Mutation>,
    response: Vec<Mutation>,
}

/// `envoy.config.common.mutation_rules.v3.HeaderMutation`
#[derive(Debug)]
enum Mutation {
    /// A single change: its value sees what those before it did.
    Field(HeaderMutations),
    /// Removes the fields whose names match, in lower case.
    RemoveMatching(StringMatcher),
}

impl Mutations {
    /// From a message with a field `mutations`.
    fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let mutations = node.field("mutations");
        let read = |key: &str| -> Result<Vec<_>, ConfigError> {
            let items = mutations.list(key).iter().enumerate();
            items.map(|(at, item)| Mutation::read(item, &format!("mutations.{key}[{at}]"), cx)).collect()
        };
        Ok(Self { request: read("request_mutations")?, response: read("response_mutations")? })
    }

    fn change_request(&self, head: &mut RequestHead, info: &StreamInfo) {
        for mutation in &self.request {
            match mutation {
                Mutation::Field(field) => field.apply_request(head, info),
                Mutation::RemoveMatching(names) => remove_matching(names, &mut head.headers),
            }
        }
    }

    fn change_response(&self, head: &mut ResponseHead, request: Option<&RequestHead>, info: &StreamInfo) {
        for mutation in &self.response {
            match mutation {
                Mutation::Field(field) => field.apply_response(head, request, info),
                Mutation::RemoveMatching(names) => remove_matching(names, &mut head.headers),
            }
        }
    }
}

impl Mutation {
    fn read(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        if let Some(on_match) = node.get("remove_on_match") {
            let matcher =
                matchers::string(on_match.field("key_matcher"), &format!("{path}.remove_on_match.key_matcher"), cx)?;
            return Ok(Self::RemoveMatching(matcher));
        }
        let (field, config) = match node.get("append") {
            Some(append) => (
                "append",
                FieldConfig {
                    remove: Vec::new(),
                    add: vec![header_options::value_option(append, &format!("{path}.append"), cx)?],
                },
            ),
            None => ("remove", FieldConfig { remove: vec![node.str("remove").to_owned()], add: Vec::new() }),
        };
        HeaderMutations::build(&config)
            .map(Self::Field)
            .map_err(|error| cx.error(&format!("{path}.{field}"), node.field(field).mark, error.reason))
    }
}

fn remove_matching(names: &StringMatcher, headers: &mut sota_plugin::http::Headers) {
    headers.retain(|field| {
        let is_lower = !field.name.iter().any(u8::is_ascii_uppercase);
        !(if is_lower { names.matches(field.name) } else { names.matches(&field.name.to_ascii_lowercase()) })
    });
}

struct Filter(Arc<Config>);

impl Filter {
    /// What the route's levels say, in the order in which it is carried out.
    fn levels<'a>(&self, cx: &'a StreamCx<'_>) -> Vec<&'a Mutations> {
        let mut levels: Vec<&Mutations> = cx.route_configs().collect();
        if !self.0.most_specific_wins {
            levels.reverse();
        }
        levels
    }
}

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        self.0.mutations.change_request(head, cx.info);
        for level in self.levels(cx) {
            level.change_request(head, cx.info);
        }
        FilterStatus::Continue
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        self.0.mutations.change_response(head, cx.request, cx.info);
        for level in self.levels(cx) {
            level.change_response(head, cx.request, cx.info);
        }
        FilterStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Route, Stream, building, config, lines, request, unchecked};
    use sota_plugin::http::{Method, StatusCode};

    fn run(filter: &str, levels: &[&str], fields: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let worker = FakeWorker::default();
        let factory = building(|cx| build(&config(EXTENSION.type_urls[0], filter), cx)).unwrap();
        let configs = levels.iter().map(|yaml| {
            let config = config(EXTENSION.route_type_urls[0], yaml);
            building(|cx| build_route(&config, cx)).unwrap()
        });
        let route = Route { configs: configs.collect(), ..Route::default() };
        let mut stream = Stream::new(&worker, request(Method::Get, "/p", fields), Some(route));
        let mut filter = factory.for_worker(&worker.cx()).new_filter(&stream.info).unwrap();
        assert!(matches!(
            stream.on_request(|head, cx| filter.on_request_headers(head, true, cx)),
            FilterStatus::Continue
        ));
        stream.info.response_code = Some(StatusCode::OK);
        let mut response = ResponseHead::new(StatusCode::OK).with("x-origin", "up").with("X-Kept", "1");
        assert!(matches!(
            stream.on_response(|cx| filter.on_response_headers(&mut response, true, cx)),
            FilterStatus::Continue
        ));
        (lines(&stream.request.headers), lines(&response.headers))
    }

    /// The same configuration on the same request gave this with Envoy 1.40.
    #[test]
    fn each_mutation_sees_those_before_it() {
        let filter = r#"
mutations:
  request_mutations:
  - append: {header: {key: x-mutated, value: "yes %REQ(x-a)%"}}
  - append: {header: {key: x-two, value: "%REQ(x-mutated)%"}}
  - append: {header: {key: x-app, value: two}}
  - append: {header: {key: user-agent, value: more}}
  - append: {header: {key: x-abs, value: abs}, append_action: ADD_IF_ABSENT}
  - append: {header: {key: x-empty, value: "%REQ(none)%"}, append_action: ADD_IF_ABSENT}
  - append: {header: {key: x-emptykept, value: "%REQ(none)%"}, keep_empty_value: true}
  - append: {header: {key: x-over, value: new}, append_action: OVERWRITE_IF_EXISTS}
  - append: {header: {key: x-none, value: new}, append_action: OVERWRITE_IF_EXISTS}
  - remove: x-secret
  - remove_on_match: {key_matcher: {prefix: x-gone}}
  response_mutations:
  - append: {header: {key: x-seen, value: "%RESPONSE_CODE% %REQ(x-two)% %REQ(x-secret)% %REQ(:path)%"}}
  - remove: x-origin
"#;
        let fields = [
            ("user-agent", "curl"),
            ("x-a", "A"),
            ("x-app", "one"),
            ("X-Gone1", "1"),
            ("x-gone-2", "2"),
            ("x-secret", "s"),
            ("x-over", "old"),
        ];
        let (request, response) = run(filter, &[], &fields);
        let expected = [
            "user-agent: curl,more",
            "x-a: A",
            "x-app: one",
            "x-mutated: yes A",
            "x-two: yes A",
            "x-app: two",
            "x-abs: abs",
            "x-emptykept: ",
            "x-over: new",
        ];
        assert_eq!(request, expected);
        assert_eq!(response, ["x-kept: 1", "x-seen: 200 yes A  /p"]);
    }

    #[test]
    fn levels_of_the_route() {
        let level = |name: &str| {
            let append = format!("[{{append: {{header: {{key: x-l, value: {name}}}}}}}]");
            format!("{{mutations: {{request_mutations: {append}, response_mutations: {append}}}}}")
        };
        let levels = [&*level("table"), &level("host"), &level("route")];
        let filter = "{mutations: {request_mutations: [{append: {header: {key: x-l, value: filter}}}]}}";
        let (request, response) = run(filter, &levels, &[]);
        assert_eq!(request, ["x-l: filter", "x-l: route", "x-l: host", "x-l: table"]);
        assert_eq!(response[2..], ["x-l: route", "x-l: host", "x-l: table"]);
        let (request, response) = run("{most_specific_header_mutations_wins: true}", &levels, &[]);
        assert_eq!(request, ["x-l: table", "x-l: host", "x-l: route"]);
        assert_eq!(response[2..], ["x-l: table", "x-l: host", "x-l: route"]);
    }

    #[test]
    fn errors_say_which_mutation() {
        for (mutation, expected) in [
            (
                "{append: {header: {key: ':path', value: x}}}",
                "here.mutations.request_mutations[1].append: \":path\": :-prefixed or host headers may not be modified",
            ),
            (
                "{append: {header: {key: a, value: '%NOPE%'}}}",
                "here.mutations.request_mutations[1].append: value of header a: unknown operator NOPE",
            ),
            (
                "{remove: host}",
                "here.mutations.request_mutations[1].remove: \"host\": :-prefixed or host headers may not be removed",
            ),
            (
                "{append: {header: {key: a, value: b}, append: true, append_action: ADD_IF_ABSENT}}",
                "here.mutations.request_mutations[1].append.append: \"append\" and \"append_action\" exclude each other; \
                 keep the latter",
            ),
        ] {
            let yaml = format!("{{mutations: {{request_mutations: [{{remove: x}}, {mutation}]}}}}");
            let error = building(|cx| build_route(&unchecked(&yaml), cx)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        let yaml = "{mutations: {response_mutations: [{remove_on_match: {key_matcher: {safe_regex: {regex: '('}}}}]}}";
        let error = building(|cx| build(&unchecked(yaml), cx).err()).unwrap();
        assert_eq!(error.path, "here.mutations.response_mutations[0].remove_on_match.key_matcher");
    }
}
