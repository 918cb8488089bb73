//! Which backup, which databases, whose.

use super::databases;
use crate::support::{Backstay, Major, Postgres, Scratch, toml};

#[test]
fn the_newest_before_a_moment_is_found() {
    let (files, store) = (Scratch::new(), Scratch::new());
    let backstay = Backstay::new(&[toml::directory("media", files.path()), toml::file_target("local", store.path())].concat());
    let finished = |name: &str| {
        let manifest = std::fs::read(store.join(name).join("manifest.json")).expect("read a manifest");
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        manifest["finished"].as_str().expect("a time").to_owned()
    };
    files.write("file", "one");
    let one = backstay.backup();
    files.write("file", "two");
    let two = backstay.backup();
    files.write("file", "three");

    let chosen = |args: &[&str]| backstay.succeed(&[&["restore", "--dry-run", "--json"], args].concat()).json()["name"].clone();
    assert_eq!(chosen(&["--before", &finished(&two)]), one.as_str(), "not one that was under way");
    assert_eq!(chosen(&["latest", "--before", &finished(&two)]), one.as_str());
    assert_eq!(chosen(&["--before", "2999-01-01"]), two.as_str());
    assert_eq!(chosen(&["--before", "0s"]), two.as_str());
    backstay.run(&["restore", "--yes", "--before", &finished(&one)]).expect_code(10).expect_message(&format!("The oldest is `{one}`"));
    backstay.run(&["restore", "--yes", "--before", "3d ago"]).expect_code(10).expect_message("finished before");
    backstay.run(&["restore", "--yes", &one, "--before", "2999-01-01"]).expect_code(2).expect_message("--before");
    backstay.run(&["restore", "--yes", "--before", "yesterday"]).expect_code(2).expect_message("2026-11-20");
    backstay.run(&["restore", "--yes"]).expect_code(2);

    backstay.succeed(&["restore", "--yes", "--before", &finished(&two)]);
    assert_eq!(std::fs::read(files.join("file")).expect("read a file"), b"one");

    let verified = backstay.succeed(&["verify", "--before", &finished(&two), "--json"]);
    assert!(verified.stdout.contains(&one) && !verified.stdout.contains(&two), "{}", verified.stdout);
    let out = store.join("out");
    backstay.succeed(&["export", "latest", &out.display().to_string(), "--before", &finished(&two)]);
    assert!(std::fs::read_to_string(out.join("RESTORE.md")).expect("read RESTORE.md").contains(&one));
}

#[test]
fn one_of_many_databases_comes_back_and_nothing_else() {
    let (server, files, store) = (Postgres::start(Major::V15), Scratch::new(), Scratch::new());
    for name in ["one", "two"] {
        server.psql(&format!("CREATE DATABASE {name}"));
        server.psql_in(name, "CREATE TABLE t AS SELECT 1 AS a");
    }
    files.write("file", "old");
    let components = [toml::postgres("postgres", &server, &["*"]), toml::directory("media", files.path())].concat();
    let backstay = Backstay::new(&[&components, toml::file_target("local", store.path()).as_str()].concat());
    let name = backstay.backup();
    for name in ["one", "two"] {
        server.psql_in(name, "UPDATE t SET a = 2");
    }
    files.write("file", "new");

    backstay.run(&["restore", &name, "--yes", "--database", "three"]).expect_code(10).expect_message("\"three\"");
    backstay.run(&["restore", &name, "--yes", "--only", "media", "--database", "one"]).expect_code(2);
    backstay.run(&["restore", &name, "--yes", "--only", "media,postgres", "--database", "one"]).expect_code(2);
    let rows = || ["one", "two"].map(|name| server.psql_in(name, "SELECT a FROM t"));
    assert_eq!(rows(), ["2", "2"]);

    backstay.succeed(&["restore", &name, "--yes", "--database", "two", "--into", "postgres=look"]);
    assert_eq!((rows(), server.psql_in("look", "SELECT a FROM t").as_str()), (["2".into(), "2".into()], "1"));
    server.psql("DROP DATABASE look");
    backstay.succeed(&["restore", &name, "--yes", "--database", "one"]);
    assert_eq!(rows(), ["1", "2"]);
    assert_eq!(std::fs::read(files.join("file")).expect("read a file"), b"new", "nothing else is restored");
    assert_eq!(databases(&server), ["one", "two"]);
}

#[test]
fn without_owners_a_backup_needs_no_role() {
    let (source, target, store) = (Postgres::start(Major::V15), Postgres::start(Major::V15), Scratch::new());
    source
        .psql("CREATE ROLE app; CREATE ROLE reader; CREATE DATABASE app OWNER app; ALTER ROLE reader IN DATABASE app SET work_mem = '9MB'");
    source.psql_in("app", "SET ROLE app; CREATE SCHEMA s; CREATE TABLE s.t AS SELECT 1 AS a; GRANT SELECT ON s.t TO reader");
    source.psql("REVOKE CONNECT ON DATABASE app FROM public; GRANT CONNECT ON DATABASE app TO reader");
    let backstay = Backstay::new(&[toml::postgres("postgres", &source, &["app"]), toml::file_target("local", store.path())].concat());
    backstay.backup();
    let roles = target.psql("SELECT rolname FROM pg_roles ORDER BY 1");
    let into = format!("postgres={}", target.url("app"));
    let done = backstay.succeed(&["restore", "latest", "--yes", "--no-owner", "--jobs", "1", "--into", &into]);
    assert!(!done.stdout.contains("warning"), "it was asked for: {}", done.stdout);
    assert!(done.stdout.contains("as its fingerprint in the backup: 1 table with 1 row"), "{}", done.stdout);
    assert_eq!(target.psql("SELECT rolname FROM pg_roles ORDER BY 1"), roles);
    let owners = "SELECT DISTINCT pg_get_userbyid(relowner), relacl IS NULL FROM pg_class WHERE relname = 't'";
    assert_eq!(target.psql_in("app", owners), "postgres|t");
    assert_eq!(target.psql("SELECT pg_get_userbyid(datdba), datacl IS NULL FROM pg_database WHERE datname = 'app'"), "postgres|t");

    let media = Scratch::new();
    let files = Backstay::new(&[toml::directory("media", media.path()), toml::file_target("local", &store.join("files"))].concat());
    files.backup();
    files.run(&["restore", "latest", "--yes", "--jobs", "3"]).expect_code(2).expect_message("--jobs");
    files.run(&["restore", "latest", "--yes", "--no-owner"]).expect_code(2).expect_message("--no-owner");
}
