//! The parts of a restore that are about the schema: `pg_restore` before and after the rows, on a file of an archive's head alone.
//!
//! `pg_restore --jobs` wants a file that it can seek in. The head, an archive's table of contents, is all that it needs for what is no
//! data: it never looks for the blocks of entries that it is not to restore. So the head is written to a file of ours, the data never is.
//!
//! What comes before and after the rows is said by lists (`--use-list`) in place of `--section`, for one reason: with `--section`,
//! privileges are set before the rows come, and an owner who took INSERT from himself could not load them. In one run over everything
//! they are set last (`RESTORE_PASS_ACL` of `pg_backup_archiver.c`), and so they are here.
//!
//! A second reason: indexes of partitions are attached by one session. Two that attach to different levels of one index at once may each
//! miss what the other did, and the index of the whole stays invalid for ever (`validatePartitionedIndex` of `tablecmds.c`); a foreign
//! key to it then fails with "there is no unique constraint matching given keys". Seen in 4 of 150 runs of `pg_restore --jobs=4`.

use std::collections::{BTreeMap, BTreeSet};
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
    shares: BTreeSet<Share>,
}

/// Which entries one run of `pg_restore` is for, in the order of the runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Share {
    /// Tables and what they need; large objects, still empty; where the sequences stand.
    Before,
    /// Large objects, whose blocks are fed to it.
    LargeObjects,
    /// Indexes of partitions and of what is partitioned, and what they need.
    Attachable,
    /// Which of these indexes is a part of which.
    Attachments,
    /// Other indexes, constraints, triggers, then privileges, then materialized views and event triggers.
    After,
}

impl Share {
    /// What is restored when the rows are there.
    pub const AFTER: [Self; 3] = [Self::Attachable, Self::Attachments, Self::After];

    /// Whether several sessions may restore it.
    pub fn is_parallel(self) -> bool {
        matches!(self, Self::Attachable | Self::After)
    }

    /// The share that an entry is in by itself; `None`: its rows are loaded by [`super::rows`]. Which are [`Self::Attachable`] is said by
    /// what depends on them, see [`lists`].
    pub fn of(entry: &Entry, section: Section) -> Option<Self> {
        match (section, entry.kind.as_str()) {
            (_, "ACL" | "DEFAULT ACL") => Some(Self::After),
            (_, "INDEX ATTACH") => Some(Self::Attachments),
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
            Self::Attachable => "attachable.list",
            Self::Attachments => "attachments.list",
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
            let lists = lists(head, only);
            for (share, list) in &lists {
                write(directory.path().join(share.file()), list.as_bytes()).await?;
            }
            Ok(Self { directory, shares: lists.into_keys().collect() })
        };
        stage.await.map_err(RestoreError::Stage)
    }

    /// Whether there is anything in it.
    pub fn has(&self, share: Share) -> bool {
        self.shares.contains(&share)
    }

    /// Adds the share to a `pg_restore`, if there is such a share; large objects come by its stdin.
    pub fn select(&self, command: Command, share: Share) -> Command {
        let list = self.directory.path().join(share.file());
        let command = command.arg("--use-list").arg(list);
        if share == Share::LargeObjects { command } else { command.arg(self.directory.path().join("head")) }
    }
}

/// The entries' numbers of each share that is not empty, a line each, in the archive's order; `SortTocFromFile` of
/// `pg_backup_archiver.c` reads no more of a line.
fn lists(head: &Head, only: Option<&Selection>) -> BTreeMap<Share, String> {
    let attachable = attachable(head);
    let mut lists = BTreeMap::<Share, String>::new();
    for (entry, section) in head.sections().filter(|(entry, _)| only.is_none_or(|only| only.entries.contains(&entry.id))) {
        let share = Share::of(entry, section);
        let share = if share == Some(Share::After) && attachable.contains(&entry.id) { Some(Share::Attachable) } else { share };
        if let Some(share) = share {
            *lists.entry(share).or_default() += &format!("{}\n", entry.id);
        }
    }
    lists
}

/// What the attachments of indexes depend on, directly or not.
fn attachable(head: &Head) -> BTreeSet<i32> {
    let dependencies: BTreeMap<i32, &[i32]> = head.entries.iter().map(|entry| (entry.id, entry.dependencies.as_slice())).collect();
    let mut waiting: Vec<i32> = head.entries.iter().filter(|e| e.kind == "INDEX ATTACH").flat_map(|e| e.dependencies.clone()).collect();
    let mut found = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if found.insert(id) {
            waiting.extend(dependencies.get(&id).copied().unwrap_or_default());
        }
    }
    found
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
        let lists_of =
            |head: &Head, only| lists(head, only).into_iter().map(|(share, list)| (share, list.replace('\n', " "))).collect::<Vec<_>>();
        let expected = [(Share::Before, "1 2 4 6 11 "), (Share::LargeObjects, "7 "), (Share::After, "3 12 8 9 10 ")];
        assert_eq!(lists_of(&head(), None), expected.map(|(share, list)| (share, list.to_owned())));
        let some = Selection { entries: [1, 2, 5, 8].into(), ..Selection::default() };
        assert_eq!(lists_of(&head(), Some(&some)), [(Share::Before, "1 2 ".to_owned()), (Share::After, "8 ".to_owned())]);
    }

    #[test]
    fn indexes_of_partitions_are_attached_before_what_needs_the_whole() {
        let after = |id, kind: &str, dependencies: &[i32]| Entry {
            dependencies: dependencies.to_vec(),
            ..entry(id, kind, Section::PostData, None, false)
        };
        let entries = vec![
            entry(1, "TABLE", Section::PreData, None, false),
            after(2, "INDEX", &[1]),
            after(3, "CONSTRAINT", &[1]),
            after(4, "FUNCTION", &[3]),
            after(5, "INDEX", &[1, 4]),
            after(6, "INDEX ATTACH", &[5, 1]),
            after(7, "FK CONSTRAINT", &[3, 6]),
        ];
        let lists = lists(&Head { entries, ..head() }, None);
        let list = |share| lists.get(&share).map(String::as_str);
        assert_eq!(list(Share::Before), Some("1\n"));
        assert_eq!(Share::AFTER.map(list), [Some("3\n4\n5\n"), Some("6\n"), Some("2\n7\n")]);
        assert_eq!(Share::AFTER.map(Share::is_parallel), [true, false, true]);
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
