//! Changes to the fields of requests, one after the other: before anything is decided by them
//! (`early_header_mutation_extensions`), and of copies.

use sota_config::{ConfigError, http::HeaderMutation as Config};
use sota_plugin::{
    http::RequestHead,
    info::StreamInfo,
    matcher::{HeaderMutations, StringMatcher},
};

/// The changes in their order; each sees what those before it did.
#[derive(Debug, Default)]
pub(crate) struct RequestMutations(Box<[Mutation]>);

#[derive(Debug)]
enum Mutation {
    Field(HeaderMutations),
    /// Removes the fields whose names match.
    RemoveMatching(StringMatcher),
}

impl RequestMutations {
    /// Fails for names, formats and patterns that are wrong.
    pub(crate) fn build(configs: &[Config]) -> Result<Self, ConfigError> {
        let build = |config: &Config| {
            Ok(match config {
                Config::Field(field) => Mutation::Field(HeaderMutations::build(field)?),
                Config::RemoveMatching(names) => Mutation::RemoveMatching(StringMatcher::build(names)?),
            })
        };
        configs.iter().map(build).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn apply(&self, head: &mut RequestHead, info: &StreamInfo) {
        for mutation in &self.0 {
            match mutation {
                Mutation::Field(field) => field.apply_request(head, info),
                Mutation::RemoveMatching(names) => {
                    head.headers.retain(|field| !names.matches(&field.name.to_ascii_lowercase()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_context::stream_info;
    use sota_config::{
        matcher::{StringMatcher as StringConfig, StringPattern},
        route::{AppendAction, HeaderMutations as Fields, HeaderValueOption},
    };
    use sota_plugin::http::Method;

    #[test]
    fn one_after_the_other() {
        let add = |name: &str, value: &str| {
            let (name, value) = (name.to_owned(), value.to_owned());
            let append_action = AppendAction::OverwriteIfExistsOrAdd;
            let option = HeaderValueOption { name, value, append_action, keep_empty_value: false };
            Config::Field(Fields { add: vec![option], remove: Vec::new() })
        };
        let remove = |name: &str| Config::Field(Fields { add: Vec::new(), remove: vec![name.to_owned()] });
        let matching = |prefix: &str| {
            Config::RemoveMatching(StringConfig { pattern: StringPattern::Prefix(prefix.into()), ignore_case: false })
        };
        let steps = [add("x-b", "%REQ(x-a)%"), remove("x-a"), matching("x-gone-"), add("x-c", "<%REQ(x-a)%>")];
        let mut head = RequestHead::new(Method::Get, "h", "/").unwrap();
        head.headers = [("x-a", "1"), ("X-Gone-1", "x"), ("x-gone-2", "y")].into_iter().collect();
        RequestMutations::build(&steps).unwrap().apply(&mut head, &stream_info());
        assert_eq!((head.headers.get("x-b"), head.headers.get("x-c")), (Some(&b"1"[..]), Some(&b"<>"[..])));
        assert_eq!(head.headers.len(), 2);
    }
}
