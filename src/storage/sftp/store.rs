//! The store that object_store's callers see.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::super::error::StorageError;
use super::super::folders::{self, Folders};
use super::requests::Requests;
use super::session::{self, failed};
use super::upload::Parts;
use super::{SftpOptions, SftpPlace};
use crate::name::TargetName;

/// Deletions that are on their way at once.
const DELETIONS: usize = 8;

/// A folder on an SFTP server. Clones share the connection.
#[derive(Debug, Clone)]
pub(super) struct Sftp {
    requests: Arc<Requests>,
}

impl fmt::Display for Sftp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sftp({})", self.requests.place())
    }
}

impl Sftp {
    pub(super) fn new(target: &TargetName, place: &SftpPlace, options: &SftpOptions) -> Result<Self, StorageError> {
        let ssh = session::command(place, options).map_err(|source| StorageError::Secret { target: target.clone(), source })?;
        Ok(Self { requests: Arc::new(Requests::new(place.clone(), ssh)) })
    }

    pub(super) fn folders(&self) -> Arc<dyn Folders> {
        self.requests.clone()
    }

    /// Stores a file under a name of its own, and gives it the final one.
    async fn put_and_move(&self, key: &Path, payload: &PutPayload, overwrite: bool) -> Result<()> {
        let unfinished = folders::unfinished();
        let stored = async {
            self.requests.put(&unfinished, payload).await?;
            self.requests.expect_size(&unfinished, payload.content_length() as u64).await?;
            match overwrite {
                true => self.requests.replace(&unfinished, key).await,
                false => self.requests.create(&unfinished, key).await,
            }
        };
        let stored = stored.await;
        if stored.is_err() {
            // what stays is swept a day from now
            let _ = self.requests.remove(&unfinished).await;
        }
        stored
    }
}

#[async_trait]
impl ObjectStore for Sftp {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match options.mode {
            PutMode::Overwrite => self.put_and_move(key, &payload, true).await?,
            PutMode::Create => self.put_and_move(key, &payload, false).await?,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented { operation: "a conditional update".into(), implementer: self.to_string() });
            }
        }
        Ok(PutResult { e_tag: None, version: None, extensions: Extensions::new() })
    }

    async fn put_multipart_opts(&self, key: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Parts::begin(self.requests.clone(), key.clone()).await?))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let (file, meta) = match options.head {
            true => (None, self.requests.look_at(key).await?),
            false => {
                let (file, meta) = self.requests.open(key).await?;
                (Some(file), meta)
            }
        };
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(failed)?,
            None => 0..meta.size,
        };
        let body = match file {
            Some(file) => file.stream(range.clone(), key.clone()),
            None => futures_util::stream::empty().boxed(),
        };
        let payload = GetResultPayload::Stream(body);
        Ok(GetResult { payload, meta, range, attributes: Attributes::new(), extensions: Extensions::new() })
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let requests = self.requests.clone();
        let removed = keys.map(move |key| {
            let requests = requests.clone();
            async move {
                let key = key?;
                requests.remove(&key).await.map(|()| key)
            }
        });
        removed.buffered(DELETIONS).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        folders::list(self.requests.clone(), prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        folders::list_with_delimiter(&*self.requests, prefix).await
    }

    /// Another name of the same file, as in a directory.
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let beside = folders::unfinished();
        self.requests.link(from, &beside).await?;
        let published = match options.mode {
            CopyMode::Overwrite => self.requests.replace(&beside, to).await,
            CopyMode::Create => self.requests.create(&beside, to).await,
        };
        // rename(2) leaves both names where they are of one file already
        if published.is_err() || self.requests.look_at(&beside).await.is_ok() {
            let _ = self.requests.remove(&beside).await;
        }
        published
    }
}
