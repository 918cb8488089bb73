//! One database as the stream of one `pg_dump`, inside a snapshot that was taken lock-first (see [`super::snapshot`]).

use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, Chain, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::PostgresError;
use super::binaries::Binary;
use super::connect::Endpoint;
use super::snapshot::{self, Patience, Snapshot};
use crate::component::{ComponentError, Notes};
use crate::process::{ChildStream, Command, ProcessError, Stderr};

/// Bytes of an archive's head: magic, three version bytes, and what need not interest us.
const HEAD: usize = 11;

/// A dump that has begun. Its end comes only after `pg_dump` succeeded and the snapshot was still held.
#[derive(Debug)]
pub struct Dump {
    inner: Chain<Cursor<Vec<u8>>, ChildStream>,
    database: String,
    /// The archive format's version, such as `1.14`.
    pub archive_version: Option<String>,
    /// When the snapshot was taken.
    pub taken: chrono::DateTime<chrono::Utc>,
}

impl Dump {
    /// Takes a snapshot and starts `pg_dump` in it. Nothing is written before `pg_dump` has locked its tables, so that a lock that it
    /// does not get costs nothing: the snapshot is dropped, which lets the queue move, and all begins again.
    ///
    /// # Errors
    /// [`PostgresError::Locked`], [`PostgresError::Dump`], and those of [`Snapshot::take`].
    pub async fn start(
        endpoint: &Endpoint,
        pg_dump: &Binary,
        patience: &Patience,
        notes: &Notes,
        cancel: &CancellationToken,
    ) -> Result<Self, PostgresError> {
        let database = endpoint.database();
        let fault = |source| PostgresError::Dump { database: database.to_owned(), source };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let snapshot = Snapshot::take(endpoint, patience).await?;
            let taken = snapshot.taken();
            let stream = command(endpoint, pg_dump, snapshot.id(), patience).stream(cancel)?;
            let mut stream = stream.then(finish(snapshot, notes.clone(), database.to_owned()));
            let head = match read_head(&mut stream).await {
                Ok(head) => head,
                Err(error) if !is_lock_timeout(&error) => return Err(fault(error)),
                Err(_) if attempt >= patience.attempts => return Err(snapshot::locked(endpoint, patience).await),
                Err(error) => {
                    tracing::info!(database, attempt, %error, "pg_dump waited for a lock in vain; once more with a new snapshot");
                    continue;
                }
            };
            if head.is_empty() {
                return Err(PostgresError::NothingDumped { database: database.to_owned() });
            }
            let archive_version = archive_version(&head);
            return Ok(Self { inner: Cursor::new(head).chain(stream), database: database.to_owned(), archive_version, taken });
        }
    }

    /// Of the `pg_dump`, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.inner.get_ref().1.pid()
    }
}

/// Errors name the database, as a component's error that knows its advice.
impl AsyncRead for Dump {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        Pin::new(&mut this.inner).poll_read(cx, buf).map_err(|source| {
            let error = PostgresError::Dump { database: this.database.clone(), source };
            io::Error::other(ComponentError::Postgres(error))
        })
    }
}

fn command(endpoint: &Endpoint, pg_dump: &Binary, snapshot: &str, patience: &Patience) -> Command {
    let flags = ["--format=custom", "--compress=0", "--no-password", "--quote-all-identifiers"];
    // The database's name comes by PGDATABASE: as an argument, `a=b` or `postgres://x` would be taken for a connection string.
    pg_dump
        .command()
        .args(flags)
        .arg(format!("--lock-wait-timeout={}ms", patience.lock_wait.as_millis().max(1)))
        .arg(format!("--snapshot={snapshot}"))
        .envs(endpoint.child_env(pg_dump.major))
}

async fn read_head(stream: &mut ChildStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    while head.len() < HEAD && stream.read_buf(&mut head).await? > 0 {}
    Ok(head)
}

/// `PGDMP`, major, minor, revision: `src/bin/pg_dump/pg_backup_archiver.c` (`WriteHead`).
fn archive_version(head: &[u8]) -> Option<String> {
    match head.strip_prefix(b"PGDMP")? {
        [major, minor, ..] => Some(format!("{major}.{minor}")),
        _ => None,
    }
}

/// Notes what a `pg_dump` that succeeded had to say, and gives the snapshot back, which must have lived until now.
fn finish(
    snapshot: Snapshot,
    notes: Notes,
    database: String,
) -> impl FnOnce(Stderr) -> futures_util::future::BoxFuture<'static, io::Result<()>> + Send + 'static {
    move |stderr| {
        for warning in warnings(&stderr) {
            notes.warn(format!("database `{database}`: {warning}"));
        }
        Box::pin(async move { snapshot.release().await.map_err(io::Error::other) })
    }
}

/// What a client program said, a warning each with its details and hints.
pub(super) fn warnings(stderr: &Stderr) -> Vec<String> {
    let mut warnings: Vec<String> = Vec::new();
    for line in &stderr.lines {
        match warnings.last_mut() {
            Some(last) if line.contains(": detail: ") || line.contains(": hint: ") => {
                let rest = line.split_once(": detail: ").or(line.split_once(": hint: ")).map_or(line.as_str(), |(_, rest)| rest);
                last.push_str("; ");
                last.push_str(rest);
            }
            _ => warnings.push(line.clone()),
        }
    }
    warnings
}

/// `--lock-wait-timeout` is a statement_timeout around LOCK TABLE.
fn is_lock_timeout(error: &io::Error) -> bool {
    ProcessError::of(error).and_then(ProcessError::stderr).is_some_and(|stderr| {
        let cut_off = stderr.contains("due to statement timeout") || stderr.contains("due to lock timeout");
        (cut_off && stderr.contains("LOCK TABLE")) || stderr.contains("deadlock detected")
    })
}

const LOST: &str = "Look into the server's log for who or what ended the session.";

/// What the operator can do about a `pg_dump` that failed.
pub(super) fn advice(stderr: &Stderr) -> Option<String> {
    let advice = [
        (
            "row-level security",
            "Give the backup's user BYPASSRLS (ALTER ROLE … BYPASSRLS), or use a superuser: a dump without it would lack rows.",
        ),
        ("permission denied", "Grant the backup's user the role pg_read_all_data (PostgreSQL 14 and later), or use a superuser."),
        ("max_locks_per_transaction", "The server's lock table is full: raise its max_locks_per_transaction."),
        ("terminating connection", LOST),
        ("server closed the connection", LOST),
    ];
    advice.into_iter().find(|(mark, _)| stderr.contains(mark)).map(|(_, advice)| advice.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stderr(lines: &[&str]) -> Stderr {
        Stderr { lines: lines.iter().map(|l| (*l).to_owned()).collect() }
    }

    #[test]
    fn a_warning_keeps_its_details() {
        let said = stderr(&[
            "pg_dump: warning: there are circular foreign-key constraints on this table:",
            "pg_dump: detail: employee",
            "pg_dump: hint: Consider using a full dump.",
            "pg_dump: warning: second",
        ]);
        let expected = [
            "pg_dump: warning: there are circular foreign-key constraints on this table:; employee; Consider using a full dump.",
            "pg_dump: warning: second",
        ];
        assert_eq!(warnings(&said), expected);
    }

    #[test]
    fn an_archive_says_its_version() {
        assert_eq!(archive_version(b"PGDMP\x01\x0e\x00\x04\x08\x01").as_deref(), Some("1.14"));
        assert_eq!(archive_version(b"PGDMP"), None);
        assert_eq!(archive_version(b"--\n-- PostgreSQL"), None);
    }
}
