//! What cannot be read or would come to harm is refused, with a reason and advice.

use std::fs;

use backstay::component::redis::{Method, RedisOptions, RedisSource};
use backstay::component::{ComponentError, Destination, Source};

use super::common::{Backup, fill, options, told};
use crate::support::{Keyspace, Redis, Scratch, Version, assert_same_keys};

/// What the refusal of a backup says; `check` says no less.
async fn refusal(options: RedisOptions) -> String {
    assert!(RedisSource::new(options.clone()).check().await.is_err(), "check passes");
    told(&Backup::of(options).await.err().expect("the backup is refused"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_fails_unless_nobody_asked_for_it() {
    let mut server = Redis::start(Version::V7_0, &[]);
    let options = options(&server.url());
    server.stop();
    assert!(refusal(options.clone()).await.contains("connect to Redis at 127.0.0.1:"));
    let by_default = RedisOptions { required: false, ..options };
    assert!(matches!(Backup::of(by_default).await.err(), Some(ComponentError::Absent(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_and_not_printed() {
    for version in Version::ALL {
        let server = Redis::start(version, &["--requirepass", "right"]);
        for user in ["", "nobody"] {
            let url = format!("redis://{user}:canary@127.0.0.1:{}", server.port());
            // never absent: something answers there
            let said = refusal(RedisOptions { required: false, ..options(&url) }).await;
            assert!(said.contains("WRONGPASS") && !said.contains("canary"), "{said}");
        }
        let without = refusal(options(&format!("redis://127.0.0.1:{}", server.port()))).await;
        assert!(without.contains("NOAUTH") && without.contains("password"), "{without}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_psync_is_told_of_with_both_ways() {
    for version in Version::ALL {
        let server = Redis::start(version, &[]);
        server.cli(&["ACL", "SETUSER", "partial", "on", ">pw", "+@all", "-psync", "-sync"]);
        let url = server.url().replace("redis://", "redis://partial:pw@");
        let said = refusal(options(&url)).await;
        assert!(said.contains("rdb_path") && said.contains("NOPERM") && said.contains("+psync"), "{said}");
        let strict = RedisOptions { method: Method::Replication, rdb_path: Some(server.dir().join("dump.rdb")), ..options(&url) };
        assert!(refusal(strict).await.contains("refuses PSYNC"));
    }
    let renamed = Redis::start(Version::V7_0, &["--rename-command", "PSYNC", ""]);
    let said = refusal(options(&renamed.url())).await;
    assert!(said.contains("unknown command") && said.contains("rdb_path"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_its_master_is_not_read() {
    let replica = Redis::start(Version::V7_0, &["--replicaof", "127.0.0.1", "1"]);
    let said = told(&Backup::of(options(&replica.url())).await.err().expect("refused"));
    assert!(said.contains("NOMASTERLINK"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_the_servers_is_not_taken() {
    let server = Redis::start(Version::V7_0, &[]);
    let other = Redis::start(Version::V7_0, &[]);
    other.cli(&["SAVE"]);
    let wrong = RedisOptions { method: Method::Bgsave, rdb_path: Some(other.dir().join("dump.rdb")), ..options(&server.url()) };
    let said = told(&Backup::of(wrong).await.err().expect("not its file"));
    assert!(said.contains("did not change"), "{said}");
    let none = RedisOptions { method: Method::Bgsave, ..options(&server.url()) };
    assert!(refusal(none).await.contains("rdb_path is not set"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_that_failed_is_an_error_though_an_old_file_is_there() {
    let server = Redis::start(Version::V7_0, &[]);
    server.cli(&["SAVE"]);
    let elsewhere = Scratch::new();
    let copy = elsewhere.join("dump.rdb");
    fs::copy(server.dir().join("dump.rdb"), &copy).expect("copied");
    fs::remove_dir_all(server.dir()).expect("its disk is gone");
    let options = RedisOptions { method: Method::Bgsave, rdb_path: Some(copy), ..options(&server.url()) };
    let said = told(&Backup::of(options).await.err().expect("the save failed"));
    assert!(said.contains("rdb_last_bgsave_status:err"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_rdb_is_refused_before_anything_is_touched() {
    let source = Redis::start(Version::V8_2, &[]);
    source.cli(&["SET", "k", "v"]);
    let mut backup = Backup::of_server(&source).await;
    backup.part.facts.remove("modules");
    let target = Redis::start(Version::V7_0, &[]);
    fill(&target);
    let old = Keyspace::of(&target);
    for known in [true, false] {
        if !known {
            // then the stream itself tells
            backup.part.facts.remove("rdb_version");
        }
        let said = told(&backup.stage(options(&target.url()), Destination::Configured).await.err().expect("too new"));
        assert!(said.contains("Redis 7.0.15 cannot load RDB version 12"), "{said}");
    }
    assert_same_keys(&old, &Keyspace::of(&target));
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_that_the_target_lacks_are_named() {
    let source = Redis::start(Version::V8_2, &[]);
    let mut backup = Backup::of_server(&source).await;
    backup.part.facts.insert("modules".into(), serde_json::json!(["vectorset", "graph"]));
    let said = told(&backup.stage(options(&source.url()), Destination::Configured).await.err().expect("refused"));
    assert!(said.contains("module(s) graph,"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_members_replicas_and_watched_masters_are_refused() {
    let plain = Redis::start(Version::V7_0, &[]);
    let backup = Backup::of_server(&plain).await;
    let member = Redis::start(Version::V7_0, &["--cluster-enabled", "yes"]);
    assert!(refusal(options(&member.url())).await.contains("Redis Cluster"));
    let replica = Redis::start(Version::V7_0, &["--replicaof", "127.0.0.1", &plain.port().to_string()]);
    let watched = Redis::start(Version::V7_0, &[]);
    let client = redis::Client::open(watched.url()).expect("a URL");
    let mut sentinel = client.get_connection().expect("connected");
    redis::cmd("CLIENT").arg("SETNAME").arg("sentinel-0123abcd-cmd").exec(&mut sentinel).expect("named");
    for (server, word) in [(&member, "Cluster"), (&replica, "is a replica of 127.0.0.1:"), (&watched, "Sentinel")] {
        let said = told(&backup.stage(options(&server.url()), Destination::Configured).await.err().expect(word));
        assert!(said.contains(word), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_destinations_are_refused_without_printing_passwords() {
    let server = Redis::start(Version::V7_0, &[]);
    let backup = Backup::of_server(&server).await;
    for into in ["http://u:canary@h/", "canary", "file://canary", "redis://u:canary@h/x"] {
        let said = told(&backup.stage(options(&server.url()), Destination::Into(into.into())).await.err().expect(into));
        assert!(!said.contains("canary"), "{said}");
    }
    let nowhere = Destination::Into("file:///nonexistent/dump.rdb".into());
    assert!(backup.stage(options(&server.url()), nowhere).await.is_err());
}
