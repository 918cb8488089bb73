//! A run that dies when a directory is stored and another component is not: the next one takes over what is there, when nothing is against it.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use rustix::process::Signal;
use serde_json::Value;

use super::lease::{age, signal};
use crate::support::{Backstay, Outcome, Redis, Row, Scratch, Seaweed, Tree, Version, assert_same_tree, toml};

const PATIENCE: Duration = Duration::from_secs(60);
const JOURNAL: &str = ".backstay/runs/default.json";
const LEASE: &str = ".backstay/leases/default/00000000000000000001.json";
const SAID: &str = "was not read again";

/// A directory, and a Redis that can be held up; a target that is a directory, and one that is a bucket.
struct House {
    scratch: Scratch,
    redis: Redis,
    server: Option<Seaweed>,
    directory: bool,
    backstay: Backstay,
}

impl House {
    fn new(directory: bool, bucket: bool) -> Self {
        let (scratch, redis) = (Scratch::new(), Redis::start(Version::V7_0, &[]));
        redis.cli(&["SET", "key", "value"]);
        let server = bucket.then(Seaweed::start);
        let house = Self { scratch, redis, server, directory, backstay: Backstay::new("") };
        house.work("old");
        house.backstay.configure(&house.config("", ""));
        house
    }

    /// Parts of 5 MiB: the archive is an upload of three, and so is a copy of it.
    fn config(&self, job: &str, media: &str) -> String {
        let job = format!("[jobs.default]\ncomponents = [\"media\", \"cache\"]\ncompression = \"none\"\n{job}");
        let media = format!("{}{media}", toml::directory("media", &self.scratch.join("media")));
        let bucket = self.server.as_ref().map(|server| format!("{}part_size = \"5MiB\"\n", toml::s3_target("s3", server, Seaweed::BUCKET)));
        let directory = self.directory.then(|| toml::file_target("local", &self.scratch.join("backups")));
        [job, media, toml::redis("cache", &self.redis), bucket.unwrap_or_default(), directory.unwrap_or_default()].concat()
    }

    /// Changes what is backed up.
    fn work(&self, state: &str) {
        let mut noise = vec![0; 11 << 20];
        blake3::Hasher::new_keyed(&[5; 32]).update(state.as_bytes()).finalize_xof().fill(&mut noise);
        self.scratch.write("media/large", noise);
        self.scratch.write("media/below/small", state);
    }

    fn tree(&self) -> Tree {
        Tree::of(&self.scratch.join("media"))
    }

    /// Every target's content of that key, where it is.
    async fn all(&self, key: &str) -> Vec<Option<Vec<u8>>> {
        let mut all = Vec::new();
        if self.directory {
            all.push(std::fs::read(self.scratch.join("backups").join(key)).ok());
        }
        if let Some(server) = &self.server {
            all.push(match server.bucket(Seaweed::BUCKET).get(&Key::from(key)).await {
                Ok(found) => Some(found.bytes().await.expect("read").to_vec()),
                Err(_) => None,
            });
        }
        all
    }

    /// In the directory, or else in the bucket.
    async fn put(&self, key: &str, bytes: Vec<u8>) {
        if self.directory {
            std::fs::write(self.scratch.join("backups").join(key), bytes).expect("written");
        } else if let Some(server) = &self.server {
            server.bucket(Seaweed::BUCKET).put(&Key::from(key), bytes.into()).await.expect("written");
        }
    }

    async fn keys(&self) -> Vec<String> {
        let bucket = self.server.as_ref().expect("a bucket").bucket(Seaweed::BUCKET);
        bucket.list(None).map_ok(|o| o.location.to_string()).try_collect().await.expect("listed")
    }

    /// A run whose directory is stored, and on record in every target, while Redis says nothing; and its name.
    async fn half_done(&self) -> (Child, String) {
        self.redis.signal(Signal::STOP);
        let before = self.all(JOURNAL).await;
        let mut child = self.backstay.spawn(&["backup", "--json"]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let journals = self.all(JOURNAL).await;
            if journals.iter().zip(&before).all(|(now, before)| now.is_some() && now != before) {
                let journal = journals.into_iter().flatten().next().expect("a target");
                let journal: Value = serde_json::from_slice(&journal).expect("JSON");
                return (child, journal["run"]["backup"].as_str().expect("a name").to_owned());
            }
            assert!(child.try_wait().expect("look at it").is_none(), "{:?}", Outcome::of(child));
            assert!(Instant::now() < deadline, "no journal");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills it there.
    async fn killed(&self) -> String {
        let (mut child, name) = self.half_done().await;
        child.kill().expect("SIGKILL");
        Outcome::of(child);
        self.redis.signal(Signal::CONT);
        name
    }

    /// The name of a good backup, and what is said of its directory.
    #[track_caller]
    fn backup(&self, backstay: &Backstay) -> (String, Vec<String>) {
        let answer = backstay.succeed(&["backup", "--json"]).json();
        (answer["name"].as_str().expect("a name").to_owned(), warnings(&answer))
    }

    #[track_caller]
    fn assert_holds(&self, name: &str, tree: &Tree) {
        let targets = [("local", self.directory), ("s3", self.server.is_some())];
        for (target, _) in targets.into_iter().filter(|(_, there)| *there) {
            self.backstay.succeed(&["verify", name, "--target", target]);
            let out = self.scratch.join("out");
            let into = format!("media={}", out.display());
            self.backstay.succeed(&["restore", name, "--target", target, "--only", "media", "--yes", "--into", &into]);
            assert_same_tree(tree, &Tree::of(&out));
            std::fs::remove_dir_all(&out).expect("removed");
        }
    }
}

fn warnings(answer: &Value) -> Vec<String> {
    let components = answer["components"].as_array().expect("components");
    let media = components.iter().find(|c| c["name"] == "media").expect("the directory");
    media["warnings"].as_array().into_iter().flatten().map(|w| w.as_str().expect("text").to_owned()).collect()
}

fn artifact(name: &str) -> String {
    format!("{name}/media/media.tar")
}

/// The journal as it is written, of another run.
fn sealed(run: &Value) -> Vec<u8> {
    let run = run.to_string();
    format!("{{\"format\":1,\"blake3\":\"{}\",\"run\":{run}}}\n", blake3::hash(run.as_bytes()).to_hex()).into_bytes()
}

#[tokio::test]
async fn what_a_killed_run_has_stored_of_a_directory_is_not_read_again() {
    for (directory, bucket) in [(true, false), (false, true), (true, true)] {
        let house = House::new(directory, bucket);
        let old = house.tree();
        let first = house.killed().await;
        house.work("new");
        // the one that takes it over is killed as well
        let second = house.killed().await;
        let (third, said) = house.backup(&house.backstay);
        assert!(said.len() == 1 && said[0].contains(SAID) && said[0].contains(&format!("by {first}, which was interrupted")), "{said:?}");
        house.assert_holds(&third, &old);
        for gone in [artifact(&second), JOURNAL.to_owned()] {
            assert!(house.all(&gone).await.iter().all(Option::is_none), "{gone}");
        }
        // who slept in the name of those that died would find it taken
        for name in [&first, &second] {
            assert!(house.all(&format!("{name}/SHA256SUMS")).await.iter().all(Option::is_some), "{name}");
        }
        if let Some(server) = &house.server {
            assert_eq!(server.unfinished_uploads(Seaweed::BUCKET), [""; 0]);
        }
        let (fourth, said) = house.backup(&house.backstay);
        assert_eq!(said, [""; 0]);
        house.assert_holds(&fourth, &house.tree());
    }
    Row {
        scenario: "a backup of a directory and Redis is killed (SIGKILL) when the directory is stored; it is not read again",
        faults: "twice in a row; into a directory, a bucket, both",
        runs: 6,
    }
    .print();
}

/// What may be different of the next run, so that it has to read the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    AnHourLater,
    ClockSetBack,
    OtherGlobs,
    OtherCompression,
    LostInOneTarget,
    ShorterInOneTarget,
    NoJournalInOneTarget,
    OtherJournalInOneTarget,
    DamagedJournals,
    OtherHost,
    Committed,
    RestoredMeanwhile,
}

impl Difference {
    const ALL: [Self; 12] = [
        Self::AnHourLater,
        Self::ClockSetBack,
        Self::OtherGlobs,
        Self::OtherCompression,
        Self::LostInOneTarget,
        Self::ShorterInOneTarget,
        Self::NoJournalInOneTarget,
        Self::OtherJournalInOneTarget,
        Self::DamagedJournals,
        Self::OtherHost,
        Self::Committed,
        Self::RestoredMeanwhile,
    ];

    /// The program of the next run.
    async fn make(self, house: &House, earlier: &str, killed: &str) -> Option<Backstay> {
        let journal = house.all(JOURNAL).await.into_iter().flatten().next().expect("a journal");
        let run: Value = serde_json::from_slice::<Value>(&journal).expect("JSON")["run"].take();
        let in_directory = |key: &str| house.scratch.join("backups").join(key);
        let usual = || Backstay::new(&house.config("", ""));
        match self {
            Self::OtherGlobs => return Some(Backstay::new(&house.config("", "exclude = [\"nothing\"]\n"))),
            Self::OtherCompression => {
                return Some(Backstay::new(&house.config("", "").replace("compression = \"none\"", "compression = \"zstd\"")));
            }
            Self::LostInOneTarget => std::fs::remove_file(in_directory(&artifact(killed))).expect("removed"),
            Self::ShorterInOneTarget => {
                let file = std::fs::File::options().write(true).open(in_directory(&artifact(killed))).expect("opened");
                file.set_len(file.metadata().expect("its size").len() - 1).expect("cut");
            }
            Self::NoJournalInOneTarget => std::fs::remove_file(in_directory(JOURNAL)).expect("removed"),
            Self::OtherJournalInOneTarget => {
                let mut other = run;
                other["parts"][0]["component"]["artifacts"][0]["sha256"] = "0".repeat(64).into();
                house.put(JOURNAL, sealed(&other)).await;
            }
            Self::DamagedJournals => {
                let mut damaged = journal;
                let at = damaged.windows(10).position(|bytes| bytes == b"\"sha256\":\"").expect("a hash") + 12;
                damaged[at] = if damaged[at] == b'0' { b'1' } else { b'0' };
                house.put(JOURNAL, damaged.clone()).await;
                let bucket = house.server.as_ref().expect("a bucket").bucket(Seaweed::BUCKET);
                bucket.put(&Key::from(JOURNAL), damaged.into()).await.expect("written");
            }
            Self::AnHourLater | Self::ClockSetBack | Self::OtherHost | Self::Committed => {
                let mut other = run;
                let finished = &mut other["parts"][0]["finished"];
                let then: DateTime<Utc> = finished.as_str().expect("a time").parse().expect("a time");
                match self {
                    Self::AnHourLater => *finished = (then - TimeDelta::hours(1)).to_rfc3339().into(),
                    Self::ClockSetBack => *finished = (then + TimeDelta::hours(1)).to_rfc3339().into(),
                    Self::OtherHost => other["host"] = "another".into(),
                    // one that died between its manifest and the removal of its journal
                    _ => other["backup"] = earlier.into(),
                }
                house.put(JOURNAL, sealed(&other)).await;
                let bucket = house.server.as_ref().expect("a bucket").bucket(Seaweed::BUCKET);
                bucket.put(&Key::from(JOURNAL), sealed(&other).into()).await.expect("written");
            }
            Self::RestoredMeanwhile => {
                usual().succeed(&["restore", earlier, "--only", "media", "--yes", "--no-safety-backup"]);
            }
        }
        None
    }
}

#[tokio::test]
async fn what_may_not_stand_in_for_a_directory_is_read_again() {
    let mut wrong = BTreeMap::new();
    let house = House::new(true, true);
    for difference in Difference::ALL {
        house.work("before");
        let (earlier, _) = house.backup(&house.backstay);
        let first = house.tree();
        house.work("old");
        let killed = house.killed().await;
        house.work("new");
        let other = difference.make(&house, &earlier, &killed).await;
        let now = house.tree();
        if difference == Difference::RestoredMeanwhile {
            assert_same_tree(&first, &now);
        }
        let (name, said) = house.backup(other.as_ref().unwrap_or(&house.backstay));
        if said.is_empty() {
            house.assert_holds(&name, &now);
        } else {
            wrong.insert(difference, said);
        }
        house.assert_holds(&earlier, &first);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Row {
        scenario: "a backup of a directory and Redis is killed (SIGKILL) when the directory is stored; it is read again",
        faults: "an hour later; a clock that was set back; other options; a lost or cut artifact or journal; another host; a restore between",
        runs: Difference::ALL.len(),
    }
    .print();
}

/// The backup of what a restore is about to replace is the last that there will be of it.
#[tokio::test]
async fn a_safety_backup_holds_what_is_there() {
    let house = House::new(true, false);
    let (earlier, _) = house.backup(&house.backstay);
    house.work("old");
    house.killed().await;
    house.work("new");
    let new = house.tree();
    house.backstay.succeed(&["restore", &earlier, "--only", "media", "--yes"]);
    let list = house.backstay.succeed(&["listbackups", "--json"]).json();
    let names = list.as_array().expect("a list").iter().map(|row| row["name"].as_str().expect("a name").to_owned());
    let safety = names.max_by_key(|name| name.clone()).expect("a backup");
    assert_ne!(safety, earlier);
    house.assert_holds(&safety, &new);
    Row {
        scenario: "a restore after a backup that was killed when the directory was stored",
        faults: "what it replaces has changed since",
        runs: 1,
    }
    .print();
}

/// It wakes when the other has taken over what it had stored, and removes that.
#[tokio::test]
async fn a_run_that_only_slept_takes_nothing_from_the_one_that_took_over() {
    for (directory, bucket) in [(true, false), (false, true)] {
        let house = House::new(directory, bucket);
        let old = house.tree();
        let (sleeping, slept) = house.half_done().await;
        signal(&sleeping, Signal::STOP);
        house.redis.signal(Signal::CONT);
        let lease = house.all(LEASE).await.into_iter().flatten().next().expect("a lease");
        let mut lease: Value = serde_json::from_slice(&lease).expect("JSON");
        age(&mut lease);
        house.put(LEASE, lease.to_string().into_bytes()).await;
        house.work("new");
        let (name, said) = house.backup(&house.backstay);
        assert!(said.len() == 1 && said[0].contains(SAID), "{said:?}");
        signal(&sleeping, Signal::CONT);
        Outcome::of(sleeping).expect_code(3).expect_message("was lost");
        house.assert_holds(&name, &old);
        assert!(house.all(&artifact(&slept)).await.iter().all(Option::is_none), "what it had stored");
        assert!(house.all(&format!("{slept}/manifest.json")).await.iter().all(Option::is_none), "a manifest");
        if bucket {
            let strays: Vec<String> =
                house.keys().await.into_iter().filter(|key| !key.contains(&name) && !key.contains("/leases/")).collect();
            assert_eq!(strays, [""; 0]);
        }
    }
    Row {
        scenario: "a backup is stopped (SIGSTOP) past its lease when the directory is stored; the next takes that over; it wakes",
        faults: "into a directory, a bucket",
        runs: 2,
    }
    .print();
}
