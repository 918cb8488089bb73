//! One target: a store, the layout of its keys, and what its kind allows.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Attribute, Attributes, GetResult, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use rustix::fs::{StatVfs, statvfs};
use tokio::sync::Semaphore;

use super::bucket::Bucket;
use super::error::{Cause, StorageError};
use super::folders::Folders;
use super::layout::Layout;
use super::limit::Limiter;
use super::options::{Location, TargetOptions};
use super::patient::{Patience, is_silent};
use super::read::{self, Stored};
use super::{azure, file, gcs, s3, sftp, webdav};
use crate::name::{ArtifactPath, BackupName, TargetName};

/// How long a download may stand still, unless a job says.
const STALL: Duration = Duration::from_secs(600);
/// Bytes from which on an object that is read whole is large. A manifest of a hundred databases has less.
const LARGE: u64 = 1 << 20;

/// Free bytes, and inodes, below which a file target has no room to speak of.
const LITTLE: u64 = 2 << 20;
const FEW_INODES: u64 = 16;

/// What a target is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Lists and reads; creates nothing.
    Read,
    /// Also writes and deletes; the directory of a file target is created.
    Write,
}

/// An open target. Clones share the store and its connections.
#[derive(Debug, Clone)]
pub struct Target {
    name: TargetName,
    location: Location,
    store: Arc<dyn ObjectStore>,
    /// The same store, where it can do more than any other kind.
    bucket: Option<Bucket>,
    folder: Option<Arc<dyn Folders>>,
    layout: Layout,
    limit: Option<Limiter>,
    ahead: Arc<Semaphore>,
    /// One large object is read whole at a time: many at once would take as much memory as all of them.
    large: Arc<Semaphore>,
    storage_class: Option<String>,
    part_size: Option<u64>,
    max_parts: Option<u32>,
    stall: Duration,
}

impl Target {
    /// Reads the secrets and sets the client up; no request is made yet.
    ///
    /// # Errors
    /// [`StorageError`] when a secret, the directory of a file target, or a certificate cannot be read.
    pub fn open(options: &TargetOptions, access: Access) -> Result<Self, StorageError> {
        Self::open_within(options, access, STALL)
    }

    /// As [`Target::open`], and the directory of a file target has to answer in time. `stall` is how long a download may stand still, in place
    /// of ten minutes.
    ///
    /// # Errors
    /// As [`Target::open`].
    pub async fn open_in_time(options: &TargetOptions, access: Access, stall: Option<Duration>) -> Result<Self, StorageError> {
        let stall = stall.unwrap_or(STALL);
        let Location::File(path) = &options.location else { return Self::open_within(options, access, stall) };
        let opened = {
            let options = options.clone();
            tokio::task::spawn_blocking(move || Self::open_within(&options, access, stall))
        };
        let directory = |source| StorageError::Directory { target: options.name.clone(), path: path.display().to_string(), source };
        Patience::new(path, stall).small(opened).await.map_err(directory)?.map_err(|panic| directory(panic.into()))?
    }

    fn open_within(options: &TargetOptions, access: Access, stall: Duration) -> Result<Self, StorageError> {
        let target = match &options.location {
            Location::File(path) => {
                let store = file::open(&options.name, path, access == Access::Write, Patience::new(path, stall))?;
                Self::over(options, Arc::new(store), "")
            }
            Location::S3 { bucket, prefix, options: s3 } => {
                let bucket = s3::open(&options.name, bucket, s3)?;
                let target = Self::over(options, Arc::new(bucket.store().clone()), prefix);
                Self { bucket: Some(bucket), ..target }
            }
            Location::Azure { container, prefix, options: azure } => {
                Self::over(options, Arc::new(azure::open(&options.name, container, azure)?), prefix)
            }
            Location::Gcs { bucket, prefix, options: gcs } => Self::over(options, Arc::new(gcs::open(&options.name, bucket, gcs)?), prefix),
            Location::WebDav { url, options: webdav } => {
                let folder = webdav::open(&options.name, url, webdav)?;
                let target = Self::over(options, Arc::new(folder.clone()), "");
                Self { folder: Some(folder.folders()), ..target }
            }
            Location::Sftp { place, options: sftp } => {
                let (store, folders) = sftp::open(&options.name, place, sftp)?;
                Self { folder: Some(folders), ..Self::over(options, store, "") }
            }
        };
        Ok(target.with_stall(stall))
    }

    /// A target over a given store, such as a wrapper that injects faults.
    pub fn over(options: &TargetOptions, store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        let (storage_class, part_size, max_parts) = match &options.location {
            Location::File(_) | Location::WebDav { .. } | Location::Sftp { .. } => (None, None, None),
            Location::S3 { options: s3, .. } => (s3.storage_class.clone(), s3.part_size, Some(s3.max_parts)),
            Location::Azure { options: azure, .. } => (azure.storage_class.clone(), azure.part_size, Some(azure::MAX_BLOCKS)),
            Location::Gcs { options: gcs, .. } => (gcs.storage_class.clone(), gcs.part_size, Some(gcs::MAX_PARTS)),
        };
        Self {
            name: options.name.clone(),
            location: options.location.clone(),
            store,
            bucket: None,
            folder: None,
            layout: Layout::new(prefix),
            limit: options.limit.clone(),
            ahead: Arc::new(Semaphore::new(read::AHEAD)),
            large: Arc::new(Semaphore::new(1)),
            storage_class,
            part_size,
            max_parts,
            stall: STALL,
        }
    }

    /// Cuts a download that does not move for `stall`, in place of ten minutes.
    #[must_use]
    pub fn with_stall(self, stall: Duration) -> Self {
        Self { stall, ..self }
    }

    /// Cuts uploads into parts of so many bytes.
    #[must_use]
    pub fn with_part_size(self, bytes: u64) -> Self {
        Self { part_size: Some(bytes), ..self }
    }

    /// How long it may keep a download waiting.
    pub fn stall(&self) -> Duration {
        self.stall
    }

    pub fn name(&self) -> &TargetName {
        &self.name
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Bytes of an upload part, if the user set them.
    pub fn part_size(&self) -> Option<u64> {
        self.part_size
    }

    /// Most parts of one upload; `None` where the store has no limit.
    pub fn max_parts(&self) -> Option<u32> {
        self.max_parts
    }

    pub(super) fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    pub(super) fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
    }

    pub(super) fn folder(&self) -> Option<&Arc<dyn Folders>> {
        self.folder.as_ref()
    }

    pub(super) fn location(&self) -> &Location {
        &self.location
    }

    pub(super) fn is_local(&self) -> bool {
        matches!(self.location, Location::File(_))
    }

    /// Room for ranges that are read ahead.
    pub(super) fn ahead(&self) -> &Arc<Semaphore> {
        &self.ahead
    }

    /// Waits until the target's limit lets `bytes` of an artifact pass.
    pub(super) async fn wait_for(&self, bytes: u64) {
        if let Some(limit) = &self.limit {
            limit.take(bytes).await;
        }
    }

    pub(super) fn call<'a>(&'a self, action: &'static str, key: &'a Path) -> impl FnOnce(object_store::Error) -> StorageError + 'a {
        move |source| StorageError::Call { action, target: self.name.clone(), key: key.to_string(), source: Cause(source) }
    }

    /// Content-Type and storage class, where the store takes them. No Content-Encoding: gzip members would be unpacked in flight.
    pub(super) fn attributes(&self, content_type: &'static str) -> Attributes {
        let mut attributes = Attributes::new();
        if !self.is_local() {
            attributes.insert(Attribute::ContentType, content_type.into());
            if let Some(class) = &self.storage_class {
                attributes.insert(Attribute::StorageClass, class.clone().into());
            }
        }
        attributes
    }

    /// The names of everything in the target that is named like a backup, whether it exists (has a manifest) or not; sorted by time.
    pub async fn backup_names(&self) -> Result<Vec<BackupName>, StorageError> {
        let mut names: Vec<BackupName> = self.root_names().await?.iter().filter_map(|n| n.parse().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The names of all folders and objects at the root.
    pub async fn root_names(&self) -> Result<Vec<String>, StorageError> {
        Ok(match &self.location {
            Location::File(path) => {
                let path = path.clone();
                self.on_disk(move || file::names(&path)).await.map_err(|source| StorageError::Call {
                    action: "list",
                    target: self.name.clone(),
                    key: "/".into(),
                    source: Cause(generic(source)),
                })?
            }
            _ => {
                let root = self.layout.root();
                let list = self.store.list_with_delimiter(Some(&root)).await.map_err(self.call("list", &root))?;
                let objects = list.objects.iter().map(|object| &object.location);
                list.common_prefixes.iter().chain(objects).filter_map(|p| p.filename().map(ToOwned::to_owned)).collect()
            }
        })
    }

    /// Reads a small object whole; at most `limit` bytes.
    pub async fn read(&self, key: &Path, limit: u64) -> Result<Bytes, StorageError> {
        let result = self.store.get(key).await.map_err(self.call("read", key))?;
        if result.meta.size > limit {
            let source = generic(std::io::Error::other(format!("{} bytes, more than the {limit} that are read", result.meta.size)));
            return Err(self.call("read", key)(source));
        }
        let _turn = match result.meta.size > LARGE {
            // it is never closed
            true => self.large.acquire().await.ok(),
            false => None,
        };
        self.body(key, result).await
    }

    async fn body(&self, key: &Path, result: GetResult) -> Result<Bytes, StorageError> {
        let bytes = match &self.location {
            Location::File(path) => {
                let read = Patience::new(path, self.stall).small(result.bytes()).await;
                read.unwrap_or_else(|silent| Err(generic(silent)))
            }
            _ => result.bytes().await,
        };
        bytes.map_err(self.call("read", key))
    }

    /// The bytes of an artifact as they are stored; `stored_bytes` is how many the manifest says there are.
    pub async fn stream(&self, backup: &BackupName, path: &ArtifactPath, stored_bytes: u64) -> Result<Stored, StorageError> {
        read::open(self, self.layout.artifact(backup, path), stored_bytes).await
    }

    /// Likewise of a dump that lies at the root.
    pub async fn legacy(&self, path: &ArtifactPath, stored_bytes: u64) -> Result<Stored, StorageError> {
        read::open(self, self.layout.legacy(path), stored_bytes).await
    }

    /// Size and time of an object; `None` if it is not there.
    pub async fn look_at(&self, key: &Path) -> Result<Option<object_store::ObjectMeta>, StorageError> {
        match self.store.head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.call("look at", key)(source)),
        }
    }

    /// Stores a small object, replacing what is there.
    pub async fn write(&self, key: &Path, bytes: Bytes, content_type: &'static str) -> Result<(), StorageError> {
        self.put(key, bytes, content_type, PutMode::Overwrite).await.map_err(self.call("write", key))
    }

    /// Stores a small object only if there is none. A create whose answer was lost is read back: the same bytes are success.
    ///
    /// # Errors
    /// [`StorageError::Occupied`] when something else is there.
    pub async fn create(&self, key: &Path, bytes: Bytes, content_type: &'static str) -> Result<(), StorageError> {
        let Err(error) = self.put(key, bytes.clone(), content_type, PutMode::Create).await else { return Ok(()) };
        // to ask again would wait again, and tell nothing of what may be done yet
        if self.is_local() && is_silent(&error) {
            return Err(self.call("create", key)(error));
        }
        let Ok(found) = self.store.get(key).await else { return Err(self.call("create", key)(error)) };
        if found.meta.size != bytes.len() as u64 || self.body(key, found).await? != bytes {
            return Err(StorageError::Occupied { target: self.name.clone(), key: key.to_string() });
        }
        // no answer is lost on the way to a disk: what it has not taken for good is not created, though it can be read for now
        if self.is_local() && !matches!(error, object_store::Error::AlreadyExists { .. }) {
            let _ = self.delete(key).await;
            return Err(self.call("create", key)(error));
        }
        Ok(())
    }

    async fn put(&self, key: &Path, bytes: Bytes, content_type: &'static str, mode: PutMode) -> object_store::Result<()> {
        let options = PutOptions { mode, attributes: self.attributes(content_type), ..PutOptions::default() };
        let put = self.store.put_opts(key, PutPayload::from_bytes(bytes), options).await.map(drop);
        if put.as_ref().is_err_and(|error| !is_silent(error))
            && let Location::File(root) = &self.location
        {
            // directories were made for it; that some may stay is no reason to tell of another error than the first
            let (root, at) = (root.clone(), key.to_string());
            let _ = self.on_disk(move || file::settle_deletion(&root, &at)).await;
        }
        put
    }

    /// Deletes an object; one that is not there is as good as deleted.
    pub async fn delete(&self, key: &Path) -> Result<(), StorageError> {
        match self.store.delete(key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => return Err(self.call("delete", key)(source)),
        }
        let Location::File(root) = &self.location else { return Ok(()) };
        let (root, at) = (root.clone(), key.to_string());
        self.on_disk(move || file::settle_deletion(&root, &at)).await.map_err(|source| self.call("delete", key)(generic(source)))
    }

    /// Every object below `prefix`.
    pub async fn list(&self, prefix: &Path) -> Result<Vec<object_store::ObjectMeta>, StorageError> {
        self.store.list(Some(prefix)).try_collect().await.map_err(self.call("list", prefix))
    }

    /// Free bytes of the file system of a target; `None` where nobody can say.
    pub async fn free_space(&self) -> Option<u64> {
        if let Some(folder) = &self.folder {
            return folder.free_space().await;
        }
        let stat = self.file_system().await?;
        Some(stat.f_bavail * stat.f_frsize)
    }

    async fn file_system(&self) -> Option<StatVfs> {
        let Location::File(path) = &self.location else { return None };
        let path = path.clone();
        self.on_disk(move || Ok(statvfs(&path)?)).await.ok()
    }

    /// Whether a file target has no room to speak of: for a journal, and what replaces it.
    pub async fn lacks_room(&self) -> bool {
        // file systems without a table of inodes say that they have none
        self.file_system()
            .await
            .is_some_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) < LITTLE || (stat.f_files > 0 && stat.f_favail < FEW_INODES))
    }

    /// Gives a backup that was stored by root to the owner of the directory that a file target is. Nothing elsewhere.
    pub async fn hand_over(&self, backup: &BackupName) -> Result<(), StorageError> {
        let Location::File(path) = &self.location else { return Ok(()) };
        let (root, below) = (path.clone(), path.join(backup.to_string()));
        let done = self.at_length_on_disk(move || file::hand_over(&root, &below)).await;
        let key = self.layout.backup(backup);
        done.map_err(|source| self.call("change the owner of", &key)(generic(source)))
    }

    /// Makes one request that fails if the store is unreachable, the credentials are wrong or the bucket is missing.
    pub async fn probe(&self) -> Result<(), StorageError> {
        let root = self.layout.root();
        let mut list = self.store.list(Some(&root));
        list.next().await.transpose().map_err(self.call("list", &root)).map(drop)
    }

    /// What the directory of a file target is asked besides what the store does.
    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
        let Location::File(path) = &self.location else { return Err(std::io::ErrorKind::Unsupported.into()) };
        let done = Patience::new(path, self.stall).small(tokio::task::spawn_blocking(work)).await?;
        done.unwrap_or_else(|panic| Err(panic.into()))
    }

    /// As `on_disk`, for what may take long.
    pub(super) async fn at_length_on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let Location::File(path) = &self.location else { return Err(std::io::ErrorKind::Unsupported.into()) };
        let done = Patience::new(path, self.stall).large(tokio::task::spawn_blocking(work)).await?;
        done.unwrap_or_else(|panic| Err(panic.into()))
    }
}

pub(super) fn generic(source: std::io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "target", source: source.into() }
}
