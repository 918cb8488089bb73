//! The parts of a restore that are about the schema: `pg_restore` before and after the rows, on a file of an archive's head alone.
//!
//! `pg_restore --jobs` wants a file that it can seek in. The head, an archive's table of contents, is all that it needs for what is no
//! data: it never looks for the blocks of entries that it is not to restore. So the head is written to a file of ours, the data never is.
//!
//! What comes before and after the rows is said by lists (`--use-list`) in place of `--section`, for one reason: with `--section`,
//! privileges are set before the rows come, and an owner who took INSERT from himself could not load them. In one run over everything
//! they are set last (`RESTORE_PASS_ACL` of `pg_backup_archiver.c`), and so they are here.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::archive::{Entry, Head, Section};
use super::restore_error::RestoreError;
use super::selection::Selection;
use crate::process::Command;

/// A head in a private directory, which goes with this value.
#[derive(Debug)]
pub struct StagedSchema {
    directory: TempDir,
}

/// Which entries one run of `pg_restore` is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Tables and what they need; large objects, still empty; where the sequences stand.
    Before,
    /// Large objects, whose blocks are fed to it.
    LargeObjects,
    /// Indexes, constraints, triggers, then privileges, then materialized views and event triggers.
    After,
}

impl Share {
    const ALL: [Self; 3] = [Self::Before, Self::LargeObjects, Self::After];

    /// The share that an entry is in; `None`: its rows are loaded by [`super::rows`].
    pub fn of(entry: &Entry, section: Section) -> Option<Self> {
        match (section, entry.kind.as_str()) {
            (_, "ACL" | "DEFAULT ACL") => Some(Self::After),
            (Section::Data, _) if entry.has_data => entry.copy.is_none().then_some(Self::LargeObjects),
            // statistics are of rows; what else stands there without data are sequences' states and, from 17 on, large objects' creation
            (Section::Data, "STATISTICS DATA") => Some(Self::After),
            (Section::PreData | Section::Data, _) => Some(Self::Before),
            _ => Some(Self::After),
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Before => "before.list",
            Self::LargeObjects => "large-objects.list",
            Self::After => "after.list",
        }
    }
}

impl StagedSchema {
    /// Writes `head`, and a list for each share; of `only`, if that is not everything.
    ///
    /// # Errors
    /// [`RestoreError::Stage`].
    pub async fn write(head: &Head, only: Option<&Selection>) -> Result<Self, RestoreError> {
        let stage = async {
            let directory = tempfile::Builder::new().prefix("backstay-").permissions(Permissions::from_mode(0o700)).tempdir()?;
            write(directory.path().join("head"), &head.raw).await?;
            for share in Share::ALL {
                write(directory.path().join(share.file()), list(head, only, share).as_bytes()).await?;
            }
            Ok(Self { directory })
        };
        stage.await.map_err(RestoreError::Stage)
    }

    /// Adds the share to a `pg_restore`; large objects come by its stdin.
    pub fn select(&self, command: Command, share: Share) -> Command {
        let list = self.directory.path().join(share.file());
        let command = command.arg("--use-list").arg(list);
        if share == Share::LargeObjects { command } else { command.arg(self.directory.path().join("head")) }
    }
}

/// The entries' numbers, a line each, in the archive's order; `SortTocFromFile` of `pg_backup_archiver.c` reads no more of a line.
fn list(head: &Head, only: Option<&Selection>, share: Share) -> String {
    let entries = head.sections().filter(|(entry, section)| Share::of(entry, *section) == Some(share)).map(|(entry, _)| entry);
    entries.filter(|entry| only.is_none_or(|only| only.entries.contains(&entry.id))).map(|entry| format!("{}\n", entry.id)).collect()
}

async fn write(path: PathBuf, bytes: &[u8]) -> io::Result<()> {
    let mut file = tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await?;
    file.write_all(bytes).await?;
    file.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: i32, kind: &str, section: Section, copy: Option<&str>, has_data: bool) -> Entry {
        let copy = copy.map(str::to_owned);
        Entry { id, tag: "t".into(), kind: kind.into(), section, copy, has_data, ..Entry::default() }
    }

    fn head() -> Head {
        let entries = vec![
            entry(1, "ENCODING", Section::PreData, None, false),
            entry(2, "TABLE", Section::PreData, None, false),
            entry(3, "ACL", Section::None, None, false),
            entry(4, "COMMENT", Section::None, None, false),
            entry(5, "TABLE DATA", Section::Data, Some("COPY t (a) FROM stdin;\n"), true),
            entry(6, "SEQUENCE SET", Section::Data, None, false),
            entry(7, "BLOBS", Section::Data, None, true),
            entry(11, "BLOB METADATA", Section::Data, None, false),
            entry(12, "STATISTICS DATA", Section::Data, None, false),
            entry(8, "INDEX", Section::PostData, None, false),
            entry(9, "COMMENT", Section::None, None, false),
            entry(10, "DEFAULT ACL", Section::PostData, None, false),
        ];
        Head { minor: 14, compressed: false, server: None, dump: None, entries, lossy: false, raw: b"PGDMP".to_vec() }
    }

    #[test]
    fn every_entry_is_restored_once_and_privileges_come_last() {
        assert_eq!(list(&head(), None, Share::Before), "1\n2\n4\n6\n11\n");
        assert_eq!(list(&head(), None, Share::LargeObjects), "7\n");
        assert_eq!(list(&head(), None, Share::After), "3\n12\n8\n9\n10\n");
        let some = Selection { entries: [1, 2, 5, 8].into(), ..Selection::default() };
        assert_eq!(Share::ALL.map(|share| list(&head(), Some(&some), share)), ["1\n2\n", "", "8\n"]);
    }

    #[tokio::test]
    async fn what_is_staged_is_private_and_goes() {
        let staged = StagedSchema::write(&head(), None).await.expect("staged");
        let path = staged.directory.path().to_owned();
        let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("head")), mode(&path.join("after.list"))), (0o700, 0o600, 0o600));
        drop(staged);
        assert!(!path.exists());
    }
}
