//! [`Source`] of a bucket.
//!
//! list → read ahead (small objects whole, in order) → members of a tar. Each object is consistent in itself: its size and headers are those of
//! the answer that its content came with. What is deleted while the list is worked off is left out, and counted.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio_util::io::StreamReader;
use tokio_util::task::AbortOnDropHandle;

use super::headers::{FOLDER, Headers, KEY, attributes, headers};
use super::key::Paths;
use super::print::Print;
use super::{BucketError, BucketOptions};
use crate::component::directory::archive::{Member, MemberKind, Time, padding, write};
use crate::component::{Artifact, ByteStream, ComponentError, Notes, RunContext, Source};
use crate::manifest::{Facts, Format, Kind};
use crate::name::ComponentName;
use crate::storage::{Described, Listed, ObjectError, Objects, Reading};

/// Objects that are asked for before their turn.
const AHEAD: usize = 8;
/// Bytes of an object that is read whole before its turn.
const SMALL: u64 = 1 << 20;

/// A bucket that is backed up as one tar archive.
#[derive(Debug, Clone)]
pub struct BucketSource {
    options: BucketOptions,
}

impl BucketSource {
    pub fn new(options: BucketOptions) -> Self {
        Self { options }
    }
}

#[async_trait]
impl Source for BucketSource {
    fn name(&self) -> &ComponentName {
        &self.options.name
    }

    fn kind(&self) -> Kind {
        Kind::Bucket
    }

    async fn check(&self) -> Result<Facts, ComponentError> {
        self.first().await?;
        Ok(Facts::from([("url".to_owned(), self.options.place.url().into())]))
    }

    async fn open(&self, run: &RunContext) -> Result<Vec<Artifact>, ComponentError> {
        let objects = self.first().await?;
        run.notes.fact("url", self.options.place.url());
        let (options, notes) = (self.options.clone(), run.notes.clone());
        let open = async move { Ok(stream(objects, options, notes)) };
        let file = format!("{}.tar", self.options.name);
        Ok(vec![Artifact { file, format: Format::Tar, database: None, estimate: None, open: Box::pin(open) }])
    }
}

impl BucketSource {
    /// The bucket, which has answered.
    async fn first(&self) -> Result<Objects, BucketError> {
        let objects = self.options.objects()?;
        std::pin::pin!(objects.list(&self.options.place.prefix)).try_next().await?;
        Ok(objects)
    }
}

/// An object as it was fetched before its turn.
enum Fetched {
    Whole(Described, Bytes),
    /// Too large for that: it is read when its turn has come.
    Later,
    Gone,
}

async fn fetch(objects: &Objects, whole_key: &str, listed: &Listed) -> Result<Fetched, BucketError> {
    if listed.size > SMALL {
        return Ok(Fetched::Later);
    }
    let mut reading = match objects.read(whole_key).await {
        Ok(reading) if reading.described().size > SMALL => return Ok(Fetched::Later),
        Ok(reading) => reading,
        Err(error) => return gone(objects, whole_key, error).await.map(|()| Fetched::Gone),
    };
    let mut content = Vec::with_capacity(usize::try_from(reading.described().size).unwrap_or(0));
    while let Some(bytes) = reading.next().await? {
        content.extend_from_slice(&bytes);
    }
    Ok(Fetched::Whole(reading.described().clone(), content.into()))
}

/// Whether an object that cannot be read was deleted since it was listed.
///
/// # Errors
/// The one it failed with, if it is still listed, or failed otherwise.
async fn gone(objects: &Objects, whole_key: &str, error: ObjectError) -> Result<(), BucketError> {
    if !error.is_not_found() {
        return Err(error.into());
    }
    let mut listed = std::pin::pin!(objects.list(whole_key));
    match listed.try_next().await? {
        Some(listed) if listed.key == whole_key => Err(error.into()),
        _ => Ok(()),
    }
}

/// Who writes the archive, piece by piece.
struct Writer {
    objects: Objects,
    options: BucketOptions,
    notes: Notes,
    coming: BoxStream<'static, Result<(Listed, Fetched), BucketError>>,
    paths: Paths,
    print: Print,
    vanished: u64,
    written: u64,
    current: Current,
}

enum Current {
    /// The root is still to be written.
    Root,
    /// Between two objects.
    Next,
    /// In the midst of one: its key, and the hash so far.
    Content { key: String, headers: Headers, reading: Box<Reading>, hasher: Box<blake3::Hasher> },
    /// The end mark was written.
    End,
}

fn stream(objects: Objects, options: BucketOptions, notes: Notes) -> ByteStream {
    let (client, left_out, prefix) = (objects.clone(), options.clone(), options.place.prefix.clone());
    let wanted = objects.list(&prefix).map_err(BucketError::from).try_filter_map(move |listed| {
        // a folder's own object, where the folder is the whole of it, is nothing of its content
        let key = listed.key.strip_prefix(&prefix).filter(|key| !key.is_empty() && !left_out.is_left_out(key));
        std::future::ready(Ok(key.map(|key| Listed { key: key.to_owned(), ..listed.clone() })))
    });
    let prefix = options.place.prefix.clone();
    let coming = wanted.map(move |listed| {
        let (client, prefix) = (client.clone(), prefix.clone());
        async move {
            let listed = listed?;
            // a task of its own: while a large object flows, nobody looks at those that come after it
            let task = tokio::spawn(async move {
                let fetched = fetch(&client, &format!("{prefix}{}", listed.key), &listed).await?;
                Ok((listed, fetched))
            });
            AbortOnDropHandle::new(task).await.unwrap_or_else(|_| Err(BucketError::Died("a bucket".to_owned())))
        }
    });
    let writer = Writer {
        objects,
        options,
        notes,
        coming: coming.buffered(AHEAD).boxed(),
        paths: Paths::default(),
        print: Print::default(),
        vanished: 0,
        written: 0,
        current: Current::Root,
    };
    let pieces = stream::try_unfold(writer, |mut writer| async move {
        match writer.piece().await {
            Ok(Some(bytes)) => {
                writer.written += bytes.len() as u64;
                Ok(Some((bytes, writer)))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(io::Error::other(ComponentError::from(error))),
        }
    });
    Box::new(StreamReader::new(Box::pin(pieces)))
}

impl Writer {
    /// What comes next; `None` after the end mark.
    async fn piece(&mut self) -> Result<Option<Bytes>, BucketError> {
        match &mut self.current {
            Current::Root => {
                self.current = Current::Next;
                Ok(Some(folder("", &[], 0)))
            }
            Current::Next => self.next().await.map(Some),
            Current::Content { key, headers, reading, hasher } => {
                if let Some(bytes) = reading.next().await? {
                    hasher.update(&bytes);
                    return Ok(Some(bytes));
                }
                let size = reading.described().size;
                self.print.add(key, size, &hasher.finalize(), headers);
                let fill = padding(size);
                self.current = Current::Next;
                if fill == 0 { self.next().await.map(Some) } else { Ok(Some(vec![0; fill].into())) }
            }
            Current::End => Ok(None),
        }
    }

    /// The next object: all of a small one, the headers of a large one. Or the end.
    async fn next(&mut self) -> Result<Bytes, BucketError> {
        loop {
            let Some((listed, fetched)) = self.coming.try_next().await? else { return Ok(self.end()) };
            let whole_key = format!("{}{}", self.options.place.prefix, listed.key);
            match fetched {
                Fetched::Whole(described, content) => {
                    let (mut out, headers) = self.member(&listed, &described)?;
                    self.print.add(&listed.key, described.size, &blake3::hash(&content), &headers);
                    out.extend_from_slice(&content);
                    out.resize(out.len() + padding(described.size), 0);
                    return Ok(out.into());
                }
                Fetched::Later => match self.objects.read(&whole_key).await {
                    Ok(reading) => {
                        let (out, headers) = self.member(&listed, reading.described())?;
                        self.current = Current::Content { key: listed.key, headers, reading: Box::new(reading), hasher: Box::default() };
                        return Ok(out.into());
                    }
                    Err(error) => {
                        gone(&self.objects, &whole_key, error).await?;
                        self.vanished += 1;
                    }
                },
                Fetched::Gone => self.vanished += 1,
            }
        }
    }

    /// The headers of a member, with those of the folders before it; and the headers of the object, as a restore will read them there.
    fn member(&mut self, listed: &Listed, described: &Described) -> Result<(Vec<u8>, Headers), BucketError> {
        let place = self.paths.place(&listed.key, described.size);
        let modified = described.modified.unwrap_or(listed.modified).timestamp();
        let mut out = Vec::new();
        for path in &place.folders {
            out.extend_from_slice(&folder(path, &[], modified));
        }
        let mut xattrs = attributes(&described.headers);
        if place.is_folder {
            xattrs.push((FOLDER.to_vec(), b"1".to_vec()));
            out.extend_from_slice(&folder(&place.path, &xattrs, modified));
            return Ok((out, headers(&Member { xattrs, ..Member::default() }, &listed.key)));
        }
        if place.differs {
            xattrs.push((KEY.to_vec(), listed.key.clone().into_bytes()));
        }
        let member = Member {
            path: place.path.into_bytes(),
            kind: MemberKind::File,
            mode: 0o644,
            modified: Time { seconds: modified, nanos: 0 },
            xattrs,
            size: described.size,
            ..Member::default()
        };
        let key = || listed.key.clone();
        write::member(&member, &mut out).map_err(|_| BucketError::Refused { key: key(), problem: "has headers without end" })?;
        Ok((out, headers(&member, &listed.key)))
    }

    fn end(&mut self) -> Bytes {
        if let Some(fingerprint) = self.print.noted(self.options.fingerprint) {
            self.notes.fingerprint(fingerprint);
        }
        self.notes.fact("objects", self.print.objects());
        self.notes.fact("bytes", self.print.bytes());
        if self.vanished > 0 {
            self.notes.fact("vanished", self.vanished);
            self.notes.warn(format!("{} objects of {} were deleted before they could be read", self.vanished, self.options.place.url()));
        }
        self.current = Current::End;
        write::end(self.written).into()
    }
}

fn folder(path: &str, xattrs: &[(Vec<u8>, Vec<u8>)], modified: i64) -> Bytes {
    let member = Member {
        path: path.as_bytes().to_vec(),
        kind: MemberKind::Directory,
        mode: 0o755,
        modified: Time { seconds: modified, nanos: 0 },
        xattrs: xattrs.to_vec(),
        ..Member::default()
    };
    let mut out = Vec::new();
    // a handful of headers of 8 KiB at most, as S3 takes them
    let _ = write::member(&member, &mut out);
    out.into()
}
