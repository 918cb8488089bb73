//! What was backed up comes back, by the program and by stock tools alone, and comparers that know nothing of the program agree.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::site::{Site, program};
use crate::support::process::run;
use crate::support::{
    Backstay, Fingerprint, Keyspace, Major, Postgres, Redis, Scratch, Seaweed, Tree, Version, assert_same_database, assert_same_keys,
    assert_same_tree, toml, tools,
};

fn loses_and_restores_everything(major: Major, version: Version, target: &str) {
    let site = Site::filled(major, version);
    let before = site.state();
    let backstay = program(&site, target);
    let name = backstay.backup();

    let list = backstay.succeed(&["listbackups", "--json"]).json();
    assert_eq!(list.as_array().expect("an array").len(), 1);
    assert_eq!((&list[0]["name"], &list[0]["status"]), (&json!(name), &json!("complete")));

    // over what is there
    site.change();
    backstay.succeed(&["restore", &name, "--yes"]);
    site.assert_is(&before);

    // and where nothing is left
    site.destroy();
    backstay.succeed(&["restore", "-i", "latest", "--noinput"]);
    site.assert_is(&before);
}

#[test]
fn everything_comes_back_from_a_directory() {
    let store = Scratch::new();
    loses_and_restores_everything(Major::V15, Version::V7_0, &toml::file_target("local", &store.join("backups")));
}

#[test]
fn everything_comes_back_from_s3() {
    let store = Seaweed::start();
    loses_and_restores_everything(Major::V17, Version::V8_2, &toml::s3_target("s3", &store, "backups/some/prefix"));
}

#[test]
fn everything_comes_back_with_the_oldest_redis_and_the_newest_postgres() {
    let store = Scratch::new();
    let target = format!("{}[jobs.default]\ncompression = \"zstd\"\n", toml::file_target("local", &store.join("backups")));
    loses_and_restores_everything(Major::V18, Version::V6_2, &target);
}

#[test]
fn everything_comes_back_uncompressed() {
    let store = Scratch::new();
    let target = format!("{}[jobs.default]\ncompression = \"none\"\n", toml::file_target("local", &store.join("backups")));
    loses_and_restores_everything(Major::V16, Version::V7_0, &target);
}

/// PostgreSQL's own regression database holds every type and kind of object that there is.
#[test]
fn the_regression_database_comes_back_from_each_of_two_targets() {
    let server = Postgres::start_regression();
    let (store, seaweed) = (Scratch::new(), Seaweed::start());
    // a restore computes these anew, one upon the other, while the tests leave some stale
    let refresh =
        "SELECT format('REFRESH MATERIALIZED VIEW %s', oid::regclass) FROM pg_class WHERE relkind = 'm' AND relispopulated\n\\gexec\n";
    server.psql_in("regression", &refresh.repeat(3));
    let before = (Fingerprint::of(&server, "regression"), Fingerprint::roles(&server));
    let config = [
        toml::postgres("postgres", &server, &["regression"]),
        toml::file_target("local", &store.join("backups")),
        toml::s3_target("s3", &seaweed, "backups"),
    ];
    let backstay = Backstay::new(&config.concat());
    let name = backstay.backup();
    for target in ["local", "s3"] {
        server.psql("DROP DATABASE regression WITH (FORCE)");
        backstay.succeed(&["restore", &name, "--target", target, "--yes"]);
        assert_same_database(&before.0, &Fingerprint::of(&server, "regression"));
        assert_same_database(&before.1, &Fingerprint::roles(&server));
        assert_eq!(server.databases(), ["postgres", "regression", "template0", "template1"]);
    }
}

#[test]
fn stock_tools_restore_everything() {
    let store = Scratch::new();
    let site = Site::filled(Major::V15, Version::V7_0);
    let backstay = program(&site, &toml::file_target("local", &store.join("backups")));
    let backup = store.join("backups").join(backstay.backup());
    run(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&backup));

    let postgres = Postgres::start(Major::V15);
    // the superuser is there already, so one statement of the globals fails
    let globals = String::from_utf8(run(Command::new("gunzip").arg("--stdout").arg(backup.join("postgres/globals.sql.gz")))).expect("SQL");
    let script = store.write("globals.sql", globals);
    run(postgres.client("psql", "postgres").args(["--quiet", "--no-psqlrc", "--file"]).arg(script));
    let mut restore = postgres.client("pg_restore", "postgres");
    pipe(&backup.join("postgres/app.dump.gz"), restore.args(["--create", "--exit-on-error", "--dbname=postgres"]));
    assert_same_database(&Fingerprint::of(&site.postgres, "app"), &Fingerprint::of(&postgres, "app"));

    let data = Scratch::new();
    let rdb = run(Command::new("gunzip").arg("--stdout").arg(backup.join("redis/dump.rdb.gz")));
    data.write("dump.rdb", rdb);
    let redis = Redis::start_in(Version::V7_0, data, &[]);
    assert_same_keys(&Keyspace::of(&site.redis), &Keyspace::of(&redis));

    let files = Scratch::new();
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--gzip", "--preserve-permissions", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--file"]);
    run(tar.arg(backup.join("media/media.tar.gz")).arg("--directory").arg(files.path()));
    assert_same_tree(&Tree::of(&site.files.join("media")), &Tree::of(files.path()));
}

/// The newest backup of a directory target that no run has seen before: a new host with only the target and the tool.
#[test]
fn a_new_host_restores_with_nothing_but_the_target() {
    let store = Scratch::new();
    let target = toml::file_target("local", &store.join("backups"));
    let site = Site::filled(Major::V15, Version::V7_0);
    program(&site, &target).backup();

    let other = Site { postgres: Postgres::start(Major::V15), redis: Redis::start(Version::V7_0, &[]), files: Scratch::new() };
    program(&other, &target).succeed(&["restore", "latest", "--yes"]);
    other.assert_is(&site.state());
}

#[test]
fn the_clients_of_the_server_s_own_major_are_used() {
    let store = Scratch::new();
    for major in Major::ALL {
        let server = Postgres::start(major);
        server.create_database("app");
        let config = [toml::postgres("postgres", &server, &["app"]), toml::file_target("local", &store.join(major.number().to_string()))];
        let backstay = Backstay::new(&config.concat());
        let name = backstay.backup();
        let dump = store.join(major.number().to_string()).join(name).join("postgres/app.dump.gz");
        let mut list = Command::new(server.bin("pg_restore"));
        let text = pipe(&dump, list.arg("--list"));
        assert!(text.contains(&format!("Dumped by pg_dump version: {}.", major.number())), "{text}");
    }
    // with the clients of one major only, a server of a newer one is refused, and both are named
    let server = Postgres::start(Major::V18);
    let config = [
        toml::postgres("postgres", &server, &["postgres"]),
        toml::file_target("local", &store.join("refused")),
        "[jobs.default]\ncomponents = [\"postgres\"]\n".to_owned(),
    ];
    let backstay = Backstay::new(&config.concat()).env("PATH", tools::path_with(&[Major::V16]));
    let refused = backstay.run(&["backup"]).expect_code(3);
    assert!(refused.stderr.contains("18") && refused.stderr.contains("16"), "{}", refused.stderr);
    assert_eq!(backstay.run(&["listbackups", "--json"]).json(), json!([]));
}

/// Unpacks `file` into the standard input of `command`, and returns what that says.
fn pipe(file: &Path, command: &mut Command) -> String {
    let mut gunzip = Command::new("gunzip").arg("--stdout").arg(file).stdout(Stdio::piped()).spawn().expect("start gunzip");
    let output = command.stdin(gunzip.stdout.take().expect("stdout was piped")).output().expect("run the command");
    let _ = gunzip.wait();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
