//! `example.relay`: a dispatcher. Each line is asked of a host of a cluster, and its answer is given back in capitals.

use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext, LocalFuture,
    de::read_config,
    filter::{Connection, NetworkFilterConfig, TerminalNetworkFilter, terminal},
    future::{First, race},
    upstream::{HostChoice, Outcome},
};
use std::{error::Error, io, sync::Arc, time::Duration};

/// The extension, which the binary adds to its registry.
pub static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "example.relay",
    short_name: "relay",
    type_urls: &["example.Relay"],
    build,
    build_route: None,
    route_type_urls: &[],
};

/// Octets of a line; a longer one ends the connection.
const LONGEST: usize = 1024;

#[derive(Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Relay {
    cluster: String,
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    Ok(terminal(read_config::<Relay>(config, cx)?))
}

impl TerminalNetworkFilter for Relay {
    fn serve(self: Box<Self>, mut connection: Connection) -> LocalFuture<()> {
        Box::pin(async move {
            connection.set_idle_timeout(Some(Duration::from_secs(60)));
            // What goes wrong on the connection itself ends it: there is nobody to tell.
            let _ = self.relay(&mut connection).await;
        })
    }
}

impl Relay {
    async fn relay(&self, connection: &mut Connection) -> io::Result<()> {
        let mut draining = connection.take_drain_notice();
        while let First::One(line) = race(connection.read_line(LONGEST), &mut draining).await {
            let Some(line) = line? else { return Ok(()) };
            let answer = match self.ask(connection, &line).await {
                Ok(answer) => answer.to_ascii_uppercase(),
                Err(error) => format!("sorry: {error}").into_bytes(),
            };
            connection.write_all(&[&answer[..], b"\n"].concat()).await?;
        }
        connection.write_all(b"bye\n").await
    }

    async fn ask(&self, connection: &Connection, line: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
        let cluster = connection.worker().cluster(&self.cluster)?;
        let host = cluster.choose(&HostChoice { connection: Some(connection.info()), ..HostChoice::default() })?;
        let request = host.begin_request()?;
        let mut upstream = match host.pooled("relay").await {
            Ok(upstream) => upstream,
            Err(error) => {
                request.finish(Outcome::NotConnected);
                return Err(error.into());
            }
        };
        let exchange = async {
            upstream.write_all(&[line, b"\n"].concat()).await?;
            upstream.read_line(LONGEST).await
        };
        match connection.worker().timeout(Duration::from_secs(5), exchange).await {
            Some(Ok(Some(answer))) => {
                upstream.give_back();
                request.finish(Outcome::Success);
                Ok(answer)
            }
            Some(_) => {
                request.finish(Outcome::TransportFailure);
                Err("the host has gone".into())
            }
            None => {
                request.finish(Outcome::Timeout);
                Err("the host does not answer".into())
            }
        }
    }
}
