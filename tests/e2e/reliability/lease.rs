//! Two that want the same job: processes that sleep, hosts whose clocks are wrong.
//!
//! A test cannot wait until a lease has grown old; it changes what the lease says of its age, as time would have.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant, SystemTime};

use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Backstay, Gate, Outcome, Row, Scratch, Seaweed, Side, Tree, assert_same_tree, toml};

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

/// Of a directory with content that no compression makes smaller, into a target that another of these may share.
struct Site {
    source: Scratch,
    target: Scratch,
}

impl Site {
    fn new() -> Self {
        let (source, target) = (Scratch::new(), Scratch::new());
        let mut noise = vec![0; 3 * MIB];
        blake3::Hasher::new_keyed(&[7; 32]).finalize_xof().fill(&mut noise);
        source.write("media/file", noise);
        Self { source, target }
    }

    /// A worker of it; a slow one takes some seconds.
    fn worker(&self, keys: &str) -> Backstay {
        let job = "[jobs.default]\ncomponents = [\"media\"]\n";
        Backstay::new(
            &[job, &toml::directory("media", &self.source.join("media")), &toml::file_target("local", self.target.path()), keys].concat(),
        )
    }

    fn slow(&self) -> Backstay {
        self.worker("limit = \"1MiB/s\"\n")
    }

    /// The lease that is held.
    fn lease(&self) -> PathBuf {
        let leases = std::fs::read_dir(self.target.join(".backstay/leases/default")).expect("leases");
        let paths = leases.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.extension().is_some_and(|e| e == "json")).max().expect("a lease")
    }

    fn change_lease(&self, change: impl FnOnce(&mut Value)) {
        let path = self.lease();
        let mut record = serde_json::from_slice(&std::fs::read(&path).expect("a lease")).expect("JSON");
        change(&mut record);
        std::fs::write(&path, record.to_string()).expect("written");
    }

    /// As if it had been renewed on another machine.
    fn move_lease(&self) {
        self.change_lease(|record| record["owner"]["boot"] = "another machine".into());
    }

    /// The run that has claimed a name and has no manifest yet.
    fn begun(&self, child: &mut Child) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for entry in std::fs::read_dir(self.target.path()).expect("the target") {
                let path = entry.expect("an entry").path();
                if path.join("SHA256SUMS").exists() && !path.join("manifest.json").exists() {
                    return path.file_name().expect("a name").to_string_lossy().into_owned();
                }
            }
            assert!(child.try_wait().expect("look at it").is_none(), "it has ended");
            assert!(Instant::now() < deadline, "no run begins");
            std::thread::yield_now();
        }
    }

    #[track_caller]
    fn assert_restores(&self, backstay: &Backstay, name: &str) {
        let out = self.source.join("out");
        backstay.succeed(&["restore", name, "--yes", "--into", &format!("media={}", out.display())]);
        assert_same_tree(&Tree::of(&self.source.join("media")), &Tree::of(&out));
        std::fs::remove_dir_all(&out).expect("remove what was restored");
    }
}

/// Its renewal was sent ten minutes ago.
pub(super) fn age(record: &mut Value) {
    let sent = record["sent"].as_u64().expect("the time since boot");
    // a machine that was started just now has no ten minutes behind it
    record["sent"] = sent.saturating_sub(600_000).into();
    assert!(sent >= 130_000, "this machine was started less than two minutes ago: try again");
}

pub(super) fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("send a signal");
}

fn names(backstay: &Backstay) -> Vec<String> {
    let list = backstay.succeed(&["listbackups", "--json"]).json();
    let listed = list.as_array().expect("a list").iter();
    listed.map(|backup| backup["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn a_process_that_is_stopped_past_its_lease_commits_nothing() {
    for other_still_runs in [false, true] {
        let site = Site::new();
        let sleeper = site.slow();
        let mut sleeping = sleeper.spawn(&["backup"]);
        let late = site.begun(&mut sleeping);
        signal(&sleeping, Signal::STOP);
        let quick = site.worker("");
        quick.run(&["backup"]).expect_code(11);
        site.change_lease(age);
        let kept = if other_still_runs {
            let other = site.slow();
            let mut running = other.spawn(&["backup", "--json"]);
            while site.lease().file_name().is_some_and(|name| name == "00000000000000000001.json") {
                assert!(running.try_wait().expect("look at it").is_none(), "it has ended");
                std::thread::yield_now();
            }
            signal(&sleeping, Signal::CONT);
            Outcome::of(sleeping).expect_code(3).expect_message("was lost");
            Outcome::of(running).expect_code(0).json()["name"].as_str().expect("a name").to_owned()
        } else {
            let kept = quick.backup();
            signal(&sleeping, Signal::CONT);
            Outcome::of(sleeping).expect_code(3).expect_message("was lost");
            kept
        };
        assert_eq!(names(&quick), [kept.as_str()]);
        assert!(!site.target.join(&late).join("media/media.tar.gz").exists(), "what it had stored");
        site.assert_restores(&quick, &kept);
    }
    Row {
        scenario: "a run that is stopped (SIGSTOP) past its lease while another runs",
        faults: "the other has ended; still runs",
        runs: 2,
    }
    .print();
}

/// Between the last look at the lease and the manifest nothing can be checked; what was created too late is taken back.
#[tokio::test]
async fn a_manifest_that_is_created_after_the_lease_was_lost_is_taken_back() {
    for side in [Side::Before, Side::After] {
        let (site, server) = (Site::new(), Seaweed::start());
        let gate = Gate::new(server.port(), "manifest.json", 1, side);
        let target = toml::s3_target("local", &server, Seaweed::BUCKET);
        let job = "[jobs.default]\ncomponents = [\"media\"]\n";
        let config = [job, &toml::directory("media", &site.source.join("media")), &target].concat();
        let quick = Backstay::new(&config);
        let sleeper = Backstay::new(&config.replace(&server.endpoint(), &gate.endpoint()));
        let mut sleeping = sleeper.spawn(&["backup"]);
        assert!(gate.reached(&mut sleeping), "it ended before");
        let bucket = server.bucket(Seaweed::BUCKET);
        let key = Key::from(".backstay/leases/default/00000000000000000001.json");
        let mut record: Value =
            serde_json::from_slice(&bucket.get(&key).await.expect("a lease").bytes().await.expect("read")).expect("JSON");
        age(&mut record);
        bucket.put(&key, record.to_string().into()).await.expect("written");
        let kept = quick.backup();
        gate.open();
        Outcome::of(sleeping).expect_code(3).expect_message("was lost");
        assert_eq!(names(&quick), [kept.as_str()]);
        site.assert_restores(&quick, &kept);
        let left = left(&bucket, &kept).await;
        assert!(left.is_empty(), "{left:?}");
    }
    Row {
        scenario: "a run that stands still between its last look at the lease and its manifest, while another runs",
        faults: "before the store hears of the manifest; before its answer",
        runs: 2,
    }
    .print();
}

async fn left(bucket: &impl ObjectStore, kept: &str) -> Vec<String> {
    use futures_util::TryStreamExt;
    let all: Vec<String> = bucket.list(None).map_ok(|o| o.location.to_string()).try_collect().await.expect("list the bucket");
    all.into_iter().filter(|key| !key.starts_with(kept) && !key.starts_with(".backstay/leases/")).collect()
}

/// One that does not answer is waited for minutes, but nothing is kept from the other for that: its lease, first of all.
#[test]
fn a_target_that_is_silent_keeps_no_other_waiting_for_its_lease() {
    let (site, server) = (Site::new(), Seaweed::start());
    let backstay = site.worker(&toml::s3_target("a-bucket", &server, Seaweed::BUCKET));
    server.freeze();
    let mut running = backstay.spawn(&["backup", "--json"]);
    let lease = site.target.join(".backstay/leases/default/00000000000000000001.json");
    let deadline = Instant::now() + PATIENCE;
    while !lease.exists() {
        assert!(running.try_wait().expect("look at it").is_none(), "it has ended");
        assert!(Instant::now() < deadline, "it waits for the bucket");
        std::thread::yield_now();
    }
    // and nobody else gets it meanwhile
    site.worker("").run(&["backup"]).expect_code(11);
    server.thaw();
    let name = Outcome::of(running).expect_code(0).json()["name"].as_str().expect("a name").to_owned();
    site.assert_restores(&site.worker(""), &name);
    Row { scenario: "a job with two targets, one of which is silent", faults: "a bucket answers nothing when the run begins", runs: 1 }
        .print();
}

fn date(path: &Path, age: Duration) {
    std::fs::File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now() - age)).expect("dated");
}

#[test]
fn a_host_whose_clock_is_wrong_neither_takes_a_live_lease_nor_loses_its_own() {
    let mut runs = 0;
    for (holder, other) in [("+0", "+600"), ("+0", "-600"), ("+600", "+0"), ("-600", "+0"), ("-600", "+600")] {
        let site = Site::new();
        let holder = site.slow().with_clock(holder);
        let mut holding = holder.spawn(&["backup", "--json"]);
        site.begun(&mut holding);
        // by itself it would be judged by the time since boot, which the two have in common
        site.move_lease();
        let other = site.worker("").with_clock(other);
        other.run(&["backup"]).expect_code(11).expect_message("another run holds job `default`");
        let name = Outcome::of(holding).expect_code(0).json()["name"].as_str().expect("a name").to_owned();
        assert_eq!(names(&other), [name.as_str()]);
        runs += 1;
    }
    for other in ["+600", "-600"] {
        let site = Site::new();
        let holder = site.slow();
        let mut holding = holder.spawn(&["backup"]);
        site.begun(&mut holding);
        signal(&holding, Signal::STOP);
        site.move_lease();
        let other = site.worker("").with_clock(other);
        date(&site.lease(), Duration::from_secs(110));
        other.run(&["backup"]).expect_code(11);
        date(&site.lease(), Duration::from_secs(121));
        other.backup();
        signal(&holding, Signal::KILL);
        Outcome::of(holding);
        runs += 1;
    }
    Row {
        scenario: "two hosts want one job, and their clocks differ",
        faults: "by 10 and 20 minutes, both ways; the holder lives or died",
        runs,
    }
    .print();
}

/// A clock that steps moves the times of the files of a target on the same machine, and the lease with them.
#[test]
fn a_run_lives_through_steps_of_its_clock() {
    let steps = ["+7200", "-7200"];
    for step in steps {
        let site = Site::new();
        let clock = site.source.write("clock", "+0");
        let holder = site.slow().with_clock_of(&clock);
        let mut holding = holder.spawn(&["backup", "--json"]);
        site.begun(&mut holding);
        std::fs::write(&clock, step).expect("written");
        date(&site.lease(), Duration::from_secs(7200));
        let other = site.worker("");
        other.run(&["backup"]).expect_code(11);
        let name = Outcome::of(holding).expect_code(0).json()["name"].as_str().expect("a name").to_owned();
        site.assert_restores(&other, &name);
    }
    Row { scenario: "the clock of a machine steps while a run holds its lease", faults: "by two hours, both ways", runs: steps.len() }
        .print();
}

/// A clock that lags behind shows the same second again, later: the slot at which both hosts run, for one.
#[test]
fn two_hosts_in_the_same_second_of_their_clocks_never_write_to_one_backup() {
    let site = Site::new();
    let sleeper = site.slow().with_clock("2026-06-01 03:00:00");
    let mut sleeping = sleeper.spawn(&["backup"]);
    let mut log = BufReader::new(sleeping.stderr.take().expect("stderr is piped"));
    let mut seen = String::new();
    while !seen.contains("run begins backup=default-2026-06-01-030000") {
        assert!(log.read_line(&mut seen).expect("a log in UTF-8") > 0, "{seen}");
    }
    signal(&sleeping, Signal::STOP);
    site.change_lease(age);
    // a second takes ten there, so that it comes in time for that of the sleeper
    let other = site.worker("").with_clock("@2026-06-01 03:00:00 x0.1");
    let kept = other.backup();
    assert_eq!(kept, "default-2026-06-01-030001");
    signal(&sleeping, Signal::CONT);
    log.read_to_string(&mut seen).expect("the rest of the log");
    assert!(sleeping.wait().expect("its end").code() == Some(3) && seen.contains("was lost"), "{seen}");
    assert_eq!(names(&other), [kept.as_str()]);
    site.assert_restores(&other, &kept);
    Row {
        scenario: "two hosts whose clocks show the same second at different times",
        faults: "one sleeps past its lease, having stored nothing",
        runs: 1,
    }
    .print();
}
