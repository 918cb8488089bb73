//! [`Restorer`] of a bucket, from the archive of a bucket or a directory.

use async_trait::async_trait;
use futures_util::stream::{StreamExt, TryStreamExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::objects::{each, remove};
use super::print::{Print, Verdict};
use super::staged::{Record, StagedBucket};
use super::unpack::{Unpacked, unpack};
use super::{BucketError, BucketOptions, BucketPlace};
use crate::component::{
    ComponentError, Destination, Detail, Intent, Left, Plan, RestoreOptions, Restorer, RunContext, Staged, StoredComponent,
};
use crate::manifest::{Artifact, Component, Format, Kind};
use crate::name::{ComponentName, RestoreId};
use crate::storage::{Location, Objects};

/// Objects that a plan counts.
const COUNTED: usize = 1_000;

/// Puts objects back.
#[derive(Debug, Clone)]
pub struct BucketRestorer {
    options: BucketOptions,
}

impl BucketRestorer {
    pub fn new(options: BucketOptions) -> Self {
        Self { options }
    }

    /// The bucket that a destination names, with the credentials of the options.
    fn destination(&self, options: &RestoreOptions) -> Result<BucketOptions, BucketError> {
        if options.is_partial() {
            return Err(BucketError::Partial);
        }
        let url = match &options.to {
            Destination::Configured => return Ok(self.options.clone()),
            Destination::Into(url) | Destination::Throwaway(url) => url.trim_end_matches('/'),
            Destination::Beside => return Err(BucketError::Destination("beside".to_owned())),
        };
        // before any message that would quote it
        if url.contains('@') {
            return Err(BucketError::Credentials);
        }
        let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        match Location::parse(url) {
            Ok(Location::S3 { bucket, prefix, .. }) if is_name(&bucket) => {
                let options = BucketOptions { place: BucketPlace::new(&bucket, &prefix), ..self.options.clone() };
                if options.is_among_backups() { Err(BucketError::AmongBackups(options.place.url())) } else { Ok(options) }
            }
            _ => Err(BucketError::Destination(url.to_owned())),
        }
    }
}

#[async_trait]
impl Restorer for BucketRestorer {
    fn name(&self) -> &ComponentName {
        &self.options.name
    }

    async fn plan(&self, part: &StoredComponent, options: &RestoreOptions) -> Result<Plan, ComponentError> {
        let artifact = archive_of(&part.component)?;
        let to = self.destination(options)?;
        let objects = to.objects()?;
        let there = objects.list(&to.place.prefix).map_err(BucketError::from).try_filter(|listed| {
            let key = listed.key.strip_prefix(&to.place.prefix).unwrap_or_default();
            std::future::ready(!to.is_left_out(key))
        });
        let count = std::pin::pin!(there).take(COUNTED).try_fold(0, |count, _| std::future::ready(Ok(count + 1))).await?;
        let url = to.place.url();
        let held = match count {
            0 => "no object".to_owned(),
            1 => "1 object".to_owned(),
            COUNTED => format!("{COUNTED} objects or more"),
            count => format!("{count} objects"),
        };
        let extra = if options.delete_extra { "are deleted" } else { "stay (--delete-extra deletes them)" };
        let steps = vec![
            format!("upload {} ({} bytes) into a place of its own in {url}, and read it back", artifact.path, artifact.raw_bytes),
            format!("keep what {url} holds under the same keys, then copy the new objects over it within the bucket; it holds {held} now"),
            format!("objects that the backup does not hold {extra}"),
        ];
        Ok(Plan { steps, replaces: count > 0, ..Plan::default() })
    }

    async fn intent(&self, _: &Component, options: &RestoreOptions, id: RestoreId) -> Result<Intent, ComponentError> {
        let to = self.destination(options)?;
        let record = Record { id: id.to_string(), delete_extra: options.delete_extra };
        Ok(Intent { places: vec![format!("bucket {}", to.place.url())], record: json!(record) })
    }

    async fn adopt(&self, left: &Left) -> Result<Box<dyn Staged>, ComponentError> {
        let options = self.destination(&left.options)?;
        let record: Record = serde_json::from_value(left.record.clone()).map_err(BucketError::Record)?;
        let done = vec![format!("what an earlier restore had stored is in service in {}", options.place.url())];
        let objects = options.objects()?;
        Ok(Box::new(StagedBucket { objects, options, record, keep_old: left.options.keep_old, done, warnings: Vec::new() }))
    }

    async fn stage(&self, part: &StoredComponent, options: &RestoreOptions, run: &RunContext) -> Result<Box<dyn Staged>, ComponentError> {
        let to = self.destination(options)?;
        let objects = to.objects()?;
        let record = Record { id: run.id.to_string(), delete_extra: options.delete_extra };
        // whoever drops this future stops the work, which then removes what it has stored
        let cancel = run.cancel.child_token();
        let stop = cancel.clone().drop_guard();
        let (part, keep_old) = (part.clone(), options.keep_old);
        let died = to.place.url();
        let work = tokio::spawn(async move {
            let result = fill(&objects, &to, &part, &record.id, &cancel).await;
            match result {
                Ok((done, warnings)) if !cancel.is_cancelled() => {
                    Ok(StagedBucket { objects, options: to, record, keep_old, done, warnings })
                }
                result => {
                    let failed = result.err().unwrap_or(ComponentError::Cancelled);
                    let staging = StagedBucket::staging(&to, &record.id);
                    objects.abort_unfinished(&staging).await;
                    Err(match remove(&objects, &staging).await {
                        Ok(()) => failed,
                        Err(error) => {
                            tracing::warn!("{}", crate::chain::describe(&error));
                            ComponentError::LeftBehind { left: format!("{} in {}", staging, to.place.url()), source: Box::new(failed) }
                        }
                    })
                }
            }
        });
        let staged = work.await.map_err(|_| BucketError::Died(died))?;
        stop.disarm();
        Ok(Box::new(staged?))
    }
}

/// Stores all objects and compares them: what was done, and what is odd.
async fn fill(
    objects: &Objects,
    to: &BucketOptions,
    part: &StoredComponent,
    id: &str,
    cancel: &CancellationToken,
) -> Result<(Vec<String>, Vec<String>), ComponentError> {
    let artifact = archive_of(&part.component)?;
    let noted = part.fingerprint().await.map_err(ComponentError::Fingerprint)?.filter(|_| part.component.kind == Kind::Bucket);
    let stream = (part.open)(artifact).await.map_err(BucketError::OpenArchive)?;
    let prefix = StagedBucket::new_prefix(to, id);
    let Unpacked { print, mut warnings } = unpack(stream, objects, prefix.clone(), to.clone(), cancel).await?;
    let mut done = vec![format!("restored {} objects, {} bytes, to {}", print.objects(), print.bytes(), to.place.url())];
    if let Some(noted) = noted {
        match print.judge(&noted).map_err(ComponentError::Fingerprint)? {
            Verdict::Differs(how) => return Err(ComponentError::Differs(vec![how])),
            Verdict::OtherHeaders => warnings.push("the headers of some objects are others than the backup notes".to_owned()),
            Verdict::Same(compared) => done.push(compared),
        }
    }
    let stored = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(ComponentError::Cancelled),
        stored = read_back(objects, &prefix, to.fingerprint) => stored?,
    };
    let expected = print.noted(to.fingerprint).unwrap_or_default();
    if to.fingerprint != Detail::Off {
        match stored.judge(&expected).map_err(ComponentError::Fingerprint)? {
            Verdict::Differs(how) => return Err(ComponentError::Differs(vec![format!("read back from the bucket: {how}")])),
            Verdict::OtherHeaders => warnings.push("the store does not keep all headers of the objects as they were sent".to_owned()),
            Verdict::Same(_) => done.push(format!("read back: all {} objects are as they were sent", stored.objects())),
        }
    }
    StagedBucket::mark_whole(objects, to, id).await?;
    Ok((done, warnings))
}

/// What lies below `prefix`, in as much detail as is compared.
async fn read_back(objects: &Objects, prefix: &str, detail: Detail) -> Result<Print, BucketError> {
    let print = std::sync::Mutex::new(Print::default());
    let add = |key: &str, size, hash: &blake3::Hash, headers: &[(String, String)]| {
        print.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(key, size, hash, headers);
    };
    let add = &add;
    each(objects, prefix, |listed| async move {
        if detail != Detail::Full {
            add(&listed.key, listed.size, &blake3::hash(&[]), &[]);
            return Ok(());
        }
        let mut reading = objects.read(&format!("{prefix}{}", listed.key)).await?;
        let mut hasher = blake3::Hasher::new();
        while let Some(bytes) = reading.next().await? {
            hasher.update(&bytes);
        }
        add(&listed.key, reading.described().size, &hasher.finalize(), &reading.described().headers);
        Ok(())
    })
    .await?;
    Ok(print.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

pub(super) fn archive_of(part: &Component) -> Result<&Artifact, BucketError> {
    let mut content = part.content();
    match (content.next(), content.next()) {
        (Some(artifact), None) if artifact.format == Format::Tar => Ok(artifact),
        _ => Err(BucketError::NoArchive),
    }
}
