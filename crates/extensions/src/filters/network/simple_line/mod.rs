//! `sota.filters.network.simple_line`: the example of a dispatcher. Each line is a query string; the answer shows it
//! the way Go prints the `url.Values` that it parses to, for that is what the original program did. With routes the lines
//! go to hosts that answer so.

mod forward;
mod query;
mod quote;

use forward::Lines;
use query::{ParseError, parse_query};
use serde::{Deserialize, de::IgnoredAny};
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext, LocalFuture,
    de::{read_config, split_config},
    filter::{Connection, NetworkFilterConfig, TerminalNetworkFilter, terminal},
    future::{First, race},
    protocol::proxy,
};
use std::{future::ready, io, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "sota.filters.network.simple_line",
    short_name: "simple_line",
    type_urls: &["sota.filters.network.simple"],
    build,
    build_route: None,
    route_type_urls: &[],
};

/// A longer line is refused unless configuration says otherwise.
const DEFAULT_MAX_LINE_BYTES: usize = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    max_line_bytes: usize,
    /// The original logged it and did nothing else with it.
    #[serde(rename = "protocol")]
    _protocol: Option<IgnoredAny>,
}

impl Default for Document {
    fn default() -> Self {
        Self { max_line_bytes: DEFAULT_MAX_LINE_BYTES, _protocol: None }
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    let has_routes = matches!(config, TypedConfig::Value { node, .. } if node.has("routes"));
    let (own, others) = split_config(config, &["max_line_bytes", "protocol"]);
    let Document { max_line_bytes, .. } = read_config(if has_routes { &own } else { config }, cx)?;
    if !(1..=1 << 24).contains(&max_line_bytes) {
        let reason = "a number of octets from 1 to 16777216 is expected here";
        return Err(cx.error_in(config, "max_line_bytes", reason));
    }
    if has_routes {
        return proxy::build(Lines { max_line_bytes }, &others, cx);
    }
    Ok(terminal(SimpleLine { max_line_bytes }))
}

#[derive(Clone, Copy)]
struct SimpleLine {
    max_line_bytes: usize,
}

impl TerminalNetworkFilter for SimpleLine {
    fn serve(self: Box<Self>, mut connection: Connection) -> LocalFuture<()> {
        Box::pin(async move {
            // What goes wrong on the connection itself ends it: there is nobody to tell.
            let _ = self.answer_lines(&mut connection).await;
        })
    }
}

impl SimpleLine {
    async fn answer_lines(&self, connection: &mut Connection) -> io::Result<()> {
        let mut draining = connection.take_drain_notice();
        loop {
            let next = match race(connection.read_line(self.max_line_bytes), &mut draining).await {
                First::One(next) => next,
                First::Other(()) if connection.buffer().is_empty() => return Ok(()),
                // A line is under way. After it there is no waiting.
                First::Other(()) => {
                    draining = Box::pin(ready(()));
                    connection.read_line(self.max_line_bytes).await
                }
            };
            let line = match next {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return connection.write_all(b"line too long").await;
                }
                Err(error) => return Err(error),
            };
            match parse_query(&line) {
                Ok(values) => connection.write_all(format!("receive:{values}\r\n").as_bytes()).await?,
                Err(error @ (ParseError::Escape(_) | ParseError::Semicolon)) => {
                    return connection.write_all(error.to_string().as_bytes()).await;
                }
            }
        }
    }
}
