//! Restores that are killed at every step of their journal, and what brings them to an end: all components new, or all old, and nothing
//! left behind.

use std::process::Child;
use std::time::{Duration, Instant};

use object_store::ObjectStoreExt;
use rustix::process::{Pid, Signal, kill_process};

use crate::site::{Site, State, program};
use crate::support::assert_same_database;
use crate::support::{Backstay, Fingerprint, Gate, Major, Mount, Outcome, Scratch, Seaweed, Side, Version, toml};

const PLACE: &str = "backups";
const MARK: &str = ".backstay/restores/";

/// Writes to the journal of a restore of three components: begun; each staged; each about to be switched; all switched; removed.
const STEPS: usize = 9;

/// A site with a backup in a bucket, changed since.
struct House {
    site: Site,
    seaweed: Seaweed,
    backstay: Backstay,
    name: String,
    /// What the backup holds.
    new: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Resume,
    Rollback,
}

impl House {
    fn new() -> Self {
        Self::over(Site::filled(Major::V15, Version::V7_0))
    }

    fn over(site: Site) -> Self {
        let seaweed = Seaweed::start();
        let backstay = program(&site, &toml::s3_target("s3", &seaweed, PLACE));
        let name = backstay.backup();
        let new = site.state();
        site.change();
        Self { site, seaweed, backstay, name, new }
    }

    fn args(&self) -> Vec<&str> {
        vec!["restore", &self.name, "--yes", "--no-safety-backup"]
    }

    /// The same program, with something between it and the bucket.
    fn behind(&self, gate: &Gate) -> Backstay {
        program(&self.site, &toml::s3_target_by("s3", &gate.endpoint(), &self.seaweed, PLACE)).env("STATE_DIRECTORY", self.backstay.dir())
    }

    fn gate(&self, at: usize, side: Side) -> Gate {
        Gate::new(self.seaweed.port(), MARK, at, side)
    }

    /// Kills a restore at that write to its journal; false if there is none of that number.
    fn kill_at(&self, at: usize, side: Side) -> bool {
        self.kill(&self.args(), at, side)
    }

    fn kill(&self, args: &[&str], at: usize, side: Side) -> bool {
        let gate = self.gate(at, side);
        gate.kill(&self.behind(&gate), args)
    }

    fn end(&self, end: End) -> Outcome {
        let flag = if end == End::Resume { "--resume" } else { "--rollback" };
        self.backstay.run(&["restore", flag, "--yes"])
    }

    #[track_caller]
    fn assert_nothing_left(&self, state: &State) {
        self.site.assert_is(state);
        let kept = std::fs::read_dir(self.backstay.dir()).expect("read the state directory").flatten();
        let kept: Vec<_> = kept.map(|e| e.file_name()).filter(|name| name != "backstay.toml").collect();
        assert!(kept.is_empty(), "left behind: {kept:?}");
        self.backstay.run(&["restore", "--rollback", "--yes"]).expect_code(10).expect_message("no unfinished restore");
    }
}

/// Kills a restore at each write to its journal, ends it, and compares.
#[expect(clippy::print_stderr, reason = "how many kills were survived is what is asked for")]
fn every_step(side: Side, end: End) {
    let house = House::new();
    let mut kills = 0;
    for at in 1..=STEPS {
        let old = house.site.state();
        assert!(house.kill_at(at, side), "there is no step {at}");
        kills += 1;
        let written = if side == Side::After { at } else { at - 1 };
        let outcome = house.end(end);
        let new = match (written, end) {
            (0, _) => {
                outcome.expect_code(10);
                false
            }
            (STEPS, _) => {
                outcome.expect_code(10);
                true
            }
            // what was replaced is being removed: there is no way back
            (w, End::Rollback) if w == STEPS - 1 => {
                outcome.expect_code(2).expect_message("--resume");
                house.end(End::Resume).expect_code(0);
                true
            }
            (_, End::Rollback) => {
                outcome.expect_code(0);
                false
            }
            (_, End::Resume) => {
                outcome.expect_code(0);
                true
            }
        };
        house.assert_nothing_left(if new { &house.new } else { &old });
        if new {
            house.site.change();
        }
    }
    assert!(!house.kill_at(STEPS + 1, side), "there are more steps than {STEPS}");
    house.assert_nothing_left(&house.new);
    eprintln!("{kills} kills, {side:?} each of {STEPS} writes to the journal, each ended by {end:?}");
}

#[test]
fn killed_before_each_step_and_resumed() {
    every_step(Side::Before, End::Resume);
}

#[test]
fn killed_before_each_step_and_rolled_back() {
    every_step(Side::Before, End::Rollback);
}

#[test]
fn killed_after_each_step_and_resumed() {
    every_step(Side::After, End::Resume);
}

#[test]
fn killed_after_each_step_and_rolled_back() {
    every_step(Side::After, End::Rollback);
}

/// What ends a killed restore may itself be killed: at any of its own steps, and then again.
#[test]
fn an_end_that_is_killed_is_done_again() {
    let house = House::new();
    for (end, writes) in [(End::Resume, 2..=3), (End::Rollback, 1..=2)] {
        for at in writes {
            let old = house.site.state();
            // the directory is switched, and Redis is not
            assert!(house.kill_at(7, Side::Before));
            let gate = house.gate(at, Side::Before);
            let flag = if end == End::Resume { "--resume" } else { "--rollback" };
            let program = house.behind(&gate);
            let mut child = program.spawn(&["restore", flag, "--yes"]);
            assert!(gate.reached(&mut child), "{end:?} has no step {at}");
            child.kill().expect("SIGKILL");
            Outcome::of(child);
            if (end, at) == (End::Rollback, 2) {
                // that it goes back is on record: something that the way forward needs may be gone
                house.end(End::Resume).expect_code(2).expect_message("--rollback");
            }
            house.end(end).expect_code(0);
            house.assert_nothing_left(if end == End::Resume { &house.new } else { &old });
            if end == End::Resume {
                house.site.change();
            }
        }
    }
}

/// Into places of their own: nothing was there, and after the way back nothing is. What is in service is not touched either way.
#[test]
fn into_other_places_both_ends_are_reached_too() {
    let house = House::new();
    let (live, out) = (house.site.state(), Scratch::new());
    let app = "SELECT count(*) FROM shop.customer WHERE name <> 'changed'";
    let (url, rdb, tree) = (house.site.postgres.url("other"), out.join("dump.rdb"), out.join("media"));
    let into = [format!("postgres={url}"), format!("redis=file://{}", rdb.display()), format!("media={}", tree.display())];
    let into: Vec<&str> = into.iter().flat_map(|into| ["--into", into]).collect();
    // each component staged, each switched, all switched
    for at in [4, 5, 7, 8] {
        for end in [End::Resume, End::Rollback] {
            assert!(house.kill(&[house.args(), into.clone()].concat(), at, Side::After), "there is no step {at}");
            let flag = if end == End::Resume { "--resume" } else { "--rollback" };
            // the password of the server is not on record
            let mut outcome = house.backstay.run(&[&["restore", flag, "--yes"], &into[..]].concat());
            let mut new = end == End::Resume;
            if (end, at) == (End::Rollback, STEPS - 1) {
                outcome.expect_code(2).expect_message("--resume");
                outcome = house.backstay.run(&[&["restore", "--resume", "--yes"], &into[..]].concat());
                new = true;
            }
            outcome.expect_code(0);
            let names: Vec<_> = std::fs::read_dir(out.path()).expect("read").flatten().map(|e| e.file_name()).collect();
            if new {
                assert_eq!((names.len(), rdb.is_file(), tree.is_dir()), (2, true, true), "{names:?}");
                assert_ne!(house.site.postgres.psql_in("other", app), "0");
                house.site.postgres.psql("DROP DATABASE other");
                std::fs::remove_file(&rdb).expect("remove");
                std::fs::remove_dir_all(&tree).expect("remove");
            } else {
                assert!(names.is_empty(), "{end:?} at {at}: {names:?}");
            }
            house.assert_nothing_left(&live);
        }
    }
}

/// A mount point cannot be renamed: its entries are exchanged one by one.
#[test]
fn in_a_mounted_volume_both_ends_are_reached_too() {
    let site = Site::filled(Major::V15, Version::V7_0);
    let content = site.files.join("media");
    let kept = site.files.join("kept");
    std::fs::rename(&content, &kept).expect("rename");
    let mount = Mount::new(content);
    crate::support::process::run(std::process::Command::new("cp").arg("-a").arg(kept.join(".")).arg(mount.path()));
    std::fs::remove_dir_all(kept).expect("remove");
    let house = House::over(site);
    for (at, end) in [(3, End::Rollback), (6, End::Rollback), (7, End::Rollback), (6, End::Resume), (7, End::Resume)] {
        let old = house.site.state();
        assert!(house.kill_at(at, Side::After));
        house.end(end).expect_code(0);
        house.assert_nothing_left(if end == End::Resume { &house.new } else { &old });
        if end == End::Resume {
            house.site.change();
        }
    }
}

/// The server goes while its new database waits for the others to be staged: what was there stays, and the next restore is as good.
#[test]
fn a_server_that_dies_before_the_switch_loses_nothing() {
    let mut house = House::new();
    // what a crash takes from every server, tables without a log and steps of sequences, is gone before
    house.site.postgres.stop();
    house.site.postgres.start_again();
    let old = house.site.state();
    let gate = house.gate(3, Side::Before);
    let program = house.behind(&gate);
    let mut child = program.spawn(&house.args());
    assert!(gate.reached(&mut child));
    house.site.postgres.stop();
    gate.open();
    Outcome::of(child).expect_code(1).expect_message("postgres");
    house.site.postgres.start_again();
    let ended = house.end(End::Rollback);
    assert!(matches!(ended.code, Some(0 | 10)), "{ended:?}");
    house.assert_nothing_left(&old);
    house.backstay.succeed(&house.args());
    house.assert_nothing_left(&house.new);
}

/// A dump of old has a journal as any other backup.
#[test]
fn a_dump_of_old_is_ended_too() {
    const OLD: &str = "authentik-backup-2021.5.1-2021-05-12-000000.sql";
    let house = House::new();
    let server = &house.site.postgres;
    let dump = crate::support::process::run(server.client("pg_dump", "app").arg("--clean"));
    let put = async { house.seaweed.bucket(PLACE).put(&OLD.into(), dump.into()).await.expect("put") };
    tokio::runtime::Runtime::new().expect("a runtime").block_on(put);
    let dumped = Fingerprint::of(server, "app");
    for (at, end) in [(2, End::Rollback), (3, End::Rollback), (2, End::Resume), (3, End::Resume)] {
        server.psql_in("app", "CREATE TABLE public.newest (x int)");
        let changed = Fingerprint::of(server, "app");
        assert!(house.kill(&["restore", OLD, "--yes", "--no-safety-backup"], at, Side::After));
        house.end(end).expect_code(0);
        let expected = if end == End::Resume { &dumped } else { &changed };
        assert_same_database(expected, &Fingerprint::of(server, "app"));
        house.site.assert_no_helpers();
        if end == End::Rollback {
            server.psql_in("app", "DROP TABLE public.newest");
        }
    }
}

/// Between the steps, too: whatever was under way at that moment.
#[test]
fn killed_at_any_moment() {
    const KILLS: u32 = 8;
    let house = House::new();
    let whole = {
        let begun = Instant::now();
        house.backstay.succeed(&house.args());
        begun.elapsed()
    };
    house.site.change();
    for kill in 1..=KILLS {
        let old = house.site.state();
        let mut child = house.backstay.spawn(&house.args());
        wait(&mut child, whole * kill / KILLS);
        let _ = child.kill();
        let done = Outcome::of(child).code == Some(0);
        let end = if kill % 2 == 0 { End::Resume } else { End::Rollback };
        let outcome = house.end(end);
        let new = match outcome.code {
            Some(0) => end == End::Resume,
            Some(2) => {
                house.end(End::Resume).expect_code(0);
                true
            }
            // it had not begun, or it was over
            _ => {
                outcome.expect_code(10);
                done || !house.site.is_changed()
            }
        };
        house.assert_nothing_left(if new { &house.new } else { &old });
        if new {
            house.site.change();
        }
    }
}

fn wait(child: &mut Child, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until && child.try_wait().expect("look at the child").is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_next_restore_says_what_it_found() {
    let house = House::new();
    let old = house.site.state();
    // one component is about to be switched: nothing goes on silently
    assert!(house.kill_at(5, Side::After));
    house.backstay.run(&house.args()).expect_code(2).expect_message("--resume").expect_message(&house.name);
    house.backstay.run(&["restore", "--rollback"]).expect_code(2).expect_message("--yes");
    house.backstay.succeed(&["listbackups"]).expect_message("restore --resume");
    house.backstay.succeed(&["backup", "--only", "media"]).expect_message("partly old and partly new");
    house.backstay.succeed(&["restore", "--rollback", "--dry-run"]).expect_message("postgres");
    // of other places it does
    let out = Scratch::new();
    let into = format!("media={}", out.join("look").display());
    house.backstay.succeed(&["restore", &house.name, "--yes", "--only", "media", "--into", &into]).expect_message("unfinished");
    house.end(End::Rollback).expect_code(0);
    house.assert_nothing_left(&old);
    // nothing is switched: what is left is removed, and it goes on
    assert!(house.kill_at(4, Side::After));
    house.backstay.succeed(&house.args()).expect_message("Removing what is left");
    house.assert_nothing_left(&house.new);
}

#[test]
fn of_two_restores_at_once_the_second_is_refused() {
    let house = House::new();
    let gate = house.gate(2, Side::Before);
    let program = house.behind(&gate);
    let mut first = program.spawn(&house.args());
    assert!(gate.reached(&mut first));
    for args in [house.args(), vec!["restore", &house.name, "--yes", "--only", "redis"], vec!["restore", "--resume", "--yes"]] {
        house.backstay.run(&args).expect_code(11).expect_message("under way");
    }
    gate.open();
    Outcome::of(first).expect_code(0);
    house.assert_nothing_left(&house.new);
}

#[test]
fn a_restore_that_is_cancelled_before_its_first_switch_leaves_nothing() {
    let house = House::new();
    let old = house.site.state();
    let gate = house.gate(2, Side::After);
    let program = house.behind(&gate);
    let mut child = program.spawn(&house.args());
    assert!(gate.reached(&mut child));
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a number")).expect("a process");
    kill_process(pid, Signal::INT).expect("SIGINT");
    gate.open();
    Outcome::of(child).expect_code(130);
    house.assert_nothing_left(&old);
}

#[test]
fn a_target_that_may_only_be_read_is_no_hindrance() {
    let house = House::new();
    let gate = house.gate(1, Side::Refused);
    house.behind(&gate).succeed(&house.args()).expect_message("only this host finds it");
    house.assert_nothing_left(&house.new);
}

/// What a restore replaces is stored first, as a backup that is neither the latest nor counted by retention.
#[test]
fn what_is_replaced_is_backed_up_first() {
    let store = Scratch::new();
    let site = Site::filled(Major::V15, Version::V7_0);
    let backstay = program(&site, &format!("{}[jobs.default]\nkeep_last = 1\n", toml::file_target("local", &store.join("backups"))));
    let name = backstay.backup();
    let new = site.state();
    site.change();
    let old = site.state();
    backstay.succeed(&["restore", &name, "--yes"]).expect_message("was backed up as");
    site.assert_is(&new);
    let list = backstay.succeed(&["listbackups", "--json"]).json();
    let list = list.as_array().expect("an array");
    assert_eq!(list.len(), 2, "{list:?}");
    assert_eq!((list[0]["name"].as_str(), list[1]["replaced_by"].as_str()), (Some(name.as_str()), Some(name.as_str())));
    let safety = list[1]["name"].as_str().expect("a name").to_owned();
    let table = backstay.succeed(&["listbackups"]).stdout;
    let marked: Vec<&str> = table.lines().filter(|line| line.contains("complete, safety")).collect();
    assert!(matches!(marked[..], [line] if line.contains(&safety)), "{table}");
    // it is whole
    backstay.succeed(&["restore", &safety, "--yes", "--no-safety-backup"]);
    site.assert_is(&old);
    // and in nobody's way
    for args in [&["restore", "latest", "--dry-run"][..], &["restore", "latest", "--only", "media", "--dry-run"]] {
        assert!(backstay.succeed(args).stdout.contains(&name), "the latest is another");
    }
    // what was lost need not be backed up
    site.destroy();
    let said = backstay.succeed(&["restore", &name, "--yes"]).stderr;
    assert!(!said.contains("was backed up as"), "{said}");
    site.assert_is(&new);
}

#[test]
fn without_a_safety_backup_nothing_is_touched() {
    let store = Scratch::new();
    let site = Site::filled(Major::V15, Version::V7_0);
    let config = |jobs: &str| format!("{}{}{jobs}", site.components(), toml::file_target("local", &store.join("backups")));
    let backstay = Backstay::new(&config(""));
    let name = backstay.backup();
    site.change();
    let old = site.state();
    backstay.configure(&config("[jobs.default]\ncomponents = [\"media\"]\n"));
    backstay.run(&["restore", &name, "--yes"]).expect_code(2).expect_message("--no-safety-backup");
    // the source fails: what is there cannot be read whole
    backstay.configure(&config("").replace("databases = [\"app\"]", "databases = [\"app\", \"missing\"]"));
    backstay.run(&["restore", &name, "--yes"]).expect_code(3).expect_message("--no-safety-backup");
    site.assert_is(&old);
}
