//! Takes over a restore into a running server that died.
//!
//! A server that has loaded our RDB bears our replication ID ([`History`]) until it is restarted; one that has not, and was not restarted,
//! holds what it held before. Only of one that was restarted in between nobody can tell, and then it counts as changed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::control::{Control, POLL};
use super::endpoint::Endpoint;
use super::info::Info;
use super::master::History;
use super::{RedisError, abandoned, keep};

/// Questions in a row that may fail while it loads.
const PATIENCE: u32 = 25;

/// What the journal says of a restore into a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where the old content is kept from right before the switch.
    pub kept: PathBuf,
    /// `run_id` of INFO when it was staged: it changes with every start.
    #[serde(default)]
    pub run: Option<String>,
    /// `repl-diskless-load` before.
    #[serde(default)]
    pub diskless: Option<String>,
}

/// What a server holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    Old,
    New,
    /// It was restarted since.
    Unknown,
}

impl Holds {
    /// `kept`: whether the old content is there, without which the switch had not begun.
    fn of(info: &Info, history: &History, run: Option<&str>, kept: bool) -> Self {
        if history.is_of(info) {
            Self::New
        } else if run.is_some() && info.text("run_id") == run {
            Self::Old
        } else if kept {
            Self::Unknown
        } else {
            Self::Old
        }
    }
}

/// Waits until the server has loaded what it may be loading, and says what it holds.
///
/// # Errors
/// When it does not answer.
pub async fn look(endpoint: &Endpoint, history: &History, record: &Record) -> Result<Holds, RedisError> {
    let kept = keep::kept(&record.kept).await?.is_some();
    let mut patience = PATIENCE;
    loop {
        let answer = async { Control::open(endpoint).await?.info().await };
        match answer.await {
            Ok(info) if info.is("loading", "0") => return Ok(Holds::of(&info, history, record.run.as_deref(), kept)),
            Ok(_) => patience = PATIENCE,
            Err(error) if patience == 0 => return Err(error),
            Err(_) => patience -= 1,
        }
        sleep(POLL).await;
    }
}

/// Makes a server its own master again that a dead restore has left a replica of nobody, or about to become one. To be called only when
/// that restore is known to be dead.
///
/// # Errors
/// When it does not answer, or refuses.
pub async fn free(endpoint: &Endpoint, record: &Record) -> Result<(), RedisError> {
    let mut control = Control::open(endpoint).await?;
    if control.config("masteruser").await?.as_deref() != Some(abandoned::USER) {
        return Ok(());
    }
    abandoned::free(&mut control).await?;
    match &record.diskless {
        Some(diskless) => control.set_config("repl-diskless-load", diskless).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(info: &str, kept: bool, expected: Holds) {
        let history = History::of("0000000a".parse().expect("an id"));
        assert_eq!(Holds::of(&Info::parse(info), &history, Some("r1"), kept), expected, "{info}");
    }

    #[test]
    fn a_server_says_what_it_holds() {
        let ours = "0000000a".repeat(5);
        for (field, run) in [("master_replid", "r1"), ("master_replid2", "r1"), ("master_replid2", "r2")] {
            check(&format!("run_id:{run}\r\n{field}:{ours}\r\n"), true, Holds::New);
        }
        check("run_id:r1\r\nmaster_replid:f\r\n", true, Holds::Old);
        check("run_id:r1\r\nmaster_replid:f\r\n", false, Holds::Old);
        // restarted: only what was never kept was never replaced
        check("run_id:r2\r\nmaster_replid:f\r\n", false, Holds::Old);
        check("run_id:r2\r\nmaster_replid:f\r\n", true, Holds::Unknown);
    }
}
