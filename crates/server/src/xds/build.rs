//! From resources as they came to what is served. Runs on a thread of its own.

use super::Kind;
use crate::{configuration::claims, resources::BuildInputs};
use sota_config::{ConfigError, ConfigErrors, Mark, Node, cluster::LoadAssignment, secret::Secret};
use sota_envoy::{
    CheckOptions, TranslateOptions,
    discovery::{Resource, Response},
    translate_cluster, translate_listener, translate_load_assignment, translate_route_configuration, translate_secret,
};
use sota_plugin::FactoryContext;
use sota_proxy::{
    listener::ListenerConfig,
    router::{Brought, RouteTable},
    upstream::ClusterConfig,
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

/// What is known of a resource of this name.
pub(in crate::xds) struct Before<T> {
    /// Of the content that was accepted last.
    pub(in crate::xds) fingerprint: Option<u64>,
    /// What is served, or will be.
    pub(in crate::xds) served: Option<Arc<T>>,
}

/// A resource of a response.
pub(in crate::xds) struct Built<T> {
    pub(in crate::xds) name: String,
    pub(in crate::xds) version: String,
    pub(in crate::xds) fingerprint: u64,
    pub(in crate::xds) result: Outcome<T>,
}

/// What became of it.
pub(in crate::xds) enum Outcome<T> {
    /// It is new, or changed.
    New(T),
    /// It is as it was: `served` of [`Before`].
    Same,
    /// It came again as it came last.
    Again,
    /// It is refused.
    Bad(String),
}

/// What building needs beside the resources.
#[derive(Clone)]
pub(in crate::xds) struct Builder {
    pub(in crate::xds) inputs: BuildInputs,
    pub(in crate::xds) allow_unsupported: bool,
    pub(in crate::xds) allow_unknown_fields: bool,
    /// Clusters that exist, for routes that want theirs checked.
    pub(in crate::xds) clusters: Arc<HashSet<String>>,
}

/// Names that are known, with what is known of them.
pub(in crate::xds) type Known<T> = BTreeMap<String, Before<T>>;

impl Builder {
    pub(in crate::xds) fn clusters(
        &self,
        response: &Response,
        known: &Known<ClusterConfig>,
    ) -> Vec<Built<Arc<ClusterConfig>>> {
        self.all(Kind::Clusters, response, known, |node, before| {
            let (model, warnings) = translate_cluster(node, &self.options(&|_| true))?;
            self.warn(&model.name, &warnings);
            if before.is_some_and(|before| **before.model() == model) {
                return Ok(None);
            }
            ClusterConfig::build_next(&Arc::new(model), before.map(|before| &**before), &self.context()).map(Some)
        })
    }

    pub(in crate::xds) fn listeners(
        &self,
        response: &Response,
        known: &Known<ListenerConfig>,
    ) -> Vec<Built<Arc<ListenerConfig>>> {
        self.all(Kind::Listeners, response, known, |node, before| {
            let (model, warnings) = translate_listener(node, &self.options(&|name| self.clusters.contains(name)))?;
            self.warn(&model.name, &warnings);
            if before.is_some_and(|before| *before.model == model) {
                return Ok(None);
            }
            let previous = before.map(|before| &**before);
            ListenerConfig::build(&Arc::new(model), previous, self.inputs.workers, &self.context()).map(Some)
        })
    }

    pub(in crate::xds) fn endpoints(
        &self,
        response: &Response,
        known: &Known<LoadAssignment>,
    ) -> Vec<Built<Arc<LoadAssignment>>> {
        self.all(Kind::Endpoints, response, known, |node, before| {
            let (model, warnings) = translate_load_assignment(node, &self.options(&|_| true))?;
            self.warn(node.str("cluster_name"), &warnings);
            Ok(before.is_none_or(|before| **before != model).then(|| Arc::new(model)))
        })
    }

    pub(in crate::xds) fn secrets(&self, response: &Response, known: &Known<Secret>) -> Vec<Built<Arc<Secret>>> {
        self.all(Kind::Secrets, response, known, |node, before| {
            let (model, warnings) = translate_secret(node, &self.options(&|_| true))?;
            self.warn(&model.name, &warnings);
            Ok(before.is_none_or(|before| **before != model).then(|| Arc::new(model)))
        })
    }

    pub(in crate::xds) fn runtimes(&self, response: &Response, known: &Known<Node>) -> Vec<Built<Arc<Node>>> {
        self.all(Kind::Runtimes, response, known, |node, before| {
            let layer = node.get("layer").cloned().unwrap_or_else(Node::map);
            Ok(before.is_none_or(|before| **before != layer).then(|| Arc::new(layer)))
        })
    }

    pub(in crate::xds) fn routes(&self, response: &Response, known: &Known<Brought>) -> Vec<Built<Arc<RouteTable>>> {
        self.all(Kind::Routes, response, known, |node, before| {
            let exists = |name: &str| self.clusters.contains(name);
            let (model, warnings) = translate_route_configuration(node, &self.options(&exists))?;
            self.warn(&model.name, &warnings);
            if before.is_some_and(|before| **before.table.model() == model) {
                return Ok(None);
            }
            RouteTable::build(&Arc::new(model), &self.context()).map(Some)
        })
    }

    /// Each resource; what came before under the same name in this response makes it bad.
    fn all<T, B>(
        &self,
        kind: Kind,
        response: &Response,
        known: &Known<B>,
        build: impl Fn(&Node, Option<&Arc<B>>) -> Result<Option<T>, ConfigErrors>,
    ) -> Vec<Built<T>> {
        let mut seen = HashSet::new();
        let mut one = |resource: &Resource| {
            let name = name_of(kind, resource);
            let fingerprint = resource.fingerprint();
            let before = known.get(&name);
            let result = if resource.is_heartbeat() {
                Outcome::Again
            } else if !seen.insert(name.clone()) {
                Outcome::Bad(format!("the name \"{name}\" stands twice in this response"))
            } else if before.is_some_and(|before| before.fingerprint == Some(fingerprint)) {
                Outcome::Again
            } else {
                let served = before.and_then(|before| before.served.as_ref());
                match self.check(kind, resource).and_then(|node| build(&node, served)) {
                    Ok(Some(built)) => Outcome::New(built),
                    Ok(None) => Outcome::Same,
                    Err(errors) => Outcome::Bad(errors.to_string().replace('\n', "; ")),
                }
            };
            Built { name, version: resource.version.clone(), fingerprint, result }
        };
        response.resources.iter().map(&mut one).collect()
    }

    fn check(&self, kind: Kind, resource: &Resource) -> Result<Node, ConfigErrors> {
        if resource.message != kind.message() {
            let reason = format!("a resource of the type \"{}\" in a response with others", resource.message);
            return Err(ConfigError::new("", Mark::NONE, reason).into());
        }
        let claims = |url: &str| claims(&self.inputs.registry, url);
        let options = CheckOptions {
            static_config: false,
            allow_unknown_fields: self.allow_unknown_fields,
            allow_unsupported: self.allow_unsupported,
            relaxed: false,
            claims: &claims,
        };
        let (node, findings) = resource.check(&options);
        if findings.is_fatal() { Err(findings) } else { Ok(node) }
    }

    fn options<'a>(&'a self, clusters: &'a dyn Fn(&str) -> bool) -> TranslateOptions<'a> {
        TranslateOptions {
            clusters: Some(clusters),
            tracer: self.inputs.tracer.as_ref(),
            ..TranslateOptions::default()
        }
    }

    fn context(&self) -> FactoryContext<'_> {
        FactoryContext {
            registry: &self.inputs.registry,
            logs: &self.inputs.logs,
            runtime: &self.inputs.runtime,
            node: &self.inputs.node,
            secrets: &self.inputs.secrets,
            stat_prefix: "",
            clusters: None,
            path: "",
            mark: Mark::NONE,
        }
    }

    fn warn(&self, name: &str, warnings: &ConfigErrors) {
        for warning in &warnings.0 {
            tracing::warn!(target: "config", "{name}: {warning}");
        }
    }
}

/// The name that stands in the resource; around it there may be none.
pub(in crate::xds) fn name_of(kind: Kind, resource: &Resource) -> String {
    let inner = match kind {
        Kind::Endpoints => resource.text_field(1, "cluster_name"),
        Kind::Runtimes | Kind::Clusters | Kind::Secrets | Kind::Listeners | Kind::Routes => {
            resource.text_field(1, "name")
        }
    };
    if inner.is_empty() { resource.name.clone() } else { inner }
}
