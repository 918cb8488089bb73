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
use super::account::{self, Account, Accounts, Begun};
use super::archive::{self, Archive, ArchiveError, Head};
use super::binaries::Binary;
use super::connect::Endpoint;
use super::snapshot::{self, Patience, Snapshot};
use super::streams::{self, Sizes, Table};
use super::tap::{self, Tap};
use crate::component::{ComponentError, Detail, Notes};
use crate::process::{ChildStream, Command, ProcessError, Stderr};

/// Bytes of an archive's head: magic, three version bytes, and what need not interest us.
const HEAD: usize = 11;

/// What is to be dumped, and how.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// Its database.
    pub endpoint: &'a Endpoint,
    pub pg_dump: &'a Binary,
    pub patience: &'a Patience,
    pub notes: &'a Notes,
    pub cancel: &'a CancellationToken,
    /// Where its fingerprint goes; `None`: there is to be none.
    pub accounts: Option<&'a Arc<Accounts>>,
}

/// A dump that has begun. Its end comes only after `pg_dump` succeeded; that of the last of several on one snapshot, after the snapshot
/// was still held.
#[derive(Debug)]
pub struct Dump {
    inner: Chain<Cursor<Vec<u8>>, ChildStream>,
    /// Sums up what flows, after so many bytes of the head.
    tap: Option<(usize, Tap)>,
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
    pub async fn start_all(order: &Order<'_>, archives: usize) -> Result<Vec<Self>, PostgresError> {
        let Order { endpoint, patience, .. } = *order;
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
            let error = match start(order, snapshot, shares).await {
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
    pub async fn start(order: &Order<'_>) -> Result<Self, PostgresError> {
        let mut all = Self::start_all(order, 1).await?;
        all.pop().ok_or_else(|| PostgresError::NothingDumped { database: order.endpoint.database().to_owned() })
    }

    /// Of the `pg_dump`, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.inner.get_ref().1.pid()
    }
}

/// Starts all archives on one snapshot and waits for their heads.
async fn start(order: &Order<'_>, snapshot: Snapshot, shares: Vec<Vec<Table>>) -> Result<Vec<Dump>, PostgresError> {
    let Order { endpoint, pg_dump, patience, notes, cancel, accounts } = *order;
    let database = endpoint.database();
    let taken = snapshot.taken();
    let early = match accounts {
        Some(_) => Some(account::begin(&snapshot).await),
        None => None,
    };
    let common = command(endpoint, pg_dump, snapshot.id(), patience);
    let held = Arc::new(Held::new(snapshot, 1 + shares.len()));
    let excluded = shares.iter().flatten().map(|table| format!("--exclude-table-data={}", table.pattern()));
    let main = common.clone().args(excluded);
    let mut streams = Vec::new();
    for command in std::iter::once(main).chain(shares.iter().map(|tables| rows_of(common.clone(), tables))) {
        streams.push(command.stream(cancel)?.then(finish(Arc::clone(&held), notes.clone(), database.to_owned())));
    }
    let tapped = accounts.filter(|accounts| accounts.detail() == Detail::Full).map(|_| tap::Shared::default());
    let needed = match (shares.is_empty(), &tapped) {
        (false, _) => Needed::Head,
        (true, Some(_)) => Needed::HeadIfKnown,
        (true, None) => Needed::Version,
    };
    let heads: Vec<_> = streams.into_iter().map(|stream| begin(stream, needed, database).boxed()).collect();
    let mut begun = try_join_all(heads).await?;
    let taps: Vec<_> = begun.iter().enumerate().map(|(at, begun)| begun.tap(at == 0, tapped.as_ref())).collect();
    let heads: Vec<_> = begun.iter_mut().map(|begun| begun.head.take()).collect();
    if let [Some((main, _)), rows @ ..] = heads.as_slice()
        && !rows.is_empty()
    {
        let rows = shares.iter().zip(rows).filter_map(|(tables, head)| Some((tables.as_slice(), &head.as_ref()?.0)));
        streams::check(database, main, rows)?;
    }
    let archive_version = begun.first().and_then(|main| archive_version(&main.bytes));
    if let (Some(accounts), Some(early)) = (accounts, early) {
        held.account(accounts, early, tapped);
    }
    let tables = std::iter::once(Vec::new()).chain(shares.iter().map(|tables| tables.iter().map(Table::pattern).collect()));
    let dump = |((begun, tap), tables): ((Begin, _), _)| Dump {
        inner: Cursor::new(begun.bytes).chain(begun.stream),
        tap,
        database: database.to_owned(),
        archive_version: archive_version.clone(),
        taken,
        tables,
    };
    Ok(begun.into_iter().zip(taps).zip(tables).map(dump).collect())
}

/// How much of an archive has to be read before it flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    /// What tells its version.
    Version,
    /// The whole head, if it is of a version that we understand.
    HeadIfKnown,
    /// The whole head.
    Head,
}

/// A stream whose first bytes were read.
struct Begin {
    bytes: Vec<u8>,
    stream: ChildStream,
    /// If it was asked for, with the size of its numbers; its own bytes are in `bytes`.
    head: Option<(Head, usize)>,
    /// Bytes of it.
    length: usize,
}

impl Begin {
    /// What sums up its blocks, and where they begin.
    fn tap(&self, main: bool, tapped: Option<&tap::Shared>) -> Option<(usize, Tap)> {
        let tapped = tapped?;
        match &self.head {
            Some((head, int_size)) => Some((self.length, Tap::new(head, *int_size, main, Arc::clone(tapped)))),
            None => {
                tapped.lock().unwrap_or_else(PoisonError::into_inner).broken = Some("its format is of an unknown version");
                None
            }
        }
    }
}

/// Waits until `pg_dump` has its locks; reads what is needed of the head.
async fn begin(mut stream: ChildStream, needed: Needed, database: &str) -> Result<Begin, PostgresError> {
    let fault = |source| PostgresError::Dump { database: database.to_owned(), source };
    let bytes = read_head(&mut stream).await.map_err(fault)?;
    if bytes.is_empty() {
        return Err(PostgresError::NothingDumped { database: database.to_owned() });
    }
    if needed == Needed::Version || (needed == Needed::HeadIfKnown && !archive::is_known(&bytes)) {
        return Ok(Begin { bytes, stream, head: None, length: 0 });
    }
    let (mut head, archive) = Archive::open(Cursor::new(bytes).chain(stream)).await.map_err(|error| match error {
        ArchiveError::Read(source) => fault(source),
        source => PostgresError::Head { database: database.to_owned(), source },
    })?;
    let mut bytes = std::mem::take(&mut head.raw);
    let (length, int_size) = (bytes.len(), archive.int_size());
    let (more, stream) = archive.into_rest();
    bytes.extend_from_slice(&more);
    Ok(Begin { bytes, stream: stream.into_inner().1, head: Some((head, int_size)), length })
}

/// What the archives on one snapshot have in common.
#[derive(Debug)]
struct Held {
    /// Before the snapshot, which it uses.
    account: Mutex<Option<Account>>,
    snapshot: Arc<Snapshot>,
    /// Archives that have not ended.
    left: AtomicUsize,
    /// Warnings; several archives may give the same.
    said: Mutex<BTreeSet<String>>,
}

impl Held {
    fn new(snapshot: Snapshot, archives: usize) -> Self {
        Self { account: Mutex::default(), snapshot: Arc::new(snapshot), left: AtomicUsize::new(archives), said: Mutex::default() }
    }

    /// Begins to count beside the archives.
    fn account(&self, accounts: &Arc<Accounts>, early: Begun, tapped: Option<tap::Shared>) {
        let account = Account::start(Arc::clone(accounts), early, Arc::clone(&self.snapshot), tapped);
        *self.account.lock().unwrap_or_else(PoisonError::into_inner) = Some(account);
    }

    /// After the last archive: finishes the fingerprint, and gives the snapshot back, which must have lived until now.
    async fn release(&self) -> Result<(), PostgresError> {
        let account = self.account.lock().unwrap_or_else(PoisonError::into_inner).take();
        let idle = match account {
            Some(account) => account.settle().await?,
            None => true,
        };
        // a session that is still counting goes when its connection does
        if idle || self.snapshot.is_lost() { self.snapshot.release().await } else { Ok(()) }
    }
}

/// Errors name the database, as a component's error that knows its advice.
impl AsyncRead for Dump {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf).map_err(|source| {
            let error = PostgresError::Dump { database: this.database.clone(), source };
            io::Error::other(ComponentError::Postgres(error))
        });
        if let Some((head, tap)) = &mut this.tap {
            let bytes = &buf.filled()[before..];
            let skipped = bytes.len().min(*head);
            *head -= skipped;
            tap.feed(&bytes[skipped..]);
        }
        read
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
        // as a fingerprint is read back; what is meant is the same in every zone
        .env("PGTZ", "UTC")
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
            held.release().await.map_err(io::Error::other)
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
        (
            "conflict with recovery",
            "Set hot_standby_feedback = on, or a longer max_standby_streaming_delay, on the replica; or dump from the server itself.",
        ),
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
    fn a_failure_says_what_to_set() {
        for (line, says) in [
            ("pg_dump: error: query failed: ERROR:  canceling statement due to conflict with recovery", "hot_standby_feedback"),
            ("pg_dump: error: query failed: FATAL:  terminating connection due to conflict with recovery", "hot_standby_feedback"),
            ("pg_dump: error: query failed: ERROR:  query would be affected by row-level security policy for table \"t\"", "BYPASSRLS"),
            ("pg_dump: error: query failed: ERROR:  permission denied for table t", "pg_read_all_data"),
        ] {
            assert!(advice(&stderr(&[line])).is_some_and(|advice| advice.contains(says)), "{line}");
        }
        assert_eq!(advice(&stderr(&["pg_dump: error: something else"])), None);
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
