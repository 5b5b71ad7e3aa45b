//! `sota.filters.network.simple_line`: the example of a dispatcher. Each line is a query string; the answer shows it
//! the way Go prints the `url.Values` that it parses to, for that is what the original program did.

mod query;
mod quote;

use query::{ParseError, parse_query};
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext, LocalFuture,
    filter::{Connection, NetworkFilterConfig, TerminalNetworkFilter, terminal},
};
use std::{io, sync::Arc};

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

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    let mut max_line_bytes = DEFAULT_MAX_LINE_BYTES;
    if let TypedConfig::Value { node, .. } = config {
        for (name, value) in node.pairs() {
            match &**name {
                // The original logged it and did nothing else with it.
                "protocol" => {}
                "max_line_bytes" => {
                    max_line_bytes = value
                        .as_u64()
                        .filter(|n| (1..=1 << 24).contains(n))
                        .and_then(|n| usize::try_from(n).ok())
                        .ok_or_else(|| {
                            cx.error(name, value.mark, "a number of octets from 1 to 16777216 is expected here")
                        })?;
                }
                _ => {
                    return Err(cx.error(
                        "",
                        value.mark,
                        format!("unknown field \"{name}\"; there are: max_line_bytes, protocol"),
                    ));
                }
            }
        }
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
        loop {
            let line = match connection.read_line(self.max_line_bytes).await {
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
