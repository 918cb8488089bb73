//! Loads the archives of a database: what the rows need, then the rows, then what needs the rows.
//!
//! Rows come from all archives at once and go over several connections, see [`super::rows`]; the rest is left to `pg_restore`, see
//! [`super::schema`]. The data of a backup never touches a disk of ours. An archive in a form that is not understood here is left to
//! `pg_restore` as a whole, which is slower and as good.

use std::collections::{BTreeMap, HashSet};

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::archive::{Archive, ArchiveError, Block, Entry, Head};
use super::binaries::Binary;
use super::connect::Endpoint;
use super::contents::{DatabaseContents, Pass};
use super::inspect;
use super::restore_error::RestoreError;
use super::rows::{Fault, Sessions, Table};
use super::schema::{Share, StagedSchema};
use super::selection::{Lack, Selection, table_of};
use super::table_name::TableName;
use super::workload::Workload;
use super::{PostgresError, query};
use crate::component::{ArtifactOpener, ByteStream};
use crate::manifest::Artifact;
use crate::process::{Command, Output, ProcessError};

/// Bytes of large objects on their way to `pg_restore`.
pub(super) const PIPE: usize = 256 << 10;

/// How a database is to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    /// `pg_restore`.
    pub binary: Binary,
    /// What the user may not do, or the server lacks: `--no-owner` and the like.
    pub flags: Vec<&'static str>,
    pub workload: Workload,
    /// Only some tables, with what they need; `None`: everything.
    pub selection: Option<Selection>,
}

/// One load of one database.
pub(super) struct Load<'a> {
    pub(super) loader: &'a Loader,
    pub(super) endpoint: Endpoint,
    pub(super) contents: &'a DatabaseContents,
    pub(super) open: &'a ArtifactOpener,
    pub(super) cancel: &'a CancellationToken,
}

/// The schema of the database while its rows are loaded.
struct Schema {
    /// Of the head in `staged`, which can be large.
    head: blake3::Hash,
    staged: StagedSchema,
    /// Tables, by schema and name, whose rows must come over one connection.
    delicate: HashSet<(String, String)>,
    /// What is restored of it; `None`: everything.
    only: Option<Selection>,
}

/// Why tables cannot be selected.
#[derive(Debug)]
pub enum Unselected {
    Lack(Lack),
    Failed(PostgresError),
}

/// The entries of the database's archive that make `tables`.
///
/// # Errors
/// [`Unselected`].
pub async fn select(contents: &DatabaseContents, open: &ArtifactOpener, tables: &[TableName]) -> Result<Selection, Unselected> {
    let stream = stream(open, &contents.main).await.map_err(Unselected::Failed)?;
    let head = match Archive::open(stream).await {
        Ok((head, _)) => head,
        Err(error @ ArchiveError::Version { .. }) => return Err(Unselected::Failed(unselectable(contents, error.to_string()))),
        Err(error) => return Err(Unselected::Failed(not_an_archive(open, &contents.main, error).await)),
    };
    readable(&head).map_err(|why| Unselected::Failed(unselectable(contents, why.to_owned())))?;
    Selection::of(&head, tables).map_err(Unselected::Lack)
}

fn unselectable(contents: &DatabaseContents, why: String) -> PostgresError {
    RestoreError::Unselectable { path: contents.main.path.to_string(), why }.into()
}

impl Loader {
    /// Loads `contents` into the empty database `into`. Success means that every row and object was taken, and that each stream ended,
    /// verified.
    ///
    /// # Errors
    /// [`RestoreError::Read`] when a stream failed, even if something else failed too; else what failed.
    pub async fn load(
        &self,
        endpoint: &Endpoint,
        into: &str,
        contents: &DatabaseContents,
        open: &ArtifactOpener,
        cancel: &CancellationToken,
    ) -> Result<(), PostgresError> {
        let load = Load { loader: self, endpoint: endpoint.with_database(into), contents, open, cancel };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(PostgresError::Cancelled),
            loaded = load.run() => loaded,
        }
    }
}

impl Load<'_> {
    async fn run(&self) -> Result<(), PostgresError> {
        // Opened again for the rows: a stream that waits until all tables are created may be cut meanwhile.
        let wanted = self.loader.selection.as_ref();
        let head = match Archive::open(self.stream(&self.contents.main).await?).await {
            Ok((head, _)) => head,
            Err(error @ ArchiveError::Version { .. }) if wanted.is_none() => {
                tracing::info!(database = self.contents.name, %error, "left to pg_restore as a whole");
                return self.whole().await;
            }
            Err(error) => return Err(self.not_an_archive(&self.contents.main, error).await),
        };
        if let Err(why) = readable(&head) {
            if wanted.is_some() {
                return Err(unselectable(self.contents, why.to_owned()));
            }
            tracing::info!(database = self.contents.name, why, "left to pg_restore as a whole");
            return self.whole().await;
        }
        let only = match wanted {
            None => None,
            // entries go by number: they must be those of this head
            Some(wanted) => match Selection::of(&head, &wanted.tables.iter().cloned().collect::<Vec<_>>()) {
                Ok(selection) if selection == *wanted => Some(selection),
                _ => return Err(RestoreError::Differs(self.contents.main.path.to_string()).into()),
            },
        };
        let staged = StagedSchema::write(&head, only.as_ref()).await?;
        self.pg_restore(staged.select(self.command(), Share::Before)).await?;
        let schema = Schema { head: blake3::hash(&head.raw), staged, delicate: self.delicate().await?, only };
        drop(head);
        self.rows(&schema).await?;
        for share in Share::AFTER.into_iter().filter(|share| schema.staged.has(*share)) {
            let jobs = if share.is_parallel() { self.loader.workload.sessions } else { 1 };
            let command = self.command().arg(format!("--jobs={jobs}"));
            self.pg_restore(schema.staged.select(command, share)).await?;
        }
        Ok(())
    }

    /// The rows of all archives, side by side.
    async fn rows(&self, schema: &Schema) -> Result<(), PostgresError> {
        let sessions = self.loader.workload.sessions;
        let archives = 1 + self.contents.data.len();
        let each = (sessions / archives).max(1);
        let main = std::iter::once((&self.contents.main, true));
        let wanted =
            |artifact: &&Artifact| schema.only.as_ref().is_none_or(|only| self.expected(artifact, only).is_none_or(|t| !t.is_empty()));
        let all = main.chain(self.contents.data.iter().filter(wanted).map(|artifact| (artifact, false)));
        let loads: Vec<_> = all.map(|(artifact, main)| self.archive(artifact, main, schema, each).boxed()).collect();
        stream::iter(loads).buffer_unordered(sessions.min(archives)).try_collect().await
    }

    /// Of the selected tables, those whose rows the backup says are in this archive of rows; `None`: it does not say.
    fn expected(&self, artifact: &Artifact, only: &Selection) -> Option<Vec<String>> {
        let is_it = |archive: &str| artifact.path.file().strip_prefix(archive).is_some_and(|s| s.is_empty() || s.starts_with('.'));
        let split = self.contents.facts.split.iter().find(|split| is_it(&split.archive))?;
        Some(only.tables.iter().map(ToString::to_string).filter(|table| split.tables.contains(table)).collect())
    }

    /// The rows of one archive, to its verified end.
    async fn archive(&self, artifact: &Artifact, main: bool, schema: &Schema, sessions: usize) -> Result<(), PostgresError> {
        let (head, mut archive) = match Archive::open(self.stream(artifact).await?).await {
            Ok(opened) => opened,
            Err(error) => return Err(self.not_an_archive(artifact, error).await),
        };
        if main && blake3::hash(&head.raw) != schema.head {
            return Err(self.damaged_or(artifact, &mut archive, RestoreError::Differs(artifact.path.to_string()).into()).await);
        }
        if let Some(only) = schema.only.as_ref().filter(|_| !main) {
            let held: HashSet<String> = head.entries.iter().filter(|e| e.has_data).map(|e| table_of(e).to_string()).collect();
            let expected = self.expected(artifact, only).unwrap_or_default();
            if let Some(table) = expected.into_iter().find(|table| !held.contains(table)) {
                let error = RestoreError::NoRows { path: artifact.path.to_string(), table };
                return Err(self.damaged_or(artifact, &mut archive, error.into()).await);
            }
        }
        if let Err(why) = readable(&head) {
            if schema.only.is_some() {
                return Err(unselectable(self.contents, why.to_owned()));
            }
            drop(archive);
            tracing::info!(path = %artifact.path, why, "left to pg_restore");
            return self.fed(&Pass { artifact, sections: &["data"] }).await;
        }
        let outcome = async {
            let sessions = Sessions::connect(&self.endpoint, sessions).await.map_err(Fault::Server)?;
            let large_objects = main && schema.only.is_none() && head.sections().any(|(e, s)| Share::of(e, s) == Some(Share::LargeObjects));
            if !large_objects {
                return self.blocks(&head, schema, &mut archive, &sessions, None).await;
            }
            let (sink, pipe) = tokio::io::duplex(PIPE);
            let command = schema.staged.select(self.command(), Share::LargeObjects);
            let restored = async { self.loaded(command.feed(pipe, self.cancel).await) };
            match tokio::join!(self.blocks(&head, schema, &mut archive, &sessions, Some(sink)), restored) {
                (Err(fault @ Fault::Archive(_)), _) => Err(fault),
                // which leaves pg_restore without the rest of its input
                (Err(Fault::Server(error)), _) if !matches!(error, PostgresError::Restore(RestoreError::PipeClosed)) => {
                    Err(Fault::Server(error))
                }
                (_, Err(error)) => Err(Fault::Server(error)),
                (blocks, Ok(())) => blocks,
            }
        };
        match outcome.await {
            Ok(()) => Ok(()),
            Err(Fault::Server(error)) => Err(self.damaged_or(artifact, &mut archive, error).await),
            Err(Fault::Archive(error)) => {
                let path = artifact.path.to_string();
                let error = match error {
                    ArchiveError::Read(source) => return Err(RestoreError::Read { path, source }.into()),
                    source => RestoreError::Archive { path, source },
                };
                Err(self.damaged_or(artifact, &mut archive, error.into()).await)
            }
        }
    }

    /// Every block that follows the head: rows to the sessions, large objects to `pipe`.
    async fn blocks(
        &self,
        head: &Head,
        schema: &Schema,
        archive: &mut Archive<ByteStream>,
        sessions: &Sessions,
        mut pipe: Option<tokio::io::DuplexStream>,
    ) -> Result<(), Fault> {
        let mut missing: BTreeMap<i32, &Entry> = head.entries.iter().filter(|e| e.has_data).map(|e| (e.id, e)).collect();
        // pg_restore that is gone has its own error
        let gone = |_| Fault::Server(RestoreError::PipeClosed.into());
        if let Some(pipe) = &mut pipe {
            pipe.write_all(&head.raw).await.map_err(gone)?;
        }
        while let Some(block) = archive.next_block().await? {
            let entry = missing.remove(&block.id()).ok_or(ArchiveError::Malformed("a block of no entry, or a second one"))?;
            if schema.only.as_ref().is_some_and(|only| !only.has_rows_of(entry)) {
                continue; // the next block is looked for behind it
            }
            match (block, &entry.copy, &mut pipe) {
                (Block::Rows(_), Some(copy), _) => {
                    let namespace = entry.namespace.clone().unwrap_or_default();
                    let plain = !schema.delicate.contains(&(namespace, entry.tag.clone()));
                    let copy = in_encoding(copy, head.encoding()).ok_or(ArchiveError::Malformed("a COPY of an unknown form"))?;
                    sessions.load(archive, Table { name: &entry.tag, copy: &copy, plain }).await?;
                }
                (Block::LargeObjects(_), _, Some(pipe)) => {
                    let mut bytes = archive.block_head(block);
                    while archive.raw(&mut bytes, PIPE).await? {
                        pipe.write_all(&bytes.split()).await.map_err(gone)?;
                    }
                    pipe.write_all(&bytes).await.map_err(gone)?;
                }
                _ => {} // large objects of an archive of rows: they are in the main one
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(ArchiveError::Missing(missing.values().map(|e| format!("{} {}", e.kind, e.tag)).collect()).into())
    }

    /// All of it by `pg_restore`, one archive after the other.
    async fn whole(&self) -> Result<(), PostgresError> {
        for pass in self.contents.passes() {
            self.fed(&pass).await?;
        }
        Ok(())
    }

    async fn fed(&self, pass: &Pass<'_>) -> Result<(), PostgresError> {
        let command = self.command().args(pass.sections.iter().map(|section| format!("--section={section}")));
        let mut stream = self.stream(pass.artifact).await?;
        match command.feed(&mut stream, self.cancel).await {
            Err(ProcessError::Input { source, .. }) => Err(RestoreError::Read { path: pass.artifact.path.to_string(), source }.into()),
            Err(error @ ProcessError::Failed { .. }) => {
                tracing::info!("pg_restore failed: reading the artifact to its end, to tell whether it is damaged");
                match tokio::io::copy(&mut stream, &mut tokio::io::sink()).await {
                    Ok(_) => self.loaded(Err(error)),
                    Err(source) => Err(RestoreError::Read { path: pass.artifact.path.to_string(), source }.into()),
                }
            }
            fed => self.loaded(fed),
        }
    }

    async fn pg_restore(&self, command: Command) -> Result<(), PostgresError> {
        self.loaded(command.run(self.cancel).await)
    }

    pub(super) fn loaded(&self, ended: Result<Output, ProcessError>) -> Result<(), PostgresError> {
        match ended {
            Ok(_) => Ok(()),
            Err(ProcessError::Cancelled { .. }) => Err(PostgresError::Cancelled),
            Err(source) => Err(RestoreError::Load { database: self.contents.name.clone(), source }.into()),
        }
    }

    fn command(&self) -> Command {
        let mut env = self.endpoint.child_env(self.loader.binary.major);
        set(&mut env, &self.loader.workload.options());
        self.loader
            .binary
            .command()
            .args(["--exit-on-error", "--no-password"])
            .args(&self.loader.flags)
            .arg(format!("--dbname={}", self.endpoint.database_argument()))
            .envs(env.iter().map(|(key, value)| (key, value)))
    }

    /// Tables that have what fires, rewrites or checks while rows come: those of extensions.
    async fn delicate(&self) -> Result<HashSet<(String, String)>, PostgresError> {
        let client = inspect::connect_to(&self.endpoint, self.endpoint.database()).await?;
        let sql = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p') AND (c.relhasindex OR c.relhastriggers OR c.relhasrules)";
        let rows = client.query(sql, &[]).await.map_err(query("look for tables with indexes or triggers"))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    pub(super) async fn stream(&self, artifact: &Artifact) -> Result<ByteStream, PostgresError> {
        stream(self.open, artifact).await
    }

    /// Damage may be why something failed, and only the end of the stream tells.
    async fn damaged_or(&self, artifact: &Artifact, archive: &mut Archive<ByteStream>, error: PostgresError) -> PostgresError {
        tracing::info!(path = %artifact.path, "loading failed: reading the artifact to its end, to tell whether it is damaged");
        match archive.drain().await {
            Ok(()) => error,
            Err(source) => RestoreError::Read { path: artifact.path.to_string(), source }.into(),
        }
    }

    async fn not_an_archive(&self, artifact: &Artifact, error: ArchiveError) -> PostgresError {
        not_an_archive(self.open, artifact, error).await
    }
}

async fn stream(open: &ArtifactOpener, artifact: &Artifact) -> Result<ByteStream, PostgresError> {
    Ok(open(artifact).await.map_err(|source| RestoreError::Open { path: artifact.path.to_string(), source })?)
}

/// As [`Load::damaged_or`], when not even the head could be read.
async fn not_an_archive(open: &ArtifactOpener, artifact: &Artifact, error: ArchiveError) -> PostgresError {
    let path = artifact.path.to_string();
    let source = match error {
        ArchiveError::Read(source) => return RestoreError::Read { path, source }.into(),
        source => source,
    };
    let mut stream = match stream(open, artifact).await {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    match tokio::io::copy(&mut stream, &mut tokio::io::sink()).await {
        Ok(_) => RestoreError::Archive { path, source }.into(),
        Err(source) => RestoreError::Read { path, source }.into(),
    }
}

/// Whether the rows can be loaded here; else why not.
fn readable(head: &Head) -> Result<(), &'static str> {
    let mut data = head.sections().filter(|(entry, _)| entry.has_data).map(|(entry, _)| entry);
    if head.compressed {
        Err("it is compressed by pg_dump")
    } else if head.lossy {
        Err("its names are not in UTF-8")
    } else if !data.all(|entry| match &entry.copy {
        Some(copy) => in_encoding(copy, head.encoding()).is_some(),
        None => entry.kind == "BLOBS",
    }) {
        Err("its rows are not as COPY takes them")
    } else {
        Ok(())
    }
}

/// The archive's COPY for rows that are not in UTF-8, as our connections are. `None`: not a statement that `pg_dump` writes.
fn in_encoding(copy: &str, encoding: Option<&str>) -> Option<String> {
    let copy = copy.trim_end().strip_suffix("FROM stdin;")?;
    let encoding = encoding.filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'))?;
    Some(format!("{copy}FROM stdin WITH (ENCODING '{encoding}')"))
}

/// Sets what `pg_restore` does not. A role may be set to read only. Nothing waits for the disk, as in [`super::rows`].
pub(super) fn set(env: &mut Vec<(&'static str, String)>, more: &str) {
    let settings = format!("-c default_transaction_read_only=off -c synchronous_commit=off{more}");
    match env.iter_mut().find(|(key, _)| *key == "PGOPTIONS") {
        Some((_, options)) => options.push_str(&format!(" {settings}")),
        None => env.push(("PGOPTIONS", settings)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_connection_are_kept() {
        const OURS: &str = "-c default_transaction_read_only=off -c synchronous_commit=off -c x=y";
        for (env, options) in [(vec![], OURS.to_owned()), (vec![("PGOPTIONS", "-c a=b".to_owned())], format!("-c a=b {OURS}"))] {
            let mut env = env;
            set(&mut env, " -c x=y");
            assert_eq!(env, [("PGOPTIONS", options)]);
        }
    }

    #[test]
    fn rows_keep_their_encoding() {
        let copy = "COPY \"public\".\"FROM stdin;\" (\"a\") FROM stdin;\n";
        let expected = "COPY \"public\".\"FROM stdin;\" (\"a\") FROM stdin WITH (ENCODING 'LATIN1')";
        assert_eq!(in_encoding(copy, Some("LATIN1")).as_deref(), Some(expected));
        assert_eq!(in_encoding(copy, Some("'; DROP")), None);
        assert_eq!(in_encoding(copy, None), None);
        assert_eq!(in_encoding("INSERT INTO t", Some("UTF8")), None);
    }
}
