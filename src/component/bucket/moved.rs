//! [`Restorer`] that puts the archive of a bucket into a directory.
//!
//! It is unpacked as the archive of a directory is: headers become extended attributes, so that a backup of that directory can bring them back
//! into a bucket. Objects have no owner: files get that of the directory which they go into. What the backup noted of the bucket is compared
//! on the way.

use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio_util::io::SyncIoBridge;
use tokio_util::sync::CancellationToken;

use super::headers::{FOLDER, KEY, attribute, headers};
use super::print::{Print, Verdict};
use crate::component::directory::archive::read::Reader;
use crate::component::directory::archive::{ArchiveError, Member, MemberKind, padding, write};
use crate::component::directory::pipe::{PipeWriter, Stopped, pipe};
use crate::component::directory::{DirectoryOptions, DirectoryRestorer};
use crate::component::{
    ArtifactOpener, ByteStream, ComponentError, Destination, Intent, Left, Plan, RestoreOptions, Restored, Restorer, RunContext, Staged,
    StoredComponent,
};
use crate::manifest::{Component, Format};
use crate::name::{ComponentName, RestoreId};

/// Puts objects into a directory; its destination must be given.
#[derive(Debug, Clone)]
pub struct BucketToDirectory {
    inner: DirectoryRestorer,
}

/// What was found out of the archive as it went by.
type Judged = Arc<Mutex<Option<io::Result<Verdict>>>>;

impl BucketToDirectory {
    pub fn new(name: ComponentName) -> Self {
        Self { inner: DirectoryRestorer::new(DirectoryOptions::new(name, PathBuf::from("/"))) }
    }
}

#[async_trait]
impl Restorer for BucketToDirectory {
    fn name(&self) -> &ComponentName {
        self.inner.name()
    }

    async fn plan(&self, part: &StoredComponent, options: &RestoreOptions) -> Result<Plan, ComponentError> {
        self.inner.plan(part, options).await
    }

    async fn intent(&self, part: &Component, options: &RestoreOptions, id: RestoreId) -> Result<Intent, ComponentError> {
        self.inner.intent(part, options, id).await
    }

    async fn adopt(&self, left: &Left) -> Result<Box<dyn Staged>, ComponentError> {
        self.inner.adopt(left).await
    }

    async fn stage(&self, part: &StoredComponent, options: &RestoreOptions, run: &RunContext) -> Result<Box<dyn Staged>, ComponentError> {
        let noted = part.fingerprint().await.map_err(ComponentError::Fingerprint)?;
        let judged = Judged::default();
        let owner = owner(&options.to);
        // a directory knows nothing of the fingerprint of a bucket
        let mut component = part.component.clone();
        component.fingerprint = None;
        component.artifacts.retain(|artifact| artifact.format != Format::Fingerprint);
        let open = dressed(part.open.clone(), owner, noted, judged.clone(), run.cancel.clone());
        let staged = self.inner.stage(&StoredComponent { component, open }, options, run).await;
        let verdict = judged.lock().unwrap_or_else(PoisonError::into_inner).take();
        let compared = match verdict {
            Some(Ok(Verdict::Differs(how))) => Err(ComponentError::Differs(vec![how])),
            Some(Ok(Verdict::OtherHeaders)) => Ok(Some("note: the headers of some objects are others than the backup notes".to_owned())),
            Some(Err(error)) => Err(ComponentError::Fingerprint(error)),
            Some(Ok(Verdict::Same(compared))) => Ok(Some(compared)),
            None => Ok(None),
        };
        match (staged, compared) {
            (Ok(inner), Ok(compared)) => Ok(Box::new(Moved { inner, compared })),
            (Ok(inner), Err(error)) => {
                inner.undo().await?;
                Err(error)
            }
            (Err(_), Err(error)) | (Err(error), Ok(_)) => Err(error),
        }
    }
}

/// User and group of the directory, or of the one that it will be made in.
fn owner(to: &Destination) -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    let (Destination::Into(path) | Destination::Throwaway(path)) = to else { return None };
    let path = Path::new(path.strip_prefix("file://").unwrap_or(path));
    let found = path.ancestors().find_map(|path| std::fs::metadata(path).ok())?;
    Some((found.uid(), found.gid()))
}

/// Opens the archive with that owner in it.
fn dressed(
    open: ArtifactOpener,
    owner: Option<(u32, u32)>,
    noted: Option<Value>,
    judged: Judged,
    cancel: CancellationToken,
) -> ArtifactOpener {
    Arc::new(move |artifact| {
        let (opening, noted, judged, cancel) = (open(artifact), noted.clone(), judged.clone(), cancel.clone());
        Box::pin(async move {
            let stream = opening.await?;
            let (mut writer, reader) = pipe(cancel);
            let handle = Handle::current();
            tokio::task::spawn_blocking(move || {
                let stream = BufReader::with_capacity(512 << 10, SyncIoBridge::new_with_handle(stream, handle));
                match pass(Reader::new(stream), &mut writer, owner) {
                    Ok(print) => {
                        let verdict = noted.map(|noted| print.judge(&noted));
                        *judged.lock().unwrap_or_else(PoisonError::into_inner) = verdict;
                        // a reader that is gone has no use for the end
                        let _ = writer.finish();
                    }
                    Err(Some(error)) => writer.fail(io::Error::other(error)),
                    Err(None) => writer.fail(io::Error::other(ComponentError::Cancelled)),
                }
            });
            Ok(Box::new(reader) as ByteStream)
        })
    })
}

/// Passes an archive on with another owner in it. The error is `None` when nobody reads any more.
fn pass<R: io::BufRead>(mut reader: Reader<R>, writer: &mut PipeWriter, owner: Option<(u32, u32)>) -> Result<Print, Option<ArchiveError>> {
    let stopped = |Stopped| None;
    let mut print = Print::default();
    while let Some(mut member) = reader.next_member().map_err(Some)? {
        if let Some((uid, gid)) = owner {
            (member.uid, member.gid) = (uid, gid);
        }
        let mut head = Vec::new();
        let path = || String::from_utf8_lossy(&member.path).into_owned();
        write::member(&member, &mut head)
            .map_err(|_| ArchiveError::Extension { after: path(), problem: "its attributes are too large" })
            .map_err(Some)?;
        writer.write(&head).map_err(stopped)?;
        let mut hasher = blake3::Hasher::new();
        let mut size = 0;
        loop {
            let data = reader.data().map_err(Some)?;
            if data.is_empty() {
                break;
            }
            hasher.update(data);
            writer.write(data).map_err(stopped)?;
            let length = data.len();
            size += length as u64;
            reader.consume(length);
        }
        writer.write(&vec![0; padding(size)]).map_err(stopped)?;
        if let Some(key) = key(&member) {
            print.add(&key, size, &hasher.finalize(), &headers(&member, &key));
        }
    }
    let end = write::end(writer.written());
    writer.write(&end).map_err(stopped)?;
    Ok(print)
}

/// The key of a member's object.
fn key(member: &Member) -> Option<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    match member.kind {
        MemberKind::File => text(attribute(member, KEY).unwrap_or(&member.path)),
        MemberKind::Directory if attribute(member, FOLDER).is_some() => text(&member.path).map(|path| format!("{path}/")),
        _ => None,
    }
}

/// What a directory has staged, and what was compared on the way.
struct Moved {
    inner: Box<dyn Staged>,
    compared: Option<String>,
}

#[async_trait]
impl Staged for Moved {
    fn record(&self) -> Value {
        self.inner.record()
    }

    async fn publish(&mut self) -> Result<(), ComponentError> {
        self.inner.publish().await
    }

    async fn finish(self: Box<Self>) -> Result<Restored, ComponentError> {
        let mut restored = self.inner.finish().await?;
        if let Some(compared) = self.compared {
            // what the directory says of a fingerprint that was kept from it
            restored.done.retain(|done| !done.starts_with("not compared"));
            restored.done.push(compared);
        }
        Ok(restored)
    }

    async fn undo(self: Box<Self>) -> Result<(), ComponentError> {
        self.inner.undo().await
    }
}
