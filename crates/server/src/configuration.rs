//! From a configuration file to the model, with what went wrong shown as a compiler shows it.

use crate::{
    options::{ConfigOptions, Options},
    resources::Change,
};
use sota_config::{
    ConfigErrors,
    bootstrap::Bootstrap,
    dialect::{Dialect, ExtensionName, Extensions},
    secret::Secret,
};
use sota_envoy::{LoadOptions, Loaded};
use sota_plugin::{Category, Registry};
use std::{fs, io::Read, path::Path, sync::Arc};

/// A larger file is not read at all; the reader's own limit is below it.
const MAX_FILE_BYTES: u64 = 80 << 20;

/// A configuration that was refused, as text for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub String);

/// Reads the file. What is only odd comes back as text beside the model. `elsewhere`: it may be meant for another host,
/// so what is missing on this one is odd and no error.
pub(crate) fn read(
    options: &ConfigOptions,
    registry: &Arc<Registry>,
    elsewhere: bool,
) -> Result<(Loaded, String), Refused> {
    let (name, bytes) = if options.path.as_os_str().is_empty() {
        ("--config-yaml".to_owned(), b"static_resources: {}\n".to_vec())
    } else {
        let name = options.path.display().to_string();
        let bytes = read_file(&options.path).map_err(|error| Refused(format!("{name}: {error}")))?;
        (name, bytes)
    };
    let extensions = RegisteredExtensions(registry);
    let build = |bootstrap: &Bootstrap| Change::errors(bootstrap, registry);
    let load = LoadOptions {
        dialect: options.dialect.as_deref(),
        allow_unknown_static_fields: options.allow_unknown_static_fields,
        allow_unsupported: options.allow_unsupported,
        strict: options.strict,
        elsewhere,
        overlays: &options.overlays,
        extensions: &extensions,
        build: Some(&build),
    };
    match sota_envoy::load(&bytes, &name, &load) {
        Ok(loaded) => {
            let warnings = sota_envoy::render(&loaded.warnings, &name, &bytes);
            Ok((loaded, warnings))
        }
        Err(errors) => Err(Refused(sota_envoy::render(&errors, &name, &bytes))),
    }
}

/// Shows errors that were found while building what the file says.
pub(crate) fn render(errors: &ConfigErrors, options: &ConfigOptions) -> String {
    let name = options.path.display().to_string();
    let bytes = read_file(&options.path).unwrap_or_default();
    sota_envoy::render(errors, &name, &bytes)
}

/// The secrets of a file.
pub(crate) fn read_secrets(path: &Path) -> Result<Vec<Secret>, String> {
    let name = path.display().to_string();
    let bytes = read_file(path).map_err(|error| format!("cannot read \"{}\": {error}", name.escape_debug()))?;
    sota_envoy::read_secrets(&bytes).map_err(|errors| format!("\"{}\": {errors}", name.escape_debug()))
}

/// What the command line says about the node goes before what the file says.
pub(crate) fn override_node(bootstrap: &mut Bootstrap, options: &Options) {
    if let Some(id) = &options.service_node {
        bootstrap.node.id.clone_from(id);
    }
    if let Some(cluster) = &options.service_cluster {
        bootstrap.node.cluster.clone_from(cluster);
    }
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether an extension owns this type URL.
pub(crate) fn claims(registry: &Registry, type_url: &str) -> bool {
    let Registry { listener_filters, network_filters, http_filters, access_loggers, load_balancers, .. } = registry;
    listener_filters.claims(type_url)
        || network_filters.claims(type_url)
        || http_filters.claims(type_url)
        || access_loggers.claims(type_url)
        || load_balancers.claims(type_url)
}

/// What readers of configuration ask of the registry.
struct RegisteredExtensions<'a>(&'a Registry);

impl Extensions for RegisteredExtensions<'_> {
    fn claims(&self, type_url: &str) -> bool {
        claims(self.0, type_url)
    }

    fn find(&self, category: &str, name: &str) -> Option<ExtensionName> {
        match category {
            "envoy.filters.listener" => found(&self.0.listener_filters, name),
            "envoy.filters.network" => found(&self.0.network_filters, name),
            "envoy.filters.http" => found(&self.0.http_filters, name),
            "envoy.access_loggers" => found(&self.0.access_loggers, name),
            _ => None,
        }
    }

    fn names(&self, category: &str) -> Vec<String> {
        match category {
            "envoy.filters.listener" => names(&self.0.listener_filters),
            "envoy.filters.network" => names(&self.0.network_filters),
            "envoy.filters.http" => names(&self.0.http_filters),
            "envoy.access_loggers" => names(&self.0.access_loggers),
            _ => Vec::new(),
        }
    }

    fn dialects(&self) -> Vec<&dyn Dialect> {
        self.0.dialects.clone()
    }
}

fn found<F: ?Sized>(category: &Category<F>, name: &str) -> Option<ExtensionName> {
    let extension = category.find(name)?;
    let type_url = extension.type_urls.first().map(|name| format!("type.googleapis.com/{name}"));
    Some(ExtensionName { name: extension.name.to_owned(), type_url })
}

fn names<F: ?Sized>(category: &Category<F>) -> Vec<String> {
    category.iter().flat_map(|extension| [extension.name.to_owned(), extension.short_name.to_owned()]).collect()
}
