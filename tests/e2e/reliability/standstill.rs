//! Restores whose own side stands still: a server that answers nothing, a lock that nobody gives back, a directory on a file system that
//! hangs. Each ends, says why, leaves the old state in service, and what it could not remove is removed later.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Backstay, Fuse, Major, Outcome, Postgres, Redis, Row, Scratch, Tree, Version, assert_same_tree, toml};

/// What is not cut would take for ever.
const PATIENCE: Duration = Duration::from_secs(60);

fn job(component: &str) -> String {
    format!("[jobs.default]\ncomponents = [\"{component}\"]\ncompression = \"none\"\nstall_timeout = \"3s\"\n")
}

/// Waits until `ready`, for as long as the program runs.
#[track_caller]
fn until(mut child: Child, mut ready: impl FnMut() -> bool) -> Child {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        if child.try_wait().expect("look at it").is_some() {
            panic!("it has ended: {:?}", Outcome::of(child));
        }
        assert!(Instant::now() < deadline, "it does not come to pass");
        std::thread::yield_now();
    }
    child
}

/// Its end, and what it said, after `then` was done when it had said `text`.
#[track_caller]
fn end_after(mut child: Child, text: &str, then: impl FnOnce()) -> Outcome {
    let mut log = BufReader::new(child.stderr.take().expect("stderr is piped"));
    let mut seen = String::new();
    while !seen.contains(text) {
        assert!(log.read_line(&mut seen).expect("a log in UTF-8") > 0, "it ended without `{text}`:\n{seen}");
    }
    then();
    log.read_to_string(&mut seen).expect("the rest of the log");
    let outcome = Outcome::of(child);
    Outcome { stderr: seen, ..outcome }
}

fn restore(name: &str) -> [&str; 4] {
    ["restore", name, "--yes", "--no-safety-backup"]
}

#[track_caller]
fn assert_nothing_left(backstay: &Backstay) {
    backstay.run(&["restore", "--rollback", "--yes"]).expect_code(10).expect_message("no unfinished restore");
}

/// A table with an index that takes seven seconds to build, in which not a byte moves, and a policy, which is made after it.
const SLOW: &str = "CREATE TABLE t (i int, state text); INSERT INTO t SELECT i, 'stored' FROM generate_series(1, 1000) i; \
     CREATE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN i; END'; CREATE INDEX long ON t (slow(i)); \
     CREATE OR REPLACE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.007); RETURN i; END'; \
     CREATE ROLE reader; CREATE POLICY few ON t TO reader USING (i > 0); SET client_min_messages = error";

#[test]
fn a_server_that_hangs_or_is_locked_ends_a_restore_and_a_long_index_does_not() {
    let (server, target) = (Postgres::start(Major::V15), Scratch::new());
    server.create_database("app");
    server.psql_in("app", SLOW);
    let text = [job("postgres"), toml::postgres("postgres", &server, &["app"]), toml::file_target("local", target.path())];
    let backstay = Backstay::new(&text.concat());
    let name = backstay.backup();
    let state = || server.psql_in("app", "SELECT DISTINCT state FROM t");
    let helpers = || server.psql("SELECT count(*) FROM pg_database WHERE datname LIKE '%backstay%'");
    // what the index is made of sleeps
    let indexing =
        || server.psql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname LIKE 'app_backstay%'") != "0";
    server.psql_in("app", "DROP INDEX long; UPDATE t SET state = 'in service'");

    let child = until(backstay.spawn(&restore(&name)), indexing);
    let frozen = server.freeze();
    let outcome = Outcome::of(child).expect_code(1).expect_message("did not answer for 3s");
    outcome.expect_message("restore --rollback");
    drop(frozen);
    assert_eq!(state(), "in service");
    backstay.succeed(&["restore", "--rollback", "--yes"]);
    assert_eq!((state().as_str(), helpers().as_str()), ("in service", "0"));
    assert_nothing_left(&backstay);

    let child = until(backstay.spawn(&restore(&name)), indexing);
    let mut locker = server.client("psql", "postgres");
    let script = "BEGIN; LOCK TABLE pg_shdepend IN EXCLUSIVE MODE; SELECT pg_sleep(300)";
    locker.env("PGAPPNAME", "migration").args(["--no-psqlrc", "--quiet", "--command", script]);
    let mut locker = locker.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start psql");
    let outcome = end_after(child, "waited for a lock for 3s, held by process", || {
        server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'migration'");
    });
    locker.wait().expect("its end");
    outcome.expect_code(1).expect_message("(application `migration`)");
    assert_eq!((state().as_str(), helpers().as_str()), ("in service", "0"));
    assert_nothing_left(&backstay);

    // more than twice the limit, without a byte
    backstay.succeed(&restore(&name));
    assert_eq!((state().as_str(), helpers().as_str()), ("stored", "0"));
    Row {
        scenario: "a restore whose PostgreSQL stands still",
        faults: "the whole server stopped (SIGSTOP) in the midst of an index; a lock that nobody gives back; an index that takes long",
        runs: 3,
    }
    .print();
}

#[test]
fn a_redis_that_takes_nothing_keeps_what_it_has() {
    let (server, target) = (Redis::start(Version::V7_0, &[]), Scratch::new());
    let mut noise = vec![0; 1 << 20];
    let mut connection = server.connect();
    for n in 0u8..48 {
        blake3::Hasher::new_keyed(&[n; 32]).finalize_xof().fill(&mut noise);
        redis::cmd("SET").arg(n).arg(&noise[..]).exec(&mut connection).expect("set");
    }
    let target = [toml::file_target("local", target.path()), "limit = \"8MiB/s\"\n".to_owned()].concat();
    let backstay = Backstay::new(&[job("redis"), toml::redis("redis", &server), target].concat());
    let name = backstay.backup();
    server.cli(&["FLUSHALL"]);
    server.cli(&["SET", "state", "in service"]);

    let sent = || {
        let info = server.cli(&["INFO", "replication"]);
        let read = info.lines().find_map(|line| line.trim().strip_prefix("master_sync_read_bytes:"));
        read.and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > 8 << 20)
    };
    let child = until(backstay.spawn(&restore(&name)), sent);
    server.signal(Signal::STOP);
    let outcome = end_after(child, "it took nothing for 3s", || server.signal(Signal::CONT));
    outcome.expect_code(1);
    assert_eq!((server.cli(&["GET", "state"]).as_str(), server.cli(&["DBSIZE"]).as_str()), ("in service", "1"));
    assert!(server.cli(&["INFO", "replication"]).contains("role:master"));
    assert_nothing_left(&backstay);
    backstay.succeed(&restore(&name));
    assert_eq!(server.cli(&["DBSIZE"]), "48");
    Row { scenario: "a restore whose Redis stands still", faults: "SIGSTOP while it is sent the data", runs: 1 }.print();
}

#[test]
fn a_directory_that_hangs_while_it_is_restored_stays_as_it_was() {
    let (scratch, target) = (Scratch::new(), Scratch::new());
    let behind = scratch.join("behind");
    let mount = Fuse::new(&behind, scratch.join("mount"));
    let mut noise = vec![0; 1 << 20];
    for n in 0u8..32 {
        blake3::Hasher::new_keyed(&[n; 32]).finalize_xof().fill(&mut noise);
        scratch.write(format!("behind/media/{n}"), &noise);
    }
    let target = [toml::file_target("local", target.path()), "limit = \"8MiB/s\"\n".to_owned()].concat();
    let backstay = Backstay::new(&[job("media"), toml::directory("media", &mount.path().join("media")), target].concat());
    let name = backstay.backup();
    scratch.write("behind/media/later", "in service");
    std::fs::remove_file(behind.join("media/7")).expect("removed");
    let in_service = Tree::of(&behind.join("media"));
    let staged = || {
        let beside = std::fs::read_dir(&behind).expect("read").flatten().find(|entry| entry.file_name() != "media")?;
        Some(std::fs::read_dir(beside.path()).map_or(0, Iterator::count))
    };

    let child = until(backstay.spawn(&restore(&name)), || staged().is_some_and(|files| files > 4));
    mount.freeze();
    let outcome = mount.end(child).expect_code(1).expect_message("did not answer for 3s");
    outcome.expect_message("restore --rollback");
    assert_same_tree(&in_service, &Tree::of(&behind.join("media")));
    backstay.succeed(&["restore", "--rollback", "--yes"]);
    assert_eq!(staged(), None);
    assert_same_tree(&in_service, &Tree::of(&behind.join("media")));
    assert_nothing_left(&backstay);
    let out = scratch.join("out");
    let into = format!("media={}", out.display());
    backstay.succeed(&[&restore(&name)[..], &["--into", &into]].concat());
    assert_eq!(std::fs::read_dir(&out).expect("restored").count(), 32);
    Row {
        scenario: "a restore of a directory whose file system hangs (FUSE)",
        faults: "no answer, for ever, while it is unpacked",
        runs: 1,
    }
    .print();
}
