//! Restore drills: what passes, what is found, and that nothing is left of them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backstay::manifest::{Manifest, sha256_hex};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::site::{Site, program};
use crate::support::{Backstay, Major, Postgres, Scratch, Version, toml, tools};

/// A site with one backup in a directory, and a program whose drills happen in a directory of the test.
struct Drilled {
    site: Site,
    store: Scratch,
    room: Scratch,
    backstay: Backstay,
    name: String,
}

impl Drilled {
    fn new(major: Major, version: Version) -> Self {
        let (site, store, room) = (Site::filled(major, version), Scratch::new(), Scratch::new());
        // a server of a drill runs as another user, who has to get there
        std::fs::set_permissions(room.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let backstay = program(&site, &toml::file_target("local", &store.join("backups"))).env("TMPDIR", room.path());
        let name = backstay.backup();
        Self { site, store, room, backstay, name }
    }

    fn listed(&self) -> serde_json::Value {
        self.backstay.succeed(&["listbackups", "--json"]).json()[0].clone()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        self.site.assert_no_helpers();
        let left: Vec<PathBuf> = std::fs::read_dir(self.room.path()).expect("read").map(|e| e.expect("an entry").path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        assert_eq!(processes_at(self.room.path()), Vec::<String>::new());
    }
}

/// Command lines of the processes that name `place`.
fn processes_at(place: &Path) -> Vec<String> {
    let place = place.display().to_string();
    let pids = std::fs::read_dir("/proc").expect("proc").filter_map(|e| e.ok()?.file_name().into_string().ok());
    let lines = pids.filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&place)).collect()
}

#[test]
fn a_drill_restores_everything_elsewhere_and_leaves_nothing_but_its_verdict() {
    let drilled = Drilled::new(Major::V15, Version::V7_0);
    let before = drilled.site.state();
    let answer = drilled.backstay.succeed(&["verify", &drilled.name, "--drill", "--json"]).json();
    assert_eq!((&answer["status"], &answer["not_drilled"]), (&json!("passed"), &json!([])), "{answer}");
    drilled.site.assert_is(&before);
    drilled.assert_nothing_left();
    let listed = drilled.listed();
    assert!(listed["drilled"].is_string() && listed["drilled"] == listed["verified"], "{listed}");
    assert!(listed["drill_seconds"].as_u64().is_some_and(|seconds| seconds > 0), "{listed}");
    assert_eq!(listed["status"], "complete");
}

#[test]
fn without_programs_of_a_server_a_drill_loads_beside_the_databases_in_service_and_says_what_it_could_not_try() {
    let drilled = Drilled::new(Major::V16, Version::V7_0);
    let before = drilled.site.state();
    // clients, and no server of either kind
    let clients = Scratch::new();
    for client in ["pg_restore", "psql"] {
        std::os::unix::fs::symlink(Major::V16.bin_dir().join(client), clients.join(client)).expect("linked");
    }
    let backstay = Backstay::new(&config(&drilled)).env("TMPDIR", drilled.room.path()).env("PATH", clients.path());
    let answer = backstay.succeed(&["verify", &drilled.name, "--drill", "--json"]).json();
    assert_eq!(answer["status"], "incomplete", "{answer}");
    let not_drilled = answer["not_drilled"].to_string();
    assert!(not_drilled.contains("no server loaded the RDB") && not_drilled.contains("neither redis-server nor valkey-server"), "{answer}");
    let part =
        |name: &str| answer["components"].as_array().expect("components").iter().find(|c| c["name"] == name).expect("it is there").clone();
    assert!(part("postgres")["warnings"].to_string().contains("beside the databases in service"), "{answer}");
    assert_eq!((&part("postgres")["status"], &part("redis")["status"]), (&json!("passed"), &json!("incomplete")));
    drilled.site.assert_is(&before);
    drilled.assert_nothing_left();
    let listed = drilled.listed();
    assert!(listed["verified"].is_string() && listed["drilled"].is_null(), "{listed}");

    // a role that is missing in service is not created by a drill
    drilled.site.postgres.psql("DROP DATABASE app WITH (FORCE)");
    drilled.site.postgres.psql("DROP ROLE app_owner");
    let answer = backstay.succeed(&["verify", &drilled.name, "--drill", "--only", "postgres", "--json"]).json();
    assert!(answer["components"][0]["warnings"].to_string().contains("app_owner"), "{answer}");
    assert_eq!(drilled.site.postgres.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'app_owner'").trim(), "0");
    assert!(!drilled.site.postgres.databases().iter().any(|name| name.contains("app")), "{:?}", drilled.site.postgres.databases());
}

fn config(drilled: &Drilled) -> String {
    format!("{}{}", drilled.site.components(), toml::file_target("local", &drilled.store.join("backups")))
}

#[test]
fn a_damaged_backup_fails_its_drill_is_marked_and_is_mended_by_one_that_passes() {
    let drilled = Drilled::new(Major::V15, Version::V7_0);
    let backup = drilled.store.join("backups").join(&drilled.name);
    for (artifact, component) in [("postgres/app.dump.gz", "postgres"), ("redis/dump.rdb.gz", "redis"), ("media/media.tar.gz", "media")] {
        let path = backup.join(artifact);
        let sound = std::fs::read(&path).expect("read");
        let mut flipped = sound.clone();
        flipped[sound.len() / 2] ^= 1;
        std::fs::write(&path, flipped).expect("damaged");
        let outcome = drilled.backstay.run(&["verify", "latest", "--drill", "--json"]).expect_code(12).expect_message(component);
        assert_eq!(outcome.json()["status"], "failed");
        let listed = drilled.listed();
        assert_eq!((&listed["status"], &listed["damaged_targets"]), (&json!("damaged"), &json!(["local"])), "{listed}");
        assert!(listed["drill_failed"].is_string() && listed["drilled"].is_null(), "{listed}");
        std::fs::write(&path, sound).expect("healed");
        // bytes that are as they were written do not say that it can be restored
        drilled.backstay.succeed(&["verify", "latest"]);
        assert_eq!(drilled.listed()["status"], "drill-failed");
        drilled.assert_nothing_left();
    }
    drilled.backstay.succeed(&["verify", "latest", "--drill"]);
    let listed = drilled.listed();
    assert!(listed["status"] == "complete" && listed["drilled"].is_string() && listed["drill_failed"].is_null(), "{listed}");
}

/// A backup whose bytes are all as they were written, and which does not hold what its fingerprint says.
#[test]
fn what_is_not_what_was_backed_up_fails_its_drill_and_its_restore() {
    let drilled = Drilled::new(Major::V15, Version::V7_0);
    drilled.site.change();
    let before = drilled.site.state();
    let backup = drilled.store.join("backups").join(&drilled.name);
    let sound = std::fs::read(backup.join("manifest.json")).expect("read");
    let write = |manifest: &[u8]| {
        let sums = std::fs::read_to_string(backup.join("SHA256SUMS")).expect("read");
        let others = sums.lines().filter(|line| !line.ends_with("  manifest.json")).map(|line| format!("{line}\n"));
        let sums: String = others.chain([format!("{}  manifest.json\n", sha256_hex(manifest))]).collect();
        std::fs::write(backup.join("SHA256SUMS"), sums).expect("written");
        std::fs::write(backup.join("manifest.json"), manifest).expect("written");
    };
    for (component, fact) in [("postgres", "/databases/app/large_objects/count"), ("redis", "/keys/0"), ("media", "/files")] {
        let mut manifest = Manifest::from_bytes(&sound).expect("a manifest");
        let of = manifest.components.iter_mut().find(|c| c.name.as_str() == component).expect("it holds it");
        let count = of.fingerprint.as_mut().expect("it has one").pointer_mut(fact).expect("a count");
        *count = json!(count.as_u64().expect("a number") + 1);
        write(&manifest.to_bytes());
        let drill = ["verify", &drilled.name, "--drill", "--json"];
        let outcome = drilled.backstay.run(&drill).expect_code(12).expect_message(component);
        assert_eq!(outcome.json()["status"], "failed");
        assert_eq!(drilled.listed()["status"], "drill-failed", "{outcome:?}");
        drilled.assert_nothing_left();
        let restore = ["restore", &drilled.name, "--yes", "--no-safety-backup"];
        drilled.backstay.run(&restore).expect_code(12).expect_message("differs from what was backed up");
        drilled.site.assert_is(&before);
    }
    write(&sound);
    drilled.backstay.succeed(&["verify", &drilled.name, "--drill"]);
    assert_eq!(drilled.listed()["status"], "complete");
}

#[test]
fn a_cancelled_drill_leaves_nothing_and_no_verdict() {
    let drilled = Drilled::new(Major::V15, Version::V7_0);
    let before = drilled.site.state();
    for moment in [
        "drill begins component=postgres",
        "a server of our own is up",
        "loading a database",
        "drill begins component=media",
        "drill begins component=redis",
    ] {
        let mut child = drilled.backstay.spawn(&["verify", &drilled.name, "--drill"]);
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let seen = lines.find(|line| line.contains(moment));
        assert!(seen.is_some(), "`{moment}` was not said");
        kill_process(Pid::from_child(&child), Signal::INT).expect("interrupted");
        let rest: Vec<String> = lines.collect();
        assert_eq!(child.wait().expect("an end").code(), Some(130), "{moment}: {rest:#?}");
        drilled.assert_nothing_left();
    }
    drilled.site.assert_is(&before);
    assert!(drilled.listed()["verified"].is_null());
}

#[test]
fn a_killed_drill_takes_its_servers_along() {
    let drilled = Drilled::new(Major::V15, Version::V7_0);
    let mut child = drilled.backstay.spawn(&["verify", &drilled.name, "--drill"]);
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("loading a database")));
    child.kill().expect("killed");
    child.wait().expect("an end");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !processes_at(drilled.room.path()).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", processes_at(drilled.room.path()));
    }
}

#[test]
fn what_passed_a_drill_outlives_the_policy() {
    let (source, store) = (Scratch::new(), Scratch::new());
    source.write("media/a", "content");
    let config = [toml::directory("media", &source.join("media")), toml::file_target("local", &store.join("backups"))].concat();
    let backstay = Backstay::new(&format!("{config}[jobs.default]\nkeep_last = 1\n"));
    let proven = backstay.backup();
    backstay.succeed(&["verify", "latest", "--drill"]);
    let untried = backstay.backup();
    let newest = backstay.backup();
    let names = || -> Vec<String> {
        let list = backstay.succeed(&["listbackups", "--json"]).json();
        list.as_array().expect("a list").iter().map(|b| b["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(), [&*proven, &*newest], "{untried} goes");
    let plan = backstay.succeed(&["prune", "--dry-run", "--json"]).json();
    assert!(plan.to_string().contains("newest that passed a drill"), "{plan}");
    backstay.succeed(&["verify", "latest", "--drill"]);
    backstay.succeed(&["prune"]);
    assert_eq!(names(), [newest], "a newer one passed");
}

#[test]
fn without_room_a_drill_is_refused_and_judges_nothing() {
    let (source, store) = (Scratch::new(), Scratch::new());
    source.write("media/a", "content");
    let config = [toml::directory("media", &source.join("media")), toml::file_target("local", &store.join("backups"))].concat();
    let backstay = Backstay::new(&config).env("TMPDIR", "/nowhere/at/all");
    backstay.backup();
    backstay.run(&["verify", "latest", "--drill"]).expect_code(3).expect_message("/nowhere/at/all");
    let listed = backstay.succeed(&["listbackups", "--json"]).json();
    assert!(listed[0]["verified"].is_null() && listed[0]["status"] == "complete", "{listed}");
    backstay.run(&["verify", "latest", "--drill", "--only", "redis"]).expect_code(10);
}

#[test]
fn a_server_of_a_drill_makes_no_tablespace_outside_of_itself() {
    let (server, place, store) = (Postgres::start(Major::V16), Scratch::unprivileged(), Scratch::new());
    server.psql(&format!("CREATE TABLESPACE fast LOCATION '{}'", place.path().display()));
    server.psql("CREATE DATABASE app TABLESPACE fast");
    server.psql_in("app", "CREATE TABLE t AS SELECT generate_series(1, 100) AS n");
    let config = [toml::postgres("postgres", &server, &["app"]), toml::file_target("local", &store.join("backups"))].concat();
    // a newer server would put its own directory beside that of the server in service
    let backstay = Backstay::new(&config).env("PATH", tools::path_with(&[Major::V17, Major::V16]));
    backstay.backup();
    let backstay = Backstay::new(&config).env("PATH", tools::path_with(&[Major::V17]));
    let entries = || std::fs::read_dir(place.path()).expect("read").map(|e| e.expect("an entry").file_name()).collect::<Vec<_>>();
    let before = entries();
    let answer = backstay.succeed(&["verify", "latest", "--drill", "--json"]).json();
    assert_eq!(entries(), before);
    let part = &answer["components"][0];
    assert!(part["done"].to_string().contains("PostgreSQL 17"), "{answer}");
    assert!(part["status"] == "passed" && part["warnings"].to_string().contains("fast"), "{answer}");
}
