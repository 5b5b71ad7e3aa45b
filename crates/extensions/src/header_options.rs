//! Fields that filters add, from their checked configuration.

use sota_config::{
    ConfigError, Node,
    route::{AppendAction, HeaderMutations as Config, HeaderValueOption},
};
use sota_plugin::{FactoryContext, matcher::HeaderMutations};

/// A list of `envoy.config.core.v3.HeaderValueOption` in a field.
pub(crate) fn additions(node: &Node, key: &str, cx: &FactoryContext<'_>) -> Result<HeaderMutations, ConfigError> {
    let items = node.list(key).iter().enumerate();
    let add = items.map(|(at, item)| value_option(item, &format!("{key}[{at}]"), cx)).collect::<Result<_, _>>()?;
    HeaderMutations::build(&Config { remove: Vec::new(), add })
        .map_err(|error| cx.error(key, node.field(key).mark, error.reason))
}

/// `envoy.config.core.v3.HeaderValueOption`
pub(crate) fn value_option(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<HeaderValueOption, ConfigError> {
    let action = node.str("append_action");
    let append_action = match (node.field("append").as_bool(), action) {
        (Some(_), "ADD_IF_ABSENT" | "OVERWRITE_IF_EXISTS_OR_ADD" | "OVERWRITE_IF_EXISTS") => {
            let reason = "\"append\" and \"append_action\" exclude each other; keep the latter";
            return Err(cx.error(&format!("{path}.append"), node.field("append").mark, reason));
        }
        (Some(false), _) | (_, "OVERWRITE_IF_EXISTS_OR_ADD") => AppendAction::OverwriteIfExistsOrAdd,
        (_, "ADD_IF_ABSENT") => AppendAction::AddIfAbsent,
        (_, "OVERWRITE_IF_EXISTS") => AppendAction::OverwriteIfExists,
        _ => AppendAction::AppendIfExistsOrAdd,
    };
    let header = node.field("header");
    Ok(HeaderValueOption {
        name: header.str("key").to_owned(),
        value: header.str("value").to_owned(),
        append_action,
        keep_empty_value: node.bool("keep_empty_value"),
    })
}
