//! A Redis or Valkey server of our own, for as long as a drill takes: reached over a Unix socket in a directory of ours only, without
//! persistence.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::DrillError;
use super::place::{Place, unprivileged};
use crate::manifest::Component;
use crate::process::{Command, Daemon};

const STARTS_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// Without persistence it has nothing to do before it ends.
const STOPS_WITHIN: Duration = Duration::from_secs(15);

const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// Its own files, in bytes.
const OWN_BYTES: u64 = 64 << 20;
/// An RDB that was received, and the one that it saves.
const COPIES: u64 = 2;

/// What every server has, whether it uses them or not.
const DATABASES: u64 = 16;

/// A running server, and where it lives.
pub struct Server {
    place: Place,
    daemon: Daemon,
}

/// The servers on `PATH` that could be tried, in its order.
pub fn programs() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    let mut found: Vec<PathBuf> = Vec::new();
    for program in directories.iter().flat_map(|dir| PROGRAMS.map(|name| dir.join(name))) {
        let is_new = |real: &PathBuf| found.iter().all(|known| known.canonicalize().ok().as_ref() != Some(real));
        if program.canonicalize().is_ok_and(|real| is_new(&real)) {
            found.push(program);
        }
    }
    found
}

/// Refuses what would not fit into the memory that is free: the system would end one process or another for it.
///
/// # Errors
/// [`DrillError::Memory`].
pub fn fits_memory(part: &Component) -> Result<(), DrillError> {
    let needed = fact(part, "used_memory").max(rdb_bytes(part));
    match available_memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()) {
        Some(available) if available < needed => Err(DrillError::Memory { needed, available }),
        _ => Ok(()),
    }
}

impl Server {
    /// Starts `program` with as many databases as `part` needs.
    ///
    /// # Errors
    /// [`DrillError::Space`], [`DrillError::Start`].
    pub async fn start(program: &Path, part: &Component, cancel: &CancellationToken) -> Result<Self, DrillError> {
        let owner = unprivileged(&["redis", "valkey"]);
        let place = Place::make(OWN_BYTES.saturating_add(rdb_bytes(part).saturating_mul(COPIES)), owner).await?;
        let directory = place.path().to_owned();
        let mut command = Command::new(program).user(owner).directory(&directory);
        for (key, value) in [
            ("--port", "0"),
            ("--unixsocket", &socket(&directory).to_string_lossy()),
            ("--unixsocketperm", "700"),
            ("--dir", &directory.to_string_lossy()),
            ("--save", ""),
            ("--appendonly", "no"),
            ("--databases", &databases(part).to_string()),
            ("--logfile", &log(&directory).to_string_lossy()),
        ] {
            command = command.arg(key).arg(value);
        }
        let what = || program.display().to_string();
        let launched = async {
            let mut daemon = command.serve().await.map_err(|source| DrillError::Start { what: what(), source })?;
            let up = tokio::select! {
                up = answers(&directory, what()) => up,
                ended = daemon.ended() => return Err(match ended {
                    Ok(_) => DrillError::Ended { what: what() },
                    Err(source) => {
                        tracing::debug!(log = last_words(&directory), "a server of a drill did not start");
                        DrillError::Start { what: what(), source }
                    }
                }),
                () = cancel.cancelled() => Err(DrillError::Cancelled),
            };
            match up {
                Ok(()) => Ok(daemon),
                Err(error) => {
                    daemon.stop(Signal::TERM, STOPS_WITHIN).await;
                    Err(error)
                }
            }
        };
        match launched.await {
            Ok(daemon) => Ok(Self { place, daemon }),
            Err(error) => {
                place.remove().await?;
                Err(error)
            }
        }
    }

    /// In the words of `--into`.
    pub fn url(&self) -> String {
        let path = socket(self.place.path());
        let encoded = percent_encoding::utf8_percent_encode(&path.to_string_lossy(), KEEP_SLASHES).to_string();
        format!("unix://{encoded}")
    }

    /// Stops it and removes all that it was.
    ///
    /// # Errors
    /// [`DrillError::Place`] names what is left.
    pub async fn stop(self) -> Result<(), DrillError> {
        self.daemon.stop(Signal::TERM, STOPS_WITHIN).await;
        self.place.remove().await
    }
}

const KEEP_SLASHES: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.');

fn socket(directory: &Path) -> PathBuf {
    directory.join("redis.sock")
}

fn log(directory: &Path) -> PathBuf {
    directory.join("log")
}

fn last_words(directory: &Path) -> String {
    let text = std::fs::read_to_string(log(directory)).unwrap_or_default();
    text.lines().last().unwrap_or_default().to_owned()
}

/// Waits until it takes connections.
async fn answers(directory: &Path, what: String) -> Result<(), DrillError> {
    let deadline = Instant::now() + STARTS_WITHIN;
    loop {
        match UnixStream::connect(socket(directory)).await {
            Ok(_) => return Ok(()),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) && Instant::now() < deadline => {}
            Err(_) => return Err(DrillError::Slow { what, seconds: STARTS_WITHIN.as_secs() }),
        }
        sleep(POLL).await;
    }
}

/// Bytes of the RDB.
pub fn rdb_bytes(part: &Component) -> u64 {
    part.content().map(|artifact| artifact.raw_bytes).sum()
}

fn fact(part: &Component, key: &str) -> u64 {
    part.facts.get(key).and_then(serde_json::Value::as_u64).unwrap_or_default()
}

/// A server ends itself over an RDB with keys of a database that it does not have.
fn databases(part: &Component) -> u64 {
    let keys = part.facts.get("keys").and_then(|keys| keys.as_object());
    let highest = keys.and_then(|keys| keys.keys().filter_map(|number| number.trim_start_matches("db").parse::<u64>().ok()).max());
    highest.map_or(DATABASES, |highest| highest.saturating_add(1).clamp(DATABASES, i32::MAX as u64))
}

/// `MemAvailable` of proc(5) `meminfo`, in bytes.
fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_free_memory_is_read_as_the_kernel_prints_it() {
        let meminfo = "MemTotal:       16316412 kB\nMemFree:         1234 kB\nMemAvailable:    2000 kB\n";
        assert_eq!(available_memory(meminfo), Some(2_048_000));
        assert_eq!(available_memory("MemTotal: 1 kB\n"), None);
    }
}
