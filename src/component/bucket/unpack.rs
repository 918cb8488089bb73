//! Puts the members of an archive into a bucket, each below a prefix that nobody reads yet.
//!
//! The archive may be that of a bucket or of a directory. What a bucket cannot hold (links, devices, names that are not UTF-8) is left out
//! with a warning; a hard link becomes a copy.

use std::io::{BufRead, BufReader};
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio_util::io::SyncIoBridge;
use tokio_util::sync::CancellationToken;

use super::headers::{FOLDER, KEY, attribute, headers};
use super::objects::PARALLEL;
use super::print::Print;
use super::{BucketError, BucketOptions};
use crate::component::directory::archive::read::Reader;
use crate::component::directory::archive::{Member, MemberKind, shown};
use crate::component::{ByteStream, ComponentError};
use crate::storage::{ObjectError, Objects};

/// Bytes read from the stream at once.
const BUFFER: usize = 512 << 10;
/// Bytes of an object that is sent whole; of a larger one, of the smallest part.
const PIECE: u64 = 8 << 20;
/// Parts of one object that are under way at once. With [`PIECE`] and [`LARGEST_PIECE`]: memory is flat.
const PARTS: usize = 2;
const LARGEST_PIECE: u64 = 32 << 20;
/// Parts of an upload. <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
const MAX_PARTS: u64 = 10_000;
/// Warnings that are told one by one.
const TOLD: usize = 20;

/// What was put into the bucket.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    pub(super) print: Print,
    pub(super) warnings: Vec<String>,
}

/// Reads the archive to its end.
///
/// # Errors
/// [`BucketError`]; what was stored so far is the caller's to remove.
pub(super) async fn unpack(
    stream: ByteStream,
    objects: &Objects,
    prefix: String,
    options: BucketOptions,
    cancel: &CancellationToken,
) -> Result<Unpacked, ComponentError> {
    let (objects, cancel, handle) = (objects.clone(), cancel.clone(), Handle::current());
    let name = prefix.clone();
    let work = move || {
        let stream = BufReader::with_capacity(BUFFER, SyncIoBridge::new_with_handle(stream, handle.clone()));
        let mut unpacker =
            Unpacker { objects, prefix, options, handle, cancel, running: JoinSet::new(), unpacked: Unpacked::default(), left_out: 0 };
        let done = unpacker.run(stream);
        // uploads that still run would store after the clean-up
        unpacker.handle.block_on(unpacker.running.shutdown());
        done.map(|()| unpacker.unpacked)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| BucketError::Died(name))?
}

struct Unpacker {
    objects: Objects,
    prefix: String,
    /// Of the bucket that the objects are for.
    options: BucketOptions,
    handle: Handle,
    cancel: CancellationToken,
    /// Small objects on their way.
    running: JoinSet<Result<(), BucketError>>,
    unpacked: Unpacked,
    left_out: usize,
}

impl Unpacker {
    fn run(&mut self, stream: impl BufRead) -> Result<(), ComponentError> {
        let mut reader = Reader::new(stream);
        while let Some(member) = reader.next_member().map_err(BucketError::Archive)? {
            self.settle(PARALLEL - 1)?;
            let Some(key) = self.key(&member)? else { continue };
            match &member.kind {
                MemberKind::Directory if attribute(&member, FOLDER).is_some() => {
                    self.small(format!("{key}/"), &member, Bytes::new())?;
                }
                MemberKind::Directory => {}
                MemberKind::File => self.file(key, &member, member.size, &[(0, member.size)], &mut reader)?,
                MemberKind::Sparse { real, extents } => self.file(key, &member, *real, extents, &mut reader)?,
                MemberKind::HardLink(target) => self.hard_link(key, &member, target)?,
                MemberKind::Symlink(_) => self.leave_out(&member, "is a symbolic link"),
                _ => self.leave_out(&member, "is a device or a pipe"),
            }
        }
        self.settle(0)?;
        if self.left_out > TOLD {
            self.unpacked.warnings.push(format!("{} more were left out, which a bucket cannot hold", self.left_out - TOLD));
        }
        Ok(())
    }

    /// The key of a member's object; `None` for the root, and for what a bucket cannot name.
    fn key(&mut self, member: &Member) -> Result<Option<String>, ComponentError> {
        let refused = |key: &[u8], problem| Err(ComponentError::from(BucketError::Refused { key: shown(key), problem }));
        let whole = attribute(member, KEY).unwrap_or(&member.path);
        if member.path.is_empty() {
            return Ok(None);
        }
        let Ok(key) = std::str::from_utf8(whole) else {
            self.leave_out(member, "has a name that is not UTF-8");
            return Ok(None);
        };
        if key.split('/').any(|part| matches!(part, "." | "..")) {
            return refused(whole, "has a part that leads elsewhere");
        }
        if key.is_empty() || self.options.is_left_out(key) {
            return refused(whole, "would lie where backups are, or nowhere");
        }
        Ok(Some(key.to_owned()))
    }

    fn leave_out(&mut self, member: &Member, why: &str) {
        self.left_out += 1;
        if self.left_out <= TOLD {
            self.unpacked.warnings.push(format!("`{}` was left out: it {why}, which a bucket cannot hold", shown(&member.path)));
        }
    }

    fn file<R: BufRead>(
        &mut self,
        key: String,
        member: &Member,
        size: u64,
        extents: &[(u64, u64)],
        reader: &mut Reader<R>,
    ) -> Result<(), ComponentError> {
        let mut content = Content { reader, extents, size, at: 0 };
        if size <= PIECE {
            let bytes = content.take(PIECE)?;
            return self.small(key, member, bytes);
        }
        let piece = size.div_ceil(MAX_PARTS).max(PIECE).next_multiple_of(1 << 20);
        if piece > LARGEST_PIECE {
            return Err(BucketError::TooLarge { key, size }.into());
        }
        let headers = headers(member, &key);
        let writing = self.wait(self.objects.begin(&format!("{}{key}", self.prefix), &headers))?;
        let (mut hasher, room) = (blake3::Hasher::new(), Arc::new(Semaphore::new(PARTS)));
        let mut sending = JoinSet::new();
        let result = (|| -> Result<(), ComponentError> {
            let (mut count, mut tags) = (0, Vec::new());
            let mut settle = |sent: Result<Result<(usize, String), ObjectError>, JoinError>| -> Result<(), ComponentError> {
                tags.push(sent.map_err(|_| BucketError::Died(key.clone()))?.map_err(BucketError::from)?);
                Ok(())
            };
            while content.at < size {
                let bytes = content.take(piece)?;
                hasher.update(&bytes);
                // it is never closed
                let turn = self.wait(async { Ok::<_, BucketError>(room.clone().acquire_owned().await.ok()) })?;
                let (writing, index) = (writing.clone(), count);
                sending.spawn_on(
                    async move {
                        let _turn = turn;
                        writing.part(index, bytes).await.map(|tag| (index, tag))
                    },
                    &self.handle,
                );
                count += 1;
                while let Some(sent) = sending.try_join_next() {
                    settle(sent)?;
                }
            }
            while let Some(sent) = self.wait(async { Ok::<_, BucketError>(sending.join_next().await) })? {
                settle(sent)?;
            }
            tags.sort_unstable();
            self.wait(writing.finish(tags.into_iter().map(|(_, tag)| tag).collect(), size))
        })();
        if result.is_err() {
            self.handle.block_on(async {
                sending.shutdown().await;
                writing.abort().await;
            });
        }
        result?;
        self.unpacked.print.add(&key, size, &hasher.finalize(), &headers);
        Ok(())
    }

    fn small(&mut self, key: String, member: &Member, content: Bytes) -> Result<(), ComponentError> {
        let headers = headers(member, &key);
        self.unpacked.print.add(&key, content.len() as u64, &blake3::hash(&content), &headers);
        let (objects, whole) = (self.objects.clone(), format!("{}{key}", self.prefix));
        self.running.spawn_on(async move { Ok(objects.write(&whole, &headers, content).await?) }, &self.handle);
        Ok(())
    }

    /// Another name of a file that came before: a copy of its object, read back for its hash.
    fn hard_link(&mut self, key: String, member: &Member, target: &[u8]) -> Result<(), ComponentError> {
        self.settle(0)?;
        let refused =
            || BucketError::Refused { key: shown(&member.path), problem: "is a hard link to what is not a file that comes before it" };
        let target = std::str::from_utf8(target).map_err(|_| refused())?;
        let (objects, prefix) = (self.objects.clone(), self.prefix.clone());
        let (described, hash) = self.wait(async move {
            let from = format!("{prefix}{target}");
            let mut reading = match objects.read(&from).await {
                Err(error) if error.is_not_found() => return Err(refused()),
                reading => reading?,
            };
            let mut hasher = blake3::Hasher::new();
            while let Some(bytes) = reading.next().await? {
                hasher.update(&bytes);
            }
            objects.copy(&from, &format!("{prefix}{key}"), reading.described().size).await?;
            Ok((reading.described().clone(), (key, hasher.finalize())))
        })?;
        self.unpacked.print.add(&hash.0, described.size, &hash.1, &described.headers);
        Ok(())
    }

    /// Waits until at most `most` small objects are on their way.
    fn settle(&mut self, most: usize) -> Result<(), ComponentError> {
        while self.running.len() > most {
            let cancel = self.cancel.clone();
            let running = &mut self.running;
            let stored = self.handle.block_on(async {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => Err(ComponentError::Cancelled),
                    stored = running.join_next() => Ok(stored),
                }
            })?;
            if let Some(stored) = stored {
                stored.map_err(|_| BucketError::Died(self.prefix.clone()))??;
            }
        }
        Ok(())
    }

    fn wait<T, E: Into<BucketError>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, ComponentError> {
        self.handle.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(ComponentError::Cancelled),
                done = work => done.map_err(|error| error.into().into()),
            }
        })
    }
}

/// What a file reads as: its extents, and zeros between them.
struct Content<'a, R> {
    reader: &'a mut Reader<R>,
    extents: &'a [(u64, u64)],
    size: u64,
    at: u64,
}

impl<R: BufRead> Content<'_, R> {
    /// The next bytes, at most `most`.
    fn take(&mut self, most: u64) -> Result<Bytes, BucketError> {
        let end = (self.at + most).min(self.size);
        let length = usize::try_from(end - self.at).unwrap_or(0);
        let mut out = Vec::with_capacity(length);
        while self.at < end {
            self.extents = match self.extents {
                [(offset, length), rest @ ..] if offset + length <= self.at => rest,
                extents => extents,
            };
            let (from, until) = match self.extents {
                [(offset, length), ..] if *offset + *length <= self.at => continue,
                [(offset, length), ..] => (*offset, offset + length),
                [] => (self.size, self.size),
            };
            if self.at < from {
                let zeros = usize::try_from(from.min(end) - self.at).unwrap_or(0);
                out.resize(out.len() + zeros, 0);
                self.at += zeros as u64;
                continue;
            }
            let data = self.reader.data().map_err(BucketError::Archive)?;
            let wanted = usize::try_from(until.min(end) - self.at).map_or(data.len(), |wanted| wanted.min(data.len()));
            out.extend_from_slice(&data[..wanted]);
            self.reader.consume(wanted);
            self.at += wanted as u64;
        }
        Ok(out.into())
    }
}
