//! The way over the server's own file: BGSAVE, wait until that very save is done and good, read the file that it left.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tokio::fs::{self, File};
use tokio::time::sleep;

use super::RedisError;
use super::control::{Control, POLL};
use super::info::Info;

/// Device and inode: a save writes a new file and renames it into place.
type Identity = (u64, u64);

/// Has the server save and opens the file of that save. A later save replaces the name, not what is open.
///
/// # Errors
/// [`RedisError::SaveFailed`] when the save failed, [`RedisError::NotItsFile`] when `path` is not the file that it wrote.
pub async fn fresh_file(control: &mut Control, path: &Path) -> Result<(File, u64), RedisError> {
    // A save that is under way began before this run did, so it is not ours.
    let before = identity(path).await?;
    start_own_save(control).await?;
    let info = save_ended(control).await?;
    good(&info, &["rdb_last_bgsave_status"], &control.at)?;
    let read = |source| RedisError::File { action: "read the RDB", path: path.to_owned(), source };
    let file = File::open(path).await.map_err(read)?;
    let metadata = file.metadata().await.map_err(read)?;
    if before == Some((metadata.dev(), metadata.ino())) {
        return Err(RedisError::NotItsFile { at: control.at.clone(), path: path.to_owned() });
    }
    Ok((file, metadata.len()))
}

/// Starts a save, after the one that is under way, if there is one.
async fn start_own_save(control: &mut Control) -> Result<(), RedisError> {
    loop {
        match control.call(&["BGSAVE"], &[]).await {
            Ok(_) => return Ok(()),
            // Also while the AOF is rewritten: "Another child process is active".
            Err(RedisError::Refused { reply, .. }) if reply.contains("in progress") || reply.contains("active") => sleep(POLL).await,
            Err(error) => return Err(error),
        }
    }
}

/// Waits for the end of a save or rewrite of the AOF that is under way.
pub async fn save_ended(control: &mut Control) -> Result<Info, RedisError> {
    loop {
        let info = control.info().await?;
        let busy = ["rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled"];
        if busy.iter().all(|key| !info.is(key, "1")) {
            return Ok(info);
        }
        sleep(POLL).await;
    }
}

/// Saves what the server holds and waits until its files have it.
pub async fn persist(control: &mut Control) -> Result<(), RedisError> {
    save_ended(control).await?;
    start_own_save(control).await?;
    let info = save_ended(control).await?;
    let keys: &[&str] = match info.is("aof_enabled", "1") {
        true => &["rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status"],
        false => &["rdb_last_bgsave_status"],
    };
    good(&info, keys, &control.at)
}

fn good(info: &Info, keys: &[&str], at: &str) -> Result<(), RedisError> {
    match keys.iter().find(|key| !info.is(key, "ok")) {
        None => Ok(()),
        Some(key) => Err(RedisError::SaveFailed { at: at.to_owned(), status: format!("{key}:{}", info.text(key).unwrap_or("unknown")) }),
    }
}

async fn identity(path: &Path) -> Result<Option<Identity>, RedisError> {
    match fs::metadata(path).await {
        Ok(m) => Ok(Some((m.dev(), m.ino()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RedisError::File { action: "look at the RDB", path: path.to_owned(), source }),
    }
}
