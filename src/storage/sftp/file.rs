//! An open file on the server.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{PutPayload, Result};
use russh_sftp::client::error::Error as ProtocolError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};

use super::session::{Failure, READ_TIMEOUT, Session, failed};

/// Reads, or writes, of one file that are on their way at once.
const AT_ONCE: usize = 8;

/// Nobody but its owner reads a file of ours.
const MODE: u32 = 0o600;

/// Closed when it is dropped.
#[derive(Debug)]
pub(super) struct OpenFile {
    session: Arc<Session>,
    handle: String,
}

impl OpenFile {
    pub(super) async fn open(session: &Arc<Session>, path: &str, flags: OpenFlags) -> Result<Self, Failure> {
        let attributes = FileAttributes { permissions: flags.contains(OpenFlags::CREATE).then_some(MODE), ..FileAttributes::empty() };
        let handle = session.ask(session.protocol().open(path, flags, attributes)).await?.handle;
        // a handle is any bytes, of which the library makes a text
        if handle.contains(char::REPLACEMENT_CHARACTER) {
            return Err(Failure::NoEntry("the server names an open file by what is no text, which is not understood here".into()));
        }
        Ok(Self { session: session.clone(), handle })
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub(super) async fn attributes(&self) -> Result<FileAttributes, Failure> {
        Ok(self.session.ask(self.session.protocol().fstat(&self.handle)).await?.attrs)
    }

    /// Lets what was written reach the server's disk, where the server can.
    pub(super) async fn sync(&self) -> Result<(), Failure> {
        if !self.session.can.fsync {
            return Ok(());
        }
        // much may have to be written: whoever waits for a part cuts this
        let synced = self.session.protocol().fsync(&self.handle).await;
        self.session.understand(synced).await.map(drop)
    }

    pub(super) async fn write(&self, at: u64, payload: &PutPayload) -> Result<(), Failure> {
        let mut offset = at;
        let mut chunks = Vec::new();
        for block in payload {
            let mut block = block.clone();
            while !block.is_empty() {
                let chunk = block.split_to(block.len().min(self.session.chunk as usize));
                chunks.push((offset, chunk.clone()));
                offset += chunk.len() as u64;
            }
        }
        let writes = chunks.into_iter().map(|(at, chunk)| self.write_chunk(at, chunk));
        stream::iter(writes).buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn write_chunk(&self, at: u64, chunk: Bytes) -> Result<(), Failure> {
        // it is never closed
        let _room = self.session.room.acquire().await.ok();
        let written = self.session.protocol().write(&self.handle, at, chunk.to_vec()).await;
        self.session.understand(written).await.map(drop)
    }

    /// Fewer bytes than were asked for only at the end of the file.
    async fn read_chunk(&self, at: u64, bytes: u64) -> Result<Bytes, Failure> {
        let mut read = BytesMut::new();
        while (read.len() as u64) < bytes {
            let left = u32::try_from(bytes - read.len() as u64).unwrap_or(u32::MAX);
            match self.session.protocol().read(&self.handle, at + read.len() as u64, left).await {
                Ok(data) if data.data.is_empty() || data.data.len() as u64 > u64::from(left) => break,
                // as it mostly is
                Ok(data) if read.is_empty() && data.data.len() as u64 == bytes => return Ok(data.data.into()),
                Ok(data) => read.extend_from_slice(&data.data),
                Err(ProtocolError::Status(status)) if status.status_code == StatusCode::Eof => break,
                Err(error) => return self.session.understand(Err(error)).await,
            }
        }
        Ok(read.freeze())
    }

    /// The bytes of a range, some of which are asked for ahead.
    pub(super) fn stream(self, range: Range<u64>, key: Path) -> BoxStream<'static, Result<Bytes>> {
        let chunk = self.session.chunk;
        let file = Arc::new(self);
        let end = range.end;
        let reads = stream::iter((range.start..end).step_by(chunk as usize)).map(move |at| {
            let (file, key) = (file.clone(), key.clone());
            async move {
                let bytes = chunk.min(end - at);
                let read = file.session.within(READ_TIMEOUT, file.read_chunk(at, bytes)).await.map_err(|failure| failure.of(&key))?;
                if read.len() as u64 == bytes { Ok(read) } else { Err(failed("the file ended early")) }
            }
        });
        reads.buffered(AT_ONCE).boxed()
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.session.is_lost() {
            return;
        }
        let (session, handle) = (self.session.clone(), std::mem::take(&mut self.handle));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // what comes of it is of no use: what was written was waited for
            runtime.spawn(async move { session.ask(session.protocol().close(handle)).await.map(drop) });
        }
    }
}
