//! One database as the stream of one `pg_dump`, or of several side by side, inside a snapshot that was taken lock-first (see [`super::snapshot`]).

use std::collections::BTreeSet;
use std::io::{self, Cursor};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::try_join_all;
use tokio::io::{AsyncRead, AsyncReadExt, Chain, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::PostgresError;
use super::archive::{Archive, ArchiveError, Head};
use super::binaries::Binary;
use super::connect::Endpoint;
use super::snapshot::{self, Patience, Snapshot};
use super::streams::{self, Sizes, Table};
use crate::component::{ComponentError, Notes};
use crate::process::{ChildStream, Command, ProcessError, Stderr};

/// Bytes of an archive's head: magic, three version bytes, and what need not interest us.
const HEAD: usize = 11;

/// A dump that has begun. Its end comes only after `pg_dump` succeeded; that of the last of several on one snapshot, after the snapshot
/// was still held.
#[derive(Debug)]
pub struct Dump {
    inner: Chain<Cursor<Vec<u8>>, ChildStream>,
    database: String,
    /// The archive format's version, such as `1.14`.
    pub archive_version: Option<String>,
    /// When the snapshot was taken.
    pub taken: chrono::DateTime<chrono::Utc>,
    /// The tables whose rows are all that it holds, as patterns; empty for the main archive.
    pub tables: Vec<String>,
}

impl Dump {
    /// Takes a snapshot and starts `pg_dump` in it, once for the main archive and `archives - 1` times for rows of big tables, all at once:
    /// they share the snapshot, and each must have its locks before the first byte goes anywhere. Nothing is written before `pg_dump` has
    /// locked its tables, so that a lock that one does not get costs nothing: all are dropped with the snapshot, which lets the queue move,
    /// and all begins again. A `pg_dump` that is not read waits.
    ///
    /// # Errors
    /// [`PostgresError::Locked`], [`PostgresError::Dump`], and those of [`Snapshot::take`]; with several, [`PostgresError::Split`].
    pub async fn start_all(
        endpoint: &Endpoint,
        pg_dump: &Binary,
        patience: &Patience,
        notes: &Notes,
        cancel: &CancellationToken,
        archives: usize,
    ) -> Result<Vec<Self>, PostgresError> {
        let database = endpoint.database();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let snapshot = Snapshot::take(endpoint, patience).await?;
            let shares = if archives > 1 {
                let doing = format!("ask for the sizes of the tables of database `{database}`");
                Sizes::ask(snapshot.exporter()).await.map_err(super::query(&doing))?.pack(archives)
            } else {
                Vec::new()
            };
            let error = match start(endpoint, pg_dump, patience, snapshot, notes, cancel, shares).await {
                Ok(dumps) => return Ok(dumps),
                Err(error) => error,
            };
            match &error {
                PostgresError::Dump { source, .. } if is_lock_timeout(source) => {}
                _ => return Err(error),
            }
            if attempt >= patience.attempts {
                return Err(snapshot::locked(endpoint, patience).await);
            }
            tracing::info!(database, attempt, %error, "pg_dump waited for a lock in vain; once more with a new snapshot");
        }
    }

    /// As [`Self::start_all`], for all in one archive.
    ///
    /// # Errors
    /// As [`Self::start_all`].
    pub async fn start(
        endpoint: &Endpoint,
        pg_dump: &Binary,
        patience: &Patience,
        notes: &Notes,
        cancel: &CancellationToken,
    ) -> Result<Self, PostgresError> {
        let mut all = Self::start_all(endpoint, pg_dump, patience, notes, cancel, 1).await?;
        all.pop().ok_or_else(|| PostgresError::NothingDumped { database: endpoint.database().to_owned() })
    }

    /// Of the `pg_dump`, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.inner.get_ref().1.pid()
    }
}

/// Starts all archives on one snapshot and waits for their heads.
async fn start(
    endpoint: &Endpoint,
    pg_dump: &Binary,
    patience: &Patience,
    snapshot: Snapshot,
    notes: &Notes,
    cancel: &CancellationToken,
    shares: Vec<Vec<Table>>,
) -> Result<Vec<Dump>, PostgresError> {
    let database = endpoint.database();
    let taken = snapshot.taken();
    let common = command(endpoint, pg_dump, snapshot.id(), patience);
    let held = Arc::new(Held { snapshot: Mutex::new(Some(snapshot)), left: AtomicUsize::new(1 + shares.len()), said: Mutex::default() });
    let excluded = shares.iter().flatten().map(|table| format!("--exclude-table-data={}", table.pattern()));
    let main = common.clone().args(excluded);
    let mut streams = Vec::new();
    for command in std::iter::once(main).chain(shares.iter().map(|tables| rows_of(common.clone(), tables))) {
        streams.push(command.stream(cancel)?.then(finish(Arc::clone(&held), notes.clone(), database.to_owned())));
    }
    let whole = !shares.is_empty();
    let heads: Vec<_> = streams.into_iter().map(|stream| begin(stream, whole, database).boxed()).collect();
    let mut begun = try_join_all(heads).await?.into_iter();
    let main = begun.next().ok_or_else(|| PostgresError::NothingDumped { database: database.to_owned() })?;
    let (mut rows, mut checked) = (Vec::new(), Vec::new());
    for (tables, begun) in shares.into_iter().zip(begun) {
        let patterns = tables.iter().map(Table::pattern).collect();
        checked.extend(begun.head.map(|head| (tables, head)));
        rows.push((begun.bytes, begun.stream, patterns));
    }
    let archive_version = archive_version(&main.bytes);
    if let Some(head) = &main.head {
        streams::check(database, head, &checked)?;
    }
    let all = std::iter::once((main.bytes, main.stream, Vec::new())).chain(rows);
    let dump = |(bytes, stream, tables): (Vec<u8>, ChildStream, _)| Dump {
        inner: Cursor::new(bytes).chain(stream),
        database: database.to_owned(),
        archive_version: archive_version.clone(),
        taken,
        tables,
    };
    Ok(all.map(dump).collect())
}

/// A stream whose first bytes were read.
struct Begun {
    bytes: Vec<u8>,
    stream: ChildStream,
    /// Where it was asked for.
    head: Option<Head>,
}

/// Waits until `pg_dump` has its locks; reads the `whole` head or only what tells the version.
async fn begin(mut stream: ChildStream, whole: bool, database: &str) -> Result<Begun, PostgresError> {
    let fault = |source| PostgresError::Dump { database: database.to_owned(), source };
    if !whole {
        let bytes = read_head(&mut stream).await.map_err(fault)?;
        if bytes.is_empty() {
            return Err(PostgresError::NothingDumped { database: database.to_owned() });
        }
        return Ok(Begun { bytes, stream, head: None });
    }
    let (mut head, archive) = Archive::open(stream).await.map_err(|error| match error {
        ArchiveError::Read(source) => fault(source),
        source => PostgresError::Head { database: database.to_owned(), source },
    })?;
    let mut bytes = std::mem::take(&mut head.raw);
    let (more, stream) = archive.into_rest();
    bytes.extend_from_slice(&more);
    Ok(Begun { bytes, stream, head: Some(head) })
}

/// What the archives on one snapshot have in common.
#[derive(Debug)]
struct Held {
    snapshot: Mutex<Option<Snapshot>>,
    /// Archives that have not ended.
    left: AtomicUsize,
    /// Warnings; several archives may give the same.
    said: Mutex<BTreeSet<String>>,
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

/// The rows of `tables` and nothing else, also where there are none.
fn rows_of(command: Command, tables: &[Table]) -> Command {
    let command = command.arg("--section=data");
    if tables.is_empty() {
        return command.args(["--exclude-table=*.*", "--no-blobs"]);
    }
    command.arg("--strict-names").args(tables.iter().map(|table| format!("--table={}", table.pattern())))
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

/// Notes what a `pg_dump` that succeeded had to say; the last gives the snapshot back, which must have lived until now.
fn finish(
    held: Arc<Held>,
    notes: Notes,
    database: String,
) -> impl FnOnce(Stderr) -> futures_util::future::BoxFuture<'static, io::Result<()>> + Send + 'static {
    move |stderr| {
        for warning in warnings(&stderr) {
            if held.said.lock().unwrap_or_else(PoisonError::into_inner).insert(warning.clone()) {
                notes.warn(format!("database `{database}`: {warning}"));
            }
        }
        Box::pin(async move {
            if held.left.fetch_sub(1, Ordering::AcqRel) > 1 {
                return Ok(());
            }
            let snapshot = held.snapshot.lock().unwrap_or_else(PoisonError::into_inner).take();
            match snapshot {
                Some(snapshot) => snapshot.release().await.map_err(io::Error::other),
                None => Ok(()),
            }
        })
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
