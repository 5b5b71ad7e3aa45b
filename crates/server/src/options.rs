//! How a process is started: the command line, without its syntax.

use crate::logging::LogFormat;
use std::{path::PathBuf, time::Duration};
use tracing::level_filters::LevelFilter;

/// Options of `start`.
#[derive(Debug, Clone)]
pub struct Options {
    /// How the configuration is read.
    pub config: ConfigOptions,
    /// How many workers; `None`: as many as the process may use processors.
    pub concurrency: Option<usize>,
    /// The level of every component.
    pub log_level: LevelFilter,
    /// Levels of single components.
    pub component_log_level: Vec<(String, LevelFilter)>,
    /// Where the process's log goes; `None`: stderr.
    pub log_path: Option<PathBuf>,
    /// How its lines look.
    pub log_format: LogFormat,
    /// From SIGTERM on new connections are still accepted for so long. Default 5 s.
    pub drain_delay: Duration,
    /// The process ends at the latest so long after SIGTERM. Default 25 s.
    pub shutdown_time: Duration,
    /// Connections of a changed or removed filter chain may go on for so long. Default 600 s.
    pub drain_time: Duration,
    /// How many requests each worker keeps for `/requests`. Default 256; 0: none.
    pub recent_requests: usize,
    /// Read the configuration again when its file changes.
    pub watch: bool,
    /// Where to write the admin interface's address once it is known.
    pub admin_address_path: Option<PathBuf>,
    /// Where what control planes have sent is remembered for the next start.
    pub xds_cache: Option<PathBuf>,
    /// Replaces `node.id`.
    pub service_node: Option<String>,
    /// Replaces `node.cluster`.
    pub service_cluster: Option<String>,
}

/// How a configuration file is read.
#[derive(Debug, Clone, Default)]
pub struct ConfigOptions {
    /// The file; empty when the overlays are all there is.
    pub path: PathBuf,
    /// The dialect by name; `None`: by the document's keys.
    pub dialect: Option<String>,
    /// Unknown fields are warnings.
    pub allow_unknown_static_fields: bool,
    /// Unsupported fields are warnings, except those of security.
    pub allow_unsupported: bool,
    /// What is missing on this host is an error.
    pub strict: bool,
    /// Documents of Envoy's dialect that are merged over the file, in this order.
    pub overlays: Vec<String>,
    /// Unknown fields in what a control plane sends are errors.
    pub reject_unknown_dynamic_fields: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: ConfigOptions::default(),
            concurrency: None,
            log_level: LevelFilter::INFO,
            component_log_level: Vec::new(),
            log_path: None,
            log_format: LogFormat::Text,
            drain_delay: Duration::from_secs(5),
            shutdown_time: Duration::from_secs(25),
            drain_time: Duration::from_secs(600),
            recent_requests: 256,
            watch: false,
            admin_address_path: None,
            xds_cache: None,
            service_node: None,
            service_cluster: None,
        }
    }
}

/// So many workers as this process may use processors: the smaller of its affinity and its cgroup's quota (rounded
/// up), at least one.
pub fn default_concurrency() -> usize {
    let affinity = sota_proxy::worker::allowed_processors().len();
    let quota = cgroup_quota(|path| std::fs::read_to_string(path).ok()).unwrap_or(usize::MAX);
    affinity.min(quota).max(1)
}

/// The processors that the cgroup's quota amounts to, from version 2 (`cpu.max`) or 1 (`cpu.cfs_quota_us`). The limit
/// of a parent holds for its children, so every level up to the root is asked.
fn cgroup_quota(read: impl Fn(&str) -> Option<String>) -> Option<usize> {
    let groups = read("/proc/self/cgroup")?;
    let mut least: Option<usize> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let is_v2 = controllers.is_empty();
        if !is_v2 && !controllers.split(',').any(|name| name == "cpu") {
            continue;
        }
        let mut group = group.trim_end_matches('/');
        loop {
            let quota = if is_v2 {
                read(&format!("/sys/fs/cgroup{group}/cpu.max")).and_then(|text| v2_quota(&text))
            } else {
                v1_quota(&read, &format!("/sys/fs/cgroup/cpu{group}"))
            };
            least = [least, quota].into_iter().flatten().min();
            match group.rfind('/') {
                Some(parent) => group = group.get(..parent).unwrap_or_default(),
                None => break,
            }
        }
    }
    least
}

/// `max 100000`, or quota and period in microseconds.
fn v2_quota(text: &str) -> Option<usize> {
    let mut words = text.split_whitespace();
    processors(words.next()?.parse().ok()?, words.next()?.parse().ok()?)
}

fn v1_quota(read: &impl Fn(&str) -> Option<String>, folder: &str) -> Option<usize> {
    let number = |name: &str| read(&format!("{folder}/{name}"))?.trim().parse::<i64>().ok();
    processors(number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
}

fn processors(quota: i64, period: i64) -> Option<usize> {
    (quota > 0 && period > 0).then(|| usize::try_from((quota + period - 1) / period).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_of_both_cgroup_versions() {
        let files = |files: &'static [(&'static str, &'static str)]| {
            move |path: &str| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
        };
        let v2 = files(&[
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
        ]);
        assert_eq!(cgroup_quota(v2), Some(2));
        let v1 = files(&[
            ("/proc/self/cgroup", "5:cpuset:/x\n4:cpu,cpuacct:/x\n"),
            ("/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "50000\n"),
            ("/sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(cgroup_quota(v1), Some(1));
        let none = files(&[("/proc/self/cgroup", "0::/\n"), ("/sys/fs/cgroup/cpu.max", "max 100000\n")]);
        assert_eq!(cgroup_quota(none), None);
        assert!(default_concurrency() >= 1);
    }
}
