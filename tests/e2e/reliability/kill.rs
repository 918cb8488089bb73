//! The program itself, killed by SIGKILL at each request that reaches its store: before the store hears of it, and before it hears the answer.
//!
//! After each kill the same commands, with nothing in between, do what they would have done, and every backup that is listed restores.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use object_store::ObjectStore;

use crate::support::{Backstay, Gate, Row, Scratch, Seaweed, Side, Tree, assert_same_tree, toml};

/// Backups that retention keeps.
const KEEP: usize = 2;

/// A directory that changes, and the program that backs it up into a bucket.
struct House {
    scratch: Scratch,
    server: Seaweed,
    backstay: Backstay,
    /// What each backup holds.
    held: BTreeMap<String, Tree>,
    days: usize,
}

impl House {
    fn new() -> Self {
        let (scratch, server) = (Scratch::new(), Seaweed::start());
        std::fs::create_dir_all(scratch.join("site")).expect("created");
        let backstay = Backstay::new(&Self::config(&scratch, &server, &server.endpoint()));
        let mut house = Self { scratch, server, backstay, held: BTreeMap::new(), days: 0 };
        for _ in 0..KEEP {
            house.backup();
        }
        house
    }

    /// Parts of 5 MiB: the archive is an upload of two.
    fn config(scratch: &Scratch, server: &Seaweed, endpoint: &str) -> String {
        let job = format!("[jobs.default]\ncompression = \"none\"\nkeep_last = {KEEP}\n");
        let target = format!("{}part_size = \"5MiB\"\n", toml::s3_target_by("s3", endpoint, server, Seaweed::BUCKET));
        [job, toml::directory("media", &scratch.join("site/media")), target].concat()
    }

    /// The same program, on the same host, with something between it and the bucket.
    fn behind(&self, gate: &Gate) -> Backstay {
        Backstay::new(&Self::config(&self.scratch, &self.server, &gate.endpoint())).env("STATE_DIRECTORY", self.backstay.dir())
    }

    fn media(&self) -> std::path::PathBuf {
        self.scratch.join("site/media")
    }

    fn work(&mut self) {
        self.days += 1;
        let mut noise = vec![0; 5_500_000];
        blake3::Hasher::new_keyed(&[7; 32]).update(&self.days.to_le_bytes()).finalize_xof().fill(&mut noise);
        self.scratch.write("site/media/large", noise);
    }

    /// A day of work, and a good backup of it.
    fn backup(&mut self) -> String {
        self.work();
        let name = self.backstay.backup();
        self.held.insert(name.clone(), Tree::of(&self.media()));
        name
    }

    /// Kills a command at that request; false if it makes fewer.
    fn kill(&self, args: &[&str], at: usize, side: Side) -> bool {
        let gate = Gate::at(self.server.port(), at, side);
        gate.kill(&self.behind(&gate), args)
    }

    /// Each that is listed, restored to be looked at, is what was there when it was made.
    fn assert_all_restore(&mut self) -> Vec<String> {
        let list = self.backstay.succeed(&["listbackups", "--json"]).json();
        let mut names = Vec::new();
        for row in list.as_array().expect("an array") {
            let name = row["name"].as_str().expect("a name").to_owned();
            let out = self.scratch.join("out");
            self.backstay.succeed(&["restore", &name, "--yes", "--into", &format!("media={}", out.display())]);
            let restored = Tree::of(&out);
            // one that was killed when its manifest was there is a backup of the last day
            let held = self.held.entry(name.clone()).or_insert_with(|| Tree::of(&self.scratch.join("site/media")));
            assert_same_tree(held, &restored);
            std::fs::remove_dir_all(&out).expect("removed");
            names.push(name);
        }
        assert!(names.len() >= KEEP, "{names:?}");
        names
    }

    async fn keys(&self) -> Vec<String> {
        self.server.bucket(Seaweed::BUCKET).list(None).map_ok(|o| o.location.to_string()).try_collect().await.expect("listed")
    }

    /// No name of a backup tells more than a day's age yet, so what is left of those that were killed lies there, and in no backup's way.
    fn assert_only_dead_runs_left_something(&self, keys: &[String], names: &[String]) {
        for key in keys {
            let folder = key.split('/').next().expect("a folder");
            let of_a_backup = names.iter().any(|name| name == folder);
            assert!(of_a_backup || folder.starts_with("default-") || key.starts_with(".backstay/"), "{key}");
            assert!(of_a_backup || !key.ends_with("/manifest.json"), "{key} is listed nowhere");
        }
    }
}

/// Every n-th request, unless all are asked for.
fn step(usual: usize) -> usize {
    if std::env::var_os("BACKSTAY_THOROUGH").is_some() { 1 } else { usual }
}

const FAULTS: &str = "SIGKILL before or after a request";

#[expect(clippy::print_stderr, reason = "how many requests there are is what is asked for")]
fn told(what: &str, requests: usize, kills: usize) {
    eprintln!("{what}: {requests} requests, {kills} kills");
}

#[tokio::test]
async fn a_backup_killed_at_every_request_costs_no_backup() {
    let mut house = House::new();
    let step = step(7);
    let mut kills = 0;
    let mut requests = 0;
    for (side, first) in [(Side::Before, 1), (Side::After, 1 + step / 2)] {
        for at in (first..).step_by(step) {
            house.work();
            let killed = house.kill(&["backup"], at, side);
            house.assert_all_restore();
            if !killed {
                break;
            }
            (kills, requests) = (kills + 1, requests.max(at));
            // the lease of the dead is free at once, and retention keeps its count
            let name = house.backup();
            let names = house.assert_all_restore();
            assert!(names.len() == KEEP && names.contains(&name), "{names:?}");
        }
    }
    let names = house.assert_all_restore();
    house.assert_only_dead_runs_left_something(&house.keys().await, &names);
    told("backup", requests, kills);
    Row { scenario: "the program makes a backup and applies retention; bucket", faults: FAULTS, runs: kills }.print();
}

#[tokio::test]
async fn a_restore_killed_at_every_request_leaves_one_whole_state() {
    let mut house = House::new();
    let name = house.held.keys().next().expect("a backup").clone();
    let step = step(5);
    let mut kills = 0;
    let mut requests = 0;
    for (side, first) in [(Side::Before, 1), (Side::After, 1 + step / 2)] {
        for at in (first..).step_by(step) {
            house.work();
            let old = Tree::of(&house.media());
            if !house.kill(&["restore", &name, "--yes", "--no-safety-backup"], at, side) {
                break;
            }
            (kills, requests) = (kills + 1, requests.max(at));
            let back = house.backstay.run(&["restore", "--rollback", "--yes"]);
            if back.code == Some(2) {
                house.backstay.succeed(&["restore", "--resume", "--yes"]);
            } else {
                assert!(matches!(back.code, Some(0 | 10)), "{back:?}");
            }
            let now = Tree::of(&house.media());
            let whole = [&old, &house.held[&name]].into_iter().any(|state| state.differences(&now).is_empty());
            assert!(whole, "{side:?} request {at} left a mixture");
            let beside: Vec<_> = std::fs::read_dir(house.scratch.join("site")).expect("read").flatten().map(|e| e.file_name()).collect();
            assert_eq!(beside, ["media"], "{side:?} request {at} left something behind");
        }
    }
    // and nothing is in the way of one that is not killed
    house.backstay.succeed(&["restore", &name, "--yes", "--no-safety-backup"]);
    assert_same_tree(&house.held[&name], &Tree::of(&house.media()));
    house.assert_all_restore();
    told("restore", requests, kills);
    Row { scenario: "the program restores a directory in place; bucket", faults: FAULTS, runs: kills }.print();
}

#[tokio::test]
async fn retention_and_verification_killed_at_every_request_cost_no_backup() {
    let mut house = House::new();
    let step = step(9);
    let mut kills = 0;
    for args in [&["verify", "--all"][..], &["prune"]] {
        let mut requests = 0;
        for (side, first) in [(Side::Before, 1), (Side::After, 1 + step / 2)] {
            for at in (first..).step_by(step) {
                // one more than is kept: retention has something to do
                let usual = House::config(&house.scratch, &house.server, &house.server.endpoint());
                let more = usual.replace(&format!("keep_last = {KEEP}"), &format!("keep_last = {}", KEEP + 1));
                house.backstay.configure(&more);
                house.backup();
                house.backstay.configure(&usual);
                if !house.kill(args, at, side) {
                    break;
                }
                (kills, requests) = (kills + 1, requests.max(at));
                house.backstay.succeed(args);
                house.backstay.succeed(&["prune"]);
                assert_eq!(house.assert_all_restore().len(), KEEP);
            }
        }
        told(args[0], requests, kills);
    }
    Row { scenario: "the program verifies, and applies retention by hand; bucket", faults: FAULTS, runs: kills }.print();
}
