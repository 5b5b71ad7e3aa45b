//! A connection with its filter chain: network filters in order, then the terminal one, which owns it.

mod dispatcher;
mod network_filters;
mod secure;

use crate::{
    context::WorkerContext,
    downstream::Downstream,
    drain::DrainSignal,
    http::{HttpConnectionManager, HttpConnectionManagerConfig},
    socket::{Io, Socket},
    tcp_proxy::{TcpProxy, TcpProxyConfig},
    tls::ServerContext,
};
use network_filters::FilteredIo;
use sota_config::{
    ConfigError, ConfigErrors, Mark,
    listener::{FilterChain, NetworkFilterKind},
    secret::SecretRef,
};
use sota_plugin::{
    FactoryContext, LocalFuture,
    filter::{NetworkFilter, NetworkFilterConfig, NetworkFilterFactory, NetworkFilterInstance},
    info::CertificateInfo,
    stats::Scope,
};
use std::{future::ready, rc::Rc, sync::Arc};

/// A filter chain, built and shared by all workers.
pub struct FilterChainConfig {
    /// What it was built from.
    pub model: Arc<FilterChain>,
    filters: Vec<Arc<dyn NetworkFilterConfig>>,
    terminal: TerminalConfig,
    tls: Option<Arc<ServerContext>>,
}

/// What a chain ends with.
pub(crate) enum TerminalConfig {
    Http(Arc<HttpConnectionManagerConfig>),
    TcpProxy(Arc<TcpProxyConfig>),
    Extension(Arc<dyn NetworkFilterConfig>),
    /// A chain without filters closes its connections, as Envoy's does.
    None,
}

impl FilterChainConfig {
    /// Builds a chain, with every error there is.
    pub fn build(model: &Arc<FilterChain>, cx: &FactoryContext<'_>) -> Result<Arc<Self>, ConfigErrors> {
        let mut errors = Vec::new();
        let mut filters = Vec::new();
        let mut terminal = TerminalConfig::None;
        let last = model.filters.len().saturating_sub(1);
        for (at, filter) in model.filters.iter().enumerate() {
            let path = format!("{}.filters[{at}].typed_config", cx.path);
            let cx = &FactoryContext { path: &path, ..*cx };
            let built = match &filter.kind {
                NetworkFilterKind::HttpConnectionManager(manager) => {
                    HttpConnectionManagerConfig::build(manager, cx).map(TerminalConfig::Http)
                }
                NetworkFilterKind::TcpProxy(proxy) => TcpProxyConfig::build(proxy, cx).map(TerminalConfig::TcpProxy),
                NetworkFilterKind::Extension(config) => cx
                    .registry
                    .network_filters
                    .resolve(config)
                    .and_then(|extension| (extension.build)(&config.config, &cx.at(config)))
                    .map(TerminalConfig::Extension)
                    .map_err(ConfigErrors::from),
            };
            let is_terminal = match &built {
                Ok(TerminalConfig::Extension(config)) => config.is_terminal(),
                _ => true,
            };
            match built {
                Err(found) => errors.extend(found.0),
                Ok(_) if is_terminal != (at == last) => errors.push(misplaced(model, &filter.name, is_terminal, cx)),
                Ok(TerminalConfig::Extension(config)) if !is_terminal => filters.push(config),
                Ok(found) => terminal = found,
            }
        }
        let tls = model.transport_socket.as_ref().map(|model| ServerContext::new(model, cx)).transpose();
        let tls = tls.map_err(|error| errors.push(error)).ok().flatten();
        if errors.is_empty() {
            Ok(Arc::new(Self { model: Arc::clone(model), filters, terminal, tls }))
        } else {
            Err(ConfigErrors(errors))
        }
    }
}

impl FilterChainConfig {
    /// The certificates that it shows to clients over TLS, now.
    pub fn certificates(&self) -> Vec<Arc<CertificateInfo>> {
        self.tls.as_ref().map_or_else(Vec::new, |tls| tls.certificates())
    }

    /// The secrets that its TLS waits for.
    pub(crate) fn missing_secrets(&self) -> Vec<SecretRef> {
        self.tls.as_ref().map_or_else(Vec::new, |tls| tls.missing())
    }

    /// What it ends with.
    pub(crate) fn terminal(&self) -> &TerminalConfig {
        &self.terminal
    }
}

fn misplaced(chain: &FilterChain, filter: &str, is_terminal: bool, cx: &FactoryContext<'_>) -> ConfigError {
    let chain = if chain.name.is_empty() { String::new() } else { format!(" of filter chain \"{}\"", chain.name) };
    let reason = if is_terminal {
        format!("the network filter \"{filter}\"{chain} is terminal and must be the last of its chain")
    } else {
        format!("the last network filter \"{filter}\"{chain} is not terminal: nothing would own the connection")
    };
    cx.error("", Mark::NONE, reason)
}

/// A filter chain on one worker.
pub struct WorkerChain {
    /// Its name; empty when it has none.
    pub name: Arc<str>,
    /// What it was made from.
    pub config: Arc<FilterChainConfig>,
    /// Drains its connections.
    pub drain: DrainSignal,
    context: Rc<WorkerContext>,
    filters: Vec<Box<dyn NetworkFilterFactory>>,
    terminal: Terminal,
    tls: Option<secure::WorkerTls>,
}

enum Terminal {
    Http(Rc<HttpConnectionManager>),
    TcpProxy(Rc<TcpProxy>),
    Extension(Box<dyn NetworkFilterFactory>),
    None,
}

impl WorkerChain {
    /// The worker's part of a chain. `listener`: what its listener counts stands below this.
    pub fn new(config: &Arc<FilterChainConfig>, context: &Rc<WorkerContext>, listener: &Scope) -> Self {
        let terminal = match &config.terminal {
            TerminalConfig::Http(manager) => {
                Terminal::Http(HttpConnectionManager::for_worker(manager, context, listener))
            }
            TerminalConfig::TcpProxy(proxy) => Terminal::TcpProxy(TcpProxy::for_worker(proxy, context)),
            TerminalConfig::Extension(config) => Terminal::Extension(config.for_worker(&context.cx)),
            TerminalConfig::None => Terminal::None,
        };
        Self {
            name: config.model.name.as_str().into(),
            config: Arc::clone(config),
            drain: DrainSignal::default(),
            context: Rc::clone(context),
            filters: config.filters.iter().map(|filter| filter.for_worker(&context.cx)).collect(),
            terminal,
            tls: config.tls.as_ref().map(|tls| secure::WorkerTls::new(tls, config, listener)),
        }
    }

    /// What serves a connection until it is over: as large as this kind of terminal needs.
    pub fn serve(self: Rc<Self>, downstream: Downstream) -> LocalFuture<()> {
        if self.tls.is_none() {
            return self.serve_plain(downstream);
        }
        Box::pin(async move {
            let Some(tls) = &self.tls else { return };
            if let Some(secured) = Box::pin(tls.accept(downstream, &self.context)).await {
                Rc::clone(&self).serve_plain(secured).await;
            }
        })
    }

    /// The same behind the handshake.
    fn serve_plain(self: Rc<Self>, mut downstream: Downstream) -> LocalFuture<()> {
        if !self.filters.is_empty() {
            downstream = match self.filtered(downstream) {
                Ok(filtered) => filtered,
                Err(closes) => return closes,
            };
        }
        match &self.terminal {
            Terminal::Http(manager) => Box::pin(Rc::clone(manager).serve(downstream)),
            Terminal::TcpProxy(proxy) => Box::pin(Rc::clone(proxy).serve(downstream)),
            Terminal::Extension(factory) => match factory.new_filter(&downstream.info) {
                NetworkFilterInstance::Terminal(filter) => dispatcher::serve(filter, downstream, &self.context),
                NetworkFilterInstance::Filter(_) | NetworkFilterInstance::None => Box::pin(ready(())),
            },
            Terminal::None => Box::pin(ready(())),
        }
    }

    /// Puts the filters between the socket and the terminal. An error: one of them closes the connection, once this is
    /// ready.
    fn filtered(&self, downstream: Downstream) -> Result<Downstream, LocalFuture<()>> {
        let filters: Vec<Box<dyn NetworkFilter>> = self
            .filters
            .iter()
            .filter_map(|factory| match factory.new_filter(&downstream.info) {
                NetworkFilterInstance::Filter(filter) => Some(filter),
                NetworkFilterInstance::Terminal(_) | NetworkFilterInstance::None => None,
            })
            .collect();
        if filters.is_empty() {
            return Ok(downstream);
        }
        let Downstream { socket, info, drain, buffer_limit } = downstream;
        let io = FilteredIo::new(filters, socket, Rc::clone(&info), self.context.cx.clone(), buffer_limit)?;
        Ok(Downstream { socket: Socket::new(Io::Layered(Box::new(io))), info, drain, buffer_limit })
    }
}
