//! What others on the machine can see of a backup's secrets.

use rustix::process::{Resource, Rlimit};

use crate::support::process::child_of;
use crate::support::{Backstay, Major, Postgres, Row, Scratch, toml};

/// In place of every secret that the program has and its children do not need.
const CANARY: &str = "canary-7f3a9";

fn proc(pid: u32, file: &str) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).expect("it runs");
    String::from_utf8_lossy(&bytes).replace('\0', "\n")
}

#[test]
fn children_get_what_they_need_and_nobody_a_core_dump() {
    let (server, store) = (Postgres::start(Major::V15), Scratch::new());
    server.create_database("app");
    // texts that do not compress, so that a slow target holds the dump up
    server.psql_in("app", "CREATE TABLE t AS SELECT sha512(i::text::bytea) AS noise FROM generate_series(1, 400000) i");
    let target = format!("{}limit = \"100KiB/s\"\n", toml::file_target("local", &store.join("backups")));
    let backstay = Backstay::new(&format!("{target}{}", toml::postgres("postgres", &server, &["app"])))
        .env("AWS_SECRET_ACCESS_KEY", CANARY)
        .env("AUTHENTIK_SECRET_KEY", CANARY)
        .env("PGPASSFILE", CANARY)
        .env("LD_LIBRARY_PATH", CANARY);
    // whoever starts it may allow them
    rustix::process::setrlimit(Resource::Core, Rlimit { current: None, maximum: None }).expect("this test needs root");
    let mut program = backstay.spawn(&["backup"]);
    // not the one that is asked for its version
    let dump = child_of(program.id(), "--snapshot=");

    let environment = proc(dump, "environ");
    let keys: Vec<&str> = environment.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key).collect();
    let needed = |key: &&str| ["PATH", "LC_ALL"].contains(key) || (key.starts_with("PG") && *key != "PGPASSFILE");
    assert!(keys.contains(&"PGPASSWORD") && keys.iter().all(needed), "{keys:?}");
    assert!(!environment.contains(CANARY), "{keys:?}");
    let password = environment.lines().find_map(|line| line.strip_prefix("PGPASSWORD=")).expect("a password");
    for pid in [program.id(), dump] {
        assert!(!proc(pid, "cmdline").contains(password), "{}", proc(pid, "cmdline"));
        let limits = proc(pid, "limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
    program.kill().expect("SIGKILL");
    program.wait().expect("its end");
    Row {
        scenario: "secrets of the program beside a running pg_dump",
        faults: "read from /proc: environment, arguments, core limit",
        runs: 1,
    }
    .print();
}
