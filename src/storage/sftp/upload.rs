//! An object of unknown length on its way to an SFTP server.
//!
//! Its parts are written to their places in one file with a name of its own. A part counts when the server's disk has it (fsync): then one
//! whose connection is lost is written again by the next, and the upload goes on if the server is there again in time. Where a server
//! cannot flush, nobody knows what a lost connection has left, and the upload fails. At the end the size is compared, and the file moved
//! to its final name.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{Error, Extensions, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use russh_sftp::protocol::OpenFlags;
use tokio::sync::Mutex;

use super::super::folders;
use super::file::OpenFile;
use super::requests::{Requests, TRIES};
use super::session::Failure;

/// An upload in progress.
#[derive(Debug)]
pub(super) struct Parts {
    file: Arc<Unfinished>,
    key: Path,
    /// Where the next part begins.
    at: u64,
}

/// The file that the parts are written to.
#[derive(Debug)]
struct Unfinished {
    requests: Arc<Requests>,
    name: Path,
    open: Mutex<Option<Arc<OpenFile>>>,
}

impl Parts {
    pub(super) async fn begin(requests: Arc<Requests>, key: Path) -> Result<Self> {
        let name = folders::unfinished();
        // an empty file, whatever connection made it
        requests.put(&name, &PutPayload::new()).await?;
        Ok(Self { file: Arc::new(Unfinished { requests, name, open: Mutex::new(None) }), key, at: 0 })
    }
}

impl Unfinished {
    /// Of the connection that there is.
    async fn open(&self) -> Result<Arc<OpenFile>, Failure> {
        let mut open = self.open.lock().await;
        if let Some(file) = open.as_ref() {
            if !file.session().is_lost() {
                return Ok(file.clone());
            }
            if !file.session().can.fsync {
                return Err(Failure::NoEntry("the connection was lost, and what the server had taken may be, too: it cannot flush".into()));
            }
        }
        let session = self.requests.session().await?;
        let file = OpenFile::open(&session, &self.requests.path(&self.name), OpenFlags::WRITE).await?;
        Ok(open.insert(Arc::new(file)).clone())
    }

    async fn write(&self, at: u64, payload: &PutPayload) -> Result<()> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            let written = async {
                let file = self.open().await?;
                file.write(at, payload).await?;
                file.sync().await
            };
            match written.await {
                Ok(()) => return Ok(()),
                Err(Failure::Lost(why)) if tries > 0 => tracing::info!(at, why, "a connection broke, the upload goes on by another"),
                Err(failure) => return Err(self.requests.why(failure, &self.name).await),
            }
        }
    }
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (file, at) = (self.file.clone(), self.at);
        self.at += data.content_length() as u64;
        Box::pin(async move { file.write(at, &data).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        *self.file.open.lock().await = None;
        let requests = &self.file.requests;
        requests.expect_size(&self.file.name, self.at).await?;
        requests.replace(&self.file.name, &self.key).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Extensions::new() })
    }

    async fn abort(&mut self) -> Result<()> {
        *self.file.open.lock().await = None;
        match self.file.requests.remove(&self.file.name).await {
            Err(Error::NotFound { .. }) => Ok(()),
            done => done,
        }
    }
}
