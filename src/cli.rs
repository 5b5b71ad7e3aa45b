//! The command line: `start`, `validate`, `explain`, `support`. A binary with extensions of its own hands its registry to [`run`].

use crate::envoy_cli::{self, EnvoyArgs, Mode};
use clap::{Args, Parser, Subcommand, ValueEnum};
use sota_plugin::{Registry, extension::DuplicateExtension};
use sota_server::{COMPONENTS, ConfigOptions, ExplainOptions, LevelFilter, LogFormat, Options, parse_level};
use std::{path::PathBuf, process::ExitCode, time::Duration};

/// A service-mesh data plane that reads Envoy's configuration.
#[derive(Parser)]
#[command(name = "sota-mesh", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the proxy
    Start(Box<StartArgs>),
    /// Take Envoy's command line; the same as a link named "envoy" to this program
    #[command(disable_version_flag = true)]
    Envoy(Box<EnvoyArgs>),
    /// Check a configuration without opening a socket
    Validate(ConfigArgs),
    /// Say what would become of a request, step by step and with reasons
    Explain(Box<ExplainArgs>),
    /// Print which fields of Envoy's configuration are supported, inert or refused
    Support {
        /// How to print them
        #[arg(long, value_enum, default_value_t = SupportFormat::Text)]
        format: SupportFormat,
    },
}

#[derive(Args)]
struct ConfigArgs {
    /// The configuration: YAML, JSON, or protobuf (.pb)
    #[arg(short = 'c', long = "config-path", value_name = "FILE")]
    config: PathBuf,
    /// A document of Envoy's dialect that is merged over the file
    #[arg(long, value_name = "YAML")]
    config_yaml: Option<String>,
    /// The dialect: envoy, sota, or one of an extension; without it the document's keys tell
    #[arg(short = 't', long = "config-type", value_name = "NAME")]
    dialect: Option<String>,
    /// Take unknown fields with a warning
    #[arg(long)]
    allow_unknown_static_fields: bool,
    /// Take unsupported fields with a warning, except those of security
    #[arg(long)]
    allow_unsupported: bool,
    /// What is missing on this host, such as a file, is an error
    #[arg(long)]
    strict: bool,
}

#[derive(Args)]
struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The request's URL, such as http://www.example:8080/path?query
    #[arg(long)]
    url: String,
    /// Its method
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// A header field; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The server name of the TLS client hello; default: the URL's host
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// The application protocols that the client offers over TLS
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "h2,http/1.1")]
    alpn: Vec<String>,
    /// The client's address; default: one from outside, 192.0.2.1
    #[arg(long, value_name = "IP[:PORT]")]
    source: Option<String>,
    /// The address that the client connects to; default: that of the listener with the URL's port
    #[arg(long, value_name = "IP[:PORT]")]
    destination: Option<String>,
    /// The listener's name, instead of the destination
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Decides on parts of the requests and among weighted clusters
    #[arg(long, value_name = "N", default_value_t = 0)]
    random: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct StartArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Workers; default: the processors that this process may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: Option<u16>,
    /// trace, debug, info, warning, error or off
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info", value_parser = level)]
    log_level: LevelFilter,
    /// Levels of single components, such as http:debug,upstream:trace
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = component)]
    component_log_level: Vec<(String, LevelFilter)>,
    /// Write the log to a file instead of stderr
    #[arg(long, value_name = "FILE")]
    log_path: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,
    /// After SIGTERM new connections are still accepted for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    drain_delay_s: u32,
    /// The process ends so many seconds after SIGTERM at the latest
    #[arg(long, value_name = "SECONDS", default_value_t = 25)]
    shutdown_time_s: u32,
    /// Connections of a changed or removed filter chain may go on for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    drain_time_s: u32,
    /// Each worker keeps its last N requests for /requests of the admin interface; 0: none
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(0..=16384))]
    recent_requests: u16,
    /// Read the configuration again whenever its file changes
    #[arg(long)]
    watch: bool,
    /// Remember in this folder what control planes send, so that a start without them serves at once
    #[arg(long, value_name = "DIR")]
    xds_cache: Option<PathBuf>,
    /// Write the address of the admin interface to a file
    #[arg(long, value_name = "FILE")]
    admin_address_path: Option<PathBuf>,
    /// Replaces node.id
    #[arg(long, value_name = "ID")]
    service_node: Option<String>,
    /// Replaces node.cluster
    #[arg(long, value_name = "NAME")]
    service_cluster: Option<String>,
    #[command(flatten)]
    inert: InertArgs,
}

/// Flags of Envoy's that are taken and change nothing here: hot restart is not there, and what they tune does not exist.
#[derive(Args)]
struct InertArgs {
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
    drain_strategy: Option<String>,
    #[arg(long, hide = true)]
    socket_path: Option<PathBuf>,
    #[arg(long, hide = true)]
    socket_mode: Option<String>,
    #[arg(long, hide = true)]
    file_flush_interval_msec: Option<u32>,
    #[arg(long, hide = true)]
    file_flush_min_size_kb: Option<u32>,
    #[arg(long, hide = true)]
    enable_core_dump: bool,
    #[arg(long, hide = true)]
    cpuset_threads: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum SupportFormat {
    Text,
    Markdown,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(crate) fn level(name: &str) -> Result<LevelFilter, String> {
    parse_level(name).ok_or_else(|| "the levels are trace, debug, info, warning, error and off".to_owned())
}

fn component(text: &str) -> Result<(String, LevelFilter), String> {
    let (name, value) = text.split_once(':').ok_or("write COMPONENT:LEVEL")?;
    if !COMPONENTS.contains(&name) {
        return Err(format!("the components are {}", COMPONENTS.join(", ")));
    }
    Ok((name.to_owned(), level(value)?))
}

/// Runs the command line and returns the exit code: 0 done, 1 bad configuration or a start that failed, 2 bad usage.
/// `registry` makes the extensions that the binary has.
pub fn run(registry: impl FnOnce() -> Result<Registry, DuplicateExtension>) -> ExitCode {
    let cli = match Cli::try_parse_from(envoy_cli::arguments(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Command::Envoy(arguments) = &cli.command
        && let Some(text) = arguments.answer()
    {
        println!("{text}");
        return ExitCode::SUCCESS;
    }
    if let Command::Support { format } = cli.command {
        print!(
            "{}",
            match format {
                SupportFormat::Text => sota_envoy::support::as_text(),
                SupportFormat::Markdown => sota_envoy::support::as_markdown(),
                SupportFormat::Json => sota_envoy::support::as_json(),
            }
        );
        return ExitCode::SUCCESS;
    }
    let registry = match registry() {
        Ok(registry) => registry,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match cli.command {
        Command::Start(arguments) => sota_server::start(arguments.options(), registry),
        Command::Envoy(arguments) => match arguments.options() {
            Ok((options, Mode::Serve)) => sota_server::start(options, registry),
            Ok((options, Mode::Validate)) => sota_server::validate(&options, registry),
            Err(reason) => {
                eprintln!("{reason}");
                ExitCode::from(2)
            }
        },
        Command::Validate(config) => {
            sota_server::validate(&Options { config: config.options(), ..Options::default() }, registry)
        }
        Command::Explain(arguments) => {
            let options = Options { config: arguments.config.options(), ..Options::default() };
            let request = ExplainOptions {
                url: arguments.url,
                method: arguments.method,
                headers: arguments.headers,
                server_name: arguments.sni,
                application_protocols: arguments.alpn,
                source: arguments.source,
                destination: arguments.destination,
                listener: arguments.listener,
                random: arguments.random,
                json: arguments.json,
            };
            sota_server::explain(&options, &request, registry)
        }
        Command::Support { .. } => ExitCode::SUCCESS,
    }
}

impl ConfigArgs {
    fn options(self) -> ConfigOptions {
        ConfigOptions {
            path: self.config,
            dialect: self.dialect,
            allow_unknown_static_fields: self.allow_unknown_static_fields,
            allow_unsupported: self.allow_unsupported,
            strict: self.strict,
            overlays: self.config_yaml.into_iter().collect(),
            reject_unknown_dynamic_fields: false,
        }
    }
}

impl StartArgs {
    fn options(self) -> Options {
        let seconds = |n: u32| Duration::from_secs(u64::from(n));
        self.inert.mention();
        Options {
            config: self.config.options(),
            concurrency: self.concurrency.map(usize::from),
            log_level: self.log_level,
            component_log_level: self.component_log_level,
            log_path: self.log_path,
            log_format: match self.log_format {
                Format::Text => LogFormat::Text,
                Format::Json => LogFormat::Json,
            },
            drain_delay: seconds(self.drain_delay_s),
            shutdown_time: seconds(self.shutdown_time_s),
            drain_time: seconds(self.drain_time_s),
            recent_requests: self.recent_requests.into(),
            watch: self.watch,
            admin_address_path: self.admin_address_path,
            xds_cache: self.xds_cache,
            service_node: self.service_node,
            service_cluster: self.service_cluster,
        }
    }
}

impl InertArgs {
    /// Says which flags were given that change nothing.
    fn mention(&self) {
        let given = [
            ("--restart-epoch", self.restart_epoch.is_some()),
            ("--base-id", self.base_id.is_some()),
            ("--base-id-path", self.base_id_path.is_some()),
            ("--use-dynamic-base-id", self.use_dynamic_base_id),
            ("--skip-hot-restart-on-no-parent", self.skip_hot_restart_on_no_parent),
            ("--skip-hot-restart-parent-stats", self.skip_hot_restart_parent_stats),
            ("--disable-hot-restart", self.disable_hot_restart),
            ("--parent-shutdown-time-s", self.parent_shutdown_time_s.is_some()),
            ("--drain-strategy", self.drain_strategy.is_some()),
            ("--socket-path", self.socket_path.is_some()),
            ("--socket-mode", self.socket_mode.is_some()),
            ("--file-flush-interval-msec", self.file_flush_interval_msec.is_some()),
            ("--file-flush-min-size-kb", self.file_flush_min_size_kb.is_some()),
            ("--enable-core-dump", self.enable_core_dump),
            ("--cpuset-threads", self.cpuset_threads),
        ];
        for (flag, _) in given.iter().filter(|(_, given)| *given) {
            eprintln!("{flag} is accepted and changes nothing: there is no hot restart, and workers are always pinned");
        }
    }
}
