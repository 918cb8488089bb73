//! What was there is there again.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use backstay::component::redis::{Method, RedisOptions, RedisRestorer, RedisSource};
use backstay::component::{Destination, RestoreOptions, Restorer, RunContext, Source};
use backstay::secret::Secret;

use super::common::{Backup, fill, noise, options, told};
use crate::support::{Authority, Keyspace, Redis, Scratch, Version, assert_same_keys};

#[tokio::test(flavor = "multi_thread")]
async fn every_type_comes_back_and_survives_a_crash() {
    for version in Version::ALL {
        for appendonly in ["no", "yes"] {
            let source = Redis::start(version, &[]);
            fill(&source);
            let before = Keyspace::of(&source);
            let backup = Backup::of_server(&source).await;
            assert_same_keys(&before, &Keyspace::of(&source));
            let mut target = Redis::start(version, &["--appendonly", appendonly]);
            target.cli(&["SET", "other", "data"]);
            target.cli(&["CONFIG", "SET", "masterauth", "its own"]);
            let restored = backup.restore(options(&target.url()), Destination::Configured).await.unwrap_or_else(|e| panic!("{}", told(&e)));
            assert_eq!(restored.warnings, [""; 0]);
            assert_same_keys(&before, &Keyspace::of(&target));
            assert!(target.cli(&["ROLE"]).starts_with("master"));
            assert_eq!(target.cli(&["CONFIG", "GET", "masterauth"]), "masterauth\nits own");
            target.stop();
            target.start_again();
            assert_same_keys(&before, &Keyspace::of(&target));
            assert_eq!(target.cli(&["SET", "written", "after"]), "OK");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_come_back() {
    let source = Redis::start(Version::V7_0, &[]);
    let value = noise(48 << 20);
    redis::cmd("SET").arg("large").arg(&value).exec(&mut source.connect()).expect("set");
    let backup = Backup::of_server(&source).await;
    assert!(backup.rdb.len() > value.len());
    let target = Redis::start(Version::V7_0, &[]);
    backup.restore(options(&target.url()), Destination::Configured).await.unwrap_or_else(|e| panic!("{}", told(&e)));
    let back: Vec<u8> = redis::cmd("GET").arg("large").query(&mut target.connect()).expect("got");
    assert!(back == value);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_loads_into_a_newer_server() {
    let source = Redis::start(Version::V6_2, &[]);
    fill(&source);
    let backup = Backup::of_server(&source).await;
    let target = Redis::start(Version::V8_2, &[]);
    let into = Destination::Into(target.url());
    // the configured server is not touched
    backup.restore(options("redis://127.0.0.1:1"), into).await.unwrap_or_else(|e| panic!("{}", told(&e)));
    let mut differences = Keyspace::of(&source).differences(&Keyspace::of(&target));
    // 7.0 added counters to streams and groups, so these are compared by what they hold
    differences.retain(|line| !line.starts_with("db0 stream:") && !line.starts_with("db0 longstream:") && !line.starts_with("functions"));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    for ask in ["XRANGE stream - +", "XRANGE longstream - +", "XPENDING stream readers"] {
        let ask: Vec<&str> = ask.split(' ').collect();
        assert_eq!(source.cli(&ask), target.cli(&ask));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_describe_the_source() {
    let source = Redis::start(Version::V7_0, &["--appendonly", "yes"]);
    fill(&source);
    let facts = Backup::of_server(&source).await.part.facts;
    assert_eq!(facts["server"], "redis");
    assert_eq!(facts["server_version"], "7.0.15");
    assert_eq!(facts["rdb_version"], 10);
    assert_eq!(facts["keys"]["3"], 1);
    assert_eq!(facts["functions"], 1);
    assert_eq!(facts["aof_enabled"], true);
    assert_eq!(facts["method"], "replication");
    assert_eq!(facts["replication_id"].as_str().map(str::len), Some(40));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undone_restore_brings_the_old_data_back() {
    let source = Redis::start(Version::V7_0, &[]);
    source.cli(&["SET", "new", "data"]);
    let backup = Backup::of_server(&source).await;
    let target = Redis::start(Version::V7_0, &["--appendonly", "yes"]);
    fill(&target);
    let mut staged = backup.stage(options(&target.url()), Destination::Configured).await.expect("staged");
    // what is written after staging is kept, too
    target.cli(&["SET", "late", "write"]);
    let old = Keyspace::of(&target);
    staged.publish().await.expect("published");
    assert_eq!(target.cli(&["KEYS", "*"]), "new");
    staged.undo().await.expect("undone");
    assert_same_keys(&old, &Keyspace::of(&target));
    assert!(target.cli(&["ROLE"]).starts_with("master"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_undone_before_it_was_published_changes_nothing() {
    let source = Redis::start(Version::V7_0, &[]);
    let backup = Backup::of_server(&source).await;
    let target = Redis::start(Version::V7_0, &[]);
    fill(&target);
    let old = Keyspace::of(&target);
    let staged = backup.stage(options(&target.url()), Destination::Configured).await.expect("staged");
    staged.undo().await.expect("undone");
    assert_same_keys(&old, &Keyspace::of(&target));
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_old_leaves_an_rdb_of_what_was_replaced() {
    let source = Redis::start(Version::V7_0, &[]);
    let backup = Backup::of_server(&source).await;
    let target = Redis::start(Version::V7_0, &[]);
    fill(&target);
    let old = Keyspace::of(&target);
    let choice = RestoreOptions { to: Destination::Configured, keep_old: true, ..RestoreOptions::default() };
    let restorer = RedisRestorer::new(options(&target.url()));
    let mut staged = restorer.stage(&backup.stored(usize::MAX), &choice, &RunContext::default()).await.expect("staged");
    staged.publish().await.expect("published");
    let done = staged.finish().await.expect("finished").done.join(" ");
    let path = done.split("is kept in ").nth(1).expect("it says where").trim_end_matches('.').to_owned();
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    let scratch = Scratch::new();
    scratch.write("dump.rdb", fs::read(&path).expect("readable"));
    fs::remove_file(&path).expect("removed");
    assert_same_keys(&old, &Keyspace::of(&Redis::start_in(Version::V7_0, scratch, &[])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_loaded_by_a_plain_server() {
    let source = Redis::start(Version::V7_0, &[]);
    fill(&source);
    let backup = Backup::of_server(&source).await;
    let scratch = Scratch::new();
    let path = scratch.join("dump.rdb");
    let into = || Destination::Into(format!("file://{}", path.display()));
    let restored = backup.restore(options("redis://127.0.0.1:1"), into()).await.unwrap_or_else(|e| panic!("{}", told(&e)));
    assert!(restored.done.join(" ").contains("appendonly.aof.manifest"));
    assert_eq!(fs::metadata(&path).expect("written").permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(scratch.path()).expect("listed").count(), 1, "no temporary file is left");
    let refused = backup.restore(options("redis://127.0.0.1:1"), into()).await.expect_err("it exists");
    assert!(told(&refused).contains("exists already"));
    let rdb = fs::read(&path).expect("readable");
    assert_same_keys(&Keyspace::of(&source), &Keyspace::of(&Redis::start_in(Version::V7_0, scratch, &[])));
    // with an AOF, as the restore's own words say
    let aof = Scratch::new();
    aof.write("appendonlydir/appendonly.aof.1.base.rdb", &rdb);
    aof.write("appendonlydir/appendonly.aof.manifest", "file appendonly.aof.1.base.rdb seq 1 type b\n");
    assert_same_keys(&Keyspace::of(&source), &Keyspace::of(&Redis::start_in(Version::V7_0, aof, &["--appendonly", "yes"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undone_file_is_gone() {
    let source = Redis::start(Version::V7_0, &[]);
    let backup = Backup::of_server(&source).await;
    let scratch = Scratch::new();
    for publish in [false, true] {
        let into = Destination::Into(format!("file://{}", scratch.join("dump.rdb").display()));
        let mut staged = backup.stage(options("redis://127.0.0.1:1"), into).await.expect("staged");
        if publish {
            staged.publish().await.expect("published");
        }
        staged.undo().await.expect("undone");
        assert_eq!(fs::read_dir(scratch.path()).expect("listed").count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_any_kind_work() {
    for password in ["$ = # \" ' @/:%40 ü", "0123", "1e10", " x "] {
        let source = Redis::start(Version::V7_0, &["--requirepass", password]);
        source.cli(&["SET", "k", "v"]);
        let backup = Backup::of_server(&source).await;
        let target = Redis::start(Version::V7_0, &["--requirepass", password, "--masterauth", password]);
        let plain = RedisOptions {
            url: None,
            host: Some("127.0.0.1".into()),
            port: Some(target.port()),
            password: Some(Secret::parse(password)),
            ..options("")
        };
        backup.restore(plain, Destination::Configured).await.unwrap_or_else(|e| panic!("{}", told(&e)));
        assert_eq!(target.cli(&["GET", "k"]), "v");
        assert_eq!(target.cli(&["CONFIG", "GET", "masterauth"]), format!("masterauth\n{password}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_by_the_ca_file() {
    let authority = Authority::new();
    let source = Redis::start_tls(&authority, &[]);
    source.cli(&["SET", "k", "v"]);
    let trusting = || RedisOptions { ca_file: Some(authority.ca()), ..options(&source.url()) };
    let backup = Backup::of(trusting()).await.unwrap_or_else(|e| panic!("{}", told(&e)));
    let target = Redis::start(Version::V7_0, &[]);
    backup.restore(options(&target.url()), Destination::Configured).await.expect("restored");
    assert_eq!(target.cli(&["GET", "k"]), "v");
    let stranger = Authority::new();
    for ca_file in [None, Some(stranger.ca())] {
        let refused = RedisSource::new(RedisOptions { ca_file, ..options(&source.url()) }).check().await.expect_err("not trusted");
        assert!(told(&refused).contains("certificate"), "{}", told(&refused));
    }
    let refused = backup.restore(trusting(), Destination::Configured).await.expect_err("TLS replication");
    assert!(told(&refused).contains("tls-replication"), "{}", told(&refused));
    source.cli(&["CONFIG", "SET", "tls-replication", "no"]);
    backup.restore(trusting(), Destination::Configured).await.unwrap_or_else(|e| panic!("{}", told(&e)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_a_fresh_save_serves_where_replication_is_refused() {
    for version in Version::ALL {
        let source = Redis::start(version, &[]);
        fill(&source);
        source.cli(&["SAVE"]);
        source.cli(&["SET", "since", "then"]);
        source.cli(&["ACL", "SETUSER", "saver", "on", ">pw", "+ping", "+info", "+bgsave"]);
        let url = source.url().replace("redis://", "redis://saver:pw@");
        let with_file = RedisOptions { rdb_path: Some(source.dir().join("dump.rdb")), ..options(&url) };
        for method in [Method::Auto, Method::Bgsave] {
            let options = RedisOptions { method, ..with_file.clone() };
            let backup = Backup::of(options.clone()).await.unwrap_or_else(|e| panic!("{}", told(&e)));
            assert_eq!(backup.part.facts["method"], "bgsave");
            let scratch = Scratch::new();
            scratch.write("dump.rdb", &*backup.rdb);
            assert_same_keys(&Keyspace::of(&source), &Keyspace::of(&Redis::start_in(version, scratch, &[])));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_write_its_disk_is_read_diskless() {
    for version in Version::ALL {
        let source = Redis::start(version, &["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]);
        fill(&source);
        fs::remove_dir_all(source.dir()).expect("its disk is gone");
        let backup = Backup::of_server(&source).await;
        let scratch = Scratch::new();
        scratch.write("dump.rdb", &*backup.rdb);
        assert_same_keys(&Keyspace::of(&source), &Keyspace::of(&Redis::start_in(version, scratch, &[])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_permissions_suffice() {
    for version in Version::ALL {
        let server = Redis::start(version, &[]);
        fill(&server);
        let before = Keyspace::of(&server);
        server.cli(&["ACL", "SETUSER", "reader", "on", ">pw", "+ping", "+info", "+replconf", "+psync"]);
        let url = server.url().replace("redis://", "redis://reader:pw@");
        RedisSource::new(options(&url)).check().await.unwrap_or_else(|e| panic!("{}", told(&e)));
        let backup = Backup::of(options(&url)).await.unwrap_or_else(|e| panic!("{}", told(&e)));
        // 6.2 has no rules for single subcommands of CONFIG and CLIENT without naming them so
        let grants = "ACL SETUSER restorer on >pw +ping +info +replconf +psync +replicaof +config|get +config|set +bgsave +client|list";
        server.cli(&grants.split(' ').collect::<Vec<_>>());
        server.cli(&["FLUSHALL"]);
        let url = server.url().replace("redis://", "redis://restorer:pw@");
        backup.restore(options(&url), Destination::Configured).await.unwrap_or_else(|e| panic!("{}", told(&e)));
        assert_same_keys(&before, &Keyspace::of(&server));
    }
}
