//! Envoy's own command line, for those that start the proxy as if it were Envoy, such as Istio's pilot-agent.
//!
//! Each option is supported, taken without effect (and told on stderr), or refused by
//! name. What differs from `start` is what Envoy does: levels and patterns of the log, and a SIGTERM that ends soon.

use crate::cli::level;
use clap::{Args, ValueEnum};
use sota_server::{COMPONENTS, ConfigOptions, LevelFilter, LogFormat, Options, Pattern};
use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

/// Envoy's options, by its names (`source/server/options_impl.cc`).
#[derive(Args)]
pub(crate) struct EnvoyArgs {
    /// The bootstrap: YAML, JSON, or protobuf (.pb)
    #[arg(short = 'c', long, value_name = "FILE")]
    config_path: Option<PathBuf>,
    /// A bootstrap as YAML or JSON, merged over the file
    #[arg(long, value_name = "YAML")]
    config_yaml: Option<String>,
    /// serve or validate
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    mode: Mode,
    /// Print the version
    #[arg(long)]
    version: bool,
    /// Print the version of the hot restart protocol: there is none
    #[arg(long)]
    hot_restart_version: bool,
    /// Take unknown fields of the bootstrap with a warning
    #[arg(long, alias = "allow-unknown-fields")]
    allow_unknown_static_fields: bool,
    /// Refuse unknown fields in what a control plane sends
    #[arg(long)]
    reject_unknown_dynamic_fields: bool,
    /// Workers; default: the processors that this process may use; 0 is 1
    #[arg(long, value_name = "N")]
    concurrency: Option<u16>,
    /// trace, debug, info, warning, error, critical or off
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info", value_parser = level)]
    log_level: LevelFilter,
    /// Levels of single components, such as http:debug,upstream:trace
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    component_log_level: Vec<String>,
    /// How log lines look: a pattern with spdlog's flags
    #[arg(long, value_name = "PATTERN")]
    log_format: Option<String>,
    /// Escape line breaks in messages of the log
    #[arg(long)]
    log_format_escaped: bool,
    /// Write the log to a file instead of stderr
    #[arg(long, value_name = "FILE")]
    log_path: Option<PathBuf>,
    /// Connections of a changed or removed filter chain, and listeners that drain, may go on for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    drain_time_s: u32,
    /// Write the address of the admin interface to a file
    #[arg(long, value_name = "FILE")]
    admin_address_path: Option<PathBuf>,
    /// Not of Envoy: remember in this folder what control planes send, so that a start without them serves at once
    #[arg(long, value_name = "DIR")]
    xds_cache: Option<PathBuf>,
    /// Replaces node.id
    #[arg(long, value_name = "ID")]
    service_node: Option<String>,
    /// Replaces node.cluster
    #[arg(long, value_name = "NAME")]
    service_cluster: Option<String>,
    /// Replaces node.locality.zone
    #[arg(long, value_name = "NAME")]
    service_zone: Option<String>,
    /// A tag of every stat, NAME:VALUE; may be given several times
    #[arg(long, value_name = "NAME:VALUE")]
    stats_tag: Vec<String>,
    #[command(flatten)]
    inert: Inert,
    #[command(flatten)]
    refused: Refused,
}

/// What the process is to do (`--mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Serve,
    Validate,
}

/// Taken without effect.
#[derive(Args)]
struct Inert {
    #[arg(long, hide = true)]
    restart_epoch: Option<u32>,
    #[arg(long, hide = true)]
    base_id: Option<u32>,
    #[arg(long, hide = true)]
    base_id_path: Option<PathBuf>,
    #[arg(long, hide = true)]
    use_dynamic_base_id: bool,
    #[arg(long, hide = true)]
    skip_hot_restart_on_no_parent: bool,
    #[arg(long, hide = true)]
    skip_hot_restart_parent_stats: bool,
    #[arg(long, hide = true)]
    disable_hot_restart: bool,
    #[arg(long, hide = true)]
    parent_shutdown_time_s: Option<u32>,
    #[arg(long, hide = true)]
    socket_path: Option<PathBuf>,
    #[arg(long, hide = true)]
    socket_mode: Option<String>,
    #[arg(long, hide = true, value_parser = ["gradual", "immediate"])]
    drain_strategy: Option<String>,
    #[arg(long, hide = true, value_parser = ["v4", "v6"])]
    local_address_ip_version: Option<String>,
    #[arg(long, hide = true)]
    file_flush_interval_msec: Option<u32>,
    #[arg(long, hide = true)]
    file_flush_min_size_kb: Option<u32>,
    #[arg(long, hide = true)]
    ignore_unknown_dynamic_fields: bool,
    #[arg(long, hide = true)]
    skip_deprecated_logs: bool,
    #[arg(long, hide = true)]
    enable_core_dump: bool,
    #[arg(long, hide = true)]
    enable_mutex_tracing: bool,
    #[arg(long, hide = true)]
    enable_fine_grain_logging: bool,
    #[arg(long, hide = true)]
    cpuset_threads: bool,
}

/// Known, and refused by name.
#[derive(Args)]
struct Refused {
    #[arg(long, hide = true)]
    disable_extensions: Option<String>,
}

/// Components of Envoy's log that nothing logs as here; their levels are taken without effect.
const ENVOY_COMPONENTS: &[&str] = &[
    "alternate_protocols_cache",
    "assert",
    "aws",
    "backtrace",
    "basic_auth",
    "cache_filter",
    "client",
    "compression",
    "credential_injector",
    "decompression",
    "dynamic_forward_proxy",
    "dynamic_modules",
    "ext_authz",
    "ext_proc",
    "forward_proxy",
    "geolocation",
    "golang",
    "grpc",
    "happy_eyeballs",
    "hc",
    "health_checker",
    "hot_restart",
    "http2",
    "hystrix",
    "init",
    "io",
    "json_to_metadata",
    "jwt",
    "kafka",
    "key_value_store",
    "local_rate_limit",
    "matcher",
    "mcp",
    "misc",
    "mongo",
    "multi_connection",
    "notification",
    "oauth2",
    "quic",
    "quic_stream",
    "rate_limit_quota",
    "rbac",
    "rds",
    "redis",
    "rocketmq",
    "secret",
    "tap",
    "testing",
    "thrift",
    "tracing",
    "udp",
    "wasm",
    "websocket",
];

/// The arguments as the parser takes them: a program that is called `envoy` has Envoy's command line.
pub(crate) fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<OsString> = given.collect();
    let is_envoy = all.first().is_some_and(|program| Path::new(program).file_name() == Some(OsStr::new("envoy")));
    if is_envoy {
        all.insert(1, OsString::from("envoy"));
    }
    all
}

impl EnvoyArgs {
    /// What is only asked: the text to print.
    pub(crate) fn answer(&self) -> Option<String> {
        if self.version {
            // Envoy's form: revision, version, state of the tree, kind of build, TLS library.
            return Some(format!(
                "\nenvoy  version: sota-mesh/{}/Clean/{}/AWS-LC\n",
                env!("CARGO_PKG_VERSION"),
                if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" }
            ));
        }
        self.hot_restart_version.then(|| "disabled".to_owned())
    }

    /// How the process is to run. An error is one of usage, in words.
    pub(crate) fn options(self) -> Result<(Options, Mode), String> {
        if self.refused.disable_extensions.is_some() {
            return Err("--disable-extensions is not supported: extensions are chosen when the program is built".into());
        }
        if self.config_path.is_none() && self.config_yaml.is_none() {
            return Err("at least one of --config-path and --config-yaml is needed".into());
        }
        let mut component_log_level = Vec::new();
        for item in self.component_log_level.iter().filter(|item| !item.is_empty()) {
            let (name, value) = item.split_once(':').ok_or("--component-log-level: write COMPONENT:LEVEL")?;
            let level = level(value)?;
            if COMPONENTS.contains(&name) {
                component_log_level.push((name.to_owned(), level));
            } else if !ENVOY_COMPONENTS.contains(&name) {
                return Err(format!("--component-log-level: there is no component \"{}\"", name.escape_debug()));
            }
        }
        let log_format = match &self.log_format {
            Some(text) => {
                let pattern = Pattern::parse(text).map_err(|reason| format!("--log-format: {reason}"))?;
                LogFormat::Pattern(if self.log_format_escaped { pattern.escaped() } else { pattern })
            }
            None if self.log_format_escaped => LogFormat::Pattern(Pattern::parse(DEFAULT_PATTERN)?.escaped()),
            None => LogFormat::Text,
        };
        let overlays = self.overlays()?;
        self.inert.mention();
        let options = Options {
            config: ConfigOptions {
                path: self.config_path.unwrap_or_default(),
                dialect: Some("envoy".to_owned()),
                allow_unknown_static_fields: self.allow_unknown_static_fields,
                overlays,
                reject_unknown_dynamic_fields: self.reject_unknown_dynamic_fields,
                ..ConfigOptions::default()
            },
            concurrency: self.concurrency.map(|n| usize::from(n.clamp(1, 1024))),
            log_level: self.log_level,
            component_log_level,
            log_path: self.log_path,
            log_format,
            // Envoy ends at once on SIGTERM. Who drains does so before, by /drain_listeners.
            drain_delay: Duration::ZERO,
            shutdown_time: Duration::from_secs(1),
            drain_time: Duration::from_secs(u64::from(self.drain_time_s)),
            admin_address_path: self.admin_address_path,
            xds_cache: self.xds_cache,
            ..Options::default()
        };
        Ok((options, self.mode))
    }

    /// What goes over the file: `--config-yaml`, then the options that stand for a field.
    fn overlays(&self) -> Result<Vec<String>, String> {
        let text = |value: &str| serde_json::Value::from(value).to_string();
        let mut all: Vec<String> = self.config_yaml.iter().cloned().collect();
        for (option, before, after) in [
            (&self.service_node, "{id: ", "}"),
            (&self.service_cluster, "{cluster: ", "}"),
            (&self.service_zone, "{locality: {zone: ", "}}"),
        ] {
            all.extend(option.iter().map(|value| format!("node: {before}{}{after}", text(value))));
        }
        for tag in &self.stats_tag {
            let (name, value) = tag
                .split_once(':')
                .filter(|(name, value)| !name.is_empty() && !value.is_empty())
                .ok_or_else(|| format!("--stats-tag: write NAME:VALUE, not \"{}\"", tag.escape_debug()))?;
            let (name, value) = (text(name), text(value));
            all.push(format!("stats_config: {{stats_tags: [{{tag_name: {name}, fixed_value: {value}}}]}}"));
        }
        Ok(all)
    }
}

/// Envoy's `DefaultLogFormat`.
const DEFAULT_PATTERN: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

impl Inert {
    /// Says which options were given that change nothing, and why.
    fn mention(&self) {
        const HOT_RESTART: &str = "there is no hot restart";
        const LOGS: &str = "log files are written as soon as their thread comes to it";
        let given = [
            ("--restart-epoch", self.restart_epoch.is_some_and(|epoch| epoch > 0), HOT_RESTART),
            ("--base-id", self.base_id.is_some(), HOT_RESTART),
            ("--base-id-path", self.base_id_path.is_some(), HOT_RESTART),
            ("--use-dynamic-base-id", self.use_dynamic_base_id, HOT_RESTART),
            ("--skip-hot-restart-on-no-parent", self.skip_hot_restart_on_no_parent, HOT_RESTART),
            ("--skip-hot-restart-parent-stats", self.skip_hot_restart_parent_stats, HOT_RESTART),
            ("--parent-shutdown-time-s", self.parent_shutdown_time_s.is_some(), HOT_RESTART),
            ("--socket-path", self.socket_path.is_some(), HOT_RESTART),
            ("--socket-mode", self.socket_mode.is_some(), HOT_RESTART),
            (
                "--drain-strategy gradual",
                self.drain_strategy.as_deref() == Some("gradual"),
                "connections that drain are told so at once",
            ),
            ("--file-flush-interval-msec", self.file_flush_interval_msec.is_some(), LOGS),
            ("--file-flush-min-size-kb", self.file_flush_min_size_kb.is_some(), LOGS),
            (
                "--local-address-ip-version",
                self.local_address_ip_version.as_deref() == Some("v6"),
                "nothing here tells the address of this host",
            ),
            ("--enable-core-dump", self.enable_core_dump, "the system's limits decide on core dumps"),
            ("--enable-mutex-tracing", self.enable_mutex_tracing, "there are no locks to trace"),
            ("--enable-fine-grain-logging", self.enable_fine_grain_logging, "levels go by component"),
            ("--cpuset-threads", self.cpuset_threads, "workers follow the processors that they may use anyway"),
        ];
        // What says what happens here anyway (--disable-hot-restart, --ignore-unknown-dynamic-fields, …) is no news.
        for (flag, _, reason) in given.iter().filter(|(_, given, _)| *given) {
            eprintln!("{flag} changes nothing: {reason}");
        }
        let _ = (self.disable_hot_restart, self.ignore_unknown_dynamic_fields, self.skip_deprecated_logs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(disable_version_flag = true)]
    struct Alone {
        #[command(flatten)]
        envoy: EnvoyArgs,
    }

    fn options(line: &str) -> Result<(Options, Mode), String> {
        let words = ["envoy"].into_iter().chain(line.split_whitespace());
        Alone::try_parse_from(words).map_err(|error| error.to_string())?.envoy.options()
    }

    #[test]
    fn the_program_s_name_decides() {
        let words = |text: &str| arguments(text.split(' ').map(OsString::from)).join(OsStr::new(" "));
        assert_eq!(words("/usr/local/bin/envoy -c x"), "/usr/local/bin/envoy envoy -c x");
        assert_eq!(words("/usr/bin/sota-mesh envoy -c x"), "/usr/bin/sota-mesh envoy -c x");
        assert_eq!(words("sota-mesh start"), "sota-mesh start");
    }

    #[test]
    fn as_pilot_agent_calls_it() {
        let (options, mode) = options(
            "-c etc/istio/proxy/envoy-rev.json --drain-time-s 45 --drain-strategy immediate \
             --local-address-ip-version v4 --file-flush-interval-msec 1000 --disable-hot-restart \
             --allow-unknown-static-fields --file-flush-min-size-kb 8 -l warning --component-log-level misc:error,http:debug \
             --skip-deprecated-logs --enable-core-dump --config-yaml {} --concurrency 2",
        )
        .unwrap();
        assert_eq!(mode, Mode::Serve);
        assert_eq!(options.config.path, Path::new("etc/istio/proxy/envoy-rev.json"));
        assert!(options.config.allow_unknown_static_fields && !options.config.allow_unsupported);
        assert_eq!((options.drain_time, options.concurrency), (Duration::from_secs(45), Some(2)));
        assert_eq!(options.log_level, LevelFilter::WARN);
        assert_eq!(options.component_log_level, [("http".to_owned(), LevelFilter::DEBUG)]);
        assert_eq!(options.config.overlays, ["{}"]);
    }

    #[test]
    fn options_that_stand_for_fields() {
        let (options, _) = options("-c x --service-zone z\"1 --service-node n --stats-tag a:b:c").unwrap();
        assert_eq!(
            options.config.overlays,
            [
                "node: {id: \"n\"}",
                "node: {locality: {zone: \"z\\\"1\"}}",
                "stats_config: {stats_tags: [{tag_name: \"a\", fixed_value: \"b:c\"}]}",
            ]
        );
    }

    #[test]
    fn bad_usage() {
        for (line, reason) in [
            ("", "--config-path"),
            ("-c x --mode init_only", "init_only"),
            ("-c x --disable-extensions a/b", "--disable-extensions is not supported"),
            ("-c x -l loud", "levels"),
            ("-c x --component-log-level nothing:debug", "no component"),
            ("-c x --drain-strategy never", "never"),
            ("-c x --log-format %q", "%q"),
            ("-c x --stats-tag a", "NAME:VALUE"),
            ("-c x --unheard-of", "--unheard-of"),
        ] {
            let error = options(line).err().unwrap_or_default();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
