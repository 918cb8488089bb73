//! The journal of a restore: what it has made and how far its switches are, so that another process can end it in either direction.
//!
//! Where it lies. The next process may run on another host or in another container, with an empty disk and the same configuration. What it
//! can reach then is the target, so the journal is an object there, `.backstay/restores/<id>.json`, created before anything is made and
//! overwritten whole at each step; every kind of target stores an object whole or not at all, and file targets write it through. Beside it
//! lies a lease under the same mark: while that is live the restore is under way, and its places are busy; when it is not, the restore died.
//! Where the target cannot be written (read-only credentials are reasonable for a restore) the journal is a file in the state directory of
//! this host, held by a lock. Helpers bear the mark of their restore in their names, so that they can be told even if the journal is lost;
//! no backup ever depends on it.
//!
//! Order laws: a step is on record before it is made, so that what is on record is never less than what is there. What was made is found by
//! looking, never believed: `Restorer::adopt` compares the record with the world. Of two restores that begin at once each has created its
//! journal before it looks for others', so that at least one sees the other; it withdraws.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::RestoreError;
use super::entry::{Ending, Entry, FORMAT, Stage};
use crate::chain;
use crate::component::state;
use crate::manifest::{JsonError, from_json};
use crate::name::RestoreId;
use crate::storage::{Lease, StorageError, Target};

const JSON: &str = "application/json";
/// A record of a thousand databases takes about 1 MB.
const MAX_BYTES: u64 = 16 << 20;
/// Most memory that its values may take, in bytes.
const MAX_MEMORY: usize = 64 << 20;
/// How long a target that may hold journals is waited for: one that is down must not be in the way of a restore from another.
const LOOK: Duration = Duration::from_secs(10);

/// A journal that cannot be kept.
#[derive(Debug, Error)]
pub enum JournalError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("{action} the journal {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read the journal {at}")]
    Form {
        at: String,
        #[source]
        source: JsonError,
    },
    #[error("the journal {at} was written by a newer version (format {format})")]
    Newer { at: String, format: u32 },
}

/// Where journals lie.
#[derive(Debug, Clone)]
pub struct Ledger {
    targets: Vec<Target>,
    local: Vec<PathBuf>,
}

/// Where one journal lies.
#[derive(Debug, Clone)]
enum Store {
    Target(Box<Target>),
    Local(PathBuf),
}

/// A journal that some restore has left, or keeps.
#[derive(Debug)]
pub struct Found {
    store: Store,
    pub entry: Entry,
    /// Who keeps it; `None`: who did is dead.
    pub holder: Option<String>,
}

impl Ledger {
    /// Those in `targets`, and those on this host.
    pub fn of(targets: Vec<Target>) -> Self {
        Self { targets, local: state::directories() }
    }

    /// What runs that died have stored of the state that is about to be replaced must not stand in for the one that replaces it.
    pub(super) async fn forget_runs(&self) {
        let each = self.targets.iter().map(|target| async move {
            let forget = async {
                for journal in target.list(&target.layout().runs()).await? {
                    target.delete(&journal.location).await?;
                }
                Ok::<_, StorageError>(())
            };
            match tokio::time::timeout(LOOK, forget).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("{}: a backup within the hour may hold what is replaced now", chain::describe(&error)),
                Err(_) => tracing::warn!(target = %target.name(), "no answer: a backup within the hour may hold what is replaced now"),
            }
        });
        futures_util::future::join_all(each).await;
    }

    /// All journals, the oldest first. What cannot be read is a warning: it must not be in the way of a restore.
    pub async fn find(&self) -> Vec<Found> {
        let looks = self.targets.iter().map(|target| async move {
            match tokio::time::timeout(LOOK, in_target(target)).await {
                Ok(found) => found,
                Err(_) => {
                    tracing::warn!(target = %target.name(), "no answer: whether a restore was left unfinished there is not known");
                    Vec::new()
                }
            }
        });
        let mut all: Vec<Found> = futures_util::future::join_all(looks).await.into_iter().flatten().collect();
        let local = self.local.clone();
        all.extend(
            tokio::task::spawn_blocking(move || local.iter().flat_map(|dir| in_directory(dir)).collect::<Vec<_>>())
                .await
                .unwrap_or_default(),
        );
        all.sort_by_key(|found| (found.entry.begun, found.entry.id));
        all.dedup_by(|a, b| a.entry.id == b.entry.id);
        all
    }
}

async fn in_target(target: &Target) -> Vec<Found> {
    let listed = match target.list(&target.layout().restores()).await {
        Ok(listed) => listed,
        Err(error) => {
            tracing::warn!("{}: whether a restore was left unfinished there is not known", chain::describe(&error));
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for id in listed.iter().filter_map(|meta| target.layout().restore_of(&meta.location)) {
        let key = target.layout().restore(id);
        let read = async {
            let bytes = target.read(&key, MAX_BYTES).await?;
            let entry = parse(&bytes, &format!("`{key}` in target `{}`", target.name()))?;
            Ok::<_, JournalError>(Found { store: Store::Target(Box::new(target.clone())), entry, holder: Lease::holder(target, id).await? })
        };
        match read.await {
            Ok(one) => found.push(one),
            // it has ended between the listing and now
            Err(JournalError::Storage(error)) if error.is_not_found() => {}
            Err(error) => tracing::warn!("{}", chain::describe(&error)),
        }
    }
    found
}

fn in_directory(dir: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = file.file_name();
        let Some(id) = name.to_str().and_then(|n| n.strip_prefix("restore-")?.strip_suffix(".json")) else { continue };
        if id.parse::<RestoreId>().is_err() {
            continue;
        }
        let path = file.path();
        let read = || -> Result<Found, JournalError> {
            let bytes = std::fs::read(&path).map_err(|source| JournalError::File { action: "read", path: path.clone(), source })?;
            let entry = parse(&bytes, &path.display().to_string())?;
            let free = lock(&path)?.is_some();
            let holder = (!free).then(|| "a process on this host".to_owned());
            Ok(Found { store: Store::Local(dir.to_owned()), entry, holder })
        };
        match read() {
            Ok(one) => found.push(one),
            Err(error) => tracing::warn!("{}", chain::describe(&error)),
        }
    }
    found
}

fn parse(bytes: &[u8], at: &str) -> Result<Entry, JournalError> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let form = |source| JournalError::Form { at: at.to_owned(), source };
    let head: Head = from_json(bytes, MAX_MEMORY).map_err(form)?;
    if head.format > FORMAT {
        return Err(JournalError::Newer { at: at.to_owned(), format: head.format });
    }
    from_json(bytes, MAX_MEMORY).map_err(form)
}

/// Beside the journal, which is replaced at each step.
fn lock(journal: &Path) -> Result<Option<File>, JournalError> {
    let path = journal.with_extension("lock");
    let failed = |source| JournalError::File { action: "lock", path: path.clone(), source };
    let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// What keeps a journal from being taken over.
#[derive(Debug)]
enum Hold {
    Lease(Box<Lease>),
    /// Until it is closed.
    Lock(#[expect(dead_code, reason = "held, not used")] File),
}

/// The journal of a restore that is under way here.
#[derive(Debug)]
pub struct Journal {
    store: Store,
    entry: Entry,
    hold: Hold,
}

impl Found {
    /// Where an operator finds it.
    pub fn place(&self) -> String {
        match &self.store {
            Store::Target(target) => format!("`{}` in target `{}`", target.layout().restore(self.entry.id), target.name()),
            Store::Local(dir) => local(dir, self.entry.id).display().to_string(),
        }
    }

    /// What its restore replaces.
    pub fn places(&self) -> Vec<String> {
        self.entry.parts.iter().flat_map(|part| part.places.clone()).collect()
    }

    /// Whether no other restore of its places may begin: it is under way, or some of its components are switched and others are not.
    pub fn is_in_the_way(&self) -> bool {
        self.holder.is_some() || self.entry.stage() == Stage::Between
    }

    /// Why a restore that replaces `places` has to wait for this one; `None` where it has nothing to do with it.
    pub fn conflict(&self, places: &[String]) -> Option<RestoreError> {
        let place = self.entry.shared(places)?.to_owned();
        let backup = self.entry.backup.clone();
        Some(match self.holder.clone() {
            Some(holder) => RestoreError::Busy { backup, place, holder },
            None => RestoreError::Unfinished { backup, begun: self.entry.begun, journal: self.place() },
        })
    }

    /// Takes the journal over; `None` when another is faster, or who keeps it lives.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn take(self) -> Result<Option<Journal>, JournalError> {
        let id = self.entry.id;
        let hold = match &self.store {
            Store::Target(target) => match Lease::acquire(target, id, &holder()).await {
                Ok(lease) => Hold::Lease(Box::new(lease)),
                Err(error) if error.is_busy() => return Ok(None),
                Err(error) => return Err(error.into()),
            },
            Store::Local(dir) => match lock(&local(dir, id))? {
                Some(file) => Hold::Lock(file),
                None => return Ok(None),
            },
        };
        // it may have been taken a step further, or to its end, before it was ours
        let entry = match &self.store {
            Store::Target(target) => {
                let key = target.layout().restore(id);
                match target.read(&key, MAX_BYTES).await {
                    Ok(bytes) => Some(parse(&bytes, key.as_ref())?),
                    Err(error) if error.is_not_found() => None,
                    Err(error) => return Err(error.into()),
                }
            }
            Store::Local(dir) => match std::fs::read(local(dir, id)) {
                Ok(bytes) => Some(parse(&bytes, &local(dir, id).display().to_string())?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(source) => return Err(JournalError::File { action: "read", path: local(dir, id), source }),
            },
        };
        let journal = Journal { store: self.store, entry: entry.clone().unwrap_or(self.entry), hold };
        if entry.is_none() {
            journal.release().await;
            return Ok(None);
        }
        Ok(Some(journal))
    }
}

fn local(dir: &Path, id: RestoreId) -> PathBuf {
    dir.join(format!("restore-{id}.json"))
}

fn holder() -> String {
    format!("{} process {}", rustix::system::uname().nodename().to_string_lossy(), std::process::id())
}

impl Journal {
    /// Creates it in `target`, or on this host where that may not be written.
    ///
    /// # Errors
    /// [`JournalError`] when it can be written nowhere.
    pub async fn create(target: &Target, entry: Entry) -> Result<Self, JournalError> {
        // what is created now is to be replaced at each step
        let created = match target.lacks_room().await {
            true => Err(format!("target `{}` has next to no room left", target.name())),
            false => Self::create_in(target, entry.clone()).await.map_err(|error| chain::describe(&error)),
        };
        match created {
            Ok(journal) => Ok(journal),
            Err(why) => {
                let dir = state::directory();
                tracing::warn!("{why}: the journal of this restore is kept in {}, where only this host finds it", dir.display());
                Self::create_here(&dir, entry)
            }
        }
    }

    async fn create_in(target: &Target, entry: Entry) -> Result<Self, StorageError> {
        // first the lease: without one a journal looks like that of a restore that died
        let lease = Lease::acquire(target, entry.id, &holder()).await?;
        if let Err(error) = target.create(&target.layout().restore(entry.id), encode(&entry), JSON).await {
            lease.release().await;
            return Err(error);
        }
        Ok(Self { store: Store::Target(Box::new(target.clone())), entry, hold: Hold::Lease(Box::new(lease)) })
    }

    fn create_here(dir: &Path, entry: Entry) -> Result<Self, JournalError> {
        let path = local(dir, entry.id);
        let file = lock(&path)?.ok_or_else(|| JournalError::File {
            action: "lock",
            path: path.clone(),
            source: io::ErrorKind::WouldBlock.into(),
        })?;
        write_here(dir, &entry)?;
        Ok(Self { store: Store::Local(dir.to_owned()), entry, hold: Hold::Lock(file) })
    }

    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// How long its target may keep a download waiting; `None` for one on this host.
    pub fn stall(&self) -> Option<Duration> {
        match &self.store {
            Store::Target(target) => Some(target.stall()),
            Store::Local(_) => None,
        }
    }

    pub async fn staged(&mut self, at: usize, record: Value) -> Result<(), JournalError> {
        self.change(|entry| {
            if let Some(part) = entry.parts.get_mut(at) {
                (part.staged, part.record) = (true, record);
            }
        })
        .await
    }

    /// Before the switch of the part `at`.
    pub async fn switching(&mut self, at: usize) -> Result<(), JournalError> {
        self.confirm().await?;
        if self.entry.switching.is_some_and(|last| last >= at) {
            return Ok(());
        }
        self.change(|entry| entry.switching = Some(at)).await
    }

    /// Before anything of the other state is removed.
    pub async fn ending(&mut self, ending: Ending) -> Result<(), JournalError> {
        self.confirm().await?;
        if self.entry.ending == Some(ending) {
            return Ok(());
        }
        self.change(|entry| entry.ending = Some(ending)).await
    }

    /// The restore has ended, and nothing is left of it.
    pub async fn close(self) -> Result<(), JournalError> {
        match &self.store {
            Store::Target(target) => target.delete(&target.layout().restore(self.entry.id)).await?,
            Store::Local(dir) => {
                let path = local(dir, self.entry.id);
                for path in [path.with_extension("lock"), path] {
                    match std::fs::remove_file(&path) {
                        Ok(()) => {}
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(source) => return Err(JournalError::File { action: "remove", path, source }),
                    }
                }
            }
        }
        self.release().await;
        Ok(())
    }

    /// Leaves it for another process.
    pub async fn release(self) {
        if let Hold::Lease(lease) = self.hold {
            lease.release().await;
        }
    }

    /// A process that slept may have been taken for dead.
    async fn confirm(&self) -> Result<(), JournalError> {
        match &self.hold {
            Hold::Lease(lease) => Ok(lease.confirm().await?),
            Hold::Lock(_) => Ok(()),
        }
    }

    async fn change(&mut self, change: impl FnOnce(&mut Entry)) -> Result<(), JournalError> {
        let mut entry = self.entry.clone();
        change(&mut entry);
        match &self.store {
            Store::Target(target) => target.write(&target.layout().restore(entry.id), encode(&entry), JSON).await?,
            Store::Local(dir) => write_here(dir, &entry)?,
        }
        self.entry = entry;
        Ok(())
    }
}

fn encode(entry: &Entry) -> Bytes {
    let mut text = serde_json::to_vec_pretty(entry).expect("an entry has string keys only");
    text.push(b'\n');
    text.into()
}

fn write_here(dir: &Path, entry: &Entry) -> Result<(), JournalError> {
    let path = local(dir, entry.id);
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix("restore-").suffix(".new").tempfile_in(dir)?;
        file.write_all(&encode(entry))?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|e| e.error)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| JournalError::File { action: "write", path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::Progress;
    use crate::restore::entry::tests::entry;

    #[tokio::test]
    async fn a_journal_on_this_host_is_found_and_taken_over_only_from_the_dead() {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = Ledger { targets: Vec::new(), local: vec![dir.path().to_owned()] };
        let mut journal = Journal::create_here(dir.path(), entry([true, true])).expect("created");
        journal.switching(1).await.expect("written");
        let found = ledger.find().await.remove(0);
        assert!(found.holder.is_some());
        assert!(found.take().await.expect("looked").is_none());
        drop(journal);
        let found = ledger.find().await.remove(0);
        assert_eq!((found.holder.clone(), found.entry.progress(1)), (None, Progress::Switching));
        found.take().await.expect("free").expect("ours").close().await.expect("closed");
        assert_eq!(ledger.find().await.len(), 0);
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 0);
    }
}
