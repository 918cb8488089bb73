//! File systems without room: at every page and every inode of a run, and on the way back. These tests mount, so they need root.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::support::scratch::Unprivileged;
use crate::support::{
    Backstay, Fingerprint, Keyspace, Major, Mount, Outcome, Postgres, Redis, Row, Scratch, Tree, Version, assert_same_database,
    assert_same_keys, assert_same_tree, toml,
};

/// Bytes of a page, which is what a tmpfs gives.
const PAGE: u64 = 4096;
const FILLER: &str = "somebody-else";

/// Its components are stored side by side, and a journal with them: which of them finds no room, is chance.
const ALL: &str = "default";
/// One stream, and so no journal: everything is written one after the other, and each finds no room once.
const ONE: &str = "one";

/// Takes all room of the file system but so many pages.
fn leave_pages(mount: &Path, pages: u64) {
    let filler = mount.join(FILLER);
    let _ = std::fs::remove_file(&filler);
    let file = File::create(&filler).expect("room for a name");
    let stat = statvfs(mount).expect("statvfs");
    let take = (stat.f_bavail * stat.f_frsize).checked_sub(pages * PAGE).expect("so many are free");
    if take > 0 {
        fallocate(&file, FallocateFlags::empty(), 0, take).expect("the rest");
    }
    assert_eq!(statvfs(mount).expect("statvfs").f_bavail * stat.f_frsize, pages * PAGE);
}

/// Takes all inodes but so many.
fn leave_inodes(mount: &Path, inodes: u64) {
    let filler = mount.join(FILLER);
    std::fs::create_dir_all(&filler).expect("an inode");
    for at in 0u64.. {
        if statvfs(mount).expect("statvfs").f_favail <= inodes {
            break;
        }
        File::create(filler.join(at.to_string())).expect("an inode");
    }
    assert_eq!(statvfs(mount).expect("statvfs").f_favail, inodes);
}

fn make_room(mount: &Path) {
    let filler = mount.join(FILLER);
    if filler.is_dir() {
        std::fs::remove_dir_all(filler).expect("removed");
    } else if filler.exists() {
        std::fs::remove_file(filler).expect("removed");
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Everything below a directory, files and directories, without what the test put there.
fn all_below(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut rest = vec![root.to_owned()];
    while let Some(directory) = rest.pop() {
        for entry in std::fs::read_dir(&directory).expect("listed") {
            let path = entry.expect("an entry").path();
            // the time of a verdict is its name; leases stay as small objects, the newest few of each job
            let text = path.to_string_lossy();
            if path.ends_with(FILLER) || text.ends_with("_sound") || text.contains("/.backstay/leases") {
                continue;
            }
            if path.is_dir() {
                rest.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}

/// Two directories, and a target that is a file system of its own, with one backup in it.
struct House {
    scratch: Scratch,
    target: Mount,
    backstay: Backstay,
    older: String,
    content: Tree,
}

impl House {
    fn new(options: &str, bytes: usize) -> Self {
        let scratch = Scratch::new();
        scratch.write("media/a", noise(1, bytes));
        scratch.write("media/b/c", noise(2, 5000));
        scratch.write("certs/key", noise(3, 9000));
        // each is a line of the manifest, which so takes more than a page
        std::fs::create_dir(scratch.join("odd")).expect("created");
        for n in 0..60 {
            UnixListener::bind(scratch.join(format!("odd/{n:060}"))).expect("a socket");
        }
        let target = Mount::with(scratch.join("target"), options);
        let config = [
            toml::directory("media", &scratch.join("media")),
            toml::directory("certs", &scratch.join("certs")),
            toml::directory("odd", &scratch.join("odd")),
            toml::file_target("local", target.path()),
            format!("[jobs.{ALL}]\ncomponents = [\"media\", \"certs\", \"odd\"]\ncompression = \"none\"\n"),
            format!("[jobs.{ONE}]\ncomponents = [\"odd\"]\ncompression = \"none\"\n"),
        ];
        let backstay = Backstay::new(&config.concat());
        let older = backstay.backup();
        backstay.succeed(&["verify", &older]);
        let content = Tree::of(&scratch.join("media"));
        Self { scratch, target, backstay, older, content }
    }

    fn names(&self) -> Vec<String> {
        let list = self.backstay.succeed(&["listbackups", "--json"]).json();
        list.as_array().expect("an array").iter().map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// A backup that has no room: it fails, says so once, and leaves the target as it was. What it could not write; `None`: it had room.
    fn fails_to_back_up(&self, job: &str, before: &BTreeSet<PathBuf>) -> Option<String> {
        let outcome = self.backstay.run(&["backup", job]);
        if outcome.code == Some(0) {
            return None;
        }
        let outcome = outcome.expect_code(3).expect_message("No space left on device").expect_message("Free space in the target");
        assert_eq!(errors(&outcome).len(), 1, "{}", outcome.stderr);
        assert_eq!(&all_below(self.target.path()), before, "{}", outcome.stderr);
        let committed = before.iter().filter(|path| path.ends_with("manifest.json")).count();
        assert_eq!(self.names().len(), committed, "{}", outcome.stderr);
        let what = outcome.stderr.split_once("in target `local`").expect("it is named").0;
        Some(what.rsplit('`').nth(1).expect("a key").rsplit_once('/').expect("a key").1.to_owned())
    }

    /// Backs up with nothing left, then with one, and so on, until there is enough. What found no room, and how many runs it took.
    fn fails_until_there_is_room(&self, job: &str, leave: impl Fn(&Path, u64)) -> (BTreeSet<String>, usize) {
        let before = all_below(self.target.path());
        let (mut stopped, mut runs) = (BTreeSet::new(), 0);
        for left in 0.. {
            make_room(self.target.path());
            leave(self.target.path(), left);
            runs += 1;
            let Some(what) = self.fails_to_back_up(job, &before) else { break };
            if stopped.insert(what) {
                self.restores_the_older();
            }
        }
        make_room(self.target.path());
        (stopped, runs)
    }

    /// As `fails_until_there_is_room`, first where everything comes one after the other: nothing that is written may be spared.
    fn fails_wherever_there_is_no_room(self, leave: impl Fn(&Path, u64)) -> usize {
        let (stopped, one) = self.fails_until_there_is_room(ONE, &leave);
        let stopped: Vec<&str> = stopped.iter().map(String::as_str).collect();
        let ["00000000000000000001.json", "SHA256SUMS", "manifest.json", "odd.tar"] = stopped[..] else {
            panic!("{stopped:?} found no room");
        };
        let (stopped, all) = self.fails_until_there_is_room(ALL, &leave);
        assert!(stopped.iter().any(|what| what.ends_with(".tar")), "{stopped:?}");
        // the older one, the two that had room, and the one after them
        self.backstay.succeed(&["backup", ALL]);
        assert_eq!(self.names().len(), 4);
        self.backstay.succeed(&["verify", "--all"]);
        one + all
    }

    /// From a target that is full, to where there is room.
    fn restores_the_older(&self) {
        self.backstay.succeed(&["verify", &self.older]);
        let place = self.scratch.join("restored");
        let into = format!("media={}", place.display());
        self.backstay.succeed(&["restore", &self.older, "--only", "media", "--into", &into, "--yes", "--no-safety-backup"]);
        assert_same_tree(&self.content, &Tree::of(&place));
        std::fs::remove_dir_all(place).expect("removed");
    }
}

/// A job of this component, and not of the directories that authentik has.
fn only(component: &str) -> String {
    format!("[jobs.default]\ncomponents = [\"{component}\"]\n")
}

/// The last words of a run.
fn errors(outcome: &Outcome) -> Vec<&str> {
    outcome.stderr.lines().filter(|line| line.starts_with("backstay: ") || line.starts_with("error")).collect()
}

#[test]
fn a_target_without_room_at_any_page_keeps_what_it_has() {
    let runs = House::new("size=4m,mode=755", 40_000).fails_wherever_there_is_no_room(leave_pages);
    Row {
        scenario: "backup into a file target that is full",
        faults: "no room from every page of a run on; restored from while it is full",
        runs,
    }
    .print();
}

#[test]
fn a_target_without_room_for_parts_of_a_large_artifact_keeps_what_it_has() {
    let house = House::new("size=96m,mode=755", 30 << 20);
    let before = all_below(house.target.path());
    let sizes = [1u64, 7, 15, 29];
    for mebibytes in sizes {
        leave_pages(house.target.path(), mebibytes * 256);
        assert_eq!(house.fails_to_back_up(ALL, &before).as_deref(), Some("media.tar"));
        house.restores_the_older();
    }
    make_room(house.target.path());
    house.backstay.backup();
    house.backstay.succeed(&["verify", "--all"]);
    Row {
        scenario: "backup of a large artifact into a file target that is full",
        faults: "no room in one of its parts",
        runs: sizes.len(),
    }
    .print();
}

#[test]
fn a_target_without_inodes_keeps_what_it_has() {
    let runs = House::new("size=4m,mode=755,nr_inodes=200", 40_000).fails_wherever_there_is_no_room(leave_inodes);
    Row { scenario: "backup into a file target without inodes", faults: "none left from every inode of a run on", runs }.print();
}

#[test]
fn a_directory_without_room_for_what_is_restored_stays_as_it_was() {
    let scratch = Scratch::new();
    let disk = Mount::with(scratch.join("disk"), "size=4m,mode=755");
    let media = disk.path().join("media");
    scratch.write("disk/media/a", noise(1, 60_000));
    scratch.write("disk/media/d/b", noise(2, 30_000));
    let config = [toml::directory("media", &media), toml::file_target("local", &scratch.join("target")), only("media")];
    let backstay = Backstay::new(&config.concat());
    let name = backstay.backup();
    let new = Tree::of(&media);
    std::fs::write(media.join("a"), "changed").expect("written");
    let old = Tree::of(&media);
    let mut runs = 0;
    for pages in (0..).step_by(3) {
        leave_pages(disk.path(), pages);
        runs += 1;
        let outcome = backstay.run(&["restore", &name, "--yes", "--no-safety-backup"]);
        if outcome.code == Some(0) {
            break;
        }
        let outcome = outcome.expect_code(1);
        assert!(outcome.stderr.contains("No space left on device") || outcome.stderr.contains("room"), "{}", outcome.stderr);
        assert_same_tree(&old, &Tree::of(&media));
        let left: Vec<_> = std::fs::read_dir(disk.path()).expect("listed").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert_eq!(std::fs::read_dir(scratch.join("target/.backstay/restores")).map_or(0, Iterator::count), 0, "a journal");
    }
    assert!(runs > 5, "{runs}");
    assert_same_tree(&new, &Tree::of(&media));
    Row { scenario: "restore of a directory onto a disk that is full", faults: "no room from every third page on", runs }.print();
}

#[test]
fn a_server_without_room_for_the_new_database_keeps_the_old_one() {
    let scratch = Scratch::new();
    let disk = Mount::with(scratch.join("disk"), "size=80m,mode=755");
    let server = Postgres::start(Major::V15);
    let place = disk.path().join("place");
    std::fs::create_dir(&place).expect("created");
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    if let Some(user) = Unprivileged::get() {
        chown(&place, Some(user.uid), Some(user.gid)).expect("chown");
    }
    // databases only: a server that cannot write its log stops, whoever made it so
    server.psql(&format!("CREATE TABLESPACE small LOCATION '{}'", place.display()));
    server.psql("CREATE DATABASE app TABLESPACE small");
    // little to dump, and much to index
    let indexes: String = (0..6).map(|n| format!("CREATE INDEX ON a ((i + {n}));")).collect();
    server.psql_in(
        "app",
        &format!("CREATE TABLE a (i int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 60000); {indexes} CHECKPOINT"),
    );
    let config = [toml::postgres("postgres", &server, &["app"]), toml::file_target("local", &scratch.join("target")), only("postgres")];
    let backstay = Backstay::new(&config.concat());
    let name = backstay.backup();
    let new = Fingerprint::of(&server, "app");
    server.psql_in("app", "INSERT INTO a VALUES (-1); CHECKPOINT");
    let old = Fingerprint::of(&server, "app");
    let sizes = [1u64, 8, 11];
    for mebibytes in sizes {
        leave_pages(disk.path(), mebibytes * 256);
        let outcome = backstay.run(&["restore", &name, "--yes", "--no-safety-backup"]).expect_code(1);
        let told = ["No space left on device", "Make room"].iter().all(|text| outcome.stderr.contains(text));
        assert!(told, "{mebibytes} MiB: {}", outcome.stderr);
        assert_same_database(&old, &Fingerprint::of(&server, "app"));
        assert_eq!(server.databases(), ["app", "postgres", "template0", "template1"]);
    }
    make_room(disk.path());
    backstay.succeed(&["restore", &name, "--yes", "--no-safety-backup"]);
    assert_same_database(&new, &Fingerprint::of(&server, "app"));
    Row {
        scenario: "restore of PostgreSQL onto a disk that is full",
        faults: "no room for the database, for its rows, for its indexes",
        runs: sizes.len(),
    }
    .print();
}

#[test]
fn a_host_without_room_to_keep_what_redis_had_leaves_it_there() {
    let scratch = Scratch::new();
    let state = Mount::with(scratch.join("state"), "size=4m,mode=755");
    let server = Redis::start(Version::V7_0, &[]);
    for n in 0..40 {
        // what cannot be compressed
        let value: String = (0..20u8).map(|m| blake3::hash(&[n, m]).to_hex().to_string()).collect();
        server.cli(&["SET", &format!("key {n}"), &value]);
    }
    let config = [toml::redis("redis", &server), toml::file_target("local", &scratch.join("target")), only("redis")];
    let backstay = Backstay::new(&config.concat()).env("STATE_DIRECTORY", state.path());
    let name = backstay.backup();
    let new = Keyspace::of(&server);
    server.cli(&["SET", "newer", "x"]);
    let old = Keyspace::of(&server);
    let mut runs = 0;
    for pages in 0.. {
        leave_pages(state.path(), pages);
        runs += 1;
        let outcome = backstay.run(&["restore", &name, "--yes", "--no-safety-backup"]);
        if outcome.code == Some(0) {
            break;
        }
        outcome.expect_code(1).expect_message("No space left on device");
        assert_same_keys(&old, &Keyspace::of(&server));
        assert_eq!(all_below(state.path()), BTreeSet::new());
    }
    assert!(runs > 3, "{runs}");
    assert_same_keys(&new, &Keyspace::of(&server));
    Row {
        scenario: "restore of Redis without room for what it replaces",
        faults: "no room from every page on in the state directory",
        runs,
    }
    .print();
}
