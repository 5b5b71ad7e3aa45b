//! The admin interface: what the process is doing, for people and for scrapers, in Envoy's formats.
//!
//! It runs on the main thread, away from the workers. An answer is made in pieces and a piece is sent before the next
//! is made, so a slow reader holds up nobody and a large answer never stands in memory as a whole.

mod certs;
mod commands;
mod config_dump;
mod connection;
mod dumped;
mod explain;
mod hosts;
mod requests;
mod state;

use crate::server::Server;
use connection::serve;
use sota_config::{address::Address, bootstrap::Admin};
use sota_plugin::http::StatusCode;
use std::{net::SocketAddr, rc::Rc};
use tokio::net::{TcpListener, UnixListener};

/// A request to the admin interface.
pub(crate) struct Request<'a> {
    /// Whether it may change something.
    pub(crate) is_post: bool,
    /// The path without the query.
    pub(crate) path: &'a str,
    /// What follows the `?`.
    pub(crate) query: &'a str,
    /// The body of a POST, where parameters may stand as well.
    pub(crate) body: &'a str,
}

impl Request<'_> {
    /// The value of a parameter, decoded; empty when it has none.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        self.parameters().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// All parameters, decoded, in their order.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (String, String)> {
        let pairs = self.query.split('&').chain(self.body.split('&')).filter(|pair| !pair.is_empty());
        pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
    }
}

/// `%XX` decoded; what is no such thing stays.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&octet, tail)) = rest.split_first() {
        let digit = |at: usize| tail.get(at).and_then(|c| char::from(*c).to_digit(16));
        rest = tail;
        match (octet, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => out.push(octet),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: Body,
}

/// A body, whole or in pieces.
pub(crate) enum Body {
    Whole(String),
    Pieces(Box<dyn Iterator<Item = Vec<u8>>>),
}

/// The media type of most answers.
const TEXT: &str = "text/plain; charset=UTF-8";
/// The media type of the others.
const JSON: &str = "application/json";

impl Reply {
    /// 200 with text.
    pub(crate) fn text(body: impl Into<String>) -> Self {
        Self { status: StatusCode::OK, content_type: TEXT, body: Body::Whole(body.into()) }
    }

    /// An error with text.
    pub(crate) fn error(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content_type: TEXT, body: Body::Whole(body.into()) }
    }
}

/// Binds the address and serves it from now on. An address that cannot be had is an error of the configuration.
pub(crate) fn start(server: &Rc<Server>, admin: &Admin) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("admin: cannot listen on {}: {error}", admin.address);
    let address = match &admin.address {
        Address::Ip { ip, port, .. } => {
            let listener = std::net::TcpListener::bind(SocketAddr::new(*ip, *port)).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?.to_string();
            accept_tcp(server, TcpListener::from_std(listener).map_err(failed)?);
            address
        }
        Address::Pipe { path, .. } => {
            let listener = UnixListener::bind(path).map_err(failed)?;
            accept_unix(server, listener);
            path.display().to_string()
        }
        Address::Name { .. } => return Err(format!("admin: {} is no address", admin.address)),
    };
    if let Some(path) = &server.options.admin_address_path {
        std::fs::write(path, &address)
            .map_err(|error| format!("cannot write the admin address to {}: {error}", path.display()))?;
    }
    Ok(())
}

/// A failed accept is tried again after a moment: there may be file descriptors then.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

fn accept_tcp(server: &Rc<Server>, listener: TcpListener) {
    let server = Rc::clone(server);
    tokio::task::spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::task::spawn_local(serve(Rc::clone(&server), stream))),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    });
}

fn accept_unix(server: &Rc<Server>, listener: UnixListener) {
    let server = Rc::clone(server);
    tokio::task::spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::task::spawn_local(serve(Rc::clone(&server), stream))),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let request = Request { is_post: false, path: "/", query: "filter=%5Ea%2e&usedonly&x=%zz", body: "b=c" };
        assert_eq!(request.parameter("filter").as_deref(), Some("^a."));
        assert_eq!(request.parameter("usedonly").as_deref(), Some(""));
        assert_eq!(request.parameter("x").as_deref(), Some("%zz"));
        assert_eq!(request.parameter("b").as_deref(), Some("c"));
        assert_eq!(request.parameter("y"), None);
    }
}
