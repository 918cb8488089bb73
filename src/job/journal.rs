//! What a run has stored so far, for the one after it if it dies: `.backstay/runs/<job>.json` in each of its targets.
//!
//! ```text
//! {"format":1,"blake3":"<64 hex digits>","run":{"backup":…,"host":…,"parts":[…]}}
//! ```
//!
//! The digest is that of the bytes of `run`: hashes of artifacts that were changed here must not get into a manifest. It is written whenever
//! a component is complete that need not be read again, while others still flow, and **removed before the first commit**: where it is, no
//! manifest was ever sent. It is only ever a help: whatever is wrong with it, everything is read again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::lane::Lane;
use crate::chain::describe;
use crate::manifest::{self, Component, ComponentStatus, Encoding};
use crate::name::{BackupName, ComponentName, JobName};
use crate::pipeline::Codec;
use crate::storage::{StorageError, Target};

/// How old what was read by a run that died may be, to stand beside what is read now: a backup's components are to be of one time, as far as
/// can be. Longer than a worker needs to come back, and far shorter than what an operator means by "the backup of today".
const WINDOW: TimeDelta = TimeDelta::hours(1);

/// Largest journal, in bytes, and most memory that its values may take: facts and warnings of some components.
const MAX_BYTES: u64 = 4 << 20;
const MAX_MEMORY: usize = 16 << 20;

/// Most bytes that an artifact may claim.
const MOST_CLAIMED: u64 = 1 << 60;

/// A target that takes longer has no journal.
const PATIENCE: Duration = Duration::from_secs(20);

const JSON: &str = "application/json";
const HEAD: &str = "{\"format\":1,\"blake3\":\"";
const DIGITS: usize = 64;
const BODY: &str = "\",\"run\":";
const TAIL: &str = "}\n";
/// In place of one that cannot be removed.
const NOTHING: &[u8] = b"{}\n";

/// What one run has stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) backup: BackupName,
    /// Where it was read: another host's tree at the same path may be another.
    host: String,
    parts: Vec<Part>,
}

/// A component that was complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    /// Of its source: what decides what is stored.
    identity: String,
    encoding: Encoding,
    level: u32,
    /// When it was read to its end, and by which run.
    pub(super) finished: DateTime<Utc>,
    pub(super) read_by: BackupName,
    pub(super) component: Component,
}

impl Part {
    pub(super) fn new(identity: String, codec: Codec, finished: DateTime<Utc>, read_by: BackupName, component: Component) -> Self {
        Self { identity, encoding: codec.encoding, level: codec.level, finished, read_by, component }
    }
}

impl Record {
    /// What may stand in for reading the source of that `identity` now.
    pub(super) fn part(&self, name: &ComponentName, identity: &str, codec: Codec, host: &str, now: DateTime<Utc>) -> Option<&Part> {
        // a clock that was set back tells nothing of how long ago it was
        let young = |finished: DateTime<Utc>| finished <= now && now - finished < WINDOW;
        let same = |part: &&Part| {
            part.component.name == *name
                && part.identity == identity
                && (part.encoding, part.level) == (codec.encoding, codec.level)
                && young(part.finished)
        };
        self.parts.iter().find(same).filter(|_| self.host == host)
    }

    pub(super) fn components(&self) -> impl Iterator<Item = &Component> {
        self.parts.iter().map(|part| &part.component)
    }

    /// `None`: it is too large to be read again.
    fn encode(&self) -> Option<Bytes> {
        let run = serde_json::to_string(self).expect("a record has string keys only");
        let text = format!("{HEAD}{}{BODY}{run}{TAIL}", blake3::hash(run.as_bytes()).to_hex());
        (text.len() as u64 <= MAX_BYTES).then(|| text.into())
    }

    /// `None`: it is not what was written, or makes no sense.
    fn decode(bytes: &[u8], job: &JobName) -> Option<Self> {
        let (digest, run) = bytes.strip_prefix(HEAD.as_bytes())?.split_at_checked(DIGITS)?;
        let run = run.strip_prefix(BODY.as_bytes())?.strip_suffix(TAIL.as_bytes())?;
        if blake3::hash(run).to_hex().as_bytes() != digest {
            return None;
        }
        let record: Self = manifest::from_json(run, MAX_MEMORY).ok()?;
        record.is_sound(job).then_some(record)
    }

    /// Whether each component is complete, is there once, and names only what lies in its own folder.
    fn is_sound(&self, job: &JobName) -> bool {
        let names: BTreeSet<&ComponentName> = self.components().map(|component| &component.name).collect();
        let sound = |component: &Component| {
            let own = |path: &str| path.split_once('/').is_some_and(|(folder, _)| folder == component.name.as_str());
            let artifacts = &component.artifacts;
            component.status == ComponentStatus::Complete
                && !artifacts.is_empty()
                && artifacts.iter().all(|a| own(a.path.as_str()) && a.raw_bytes < MOST_CLAIMED && a.stored_bytes < MOST_CLAIMED)
                && artifacts.iter().map(|a| &a.path).collect::<BTreeSet<_>>().len() == artifacts.len()
        };
        self.backup.job() == job && names.len() == self.parts.len() && self.components().all(sound)
    }
}

/// The journals of a run in its lanes.
#[derive(Debug)]
pub(super) struct Journal {
    lanes: Vec<Arc<Lane>>,
    record: Record,
    /// Whether there may be one in any lane, of this run or of the one before it.
    there: bool,
}

impl Journal {
    /// Of the run of `backup` on `host`; and what the run before it has left, if that is the same in all open lanes.
    pub(super) async fn open(lanes: &[Arc<Lane>], backup: &BackupName, host: String) -> (Self, Option<Record>) {
        let found = join_all(lanes.iter().filter(|lane| lane.is_open()).map(|lane| read(lane.target(), backup.job()))).await;
        let there = found.iter().any(|found| !matches!(found, Found::Nothing));
        let mut records = found.into_iter().map(|found| if let Found::Record(record) = found { Some(record) } else { None });
        let first = records.next().flatten();
        let left = first.filter(|first| first.backup != *backup && records.all(|other| other.as_ref() == Some(first)));
        let record = Record { backup: backup.clone(), host, parts: Vec::new() };
        (Self { lanes: lanes.to_vec(), record, there }, left.map(|left| *left))
    }

    /// Adds a component that is complete in all open lanes; `write`: now.
    pub(super) async fn add(&mut self, part: Part, write: bool) {
        self.record.parts.push(part);
        let Some(bytes) = self.record.encode().filter(|_| write) else { return };
        self.there = true;
        let open = self.lanes.iter().filter(|lane| lane.is_open()).map(|lane| lane.target());
        let writes = open.map(|target| (target, target.layout().run(self.record.backup.job()), bytes.clone()));
        let writes = writes.map(async |(target, key, bytes)| in_time(target, target.write(&key, bytes, JSON)).await);
        for error in join_all(writes).await.into_iter().filter_map(Result::err) {
            tracing::debug!("{error}; if this run dies, the next one reads everything again");
        }
    }

    /// Removes it where the lease is still ours: from now on this run ends by itself, or commits.
    pub(super) async fn close(self) {
        if !self.there {
            return;
        }
        let ours = self.lanes.iter().filter(|lane| !lane.is_lost()).map(|lane| lane.target());
        let removals = ours.map(async |target| {
            let key = target.layout().run(self.record.backup.job());
            match in_time(target, target.delete(&key)).await {
                // a credential that may not delete may write
                Err(_) => in_time(target, target.write(&key, Bytes::from_static(NOTHING), JSON)).await,
                removed => removed,
            }
        });
        for error in join_all(removals).await.into_iter().filter_map(Result::err) {
            tracing::warn!("{error}; it is removed a day from now");
        }
    }
}

/// What lies in a target.
enum Found {
    Nothing,
    Useless,
    Record(Box<Record>),
}

async fn read(target: &Target, job: &JobName) -> Found {
    let key = target.layout().run(job);
    match tokio::time::timeout(PATIENCE, target.read(&key, MAX_BYTES)).await {
        Ok(Ok(bytes)) => Record::decode(&bytes, job).map_or(Found::Useless, |record| Found::Record(Box::new(record))),
        Ok(Err(error)) if error.is_not_found() => Found::Nothing,
        Ok(Err(error)) => {
            tracing::debug!("{}", describe(&error));
            Found::Useless
        }
        Err(_) => Found::Useless,
    }
}

async fn in_time(target: &Target, work: impl Future<Output = Result<(), StorageError>>) -> Result<(), String> {
    let silent = |_| format!("target `{}` did not take the journal of the run in time", target.name());
    tokio::time::timeout(PATIENCE, work).await.map_err(silent)?.map_err(|error| describe(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Artifact, Facts, Format, Kind};

    const IDENTITY: &str = "a tree";

    fn job() -> JobName {
        "default".parse().expect("a name")
    }

    fn codec() -> Codec {
        Codec::new(Encoding::Gzip, 0).expect("a codec")
    }

    fn finished() -> DateTime<Utc> {
        "2026-11-22T03:00:12Z".parse().expect("a time")
    }

    fn record() -> Record {
        let artifact = Artifact {
            path: "media/media.tar.gz".parse().expect("a path"),
            format: Format::Tar,
            encoding: Encoding::Gzip,
            encryption: None,
            database: None,
            raw_bytes: 1000,
            stored_bytes: 100,
            sha256: "0".repeat(64),
            blake3: "0".repeat(64),
        };
        let component = Component {
            name: "media".parse().expect("a name"),
            kind: Kind::Directory,
            status: ComponentStatus::Complete,
            reason: None,
            seconds: 0.125,
            facts: Facts::new(),
            warnings: vec!["odd \"text\"}\n".to_owned()],
            fingerprint: None,
            artifacts: vec![artifact],
        };
        let backup: BackupName = "default-2026-11-22-030000".parse().expect("a name");
        let part = Part::new(IDENTITY.to_owned(), codec(), finished(), backup.clone(), component);
        Record { backup, host: "here".to_owned(), parts: vec![part] }
    }

    fn encoded(record: &Record) -> Bytes {
        record.encode().expect("it is small")
    }

    #[test]
    fn what_was_written_is_read_back_and_is_json() {
        let bytes = encoded(&record());
        assert_eq!(Record::decode(&bytes, &job()), Some(record()));
        let json: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!((&json["format"], &json["run"]["host"]), (&1.into(), &"here".into()));
    }

    #[test]
    fn no_changed_byte_gets_into_a_manifest() {
        let bytes = encoded(&record());
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert_eq!(Record::decode(&changed, &job()), None, "byte {at}");
            assert_eq!(Record::decode(&bytes[..at], &job()), None, "cut at {at}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |change: fn(&mut Record)| {
            let mut record = record();
            change(&mut record);
            assert_eq!(Record::decode(&encoded(&record), &job()), None, "{record:?}");
        };
        refused(|r| r.backup = "other-2026-11-22-030000".parse().expect("a name"));
        refused(|r| r.parts.push(r.parts[0].clone()));
        refused(|r| r.parts[0].component.status = ComponentStatus::Failed);
        refused(|r| r.parts[0].component.artifacts.clear());
        refused(|r| r.parts[0].component.artifacts[0].path = "certs/certs.tar.gz".parse().expect("a path"));
        refused(|r| r.parts[0].component.artifacts[0].stored_bytes = MOST_CLAIMED);
        refused(|r| {
            let twice = r.parts[0].component.artifacts[0].clone();
            r.parts[0].component.artifacts.push(twice);
        });
    }

    #[test]
    fn only_what_is_young_and_the_same_stands_in_for_reading() {
        let media: ComponentName = "media".parse().expect("a name");
        let later = |seconds| finished() + TimeDelta::seconds(seconds);
        let record = record();
        assert!(record.part(&media, IDENTITY, codec(), "here", later(0)).is_some());
        assert!(record.part(&media, IDENTITY, codec(), "here", later(3599)).is_some());
        assert!(record.part(&media, IDENTITY, codec(), "here", later(3600)).is_none(), "an hour old");
        assert!(record.part(&media, IDENTITY, codec(), "here", later(-1)).is_none(), "in the future");
        assert!(record.part(&media, "another tree", codec(), "here", later(1)).is_none());
        assert!(record.part(&"certs".parse().expect("a name"), IDENTITY, codec(), "here", later(1)).is_none());
        assert!(record.part(&media, IDENTITY, codec(), "there", later(1)).is_none());
        for other in [Codec::new(Encoding::Gzip, 9), Codec::new(Encoding::Zstd, 0), Codec::new(Encoding::None, 0)] {
            assert!(record.part(&media, IDENTITY, other.expect("a codec"), "here", later(1)).is_none());
        }
    }
}
