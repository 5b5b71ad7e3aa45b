//! Statuses in configurations (`envoy.type.v3.HttpStatus`).

use sota_config::{ConfigError, Node};
use sota_plugin::{FactoryContext, http::StatusCode};

/// The status of a field: that of an error, otherwise the default.
pub(crate) fn error(
    config: &Node,
    field: &str,
    default: StatusCode,
    cx: &FactoryContext<'_>,
) -> Result<StatusCode, ConfigError> {
    let Some(code) = config.field(field).get("code") else { return Ok(default) };
    if let Some(number) = code.as_u64() {
        let found = u16::try_from(number).ok().filter(|number| *number >= 400).and_then(StatusCode::from_u16);
        return Ok(found.unwrap_or(default));
    }
    let name = code.as_str().unwrap_or_default();
    let plain = |status: StatusCode| status.reason().replace([' ', '-'], "");
    let known = (200..600).filter_map(StatusCode::from_u16).find(|status| plain(*status).eq_ignore_ascii_case(name));
    match known {
        Some(status) if status.as_u16() >= 400 => Ok(status),
        Some(_) => Ok(default),
        None => Err(cx.error(&format!("{field}.code"), code.mark, format!("the status {name} is not known"))),
    }
}
