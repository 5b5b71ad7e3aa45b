//! `sota-mesh explain` and `/explain`: what would become of a request.

mod json;
mod text;

use crate::{
    configuration::{self, Refused},
    options::Options,
    resources::{BuildInputs, Change, Current},
};
use sota_plugin::{
    Registry,
    http::{Method, RequestHead, Scheme},
};
use sota_proxy::explain::{Explanation, Question, Served};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
};

/// A client from outside: an address for documentation (RFC 5737).
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT_PORT: u16 = 40_000;

/// A request as a person writes it down.
#[derive(Debug, Clone, Default)]
pub struct ExplainOptions {
    /// `http://` or `https://`, the host, perhaps a port, path and query.
    pub url: String,
    /// The method.
    pub method: String,
    /// `name: value`.
    pub headers: Vec<String>,
    /// The server name; `None`: the URL's host.
    pub server_name: Option<String>,
    /// Application protocols that are offered over TLS.
    pub application_protocols: Vec<String>,
    /// The client's address.
    pub source: Option<String>,
    /// Where it connects to.
    pub destination: Option<String>,
    /// The listener's name.
    pub listener: Option<String>,
    /// Decides on parts of the requests and among weighted clusters.
    pub random: u64,
    /// Print JSON.
    pub json: bool,
}

/// Reads and builds a configuration without opening a socket, and prints what would become of the request. The exit
/// code is 1 for a configuration that is refused and for a request that cannot be read.
pub fn explain(options: &Options, request: &ExplainOptions, registry: Registry) -> ExitCode {
    let registry = Arc::new(registry);
    let run = || -> Result<String, Refused> {
        let question = request.question().map_err(|reason| Refused(format!("{reason}\n")))?;
        let (loaded, _) = configuration::read(&options.config, &registry, true)?;
        let (inputs, _) = BuildInputs::unopened(&loaded.bootstrap, registry);
        let change = Change::build(&Arc::new(loaded.bootstrap), &Current::default(), &inputs)
            .map_err(|errors| Refused(configuration::render(&errors, &options.config)))?;
        let clusters = |name: &str| change.cluster(name);
        Ok(answer(request, &question, &Served { listeners: change.listeners(), clusters: &clusters }))
    };
    match run() {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(Refused(text)) => {
            eprint!("{text}");
            ExitCode::FAILURE
        }
    }
}

/// The explanation as text or JSON.
pub(crate) fn answer(request: &ExplainOptions, question: &Question, served: &Served<'_>) -> String {
    let explanation: Explanation = sota_proxy::explain::explain(question, served);
    match request.json {
        true => json::render(&explanation),
        false => text::render(request, question, &explanation),
    }
}

impl ExplainOptions {
    /// The request, or what is wrong with it.
    pub(crate) fn question(&self) -> Result<Question, String> {
        let (scheme, rest) = self
            .url
            .split_once("://")
            .ok_or_else(|| format!("{:?} is no URL: it begins with http:// or https://", self.url))?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            other => return Err(format!("the scheme {other:?} is neither http nor https")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let default_port = if is_tls { 443 } else { 80 };
        let (host, port) = host_and_port(authority, default_port)?;
        let method =
            Method::from_bytes(self.method.as_bytes()).ok_or_else(|| format!("{:?} is no method", self.method))?;
        let mut head = RequestHead::new(method, authority, &path).map_err(|error| format!("{}: {error}", self.url))?;
        head.scheme = if is_tls { Scheme::Https } else { Scheme::Http };
        for line in &self.headers {
            let (name, value) =
                line.split_once(':').ok_or_else(|| format!("{line:?} is no header: write NAME: VALUE"))?;
            let (name, value) = (name.trim(), value.trim());
            match name.eq_ignore_ascii_case("host") {
                true => head.set_authority(value.as_bytes()).map_err(|error| format!("{line:?}: {error}"))?,
                false => head.headers.append(name, value).map_err(|error| format!("{line:?}: {error}"))?,
            }
        }
        let unspecified = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let address = |text: &Option<String>, ip: IpAddr, port: u16| {
            text.as_deref().map_or_else(|| Ok(SocketAddr::new(ip, port)), |text| parse_address(text, port))
        };
        Ok(Question {
            head,
            is_tls,
            server_name: self.server_name.clone().unwrap_or_else(|| host.to_owned()),
            application_protocols: self.application_protocols.clone(),
            source: address(&self.source, CLIENT.into(), CLIENT_PORT)?,
            destination: address(&self.destination, unspecified, port)?,
            listener: self.listener.clone(),
            random: self.random,
        })
    }
}

fn host_and_port(authority: &str, default: u16) -> Result<(&str, u16), String> {
    if authority.is_empty() {
        return Err("the URL has no host".to_owned());
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
            Ok((host, port))
        }
        _ => Ok((authority, default)),
    }
}

fn parse_address(text: &str, port: u16) -> Result<SocketAddr, String> {
    let whole = text.parse::<SocketAddr>();
    let ip = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
    whole.or_else(|_| ip()).map_err(|_| format!("{text:?} is no IP address, with or without a port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(url: &str) -> Result<Question, String> {
        ExplainOptions { url: url.to_owned(), method: "GET".to_owned(), ..ExplainOptions::default() }.question()
    }

    #[test]
    fn urls_are_read() {
        let asked = question("https://a.example/b?c=d#e").unwrap();
        assert_eq!((asked.head.authority(), asked.head.path()), (&b"a.example"[..], &b"/b?c=d"[..]));
        assert!(asked.is_tls && asked.server_name == "a.example" && asked.destination.port() == 443);
        let asked = question("http://[::1]:8080").unwrap();
        assert_eq!((asked.head.path(), asked.destination.port()), (&b"/"[..], 8080));
        for (url, reason) in [
            ("a.example", "is no URL"),
            ("ftp://a", "neither http nor https"),
            ("http:///x", "no host"),
            ("http://a:x/", "is no port"),
        ] {
            let error = question(url).unwrap_err();
            assert!(error.contains(reason), "{url}: {error}");
        }
    }

    #[test]
    fn headers_and_addresses_are_read() {
        let mut options = ExplainOptions {
            url: "http://a/".to_owned(),
            method: "PUT".to_owned(),
            headers: vec!["x-a: b".to_owned(), "Host: other".to_owned()],
            source: Some("10.0.0.1".to_owned()),
            destination: Some("10.0.0.2:99".to_owned()),
            ..ExplainOptions::default()
        };
        let asked = options.question().unwrap();
        assert_eq!((asked.head.authority(), asked.head.headers.get_str("x-a")), (&b"other"[..], Some("b")));
        assert_eq!(
            (asked.source.ip().to_string(), asked.destination.to_string()),
            ("10.0.0.1".into(), "10.0.0.2:99".into())
        );
        options.headers = vec!["x".to_owned()];
        assert!(options.question().unwrap_err().contains("NAME: VALUE"));
        options.headers.clear();
        options.source = Some("nobody".to_owned());
        assert!(options.question().unwrap_err().contains("no IP address"));
    }
}
