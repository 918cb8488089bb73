//! A server that a restore which was killed has left a replica of nobody: it takes no writes until somebody makes it a master again.
//!
//! While we act as a server's master, its `masteruser` is [`USER`]. One that bears it, and whose master answers nobody, is ours to free.

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::RedisError;
use super::control::Control;
use super::info::Info;
use super::keep;
use crate::component::state;

/// The user by which a server signs in to us. Stored in servers that were left behind: never to be changed.
pub const USER: &str = "backstay-restore";

/// For a worker that still serves.
const ANSWER: Duration = Duration::from_secs(2);

/// Whether the server waits for a restore that is no more. Changes nothing.
pub async fn is_abandoned(control: &mut Control, info: &Info) -> Result<bool, RedisError> {
    let (Some(host), Some(port)) = (info.text("master_host"), info.number("master_port").and_then(|p| u16::try_from(p).ok())) else {
        return Ok(false);
    };
    if control.config("masteruser").await?.as_deref() != Some(USER) {
        return Ok(false);
    }
    Ok(!matches!(timeout(ANSWER, TcpStream::connect((host, port))).await, Ok(Ok(_))))
}

/// Makes the server its own master again. What it needed to sign in to a master before, nobody knows any more.
pub async fn free(control: &mut Control) -> Result<(), RedisError> {
    control.call(&["REPLICAOF", "NO", "ONE"], &[]).await?;
    for key in ["masteruser", "masterauth"] {
        control.set_config(key, "").await?;
    }
    tracing::warn!(at = control.at, "a restore that was killed had left this server a replica of nobody: it is a master again");
    Ok(())
}

/// What killed restores kept of servers, on this host.
pub fn kept() -> Vec<PathBuf> {
    let entries = state::directories().into_iter().flat_map(std::fs::read_dir).flatten().flatten();
    let named = |name: &std::ffi::OsStr| name.to_str().is_some_and(|n| n.starts_with(keep::PREFIX) && n.ends_with(keep::SUFFIX));
    let mut found: Vec<PathBuf> = entries.filter(|entry| named(&entry.file_name())).map(|entry| entry.path()).collect();
    found.sort();
    found
}
