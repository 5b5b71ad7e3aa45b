//! From the bytes of a file to the model: the one way that every start, `validate` and reload takes.

use crate::{
    check::{CheckOptions, check, check_wire},
    merge::merge,
    native, parse_text,
    table::Message,
    text::MAX_TEXT_BYTES,
    translate::{self, PathMap},
};
use sota_config::{
    ConfigError, ConfigErrors, Mark, Node, Severity,
    bootstrap::Bootstrap,
    dialect::{Dialect, Extensions},
};

/// The name of Envoy's dialect.
pub const ENVOY: &str = "envoy";
/// The name of the native dialect.
pub const SOTA: &str = "sota";

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
/// A document with one of these at its top is Envoy's.
const ENVOY_KEYS: [&str; 6] =
    ["static_resources", "dynamic_resources", "node", "admin", "staticResources", "dynamicResources"];

/// How a file is loaded.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// The dialect by name (`-t`); `None`: by the keys of the document.
    pub dialect: Option<&'a str>,
    /// Unknown fields are warnings (`--allow-unknown-static-fields`).
    pub allow_unknown_static_fields: bool,
    /// Unsupported fields are warnings, except those of security (`--allow-unsupported`).
    pub allow_unsupported: bool,
    /// What would be a warning because something that is referred to is missing is an error (`--strict`).
    pub strict: bool,
    /// The file may be meant for another host: what is missing on this one, such as a file that it names, is a warning
    /// (`validate`).
    pub elsewhere: bool,
    /// Documents of Envoy's dialect that are merged over the file, in this order (`--config-yaml`).
    pub overlays: &'a [String],
    /// The registered extensions.
    pub extensions: &'a dyn Extensions,
    /// What extensions find wrong in a model. It is asked of what is left of a document with errors, so that all of them
    /// are told at once; `None`: they come when the model is built.
    pub build: Option<&'a dyn Fn(&Bootstrap) -> ConfigErrors>,
}

/// What a file holds.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The model.
    pub bootstrap: Bootstrap,
    /// What was odd, but no reason to refuse it.
    pub warnings: ConfigErrors,
    /// The dialect that it is written in.
    pub dialect: String,
}

/// Reads, checks and translates a file. A name that ends in `.pb` says protobuf bytes; everything else is YAML or JSON.
///
/// All errors are collected, in the order of the document; [`render`](crate::render) shows them with their lines.
/// Nothing outside of the document is touched but what it names: files of data sources, environment variables.
pub fn load(bytes: &[u8], file_name: &str, options: &LoadOptions<'_>) -> Result<Loaded, ConfigErrors> {
    let dialects = options.extensions.dialects();
    let wanted = match options.dialect {
        None => None,
        Some(name) => Some(by_name(name, &dialects)?),
    };
    if file_name.ends_with(".pb_text") {
        let reason = "protobuf's text format is not read; convert it to YAML, JSON or protobuf bytes (.pb)";
        return Err(ConfigError::new("", Mark::NONE, reason).into());
    }
    if file_name.ends_with(".pb") {
        return load_wire(bytes, wanted.unwrap_or(Chosen::Envoy), options);
    }
    let document = parse_text(bytes)?;
    if let Some(Chosen::Extension(dialect)) = wanted {
        let made = dialect.translate(&document)?;
        let shape = by_keys(&made)?;
        return read(&made, shape, dialect.name(), options);
    }
    let found = by_keys(&document)?;
    // Under its own name the native dialect takes Envoy's documents too.
    let chosen = wanted.unwrap_or(found);
    read(&document, chosen, chosen.name(), options)
}

/// A dialect that was chosen.
#[derive(Clone, Copy)]
enum Chosen<'a> {
    Envoy,
    Sota,
    Extension(&'a dyn Dialect),
}

impl Chosen<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Envoy => ENVOY,
            Self::Sota => SOTA,
            Self::Extension(dialect) => dialect.name(),
        }
    }
}

fn by_name<'a>(name: &str, dialects: &[&'a dyn Dialect]) -> Result<Chosen<'a>, ConfigError> {
    match name {
        ENVOY => Ok(Chosen::Envoy),
        SOTA => Ok(Chosen::Sota),
        _ => dialects.iter().find(|dialect| dialect.name() == name).map(|d| Chosen::Extension(*d)).ok_or_else(|| {
            let known: Vec<_> = [ENVOY, SOTA].into_iter().chain(dialects.iter().map(|d| d.name())).collect();
            ConfigError::new(
                "",
                Mark::NONE,
                format!("unknown dialect \"{}\"; known are {}", name.escape_debug(), known.join(", ")),
            )
        }),
    }
}

/// The dialect that a document's keys tell; both kinds of keys at once are an error.
fn by_keys(document: &Node) -> Result<Chosen<'static>, ConfigError> {
    let first = |keys: &[&str]| document.pairs().iter().find(|(key, _)| keys.contains(&&**key));
    match (first(&ENVOY_KEYS), first(&native::KEYS)) {
        (Some((envoy, envoy_node)), Some((native, native_node))) => {
            let place = |node: &Node| (node.mark.line, node.mark.column);
            let mark = if place(envoy_node) > place(native_node) { envoy_node.mark } else { native_node.mark };
            let reason = format!(
                "\"{envoy}\" is a key of the Envoy dialect and \"{native}\" one of the native dialect; \
                 a document has only one kind{}",
                match &**envoy {
                    "admin" => " (the native dialect says \"admin_address\")",
                    "node" => " (the native dialect says \"node_id\" and \"node_cluster\")",
                    _ => "",
                }
            );
            Err(ConfigError::new("", mark, reason))
        }
        (Some(_), None) => Ok(Chosen::Envoy),
        (None, _) => Ok(Chosen::Sota),
    }
}

fn load_wire(bytes: &[u8], chosen: Chosen<'_>, options: &LoadOptions<'_>) -> Result<Loaded, ConfigErrors> {
    let fail = |reason: String| Err(ConfigError::new("", Mark::NONE, reason).into());
    if let Chosen::Extension(dialect) = chosen {
        return fail(format!("protobuf bytes are of the Envoy dialect, not of \"{}\"", dialect.name()));
    }
    if bytes.len() > MAX_TEXT_BYTES {
        return fail(format!("the file is larger than {MAX_TEXT_BYTES} bytes"));
    }
    if bytes.is_empty() {
        return fail("there is no configuration: the file is empty".to_owned());
    }
    let claims = |url: &str| options.extensions.claims(url);
    let (node, findings) = check_wire(bytes, BOOTSTRAP, &check_options(options, false, &claims));
    finish(&node, findings, None, chosen.name(), options)
}

/// Checks and translates a document in the shape of one of the two dialects.
fn read(document: &Node, shape: Chosen<'_>, dialect: &str, options: &LoadOptions<'_>) -> Result<Loaded, ConfigErrors> {
    let claims = |url: &str| options.extensions.claims(url);
    if matches!(shape, Chosen::Envoy) {
        let (node, findings) = check(document, BOOTSTRAP, &check_options(options, false, &claims));
        return finish(&node, findings, None, dialect, options);
    }
    let lowered = native::lower(document, options.extensions, options.allow_unknown_static_fields);
    let claims = |url: &str| url.starts_with(native::NAMED_URL_PREFIX) || claims(url);
    let (node, found) = check(&lowered.node, BOOTSTRAP, &check_options(options, true, &claims));
    let mut findings = lowered.errors;
    findings.extend(found.0.into_iter().map(|error| ConfigError { path: lowered.paths.written(&error.path), ..error }));
    finish(&node, ConfigErrors(findings), Some(&lowered.paths), dialect, options)
}

fn check_options<'a>(options: &LoadOptions<'_>, relaxed: bool, claims: &'a dyn Fn(&str) -> bool) -> CheckOptions<'a> {
    CheckOptions {
        static_config: true,
        allow_unknown_fields: options.allow_unknown_static_fields,
        allow_unsupported: options.allow_unsupported,
        relaxed,
        claims,
    }
}

/// Translates a checked document, even one with errors: so that all of them are told at once.
fn finish(
    node: &Node,
    findings: ConfigErrors,
    paths: Option<&PathMap>,
    dialect: &str,
    options: &LoadOptions<'_>,
) -> Result<Loaded, ConfigErrors> {
    let mut all = findings.0;
    let merged = (!options.overlays.is_empty()).then(|| overlaid(node, options, &mut all));
    let (node, findings) = (merged.as_ref().unwrap_or(node), ConfigErrors(all));
    let (bootstrap, more) = translate::bootstrap(node, (options.strict, options.elsewhere), paths, &findings);
    let mut all = findings.0;
    let is_fatal = all.iter().chain(&more.0).any(|finding| finding.severity == Severity::Error);
    let built = options.build.filter(|_| is_fatal).map(|build| build(&bootstrap).0);
    for finding in more.0.into_iter().chain(built.into_iter().flatten()) {
        let is_told = all.iter().any(|told| told.mark == finding.mark && told.path == finding.path);
        if finding.mark == Mark::NONE || !is_told {
            all.push(finding);
        }
    }
    all.sort_by_key(|finding| (finding.mark.line, finding.mark.column));
    let all = ConfigErrors(all);
    if all.is_fatal() {
        return Err(all);
    }
    Ok(Loaded { bootstrap, warnings: all, dialect: dialect.to_owned() })
}

/// The checked document with the overlays merged over it. What is wrong in an overlay has its path and no place, as that
/// would be one of another text.
fn overlaid(node: &Node, options: &LoadOptions<'_>, findings: &mut Vec<ConfigError>) -> Node {
    let mut merged = node.clone();
    let claims = |url: &str| options.extensions.claims(url);
    let mut note = |errors: Vec<ConfigError>| {
        findings.extend(errors.into_iter().map(|error| ConfigError {
            mark: Mark::NONE,
            reason: format!("{} (in --config-yaml)", error.reason),
            ..error
        }));
    };
    for text in options.overlays {
        match parse_text(text.as_bytes()) {
            Ok(document) => {
                let (newer, found) = check(&document, BOOTSTRAP, &check_options(options, false, &claims));
                note(found.0);
                if let Some(message) = Message::find(BOOTSTRAP) {
                    merge(&mut merged, &newer, message);
                }
            }
            Err(errors) => note(errors.0),
        }
    }
    merged
}
