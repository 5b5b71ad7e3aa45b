//! A file with a discovery response, read again when it changes.

use super::{Command, Event, Kind, Update};
use sota_config::config_source::FileSource;
use sota_envoy::discovery::Response;
use sota_plugin::file_version::FileVersion;
use std::{fs::File, io::Read, time::Duration};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// How often the file is looked at, as that of the process is.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// A larger file is not read.
const MAX_FILE_BYTES: u64 = 80 << 20;

/// Reads the file whenever it looks different, for as long as somebody wants what is in it. A file that cannot be read
/// changes nothing.
pub(super) async fn watch(
    source: FileSource,
    id: usize,
    kind: Kind,
    mut commands: UnboundedReceiver<Command>,
    events: UnboundedSender<Event>,
) {
    let (mut read, mut stream) = (None, 0);
    let mut is_wanted = false;
    loop {
        let version = FileVersion::of(&source.path);
        if is_wanted && version.is_some() && version != read {
            read = version;
            match load(&source) {
                Ok(response) => {
                    stream += 1;
                    let update = Update { source: id, kind, stream, is_whole: true, response };
                    if events.send(Event::Update(update)).is_err() {
                        return;
                    }
                }
                Err(reason) => {
                    tracing::error!(target: "config", "{} is refused: {reason}", source.path.display());
                    let _ = events.send(Event::Lost(id));
                }
            }
        }
        tokio::select! {
            command = commands.recv() => match command {
                // All resources of the file are sent on; a new name may be among them.
                Some(Command::Watch(_, names)) => {
                    is_wanted = names.is_none_or(|names| !names.is_empty());
                    read = None;
                }
                Some(Command::Answer(answer)) => {
                    if let Some(error) = answer.error {
                        tracing::error!(target: "config", "{}: {error}", source.path.display());
                    }
                }
                None => return,
            },
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
        }
    }
}

fn load(source: &FileSource) -> Result<Response, String> {
    let mut bytes = Vec::new();
    File::open(&source.path)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    Response::read_file(&bytes, &source.path.display().to_string()).map_err(|errors| errors.to_string())
}
