//! A fault at every call that a whole day of work makes to its store: backups, retention, verification, restore.
//!
//! The day is lived once to count its calls, and then once for each of them and each kind of fault. After each, with a store that works
//! again, every backup that is listed must be what was backed up, retention must have kept its count, what was restored must be whole or
//! untouched, and the days after must leave nothing in the store that no backup names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backstay::catalog::{Catalog, Entry};
use backstay::clock::{Clock, FixedClock};
use backstay::component::directory::{DirectoryOptions, DirectoryRestorer, DirectorySource};
use backstay::component::{Destination, RestoreOptions};
use backstay::encryption::Identities;
use backstay::fetch;
use backstay::job::{self, Job, JobError, Report, Request};
use backstay::manifest::{Encoding, Manifest, Status};
use backstay::name::{BackupName, JobName};
use backstay::pipeline::{Budget, Codec, Engine, Progress};
use backstay::restore::entry::Stage;
use backstay::restore::journal::Ledger;
use backstay::restore::recover::{Takeover, resume, roll_back};
use backstay::restore::{Part, Restore};
use backstay::retention::Policy;
use backstay::signature::Authenticity;
use backstay::storage::{Lease, Location, S3Options, Target, TargetOptions};
use backstay::verdict::{Found, Verdict};
use backstay::verify::verify;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::support::{Row, Scratch, Seaweed, Tree, assert_same_tree};

/// Complete backups that retention keeps.
const KEEP: usize = 2;

/// What happens at one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It is refused, and not done.
    Refused,
    /// It is done, and reported as failed.
    Unsure,
    /// The process dies: neither this call nor a later one reaches the store.
    DiesBefore,
    /// Likewise, when this one is done.
    DiesAfter,
}

const FAULTS: [Fault; 4] = [Fault::Refused, Fault::Unsure, Fault::DiesBefore, Fault::DiesAfter];

/// The calls of one process.
#[derive(Debug)]
struct Calls {
    made: AtomicUsize,
    /// The number of the one that fails, from 1.
    at: usize,
    fault: Fault,
    dead: CancellationToken,
    hit: Mutex<Option<String>>,
}

impl Calls {
    fn failing(at: usize, fault: Fault) -> Arc<Self> {
        Arc::new(Self { made: AtomicUsize::new(0), at, fault, dead: CancellationToken::new(), hit: Mutex::default() })
    }

    fn counting() -> Arc<Self> {
        Self::failing(0, Fault::Refused)
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    async fn call<T>(&self, what: impl fmt::Display, work: impl Future<Output = Result<T>>) -> Result<T> {
        if self.dead.is_cancelled() {
            return std::future::pending().await;
        }
        let number = self.made.fetch_add(1, Ordering::SeqCst) + 1;
        if number != self.at {
            let done = work.await;
            return if self.dead.is_cancelled() { std::future::pending().await } else { done };
        }
        *self.hit.lock().expect("no panic holds it") = Some(what.to_string());
        match self.fault {
            Fault::Refused => {
                Err(object_store::Error::PermissionDenied { path: what.to_string(), source: "the test refuses this call".into() })
            }
            Fault::Unsure => {
                let _ = work.await;
                Err(object_store::Error::Generic { store: "test", source: "connection reset by peer".into() })
            }
            Fault::DiesBefore => self.die().await,
            Fault::DiesAfter => {
                let _ = work.await;
                self.die().await
            }
        }
    }

    async fn die<T>(&self) -> T {
        self.dead.cancel();
        std::future::pending().await
    }
}

/// A store whose calls are numbered.
#[derive(Debug)]
struct Numbered {
    inner: Arc<dyn ObjectStore>,
    calls: Arc<Calls>,
}

impl fmt::Display for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Numbered({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Numbered {
    async fn put_opts(&self, location: &Key, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.calls.call(format!("put {location}"), self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, location: &Key, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.calls.call(format!("begin the upload of {location}"), self.inner.put_multipart_opts(location, opts)).await?;
        Ok(Box::new(NumberedUpload { inner, calls: self.calls.clone() }))
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        self.calls.call(format!("get {location}"), self.inner.get_opts(location, options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        let (inner, calls) = (self.inner.clone(), self.calls.clone());
        let delete = move |location: Result<Key>| {
            let (inner, calls) = (inner.clone(), calls.clone());
            async move {
                let location = location?;
                calls.call(format!("delete {location}"), inner.delete(&location)).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, calls, prefix) = (self.inner.clone(), self.calls.clone(), prefix.cloned());
        let list = async move {
            let what = format!("list {}", prefix.as_ref().map(Key::as_ref).unwrap_or_default());
            match calls.call(what, inner.list(prefix.as_ref()).try_collect::<Vec<_>>()).await {
                Ok(listed) => listed.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        };
        futures_util::stream::once(list).flat_map(futures_util::stream::iter).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.calls.call("list with delimiter", self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.calls.call(format!("copy {from}"), self.inner.copy_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct NumberedUpload {
    inner: Box<dyn MultipartUpload>,
    calls: Arc<Calls>,
}

#[async_trait]
impl MultipartUpload for NumberedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, calls) = (self.inner.put_part(data), self.calls.clone());
        Box::pin(async move { calls.call("upload a part", part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.calls.call("complete an upload", self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.calls.call("abort an upload", self.inner.abort()).await
    }
}

/// Where the backups go.
#[derive(Debug, Clone)]
struct Place {
    store: Arc<dyn ObjectStore>,
    options: TargetOptions,
    prefix: String,
}

impl Place {
    fn directory(path: &Path) -> Self {
        std::fs::create_dir_all(path).expect("created");
        let store = LocalFileSystem::new_with_prefix(path).expect("a store").with_automatic_cleanup(true);
        Self { store: Arc::new(store), options: options(Location::File(path.into())), prefix: String::new() }
    }

    fn bucket(server: &Seaweed, prefix: &str) -> Self {
        let s3 = S3Options { max_parts: 10_000, ..S3Options::default() };
        let location = Location::S3 { bucket: Seaweed::BUCKET.into(), prefix: prefix.into(), options: Box::new(s3) };
        Self { store: Arc::new(server.bucket(Seaweed::BUCKET)), options: options(location), prefix: prefix.into() }
    }

    fn target(&self, calls: &Arc<Calls>) -> Target {
        self.over(Arc::new(Numbered { inner: self.store.clone(), calls: calls.clone() }))
    }

    fn healthy(&self) -> Target {
        self.over(self.store.clone())
    }

    fn over(&self, store: Arc<dyn ObjectStore>) -> Target {
        Target::over(&self.options, store, &self.prefix).with_part_size(self.part())
    }

    /// Bytes, such that the artifact is an upload of two parts, of which S3 takes none below 5 MiB but the last.
    fn part(&self) -> u64 {
        if matches!(self.options.location, Location::S3 { .. }) { 5 << 20 } else { 1 << 20 }
    }

    fn root(&self) -> Key {
        Key::from(self.prefix.as_str())
    }

    /// Keys below the prefix.
    async fn keys(&self) -> BTreeSet<String> {
        let root = self.root();
        let below = |key: &Key| key.as_ref().strip_prefix(root.as_ref()).unwrap_or(key.as_ref()).trim_start_matches('/').to_owned();
        self.store.list(Some(&root)).map_ok(|meta| below(&meta.location)).try_collect().await.expect("listed")
    }

    async fn copy_from(&self, other: &Self) {
        for key in other.keys().await {
            let bytes = other.store.get(&join(&other.prefix, &key)).await.expect("read").bytes().await.expect("read");
            self.store.put(&join(&self.prefix, &key), bytes.into()).await.expect("written");
        }
    }

    /// Those that are there, given back or not.
    async fn leases(&self) -> Vec<(Key, Value)> {
        let mut leases = Vec::new();
        for key in self.keys().await.into_iter().filter(|key| key.starts_with(".backstay/leases/") && key.ends_with(".json")) {
            let key = join(&self.prefix, &key);
            let bytes = self.store.get(&key).await.expect("read").bytes().await.expect("read");
            leases.push((key, serde_json::from_slice(&bytes).expect("a lease")));
        }
        leases
    }

    /// Lets the leases grow old that a dead process has left; each must have been about to.
    async fn let_leases_expire(&self) {
        for (key, mut lease) in self.leases().await {
            let expires: DateTime<Utc> = lease["expires"].as_str().expect("a time").parse().expect("a time");
            assert!(expires <= Utc::now() + TimeDelta::seconds(120), "{key} would be held until {expires}");
            // as if it had been written when this machine was started
            lease["sent"] = 0.into();
            self.store.put(&key, lease.to_string().into_bytes().into()).await.expect("written");
        }
    }
}

fn join(prefix: &str, key: &str) -> Key {
    Key::parse(if prefix.is_empty() { key.to_owned() } else { format!("{prefix}/{key}") }).expect("a key")
}

fn options(location: Location) -> TargetOptions {
    TargetOptions { name: "store".parse().expect("a name"), location, limit: None }
}

fn job_name() -> JobName {
    "default".parse().expect("a name")
}

/// One life of an installation: what it backs up, where, and what each backup must hold.
struct House {
    scratch: Scratch,
    place: Place,
    clock: FixedClock,
    engine: Engine,
    held: BTreeMap<BackupName, Tree>,
}

impl House {
    fn new(place: impl FnOnce(&Scratch) -> Place, now: DateTime<Utc>, engine: &Engine) -> Self {
        let scratch = Scratch::new();
        let place = place(&scratch);
        Self { scratch, place, clock: FixedClock::at(now), engine: engine.clone(), held: BTreeMap::new() }
    }

    fn media(&self) -> PathBuf {
        self.scratch.join("site/media")
    }

    /// Changes what is backed up.
    fn work(&self, day: u8) {
        let mut noise = vec![0; self.place.part() as usize + 200_000];
        blake3::Hasher::new_keyed(&[day; 32]).finalize_xof().fill(&mut noise);
        self.scratch.write("site/media/large", noise);
        self.scratch.write(format!("site/media/day {day}/small"), [day; 100]);
    }

    fn source(&self) -> DirectoryOptions {
        DirectoryOptions::new("media".parse().expect("a name"), self.media())
    }

    /// One run of the job an hour later. What it is to hold is known before it begins.
    async fn run(&mut self, target: Target) -> Result<Report, JobError> {
        self.clock.advance(TimeDelta::hours(1));
        self.held.insert(BackupName::new(job_name(), self.clock.now()), Tree::of(&self.media()));
        job::run(self.job(target), Request::default(), &self.engine, &self.clock, &CancellationToken::new()).await
    }

    fn job(&self, target: Target) -> Job {
        Job {
            name: job_name(),
            sources: vec![Arc::new(DirectorySource::new(self.source()))],
            targets: vec![(target.name().clone(), Ok(target))],
            policy: Policy { last: NonZeroU32::new(KEEP as u32), ..Policy::default() },
            codec: Codec::new(Encoding::None, 0).expect("a codec"),
            lock: None,
            authenticity: Authenticity::default(),
            stall_timeout: Duration::from_secs(60),
            timeout: None,
        }
    }

    /// All that a process may do, whatever becomes of each of it.
    async fn day(&mut self, target: &Target) {
        let catalog = Catalog::new(target.clone());
        self.work(3);
        let _ = self.run(target.clone()).await;
        let mut manifests = Vec::new();
        for entry in catalog.list(None).await.unwrap_or_default() {
            manifests.extend(catalog.find(entry.name()).await);
        }
        for manifest in &manifests {
            let found = verify(&catalog, manifest, &Identities::default(), &Progress::default(), &CancellationToken::new())
                .await
                .expect("not cancelled");
            if found.damaged().next().is_none() && found.unread().next().is_none() {
                let _ = catalog.record(&manifest.name, Verdict { at: self.clock.now(), found: Found::Sound }).await;
            }
        }
        self.work(4);
        let _ = self.run(target.clone()).await;
        if let Ok(lease) = Lease::acquire(target, &job_name(), "prune").await {
            let policy = Policy { last: NonZeroU32::new(KEEP as u32), ..Policy::default() };
            job::prune(&catalog, &job_name(), &policy, self.clock.now()).await;
            lease.release().await;
        }
        if let Some(manifest) = manifests.pop() {
            let _ = self.restore_in_place(target, manifest).await;
        }
    }

    async fn restore_in_place(&self, target: &Target, manifest: Manifest) -> Result<(), backstay::restore::RestoreError> {
        let part = Part { restorer: Arc::new(DirectoryRestorer::new(self.source())), options: RestoreOptions::default() };
        let restore = Restore::new(target, manifest, vec![part], Identities::default(), Progress::default())?;
        restore.plan().await?;
        let journal = restore.begin(&Ledger::of(vec![target.clone()]), None, self.clock.now()).await?;
        restore.execute(Some(journal), &CancellationToken::new()).await.map(drop)
    }

    /// What is listed, is sound, and restores to what was backed up.
    async fn assert_all_restore(&self) -> Vec<Manifest> {
        let catalog = Catalog::new(self.place.healthy());
        let entries = catalog.list(None).await.expect("listed");
        let mut manifests = Vec::new();
        for entry in entries {
            assert!(matches!(entry, Entry::Sound(_)), "{entry:?}");
            let manifest = catalog.find(entry.name()).await.expect("sound");
            assert_eq!(manifest.status, Status::Complete);
            let out = self.scratch.join("out");
            let to = RestoreOptions { to: Destination::Into(out.display().to_string()), ..RestoreOptions::default() };
            let part = Part { restorer: Arc::new(DirectoryRestorer::new(self.source())), options: to };
            let restore = Restore::new(catalog.target(), manifest.clone(), vec![part], Identities::default(), Progress::default())
                .expect("it holds it");
            restore.execute(None, &CancellationToken::new()).await.expect("restored");
            assert_same_tree(&self.held[&manifest.name], &Tree::of(&out));
            std::fs::remove_dir_all(&out).expect("removed");
            manifests.push(manifest);
        }
        assert!(manifests.len() >= KEEP, "{manifests:?}");
        manifests
    }

    /// Ends a restore that was interrupted, one way or the other; then what is in service is one whole state.
    async fn settle_restore(&self, before: &Tree) {
        let target = self.place.healthy();
        for found in Ledger::of(vec![target.clone()]).find().await {
            if !found.places().iter().any(|place| place.contains(&self.media().display().to_string())) {
                continue;
            }
            assert!(found.holder.is_none(), "{:?} holds {}", found.holder, found.place());
            let journal = found.take().await.expect("readable").expect("free");
            let entry = journal.entry().clone();
            let stored = match Catalog::new(target.clone()).find(&entry.backup).await {
                Ok(manifest) => Some(backstay::component::StoredComponent {
                    component: manifest.components[0].clone(),
                    open: fetch::opener(target.clone(), entry.backup.clone(), Identities::default(), Progress::default()),
                }),
                Err(_) => None,
            };
            let part = Takeover {
                restorer: Arc::new(DirectoryRestorer::new(self.source())),
                options: entry.parts[0].options.clone(),
                stored,
                safety: None,
            };
            if entry.stage() == Stage::After {
                resume(journal, &[part]).await.expect("resumed");
            } else {
                roll_back(journal, &[part]).await.expect("rolled back");
            }
        }
        let now = Tree::of(&self.media());
        let states = self.held.values().chain([before]);
        assert!(states.into_iter().any(|state| state.differences(&now).is_empty()), "a mixture of two states is in service");
        let beside: Vec<_> = std::fs::read_dir(self.scratch.join("site")).expect("read").flatten().map(|e| e.file_name()).collect();
        assert_eq!(beside, ["media"], "a restore left something behind");
    }

    /// Two good runs, the second when all grace is over, leave what their manifests name, and nothing else.
    async fn assert_nothing_is_left(&mut self) {
        let mut calls = Vec::new();
        for (day, later) in [(5, TimeDelta::zero()), (6, TimeDelta::hours(25))] {
            self.clock.advance(later);
            self.work(day);
            let target = self.place.healthy();
            let report = self.run(target).await.expect("a backup");
            assert!(report.is_whole(), "{:?}", report.shortcomings());
            calls.push(report.manifest.name);
        }
        let manifests = self.assert_all_restore().await;
        let names: Vec<_> = manifests.iter().map(|manifest| manifest.name.clone()).collect();
        assert_eq!(names, calls);
        let mut expected = BTreeSet::new();
        for manifest in &manifests {
            let objects = manifest.artifacts().map(|artifact| artifact.path.to_string());
            expected
                .extend(objects.chain(["manifest.json".into(), "SHA256SUMS".into()]).map(|object| format!("{}/{object}", manifest.name)));
        }
        let mut keys = self.place.keys().await;
        for (key, lease) in self.place.leases().await {
            // the last of a job stays, so that its number never comes again
            assert!(lease["released"] == true && key.as_ref().contains("/leases/default/"), "{key}: {lease}");
            keys.retain(|other| !key.as_ref().ends_with(other));
        }
        assert_eq!(keys, expected);
        if let Location::File(path) = &self.place.options.location {
            let top: BTreeSet<String> =
                std::fs::read_dir(path).expect("read").flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            let named: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
            assert_eq!(top.into_iter().filter(|name| !name.starts_with('.')).collect::<BTreeSet<_>>(), named);
        }
    }
}

/// The state that every life begins with: two backups, and what a run left that was killed two days before.
struct Beginning {
    house: House,
    now: DateTime<Utc>,
}

impl Beginning {
    async fn new(place: impl FnOnce(&Scratch) -> Place, engine: &Engine) -> Self {
        // what this test stores is older than any grace
        let now = Utc::now() + TimeDelta::days(3);
        let mut house = House::new(place, now, engine);
        for day in [1, 2] {
            house.work(day);
            let target = house.place.healthy();
            house.run(target).await.expect("a backup");
        }
        let dead = BackupName::new(job_name(), now - TimeDelta::days(2));
        house.place.store.put(&join(&house.place.prefix, &format!("{dead}/media/media.tar")), "a part".into()).await.expect("put");
        let now = house.clock.now();
        Self { house, now }
    }

    /// Lives on from there with `calls`; false if its day has fewer calls than that.
    async fn live(&self, place: impl FnOnce(&Scratch) -> Place, calls: &Arc<Calls>) -> bool {
        let mut house = House::new(place, self.now, &self.house.engine);
        house.held = self.house.held.clone();
        house.place.copy_from(&self.house.place).await;
        house.work(2);
        let before = Tree::of(&house.media());
        let target = house.place.target(calls);
        tokio::select! {
            () = house.day(&target) => {}
            () = calls.dead.cancelled() => {}
        }
        let Some(what) = calls.hit.lock().expect("no panic holds it").clone() else { return false };
        let _told = Told(format!("call {}, {what}: {:?}", calls.at, calls.fault));
        house.place.let_leases_expire().await;
        house.assert_all_restore().await;
        house.settle_restore(&before).await;
        house.assert_nothing_is_left().await;
        true
    }
}

/// Says at which call it was that a life ended badly.
struct Told(String);

impl Drop for Told {
    #[expect(clippy::print_stderr, reason = "a failure is told to whoever looks at it")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// Every n-th call, unless all are asked for. No divisor of the number of calls that repeat themselves.
fn step(usual: usize) -> usize {
    if std::env::var_os("BACKSTAY_THOROUGH").is_some() { 1 } else { usual }
}

/// Lives the day once for each kind of fault and each `step`-th call; how often, and how many calls there are.
async fn at_every_call(
    step: usize,
    beginning: Beginning,
    place: impl Fn(&Scratch, usize) -> Place + Send + Sync + 'static,
) -> (usize, usize) {
    let (beginning, place) = (Arc::new(beginning), Arc::new(place));
    let counted = Calls::counting();
    beginning.live(|scratch| place(scratch, 0), &counted).await;
    let lives = FAULTS.into_iter().enumerate().map(|(kind, fault)| {
        let (beginning, place) = (beginning.clone(), place.clone());
        tokio::spawn(async move {
            let mut runs = 0;
            // each kind begins elsewhere, so that all together see more of the calls
            for at in (1 + kind % step..).step_by(step) {
                let id = kind * 10_000 + at;
                if !beginning.live(|scratch| place(scratch, id), &Calls::failing(at, fault)).await {
                    break;
                }
                runs += 1;
            }
            runs
        })
    });
    let mut runs = 0;
    for life in futures_util::future::join_all(lives).await {
        runs += life.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    }
    (runs, counted.made())
}

const KINDS: &str = "refused; done and reported as failed; process dead before; process dead after";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::print_stderr, reason = "how many calls there are is what is asked for")]
async fn a_fault_at_every_call_to_a_directory_loses_nothing() {
    let engine = Engine::new(Budget::new(64 << 20), 2);
    let beginning = Beginning::new(|scratch| Place::directory(&scratch.join("backups")), &engine).await;
    let (runs, calls) = at_every_call(step(5), beginning, |scratch, _| Place::directory(&scratch.join("backups"))).await;
    eprintln!("{calls} calls, {runs} runs");
    assert!(runs >= calls / 2, "{runs} runs for {calls} calls");
    Row { scenario: "two backups, retention, verification and a restore; directory", faults: KINDS, runs }.print();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::print_stderr, reason = "how many calls there are is what is asked for")]
async fn a_fault_at_every_call_to_a_bucket_loses_nothing() {
    let (engine, server) = (Engine::new(Budget::new(64 << 20), 2), Arc::new(Seaweed::start()));
    let beginning = Beginning::new(|_| Place::bucket(&server, "beginning"), &engine).await;
    let bucket = server.clone();
    let (runs, calls) = at_every_call(step(17), beginning, move |_, id| Place::bucket(&bucket, &format!("life-{id}"))).await;
    eprintln!("{calls} calls, {runs} runs");
    assert!(runs >= calls / 8, "{runs} runs for {calls} calls");
    Row { scenario: "two backups, retention, verification and a restore; bucket", faults: KINDS, runs }.print();
}

/// No answer is lost on the way to a disk: what it has not taken for good is not created, though it can be read for now.
#[tokio::test]
async fn a_create_that_a_disk_has_not_taken_is_taken_back() {
    let scratch = Scratch::new();
    let place = Place::directory(&scratch.join("target"));
    let key = Key::from("default-2026-01-02-030405/manifest.json");
    let failed = place.target(&Calls::failing(1, Fault::Unsure)).create(&key, "{}".into(), "application/json").await;
    assert!(failed.is_err());
    assert!(place.store.head(&key).await.is_err(), "it is there all the same");
}

/// A store whose lists lack what is named so.
#[derive(Debug)]
struct Stale {
    inner: Arc<dyn ObjectStore>,
    lacks: String,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stale({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Stale {
    async fn put_opts(&self, location: &Key, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Key, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        let lacks = self.lacks.clone();
        let listed = move |meta: &Result<ObjectMeta>| meta.as_ref().map_or(true, |meta| !meta.location.as_ref().contains(&lacks));
        self.inner.list(prefix).filter(move |meta| std::future::ready(listed(meta))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A store may forget in a list what was stored just now, or long ago.
#[tokio::test]
async fn what_a_list_lacks_is_neither_swept_nor_overwritten() {
    let engine = Engine::new(Budget::new(64 << 20), 2);
    let Beginning { mut house, .. } = Beginning::new(|scratch| Place::directory(&scratch.join("backups")), &engine).await;
    let names: Vec<BackupName> = house.held.keys().cloned().collect();
    let stale = |house: &House, lacks: String| house.place.over(Arc::new(Stale { inner: house.place.store.clone(), lacks }));
    // every backup looks like what a dead run has left, and is old enough
    let target = stale(&house, "manifest.json".into());
    let catalog = Catalog::new(target.clone());
    let swept = catalog.sweep(&job_name(), house.clock.now() + TimeDelta::days(2)).await.expect("swept");
    assert!(names.iter().all(|name| !swept.contains(name)), "{swept:?}");
    assert_eq!(house.assert_all_restore().await.len(), 2);
    // the newest looks as if it were not there, in the second in which it was made
    let newest = names.last().expect("a backup").clone();
    let target = stale(&house, newest.to_string());
    house.work(3);
    let kept = house.held[&newest].clone();
    let clock = FixedClock::at(newest.created());
    let next = BackupName::new(job_name(), newest.created() + TimeDelta::seconds(1));
    let job = house.job(target);
    let cancel = CancellationToken::new();
    let run = job::run(job, Request::default(), &engine, &clock, &cancel);
    let (report, ()) = tokio::join!(run, async {
        // it waits for the next second, which only this brings
        tokio::task::yield_now().await;
        clock.advance(TimeDelta::seconds(1));
    });
    assert_eq!(report.expect("a backup").manifest.name, next);
    house.held.insert(newest, kept);
    house.held.insert(next, Tree::of(&house.media()));
    house.assert_all_restore().await;
    Row { scenario: "a backup in the second of another, and the sweep two days later", faults: "lists lack the newest objects", runs: 2 }
        .print();
}
