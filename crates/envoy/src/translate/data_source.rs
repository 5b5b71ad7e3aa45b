//! Data sources (`envoy.config.core.v3.DataSource`) and what is read from them at load.

use super::context::Cx;
use sota_config::{Node, secret::DataSource};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The largest file that is read while a configuration is loaded.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// A data source. What it names on this host and is not there is told.
pub(super) fn data_source(cx: &mut Cx<'_>, node: &Node) -> Option<DataSource> {
    if let Some(path) = node.get("filename").and_then(Node::as_str) {
        if let Err(error) = std::fs::metadata(path) {
            let mark = node.field("filename").mark;
            cx.with("filename", |cx| cx.missing(mark, cannot_read(Path::new(path), &error)));
        }
        return Some(DataSource::File(PathBuf::from(path)));
    }
    if let Some(name) = node.get("environment_variable") {
        let text = name.as_str()?;
        if std::env::var_os(text).is_none() {
            let reason = format!("the environment variable \"{}\" is not set", text.escape_debug());
            cx.with("environment_variable", |cx| cx.missing(name.mark, reason));
        }
        return Some(DataSource::Environment(text.to_owned()));
    }
    let inline = node.get("inline_bytes").or_else(|| node.get("inline_string"))?;
    Some(DataSource::Inline(inline.as_bytes()?.to_vec()))
}

/// The bytes of a data source, read now. `None` when they cannot be had, which is told.
pub(super) fn contents(cx: &mut Cx<'_>, node: &Node) -> Option<Vec<u8>> {
    match data_source(cx, node)? {
        DataSource::Inline(bytes) => Some(bytes),
        DataSource::Environment(name) => std::env::var_os(name).map(|value| value.into_encoded_bytes()),
        DataSource::File(path) => match read(&path) {
            Ok(bytes) => Some(bytes),
            // A file that is not there was told above.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let mark = node.field("filename").mark;
                cx.with("filename", |cx| cx.missing(mark, cannot_read(&path, &error)));
                None
            }
        },
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read \"{}\": {error}", path.display())
}
