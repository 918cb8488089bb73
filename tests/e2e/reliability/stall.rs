//! What stops moving is cut, with its name: sources, targets, a run as a whole, a dump that waits for a lock.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use object_store::ObjectStore;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Backstay, Gate, Major, Outcome, Postgres, Redis, Row, Scratch, Seaweed, Side, Version, toml};

const PATIENCE: Duration = Duration::from_secs(60);

fn job(keys: &str) -> String {
    format!("[jobs.default]\ncompression = \"none\"\n{keys}\n")
}

/// A directory whose content no compression makes smaller.
fn directory(mib: usize) -> (Scratch, String) {
    let scratch = Scratch::new();
    let mut noise = vec![0; mib << 20];
    blake3::Hasher::new_keyed(&[7; 32]).finalize_xof().fill(&mut noise);
    scratch.write("media/file", noise);
    let text = toml::directory("media", &scratch.join("media"));
    (scratch, text)
}

fn signal(pid: &str, signal: Signal) {
    let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("a process");
    kill_process(pid, signal).expect("send a signal");
}

/// Waits until `ready` has an answer.
#[track_caller]
fn until<T>(child: &mut Child, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ready() {
            return answer;
        }
        assert!(child.try_wait().expect("look at it").is_none(), "it has ended");
        assert!(Instant::now() < deadline, "it does not come to pass");
        std::thread::yield_now();
    }
}

#[test]
fn a_source_that_stands_still_is_cut_with_its_name() {
    let (_media, media) = directory(1);
    let keys = "components = [\"media\", \"source\"]\nstall_timeout = \"3s\"";
    let target = Scratch::new();
    let target = toml::file_target("local", target.path());

    let redis = Redis::start(Version::V7_0, &[]);
    redis.signal(Signal::STOP);
    let backstay = Backstay::new(&[job(keys), media.clone(), toml::redis("source", &redis), target.clone()].concat());
    let outcome = backstay.run(&["backup", "--json"]).expect_code(3);
    let component = |outcome: &Outcome| {
        let answer = outcome.json();
        let found = answer["components"].as_array().expect("components").iter().find(|c| c["name"] == "source").cloned();
        found.expect("the component")
    };
    assert!(outcome.stderr.contains("the source did not answer within 3s"), "{outcome:?}");
    assert_eq!(component(&outcome)["status"], "failed");
    redis.signal(Signal::CONT);

    // the backend of a dump, in the middle of its rows
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in("app", "CREATE TABLE t AS SELECT sha512(i::text::bytea) AS noise FROM generate_series(1, 1500000) i");
    let backstay = Backstay::new(&[job(keys), media, toml::postgres("source", &server, &["app"]), target].concat());
    let mut child = backstay.spawn(&["backup", "--json"]);
    let copies = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_dump' AND query LIKE 'COPY%'";
    let pid = until(&mut child, || Some(server.psql(copies)).filter(|pid| !pid.is_empty()));
    signal(&pid, Signal::STOP);
    let outcome = Outcome::of(child).expect_code(3);
    assert!(outcome.stderr.contains("source/app.dump") && outcome.stderr.contains("sent nothing for 3s"), "{outcome:?}");
    assert_eq!(component(&outcome)["status"], "failed");
    signal(&pid, Signal::CONT);
    Row { scenario: "a source stands still (SIGSTOP)", faults: "Redis before it answers; PostgreSQL in the middle of a COPY", runs: 2 }
        .print();
}

#[tokio::test]
async fn a_target_that_stands_still_is_cut_with_its_name() {
    let ((_media, media), server) = (directory(24), Seaweed::start());
    let gate = Gate::new(server.port(), "partNumber=2&", 1, Side::Before);
    let target = toml::s3_target_by("offsite", &gate.endpoint(), &server, Seaweed::BUCKET);
    let backstay = Backstay::new(&[job("stall_timeout = \"3s\""), media, target, "part_size = \"5MiB\"\n".to_owned()].concat());
    let mut child = backstay.spawn(&["backup"]);
    assert!(gate.reached(&mut child), "it ended before");
    let outcome = Outcome::of(child).expect_code(3).expect_message("target `offsite` did not take a part of");
    outcome.expect_message("within 3s");
    let keys: Vec<String> =
        server.bucket(Seaweed::BUCKET).list(None).map_ok(|o| o.location.to_string()).try_collect().await.expect("listed");
    let left: Vec<_> = keys.into_iter().filter(|key| !key.starts_with(".backstay/leases/")).collect();
    assert!(left.is_empty() && server.unfinished_uploads(Seaweed::BUCKET).is_empty(), "{left:?}");
    Row { scenario: "a bucket stands still", faults: "in the middle of an upload", runs: 1 }.print();
}

#[test]
fn a_run_past_its_timeout_keeps_what_is_whole_and_says_what_was_cut() {
    let (_media, media) = directory(1);
    let (redis, target) = (Redis::start(Version::V7_0, &[]), Scratch::new());
    redis.signal(Signal::STOP);
    let text = [job("timeout = \"4s\""), media, toml::redis("cache", &redis), toml::file_target("local", target.path())].concat();
    let backstay = Backstay::new(&text);
    let outcome = backstay.run(&["backup", "--json"]).expect_code(3).expect_message("exceeds its timeout");
    let answer = outcome.json();
    assert_eq!(answer["status"], "partial", "{answer}");
    assert!(outcome.stderr.contains("cache") && outcome.stderr.contains("`timeout` of 4s"), "{outcome:?}");
    redis.signal(Signal::CONT);
    backstay.succeed(&["verify", answer["name"].as_str().expect("a name")]);
    Row { scenario: "a run exceeds its timeout", faults: "one of its sources stands still", runs: 1 }.print();
}

/// A session that runs `script`, under a name of its own.
fn session(server: &Postgres, script: &str) -> Child {
    let mut psql = server.client("psql", "app");
    psql.env("PGAPPNAME", "migration").args(["--no-psqlrc", "--quiet", "--command", script]);
    psql.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start psql")
}

#[test]
fn a_dump_behind_a_lock_gives_up_tries_again_and_names_who_is_in_the_way() {
    let (server, target) = (Postgres::start(Major::V15), Scratch::new());
    server.create_database("app");
    server.psql_in("app", "CREATE TABLE t AS SELECT 1 AS i");
    let component = toml::postgres("postgres", &server, &["app"]);
    // two seconds for each lock
    let text = [job("stall_timeout = \"48s\""), component, toml::file_target("local", target.path())].concat();
    let backstay = Backstay::new(&text);
    let locks = |granted: bool| {
        let query =
            format!("SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted = {granted} AND locktype = 'relation'");
        server.psql(&query) != "0"
    };
    let end = |mut child: Child| {
        server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'migration'");
        child.wait().expect("its end");
    };

    let mut holder = session(&server, "BEGIN; LOCK TABLE t; SELECT 'a secret', pg_sleep(300)");
    until(&mut holder, || locks(true).then_some(()));
    let outcome = backstay.run(&["backup"]).expect_code(3).expect_message("t is locked by process");
    let outcome = outcome.expect_message("application `migration`, its query began at").expect_message("once more");
    assert!(!outcome.stderr.contains("a secret") && !outcome.stderr.contains("pg_sleep"), "{}", outcome.stderr);
    end(holder);

    // one that reads for long, one that waits for it, and the dump behind both
    let mut reader = session(&server, "BEGIN; SELECT count(*) FROM t; SELECT pg_sleep(300)");
    until(&mut reader, || {
        (server.psql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'BEGIN; SELECT count%' AND wait_event = 'PgSleep'") == "1")
            .then_some(())
    });
    let pid = server.psql("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    let mut waiting = session(&server, "ALTER TABLE t ADD j int");
    until(&mut waiting, || locks(false).then_some(()));
    let outcome = backstay.run(&["backup"]).expect_code(3).expect_message("t is waited for by process");
    outcome.expect_message(&format!("held up by process {pid}"));
    end(reader);
    waiting.wait().expect("its end");

    let mut holder = session(&server, "BEGIN; LOCK TABLE t; SELECT pg_sleep(300)");
    until(&mut holder, || locks(true).then_some(()));
    let mut child = backstay.spawn(&["backup"]);
    let mut log = BufReader::new(child.stderr.take().expect("stderr is piped"));
    let mut seen = String::new();
    while !seen.contains("once more") {
        assert!(log.read_line(&mut seen).expect("a log in UTF-8") > 0, "{seen}");
    }
    end(holder);
    log.read_to_string(&mut seen).expect("the rest of the log");
    assert_eq!(child.wait().expect("its end").code(), Some(0), "{seen}");
    Row {
        scenario: "a dump waits for a table that is locked",
        faults: "for good; by one that waits itself; for a while, after which it succeeds",
        runs: 3,
    }
    .print();
}

/// While a target that does not answer is asked for the lease, for minutes, a run can be stopped.
#[test]
fn a_run_that_waits_for_the_answer_of_a_target_is_stopped_at_once() {
    let (_media, media) = directory(1);
    let server = Seaweed::start();
    let gate = Gate::new(server.port(), ".backstay/leases/", 1, Side::Before);
    let target = toml::s3_target_by("s3", &gate.endpoint(), &server, Seaweed::BUCKET);
    let backstay = Backstay::new(&[job("components = [\"media\"]"), media, target].concat());
    let mut child = backstay.spawn(&["backup"]);
    assert!(gate.reached(&mut child));
    server.freeze();
    kill_process(Pid::from_child(&child), Signal::TERM).expect("send a signal");
    // no answer comes: who waited for one would fail for the target, after three minutes
    Outcome::of(child).expect_code(130);
    Row { scenario: "a run is stopped while its target does not answer", faults: "SIGTERM before the answer to the lease", runs: 1 }
        .print();
}

/// Likewise whoever looks for a backup there.
#[test]
fn a_command_that_looks_for_a_backup_where_nobody_answers_is_stopped_at_once() {
    let (_media, media) = directory(1);
    let (server, store) = (Seaweed::start(), Scratch::new());
    let sections = [job("components = [\"media\"]"), media, toml::file_target("local", store.path())].concat();
    let to = store.join("export");
    let looking: [&[&str]; 6] = [
        &["restore", "latest", "--target", "s3", "--yes"],
        &["verify", "--all", "--target", "s3"],
        &["verify", "latest", "--target", "s3", "--drill"],
        &["export", "latest", to.to_str().expect("UTF-8"), "--target", "s3"],
        &["copy", "--all", "--from", "local", "--to", "s3"],
        &["copy", "default-2026-01-02-030405", "--from", "s3", "--to", "local"],
    ];
    for args in looking {
        let gate = Gate::at(server.port(), 1, Side::Before);
        let target = toml::s3_target_by("s3", &gate.endpoint(), &server, Seaweed::BUCKET);
        let backstay = Backstay::new(&[sections.as_str(), target.as_str()].concat());
        let mut child = backstay.spawn(args);
        assert!(gate.reached(&mut child), "{args:?}");
        server.freeze();
        kill_process(Pid::from_child(&child), Signal::TERM).expect("send a signal");
        Outcome::of(child).expect_code(130);
        server.thaw();
    }
    Row {
        scenario: "a backup is looked for in a target that does not answer",
        faults: "SIGTERM before its first answer",
        runs: looking.len(),
    }
    .print();
}
