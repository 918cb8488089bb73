//! Runs of a job against a real file target: what is left when a component, a target or the run itself fails.

use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backstay::catalog::{Catalog, Entry};
use backstay::clock::{Clock, FixedClock};
use backstay::component::{Artifact, ByteStream, ComponentError, RunContext, Source};
use backstay::job::{self, Job, JobError, Report, Request};
use backstay::manifest::{ComponentStatus, Encoding, Facts, Format, Kind, Status};
use backstay::name::ComponentName;
use backstay::pipeline::{Budget, Codec, Engine};
use backstay::retention::Policy;
use backstay::signature::Authenticity;
use backstay::storage::{Access, Lease, Location, Target, TargetOptions};
use chrono::{TimeDelta, TimeZone, Utc};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

/// How a test's source ends.
#[derive(Clone, Copy)]
enum End {
    Whole,
    /// An error after the last byte.
    Error,
    /// Nothing more, for ever.
    Stuck,
    Panic,
    /// There is nothing to back up.
    Absent,
}

/// Streams `len` bytes and ends as told.
struct TestSource {
    name: ComponentName,
    len: usize,
    end: End,
}

#[async_trait]
impl Source for TestSource {
    fn name(&self) -> &ComponentName {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Directory
    }

    async fn check(&self) -> Result<Facts, ComponentError> {
        Ok(Facts::new())
    }

    async fn open(&self, _: &RunContext) -> Result<Vec<Artifact>, ComponentError> {
        if let End::Absent = self.end {
            return Err(ComponentError::Absent("nothing there".into()));
        }
        let (len, end) = (self.len, self.end);
        let open = async move {
            let data = io::Cursor::new(vec![7u8; len]);
            let stream: ByteStream = match end {
                End::Whole => Box::new(data),
                End::Error => {
                    Box::new(data.chain(tokio_util::io::StreamReader::new(futures_util::stream::iter([Err::<bytes::Bytes, _>(
                        io::Error::other("the dump ended badly"),
                    )]))))
                }
                End::Stuck => Box::new(
                    data.chain(tokio_util::io::StreamReader::new(Box::pin(futures_util::stream::pending::<io::Result<bytes::Bytes>>()))),
                ),
                End::Panic => panic!("a bug in a source"),
                End::Absent => unreachable!("not opened"),
            };
            Ok(stream)
        };
        Ok(vec![Artifact { file: format!("{}.tar", self.name), format: Format::Tar, database: None, estimate: None, open: Box::pin(open) }])
    }
}

fn source(name: &str, len: usize, end: End) -> Arc<dyn Source> {
    Arc::new(TestSource { name: name.parse().expect("a name"), len, end })
}

fn target(name: &str, path: &Path) -> Target {
    let options = TargetOptions { name: name.parse().expect("a name"), location: Location::File(path.into()), limit: None };
    Target::open(&options, Access::Write).expect("a target")
}

struct House {
    dir: tempfile::TempDir,
    clock: FixedClock,
    engine: Engine,
    cancel: CancellationToken,
    timeout: Option<Duration>,
    stall: Duration,
}

impl House {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            clock: FixedClock::at(Utc.with_ymd_and_hms(2026, 1, 2, 3, 4, 5).single().expect("a time")),
            engine: Engine::new(Budget::new(16 << 20), 2),
            cancel: CancellationToken::new(),
            timeout: None,
            stall: Duration::from_secs(60),
        }
    }

    fn path(&self, target: &str) -> std::path::PathBuf {
        self.dir.path().join(target)
    }

    fn job(&self, sources: Vec<Arc<dyn Source>>, targets: &[&str]) -> Job {
        Job {
            name: "default".parse().expect("a name"),
            sources,
            targets: targets.iter().map(|t| (t.parse().expect("a name"), Ok(target(t, &self.path(t))))).collect(),
            policy: Policy { last: NonZeroU32::new(2), ..Policy::default() },
            codec: Codec::new(Encoding::Gzip, 1).expect("a codec"),
            lock: None,
            authenticity: Authenticity::default(),
            stall_timeout: self.stall,
            timeout: self.timeout,
        }
    }

    async fn run(&self, sources: Vec<Arc<dyn Source>>) -> Result<Report, JobError> {
        self.run_job(self.job(sources, &["local"]), Request::default()).await
    }

    async fn run_job(&self, job: Job, request: Request) -> Result<Report, JobError> {
        self.clock.advance(TimeDelta::seconds(10));
        job::run(job, request, &self.engine, &self.clock, &self.cancel).await
    }

    async fn listed(&self, name: &str) -> Vec<(String, Status)> {
        let entries = Catalog::new(target(name, &self.path(name))).list(None).await.expect("a list");
        entries.iter().filter_map(Entry::summary).map(|found| (found.name.to_string(), found.status)).collect()
    }

    /// Every file below the target but a lease that was given back, which keeps its number for the next.
    fn files(&self, name: &str) -> Vec<String> {
        fn walk(dir: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() { walk(&path, found) } else { found.push(path.display().to_string()) }
            }
        }
        let mut found = Vec::new();
        walk(&self.path(name), &mut found);
        let given_back = |path: &String| {
            path.contains("/.backstay/leases/") && std::fs::read_to_string(path).expect("a lease").contains(r#""released":true"#)
        };
        found.retain(|path| !given_back(path));
        found
    }
}

#[tokio::test]
async fn a_component_that_fails_makes_the_backup_partial_and_leaves_no_trace_of_itself() {
    let house = House::new();
    let report = house.run(vec![source("good", 5 << 20, End::Whole), source("bad", 5 << 20, End::Error)]).await.expect("a partial backup");
    assert_eq!(report.manifest.status, Status::Partial);
    assert!(!report.is_whole());
    let bad = report.manifest.component(&"bad".parse().expect("a name")).expect("recorded");
    assert!(bad.status == ComponentStatus::Failed && bad.artifacts.is_empty());
    assert!(bad.reason.as_deref().is_some_and(|r| r.contains("the dump ended badly")), "{bad:?}");
    assert!(house.files("local").iter().all(|f| !f.contains("bad")), "{:?}", house.files("local"));
}

#[tokio::test]
async fn a_run_in_which_every_component_fails_leaves_nothing() {
    let house = House::new();
    for end in [End::Error, End::Panic] {
        let error = house.run(vec![source("bad", 12 << 20, end), source("absent", 0, End::Absent)]).await.expect_err("nothing left");
        assert!(matches!(error, JobError::NothingLeft { .. }), "{error:?}");
    }
    assert_eq!(house.files("local"), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_absent_is_noted_unless_it_was_asked_for() {
    let house = House::new();
    let sources = || vec![source("good", 10, End::Whole), source("absent", 0, End::Absent)];
    let report = house.run(sources()).await.expect("complete");
    assert!(report.is_whole() && report.manifest.status == Status::Complete);
    let only = vec!["absent".parse().expect("a name")];
    let error = house.run_job(house.job(sources(), &["local"]), Request { only, ..Request::default() }).await.expect_err("asked for");
    assert!(matches!(error, JobError::NothingLeft { .. }), "{error:?}");
}

#[tokio::test]
async fn retention_counts_complete_backups_only_and_drops_a_partial_one_after_a_newer_complete_one() {
    let house = House::new();
    let good = || vec![source("good", 10, End::Whole)];
    for _ in 0..3 {
        house.run(good()).await.expect("complete");
    }
    assert_eq!(house.listed("local").await.len(), 2);
    for _ in 0..3 {
        house.run(vec![source("good", 10, End::Whole), source("bad", 10, End::Error)]).await.expect("partial");
    }
    let listed = house.listed("local").await;
    assert_eq!(listed.iter().filter(|(_, s)| *s == Status::Complete).count(), 2, "a partial run removes nothing: {listed:?}");
    assert_eq!(listed.len(), 5);
    house.run(good()).await.expect("complete");
    let listed = house.listed("local").await;
    assert!(listed.len() == 2 && listed.iter().all(|(_, s)| *s == Status::Complete), "{listed:?}");
}

#[tokio::test]
async fn a_target_that_fails_midway_does_not_fail_the_other() {
    let house = House::new();
    let broken = faulty::target(&house.path("broken"), 2);
    let mut job = house.job(vec![source("good", 24 << 20, End::Whole)], &["local"]);
    job.codec = Codec::new(Encoding::None, 0).expect("a codec");
    job.targets.push(("broken".parse().expect("a name"), Ok(broken)));
    let report = house.run_job(job, Request::default()).await.expect("a backup");
    assert!(!report.is_whole());
    assert_eq!(report.manifest.status, Status::Complete);
    let failures: Vec<bool> = report.targets.iter().map(|t| t.failure.is_some()).collect();
    assert_eq!(failures, [false, true]);
    assert_eq!((house.listed("local").await.len(), house.listed("broken").await.len()), (1, 0));
    assert_eq!(house.files("broken"), Vec::<String>::new(), "aborted and released");
}

#[tokio::test]
async fn one_target_of_three_that_stands_still_is_cut_and_the_others_hold_the_backup() {
    let house = House { stall: Duration::from_millis(500), ..House::new() };
    let mut job = house.job(vec![source("good", 24 << 20, End::Whole)], &["local", "offsite"]);
    job.codec = Codec::new(Encoding::None, 0).expect("a codec");
    job.targets.push(("broken".parse().expect("a name"), Ok(faulty::hanging(&house.path("broken"), 1))));
    let report = house.run_job(job, Request::default()).await.expect("a backup");
    assert_eq!(report.manifest.status, Status::Complete);
    let failures: Vec<Option<String>> = report.targets.iter().map(|t| t.failure.clone()).collect();
    assert!(matches!(failures.as_slice(), [None, None, Some(why)] if why.contains("500ms")), "{failures:?}");
    assert_eq!((house.listed("local").await.len(), house.listed("offsite").await.len()), (1, 1));
    assert_eq!(house.files("broken"), Vec::<String>::new(), "aborted and released");
}

#[tokio::test]
async fn parts_as_large_as_the_budget_allows_do_not_wait_for_each_other() {
    let house = House { engine: Engine::new(Budget::new(6 << 20), 2), ..House::new() };
    for len in [4 << 20, 20 << 20] {
        let mut job = house.job(vec![source("good", len, End::Whole)], &["local", "second"]);
        job.codec = Codec::new(Encoding::None, 0).expect("a codec");
        let run = tokio::time::timeout(Duration::from_secs(60), house.run_job(job, Request::default()));
        assert!(run.await.expect("it ends").expect("complete").is_whole());
    }
}

#[tokio::test]
async fn with_no_target_left_there_is_no_backup() {
    let house = House::new();
    // the small one is stored whole before the target fails
    let mut job = house.job(vec![source("small", 10, End::Whole), source("good", 24 << 20, End::Whole)], &[]);
    job.codec = Codec::new(Encoding::None, 0).expect("a codec");
    job.targets.push(("broken".parse().expect("a name"), Ok(faulty::target(&house.path("broken"), 1))));
    let error = house.run_job(job, Request::default()).await.expect_err("no target");
    assert!(matches!(error, JobError::NoTarget { .. }), "{error:?}");
    assert_eq!(house.files("broken"), Vec::<String>::new());
}

#[tokio::test]
async fn a_manifest_whose_answer_was_lost_does_not_outlive_its_artifacts() {
    let house = House::new();
    let mut job = house.job(vec![source("good", 10, End::Whole)], &[]);
    job.targets.push(("broken".parse().expect("a name"), Ok(faulty::silent(&house.path("broken")))));
    let error = house.run_job(job, Request::default()).await.expect_err("no target");
    assert!(matches!(error, JobError::NoTarget { .. }), "{error:?}");
    assert_eq!(house.files("broken"), Vec::<String>::new());
}

#[tokio::test]
async fn a_cancelled_run_leaves_nothing() {
    let house = House::new();
    let run = house.run(vec![source("good", 10, End::Whole), source("stuck", 20 << 20, End::Stuck)]);
    let cancel = async {
        while !house.path("local").join("default-2026-01-02-030415/good/good.tar.gz").exists() {
            tokio::task::yield_now().await;
        }
        house.cancel.cancel();
    };
    let (result, ()) = tokio::join!(run, cancel);
    assert!(matches!(result, Err(JobError::Cancelled)), "{result:?}");
    assert_eq!(house.files("local"), Vec::<String>::new());
}

#[tokio::test]
async fn a_run_past_its_timeout_keeps_what_was_done_and_says_why_the_rest_is_missing() {
    let house = House { timeout: Some(Duration::from_millis(700)), ..House::new() };
    let report = house.run(vec![source("good", 10, End::Whole), source("stuck", 20, End::Stuck)]).await.expect("partial");
    let stuck = report.manifest.component(&"stuck".parse().expect("a name")).expect("recorded");
    assert!(stuck.reason.as_deref().is_some_and(|r| r.contains("timeout")), "{stuck:?}");
    assert_eq!(report.manifest.status, Status::Partial);
}

#[tokio::test]
async fn a_source_that_stands_still_is_cut_after_the_stall_timeout() {
    let house = House { stall: Duration::from_millis(300), ..House::new() };
    let error = house.run(vec![source("stuck", 20, End::Stuck)]).await.expect_err("cut");
    assert!(error.to_string().contains("sent nothing for 300ms"), "{error}");
}

#[tokio::test]
async fn a_job_that_is_held_is_busy_and_an_expired_lease_is_taken_over() {
    let house = House::new();
    let local = target("local", &house.path("local"));
    let lease = Lease::acquire(&local, &"default".parse().expect("a name"), "somebody").await.expect("free");
    let error = house.run(vec![source("good", 10, End::Whole)]).await.expect_err("busy");
    assert!(matches!(&error, JobError::Busy(..)), "{error:?}");
    lease.release().await;
    house.run(vec![source("good", 10, End::Whole)]).await.expect("free again");

    let dead = house.path("local").join(".backstay/leases/default/00000000000000000007.json");
    std::fs::create_dir_all(dead.parent().expect("a parent")).expect("made");
    // what it says of its end is by a clock that nobody here knows; what counts is when the target took it
    let expired = Utc::now() - TimeDelta::seconds(1);
    let record = serde_json::json!({"holder": "a dead host", "token": "00000000-0000-0000-0000-000000000001", "expires": expired});
    std::fs::write(&dead, record.to_string()).expect("written");
    let error = house.run(vec![source("good", 10, End::Whole)]).await.expect_err("it may live");
    assert!(matches!(&error, JobError::Busy(..)), "{error:?}");
    let two_minutes_ago = std::time::SystemTime::now() - Duration::from_secs(121);
    std::fs::File::options().write(true).open(&dead).and_then(|file| file.set_modified(two_minutes_ago)).expect("dated");
    house.run(vec![source("good", 10, End::Whole)]).await.expect("taken over");
}

#[tokio::test]
async fn a_lease_that_another_has_taken_over_does_not_confirm() {
    let house = House::new();
    let local = target("local", &house.path("local"));
    let job = "default".parse().expect("a name");
    let lease = Lease::acquire(&local, &job, "the sleeper").await.expect("free");
    let next = house.path("local").join(".backstay/leases/default/00000000000000000002.json");
    let record = serde_json::json!({"holder": "the next", "token": "00000000-0000-0000-0000-000000000001", "expires": Utc::now() + TimeDelta::seconds(60)});
    std::fs::write(&next, record.to_string()).expect("written");
    assert!(lease.confirm().await.is_err());
    std::fs::remove_file(&next).expect("removed");
    assert!(lease.confirm().await.is_err(), "what another may have held is never ours again");
}

#[tokio::test]
async fn two_runs_within_one_second_get_two_names() {
    let house = House::new();
    house.run(vec![source("good", 10, End::Whole)]).await.expect("complete");
    house.clock.advance(TimeDelta::seconds(-10));
    let (again, ()) = tokio::join!(house.run(vec![source("good", 10, End::Whole)]), async {
        // the run waits for the next second of the clock, which only this moves
        tokio::task::yield_now().await;
        house.clock.advance(TimeDelta::seconds(1));
    });
    again.expect("complete");
    assert_eq!(house.listed("local").await.len(), 2);
}

#[tokio::test]
async fn a_slot_that_was_served_is_not_run_again() {
    let house = House::new();
    let slot = house.clock.now() + TimeDelta::seconds(5);
    let request = || Request { slot: Some(slot), ..Request::default() };
    let job = || house.job(vec![source("good", 10, End::Whole)], &["local"]);
    house.run_job(job(), request()).await.expect("the first");
    let error = house.run_job(job(), request()).await.expect_err("the second");
    assert!(matches!(error, JobError::Served(_)), "{error:?}");
}

#[tokio::test]
async fn a_backup_from_the_future_neither_serves_a_slot_nor_pushes_out_the_new_one() {
    let house = House::new();
    let job = || house.job(vec![source("good", 10, End::Whole)], &["local"]);
    house.clock.advance(TimeDelta::days(2000));
    for _ in 0..2 {
        house.run_job(job(), Request::default()).await.expect("made with a wrong clock");
    }
    house.clock.advance(TimeDelta::days(-2000));
    let request = Request { slot: Some(house.clock.now() + TimeDelta::seconds(5)), ..Request::default() };
    let report = house.run_job(job(), request).await.expect("not served yet");
    assert_eq!(report.pruned, []);
    assert_eq!(house.listed("local").await.len(), 3);
}

#[tokio::test]
async fn what_a_dead_run_left_is_swept_a_day_later_and_nothing_else_is() {
    let house = House::new();
    let old = house.path("local").join("default-2026-01-02-000000");
    std::fs::create_dir_all(old.join("media")).expect("made");
    std::fs::write(old.join("media/media.tar.gz"), "left by a killed run").expect("written");
    std::fs::write(old.join("media/large.tar.gz#1"), "left within an upload").expect("written");
    std::fs::write(old.join("notes of the operator.txt"), "mine").expect("written");
    let yesterday = std::time::SystemTime::now() - Duration::from_secs(400 * 86400);
    for file in ["media/media.tar.gz", "notes of the operator.txt"] {
        std::fs::File::options().write(true).open(old.join(file)).and_then(|f| f.set_modified(yesterday)).expect("dated");
    }
    // begun long ago and written to just now: the run may still be under way
    let slow = house.path("local").join("default-2026-01-02-000001/media/media.tar.gz");
    std::fs::create_dir_all(slow.parent().expect("a parent")).expect("made");
    std::fs::write(&slow, "a part of a large upload").expect("written");
    house.run(vec![source("good", 10, End::Whole)]).await.expect("complete");
    assert!(old.join("media/media.tar.gz").exists(), "within the grace");
    house.clock.advance(TimeDelta::days(2));
    house.run(vec![source("good", 10, End::Whole)]).await.expect("complete");
    assert!(!old.join("media").exists());
    assert!(old.join("notes of the operator.txt").exists());
    assert!(slow.exists());
}

#[tokio::test]
async fn one_backup_that_cannot_be_read_hides_no_other_and_stops_no_run() {
    let house = House::new();
    house.run(vec![source("good", 10, End::Whole)]).await.expect("complete");
    // a manifest that leads to itself, and a folder of a dead run in which a name is not UTF-8
    let looping = house.path("local").join("default-2026-01-01-000000");
    std::fs::create_dir(&looping).expect("made");
    std::os::unix::fs::symlink("manifest.json", looping.join("manifest.json")).expect("linked");
    let odd = house.path("local").join("default-2026-01-01-000001");
    std::fs::create_dir(&odd).expect("made");
    std::fs::write(odd.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"caf\xe9")), "mine").expect("written");
    assert!(house.run(vec![source("good", 10, End::Whole)]).await.expect("complete").is_whole());
    let entries = Catalog::new(target("local", &house.path("local"))).list(None).await.expect("a list");
    assert_eq!(entries.iter().filter(|e| matches!(e, Entry::Sound(_))).count(), 2);
    assert_eq!(entries.iter().filter(|e| matches!(e, Entry::Unread(..))).count(), 1);
}

/// A real file target whose uploads fail after some parts, or whose answers get lost.
mod faulty {
    use std::fmt;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use backstay::storage::{Location, Target, TargetOptions};
    use futures_util::stream::BoxStream;
    use object_store::local::LocalFileSystem;
    use object_store::path::Path as Key;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions,
        PutPayload, PutResult, Result, UploadPart,
    };

    /// Fails every upload after `parts` parts.
    pub(super) fn target(path: &Path, parts: usize) -> Target {
        open(path, parts, 0, Spent::Fails)
    }

    /// Answers nothing any more after `parts` parts.
    pub(super) fn hanging(path: &Path, parts: usize) -> Target {
        open(path, parts, 0, Spent::Hangs)
    }

    /// Stores a manifest, and loses the answer; then it cannot be read back.
    pub(super) fn silent(path: &Path) -> Target {
        open(path, usize::MAX, 2, Spent::Fails)
    }

    fn open(path: &Path, parts: usize, lost: usize, spent: Spent) -> Target {
        std::fs::create_dir_all(path).expect("made");
        let inner = LocalFileSystem::new_with_prefix(path).expect("a store").with_automatic_cleanup(true);
        let store = Faulty { inner, left: Arc::new(AtomicUsize::new(parts)), lost: AtomicUsize::new(lost), spent };
        let options = TargetOptions { name: "broken".parse().expect("a name"), location: Location::File(path.into()), limit: None };
        Target::over(&options, Arc::new(store), "")
    }

    /// What becomes of the part after the last.
    #[derive(Debug, Clone, Copy)]
    enum Spent {
        Fails,
        Hangs,
    }

    #[derive(Debug)]
    struct Faulty {
        inner: LocalFileSystem,
        left: Arc<AtomicUsize>,
        spent: Spent,
        /// Answers about a manifest that get lost.
        lost: AtomicUsize,
    }

    impl Faulty {
        fn answer<T>(&self, location: &Key, answer: T) -> Result<T> {
            if location.filename() == Some("manifest.json") && spend(&self.lost) {
                return Err(object_store::Error::Generic { store: "faulty", source: "connection reset by peer".into() });
            }
            Ok(answer)
        }
    }

    /// False: there was nothing left.
    fn spend(left: &AtomicUsize) -> bool {
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
    }

    impl fmt::Display for Faulty {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "Faulty({})", self.inner)
        }
    }

    #[derive(Debug)]
    struct FaultyUpload {
        inner: Box<dyn MultipartUpload>,
        left: Arc<AtomicUsize>,
        then: Spent,
    }

    #[async_trait]
    impl MultipartUpload for FaultyUpload {
        fn put_part(&mut self, data: PutPayload) -> UploadPart {
            let part = self.inner.put_part(data);
            let (spent, then) = (!spend(&self.left), self.then);
            Box::pin(async move {
                match then {
                    _ if !spent => part.await,
                    Spent::Fails => Err(object_store::Error::Generic { store: "faulty", source: "no space left on device".into() }),
                    Spent::Hangs => std::future::pending().await,
                }
            })
        }

        async fn complete(&mut self) -> Result<PutResult> {
            self.inner.complete().await
        }

        async fn abort(&mut self) -> Result<()> {
            self.inner.abort().await
        }
    }

    #[async_trait]
    impl ObjectStore for Faulty {
        async fn put_opts(&self, location: &Key, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
            let answer = self.inner.put_opts(location, payload, opts).await?;
            self.answer(location, answer)
        }

        async fn put_multipart_opts(&self, location: &Key, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
            let inner = self.inner.put_multipart_opts(location, opts).await?;
            Ok(Box::new(FaultyUpload { inner, left: self.left.clone(), then: self.spent }))
        }

        async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
            let answer = self.inner.get_opts(location, options).await?;
            self.answer(location, answer)
        }

        fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
            self.inner.delete_stream(locations)
        }

        fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.inner.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }
}
