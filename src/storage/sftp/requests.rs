//! What is asked of the server, again by another connection when one is lost.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::future::{BoxFuture, FutureExt};
use object_store::path::Path;
use object_store::{Error, ObjectMeta, PutPayload, Result};
use russh_sftp::protocol::{FileAttributes, FileType, OpenFlags, StatusCode};

use super::super::error::Refusal;
use super::super::folders::{Folders, Found, NO_BASE};
use super::super::retry::Retries;
use super::SftpPlace;
use super::file::OpenFile;
use super::session::{Connection, Failure, SMALL_TIMEOUT, Session, failed};
use crate::process::Command;

/// Nobody but its owner looks into a folder of ours.
const FOLDER_MODE: u32 = 0o700;

/// How often a request is made whose connection was lost.
pub(super) const TRIES: u32 = 7;

/// How long a server that was there is waited for: shorter than a lease is believed in.
const PATIENCE: Duration = Duration::from_secs(90);

/// Most entries of a folder. Each backup is one.
const MOST_ENTRIES: usize = 1_000_000;

/// Bytes up to which what is stored is small.
const SMALL: usize = 1 << 20;

/// Bytes below which a server has no room to speak of.
const LITTLE: u64 = 2 << 20;

#[derive(Debug)]
pub(super) struct Requests {
    place: SftpPlace,
    /// For what is small: it must not wait behind what is large, nor while the server flushes that.
    small: Connection,
    large: Connection,
    contact: Mutex<Contact>,
    /// Folders that are known to be there.
    folders: Mutex<HashSet<Path>>,
}

/// Whether there is such a server.
#[derive(Debug, Clone, Copy, Default)]
enum Contact {
    #[default]
    Unknown,
    Good,
    /// There was one.
    GoneSince(Instant),
}

impl Requests {
    pub(super) fn new(place: SftpPlace, ssh: Command) -> Self {
        Self {
            place,
            small: Connection::new(ssh.clone()),
            large: Connection::new(ssh),
            contact: Mutex::default(),
            folders: Mutex::default(),
        }
    }

    pub(super) fn place(&self) -> &SftpPlace {
        &self.place
    }

    /// For what is large.
    pub(super) async fn session(&self) -> Result<Arc<Session>, Failure> {
        self.session_of(&self.large).await
    }

    /// A server that was there is waited for: it may have been restarted.
    async fn session_of(&self, connection: &Connection) -> Result<Arc<Session>, Failure> {
        let (mut retries, mut is_waited_for) = (Retries::new(), false);
        loop {
            let why = match connection.session().await {
                Ok(session) => {
                    *held(&self.contact) = Contact::Good;
                    return Ok(session);
                }
                Err(Failure::Lost(why)) => why,
                Err(failure) => return Err(failure),
            };
            if let Some(left) = self.patience()
                && !is_waited_for
            {
                (retries, is_waited_for) = (Retries::lasting(left), true);
            }
            let Some(pause) = retries.next() else { return Err(Failure::Lost(why)) };
            tracing::debug!(why, ?pause, "a connection to an SFTP server is tried again");
            tokio::time::sleep(pause).await;
        }
    }

    /// How long yet, after a connection could not be made; `None`: nobody knows whether there is such a server.
    fn patience(&self) -> Option<Duration> {
        let mut contact = held(&self.contact);
        match *contact {
            Contact::Unknown => None,
            Contact::Good => {
                *contact = Contact::GoneSince(Instant::now());
                Some(PATIENCE)
            }
            Contact::GoneSince(since) => Some(PATIENCE.saturating_sub(since.elapsed())),
        }
    }

    pub(super) fn path(&self, key: &Path) -> String {
        self.place.server_path(key.as_ref())
    }

    /// Does `work`, again where the connection was lost: then what was asked may have been done.
    async fn repeat<'w, T>(&self, work: impl Fn(Arc<Session>) -> BoxFuture<'w, Result<T, Failure>> + Send) -> Result<T, Failure> {
        self.repeat_by(&self.small, work).await
    }

    async fn repeat_by<'w, T>(
        &self,
        connection: &Connection,
        work: impl Fn(Arc<Session>) -> BoxFuture<'w, Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            match work(self.session_of(connection).await?).await {
                Err(Failure::Lost(why)) if tries > 0 => tracing::debug!(why, "a request to an SFTP server is repeated"),
                done => return done,
            }
        }
    }

    async fn attributes(&self, path: &str) -> Result<Option<FileAttributes>, Failure> {
        let found = self
            .repeat(|session| {
                let path = &path;
                async move { session.ask(session.protocol().stat(*path)).await }.boxed()
            })
            .await;
        match found {
            Ok(found) => Ok(Some(found.attrs)),
            Err(failure) if failure.is(StatusCode::NoSuchFile) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// # Errors
    /// [`Error::NotFound`] where no file has that name.
    pub(super) async fn look_at(&self, key: &Path) -> Result<ObjectMeta> {
        let found = self.attributes(&self.path(key)).await.map_err(|failure| failure.of(key))?;
        found.and_then(|attributes| meta(key, &attributes)).ok_or_else(|| not_found(key))
    }

    /// The file, to be read, and what there is to know of it.
    pub(super) async fn open(&self, key: &Path) -> Result<(OpenFile, ObjectMeta)> {
        let path = self.path(key);
        let opened = self.repeat_by(&self.large, |session| {
            let path = &path;
            async move {
                let file = OpenFile::open(&session, path, OpenFlags::READ).await?;
                let attributes = file.attributes().await?;
                Ok((file, attributes))
            }
            .boxed()
        });
        let (file, attributes) = opened.await.map_err(|failure| failure.of(key))?;
        Ok((file, meta(key, &attributes).ok_or_else(|| not_found(key))?))
    }

    /// # Errors
    /// When there is no file of so many bytes: a server may take what it does not keep.
    pub(super) async fn expect_size(&self, key: &Path, bytes: u64) -> Result<()> {
        match self.look_at(key).await?.size {
            size if size == bytes => Ok(()),
            size => Err(failed(format!("of {bytes} bytes the server holds {size}"))),
        }
    }

    /// Stores a file that is held in memory, whose name nobody else has. Nothing is ever cut off: a request that a server gave no answer to may be
    /// done at any later time, when the file holds more.
    pub(super) async fn put(&self, key: &Path, payload: &PutPayload) -> Result<()> {
        self.make_folders_of(key).await?;
        let path = self.path(key);
        let is_small = payload.content_length() <= SMALL;
        let stored = self.repeat_by(if is_small { &self.small } else { &self.large }, |session| {
            let path = &path;
            async move {
                let file = OpenFile::open(&session, path, OpenFlags::WRITE | OpenFlags::CREATE).await?;
                let store = async {
                    file.write(0, payload).await?;
                    file.sync().await
                };
                // whoever sends much cuts it
                if is_small { session.within(SMALL_TIMEOUT, store).await } else { store.await }
            }
            .boxed()
        });
        match stored.await {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.why(failure, key).await),
        }
    }

    /// The protocol has no word for a disk that is full.
    pub(super) async fn why(&self, failure: Failure, key: &Path) -> Error {
        if failure.is_unnamed() && self.free_space().await.is_some_and(|free| free < LITTLE) {
            return failed(std::io::Error::from(rustix::io::Errno::NOSPC));
        }
        failure.of(key)
    }

    pub(super) async fn remove(&self, key: &Path) -> Result<()> {
        let path = self.path(key);
        let removed = self
            .repeat(|session| {
                let path = &path;
                async move { session.ask(session.protocol().remove(path)).await }.boxed()
            })
            .await;
        removed.map(drop).map_err(|failure| failure.of(key))
    }

    /// Gives a file another name, and replaces what has it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none: nor was there when it was asked for the first time.
    pub(super) async fn replace(&self, from: &Path, to: &Path) -> Result<()> {
        self.make_folders_of(to).await?;
        let (source, path) = (self.path(from), self.path(to));
        let asked = AtomicBool::new(false);
        let renamed = self.repeat(|session| {
            let (path, source, asked) = (&path, &source, &asked);
            async move {
                let again = asked.swap(true, Ordering::Relaxed);
                let renamed = match session.can.posix_rename {
                    true => session.posix_rename(source, path).await,
                    false => Self::rename_or_remove(&session, source, path).await,
                };
                match renamed {
                    // the answer was lost, not the request
                    Err(failure) if again && failure.is(StatusCode::NoSuchFile) => {
                        session.ask(session.protocol().lstat(path)).await.map(drop)
                    }
                    renamed => renamed,
                }
            }
            .boxed()
        });
        renamed.await.map_err(|failure| failure.of(from))
    }

    /// By the protocol alone, a rename replaces nothing (section 6.5): there is a moment in which there is neither.
    async fn rename_or_remove(session: &Session, from: &str, to: &str) -> Result<(), Failure> {
        match session.ask(session.protocol().rename(from, to)).await {
            Err(failure) if failure.is_unnamed() && session.ask(session.protocol().lstat(to)).await.is_ok() => {
                session.ask(session.protocol().remove(to)).await?;
                session.ask(session.protocol().rename(from, to)).await.map(drop)
            }
            renamed => renamed.map(drop),
        }
    }

    /// Gives a file another name, which nothing has; the first is gone then.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`].
    pub(super) async fn create(&self, from: &Path, to: &Path) -> Result<()> {
        self.make_folders_of(to).await?;
        let (source, path) = (self.path(from), self.path(to));
        let created = self.repeat(|session| {
            let (path, source) = (&path, &source);
            async move {
                let linked = match session.can.hardlink {
                    true => Some(session.ask(session.protocol().hardlink(source, path)).await),
                    false => None,
                };
                let refused = match linked {
                    Some(Ok(_)) => {
                        // both names are of one file, and nobody knows the first
                        let _ = session.ask(session.protocol().remove(source)).await;
                        return Ok(true);
                    }
                    Some(Err(failure)) if !failure.is_unnamed() && !failure.is(StatusCode::OpUnsupported) => return Err(failure),
                    other => other,
                };
                if session.ask(session.protocol().lstat(path)).await.is_ok() {
                    return Ok(false);
                }
                // a file system without links, or a server without the extension: a rename replaces nothing (section 6.5), but between the look
                // and the rename some servers let one through
                tracing::debug!(?refused, "the server makes no links");
                session.ask(session.protocol().rename(source, path)).await.map(|_| true)
            }
            .boxed()
        });
        match created.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::AlreadyExists { path: to.to_string(), source: "the server has a file of that name".into() }),
            Err(failure) => Err(failure.of(to)),
        }
    }

    /// Another name for a file, in place of a copy.
    ///
    /// # Errors
    /// [`Error::NotSupported`] where the server has no links.
    pub(super) async fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.make_folders_of(to).await?;
        let (source, path) = (self.path(from), self.path(to));
        let linked = self.repeat(|session| {
            let (path, source) = (&path, &source);
            async move {
                match session.can.hardlink {
                    true => session.ask(session.protocol().hardlink(source, path)).await.map(|_| true),
                    false => Ok(false),
                }
            }
            .boxed()
        });
        match linked.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::NotSupported { source: "the server makes no links".into() }),
            Err(failure) => Err(failure.of(from)),
        }
    }

    /// The folders from the target's down to the one of `key`.
    pub(super) async fn make_folders_of(&self, key: &Path) -> Result<()> {
        let parts: Vec<_> = key.parts().collect();
        for depth in 1..parts.len() {
            let folder: Path = parts[..depth].iter().cloned().collect();
            if held(&self.folders).contains(&folder) {
                continue;
            }
            let path = self.path(&folder);
            let attributes = FileAttributes { permissions: Some(FOLDER_MODE), ..FileAttributes::empty() };
            let made = self
                .repeat(|session| {
                    let (path, attributes) = (&path, &attributes);
                    async move { session.ask(session.protocol().mkdir(path, attributes.clone())).await }.boxed()
                })
                .await;
            if let Err(failure) = made {
                // what is there already is refused without a word for it
                let there = self.attributes(&path).await.map_err(|failure| failure.of(&folder))?;
                if !there.as_ref().is_some_and(FileAttributes::is_dir) {
                    return Err(match there {
                        Some(_) => failed(Refusal(format!("`{path}` on the server is no folder"))),
                        None if depth == 1 && failure.is(StatusCode::NoSuchFile) => self.no_base(),
                        None => self.why(failure, &folder).await,
                    });
                }
            }
            held(&self.folders).insert(folder);
        }
        Ok(())
    }

    /// What has a name that no key of ours can have is left out. What is no folder is an object, whatever else it is: it fills the folder that
    /// it lies in. A link is what it leads to, but never a folder: what is behind it is not the target's, nor need it end.
    async fn found(&self, folder: &Path, name: &str, attributes: FileAttributes) -> Result<Option<Found>> {
        if matches!(name, "." | "..") || name.contains(['/', char::REPLACEMENT_CHARACTER]) {
            return Ok(None);
        }
        let key = [folder.as_ref(), name].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
        let Ok(key) = Path::parse(key) else { return Ok(None) };
        let is_told = attributes.permissions.is_some() && (attributes.is_dir() || attributes.size.is_some());
        if is_told && !attributes.is_symlink() {
            return Ok(Some(if attributes.is_dir() { Found::Folder(key) } else { object(key, &attributes) }));
        }
        let path = self.path(&key);
        let itself = self.repeat(|session| {
            let path = &path;
            async move { session.ask(session.protocol().lstat(path)).await }.boxed()
        });
        let itself = match itself.await {
            Ok(told) => told.attrs,
            Err(failure) if failure.is(StatusCode::NoSuchFile) => return Ok(None),
            Err(failure) => return Err(failure.of(&key)),
        };
        if itself.is_dir() {
            return Ok(Some(Found::Folder(key)));
        }
        // one that leads nowhere, or round and round, is there all the same
        let behind = self.attributes(&path).await.ok().flatten().filter(|behind| !behind.is_dir());
        Ok(Some(object(key, behind.as_ref().unwrap_or(&itself))))
    }
}

#[async_trait]
impl Folders for Requests {
    async fn children(&self, folder: &Path) -> Result<Option<Vec<Found>>> {
        let (path, is_base) = (self.path(folder), folder.as_ref().is_empty());
        let listed = self.repeat(|session| {
            let path = &path;
            async move {
                // see `found`; the target's own folder may be behind a link
                if !is_base && session.ask(session.protocol().lstat(path)).await?.attrs.is_symlink() {
                    return Ok(None);
                }
                let handle = session.ask(session.protocol().opendir(path)).await?.handle;
                let mut entries = Vec::new();
                let done = loop {
                    match session.ask(session.protocol().readdir(&handle)).await {
                        Ok(names) if names.files.is_empty() || entries.len() > MOST_ENTRIES => {
                            break Err(Failure::NoEntry("the server's list of a folder does not end".into()));
                        }
                        Ok(names) => entries.extend(names.files.into_iter().map(|file| (file.filename, file.attrs))),
                        Err(failure) if failure.is(StatusCode::Eof) => break Ok(Some(entries)),
                        Err(failure) => break Err(failure),
                    }
                };
                if !session.is_lost() {
                    session.ask(session.protocol().close(&handle)).await?;
                }
                done
            }
            .boxed()
        });
        let entries = match listed.await {
            Ok(Some(entries)) => entries,
            Ok(None) => return Ok(None),
            Err(failure) if failure.is(StatusCode::NoSuchFile) => return Ok(None),
            Err(failure) => return Err(failure.of(folder)),
        };
        let mut children = Vec::new();
        for (name, attributes) in entries {
            children.extend(self.found(folder, &name, attributes).await?);
        }
        Ok(Some(children))
    }

    async fn remove_folder(&self, folder: &Path) -> Result<()> {
        held(&self.folders).retain(|known| !known.prefix_matches(folder));
        let path = self.path(folder);
        let removed = self
            .repeat(|session| {
                let path = &path;
                async move { session.ask(session.protocol().rmdir(path)).await }.boxed()
            })
            .await;
        removed.map(drop).map_err(|failure| failure.of(folder))
    }

    fn no_base(&self) -> Error {
        failed(Refusal(NO_BASE.into()))
    }

    async fn free_space(&self) -> Option<u64> {
        let path = self.place.server_path("");
        let stat = self.repeat(|session| {
            let path = &path;
            async move {
                match session.can.statvfs {
                    true => session.ask(session.protocol().statvfs(path)).await.map(Some),
                    false => Ok(None),
                }
            }
            .boxed()
        });
        let stat = stat.await.ok()??;
        Some(stat.blocks_avail.saturating_mul(stat.fragment_size))
    }
}

/// `None`: it is no file.
fn meta(key: &Path, attributes: &FileAttributes) -> Option<ObjectMeta> {
    let is_file = attributes.permissions.is_none() || attributes.file_type() == FileType::File;
    match object(key.clone(), attributes) {
        Found::Object(meta) if is_file && attributes.size.is_some() => Some(meta),
        _ => None,
    }
}

fn object(key: Path, attributes: &FileAttributes) -> Found {
    // one whose time is not told is as young as can be, so that nobody takes it for what the dead have left
    let modified = attributes.mtime.and_then(|seconds| DateTime::from_timestamp(i64::from(seconds), 0));
    Found::Object(ObjectMeta {
        location: key,
        last_modified: modified.unwrap_or_else(Utc::now),
        size: attributes.size.unwrap_or_default(),
        e_tag: None,
        version: None,
    })
}

fn not_found(key: &Path) -> Error {
    Error::NotFound { path: key.to_string(), source: "the server has no file of that name".into() }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
