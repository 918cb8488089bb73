//! What a backup notes of the keys, and what a restore compares it with.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backstay::component::redis::RedisOptions;
use backstay::component::redis::RedisRestorer;
use backstay::component::{
    ArtifactOpener, ByteStream, ComponentError, Destination, Detail, RestoreOptions, Restorer, RunContext, StoredComponent,
};
use serde_json::json;

use super::common::{Backup, fill, options, told};
use crate::support::{Keyspace, Redis, Scratch, Version, assert_same_keys};

/// The compared line of a restore.
fn compared(done: &[String]) -> &str {
    done.iter().find(|line| line.contains("ompared with the backup")).unwrap_or_else(|| panic!("nothing was compared: {done:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pair_of_versions_is_restored_and_compared_or_refused() {
    for from in Version::ALL {
        let source = Redis::start(from, &[]);
        fill(&source);
        let backup = Backup::of_server(&source).await;
        let noted = backup.part.fingerprint.as_ref().expect("noted");
        assert_eq!((&noted["keys"], &noted["not_counted"]), (&backup.part.facts["keys"], &json!(null)), "{from:?}: what INFO says");
        assert_eq!(noted["libraries"], u64::from(from >= Version::V7_0));
        assert_eq!(noted["crc64"].as_str().map(str::len), Some(16));
        for to in Version::ALL {
            let target = Redis::start(to, &[]);
            target.cli(&["SET", "old", "data"]);
            let restored = backup.restore(options(&target.url()), Destination::Configured).await;
            if from > to {
                let said = told(&restored.expect_err("older"));
                let versions = [&from, &to].map(|v| format!("{v:?}")[1..].replace('_', "."));
                assert!(versions.iter().all(|version| said.contains(version.as_str())), "{versions:?}: {said}");
                assert_eq!(target.cli(&["KEYS", "*"]), "old");
                continue;
            }
            let restored = restored.unwrap_or_else(|e| panic!("{from:?} to {to:?}: {}", told(&e)));
            let keys: u64 = noted["keys"].as_object().expect("by database").values().filter_map(serde_json::Value::as_u64).sum();
            assert!(compared(&restored.done).contains(&format!("{keys} keys in 3 databases")), "{restored:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_much_is_noted_as_is_configured() {
    let source = Redis::start(Version::V7_0, &[]);
    fill(&source);
    let with = |fingerprint| RedisOptions { fingerprint, ..options(&source.url()) };
    let counts = Backup::of(with(Detail::Counts)).await.expect("a backup");
    let noted = counts.part.fingerprint.as_ref().expect("noted");
    assert!(noted["keys"]["0"].is_u64() && noted["crc64"].is_null(), "{noted}");
    let off = Backup::of(with(Detail::Off)).await.expect("a backup");
    assert_eq!(off.part.fingerprint, None);
    let target = Redis::start(Version::V7_0, &[]);
    for backup in [counts, off] {
        let restored = backup.restore(options(&target.url()), Destination::Configured).await.expect("restored");
        compared(&restored.done);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rdb_that_is_not_the_one_that_was_noted_is_not_loaded() {
    let (source, other) = (Redis::start(Version::V7_0, &[]), Redis::start(Version::V7_0, &[]));
    fill(&source);
    other.cli(&["SET", "a", "b"]);
    let mut backup = Backup::of_server(&source).await;
    backup.part.fingerprint = Backup::of_server(&other).await.part.fingerprint;
    let target = Redis::start(Version::V7_0, &[]);
    fill(&target);
    let old = Keyspace::of(&target);
    let scratch = Scratch::new();
    let file = Destination::Into(format!("file://{}", scratch.join("dump.rdb").display()));
    for to in [Destination::Configured, file] {
        let Err(ComponentError::Differs(differences)) = backup.stage(options(&target.url()), to).await.map(drop) else {
            panic!("it was loaded")
        };
        assert!(differences.iter().any(|line| line.contains("another checksum")), "{differences:?}");
        assert!(differences.iter().any(|line| line == "database 3 holds 1 keys in place of 0"), "{differences:?}");
        assert!(differences.iter().any(|line| line == "it holds 1 libraries of functions in place of 0"), "{differences:?}");
    }
    assert_same_keys(&old, &Keyspace::of(&target));
    assert_eq!(std::fs::read_dir(scratch.path()).expect("listed").count(), 0);
}

/// An RDB without a checksum.
fn rdb(pairs: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")][..], text.as_bytes()].concat();
    let pairs: Vec<u8> = pairs.iter().flat_map(|(key, value)| [vec![0], text(key), text(value)].concat()).collect();
    [b"REDIS0009\xfe\0".as_slice(), &pairs, b"\xff", &[0; 8]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_holds_something_else_after_loading_gets_its_data_back() {
    let source = Redis::start(Version::V7_0, &[]);
    let mut backup = Backup::of_server(&source).await;
    backup.part.fingerprint = None;
    // of one length: two keys when it is checked, one when it is loaded
    let (checked, loaded) = (rdb(&[("a", "1"), ("b", "2")]), rdb(&[("a", "123456")]));
    assert_eq!(checked.len(), loaded.len());
    backup.store(checked.clone());
    let reads = AtomicUsize::new(0);
    let open: ArtifactOpener = Arc::new(move |_| {
        let bytes = if reads.fetch_add(1, Ordering::SeqCst) == 0 { checked.clone() } else { loaded.clone() };
        Box::pin(async move { Ok(Box::new(std::io::Cursor::new(bytes)) as ByteStream) })
    });
    // an idle control connection is cut on the way
    let target = Redis::start(Version::V7_0, &["--appendonly", "yes", "--timeout", "1"]);
    fill(&target);
    let old = Keyspace::of(&target);
    let part = StoredComponent { component: backup.part, open };
    let restorer = RedisRestorer::new(options(&target.url()));
    let mut staged =
        restorer.stage(&part, &RestoreOptions::default(), &RunContext::default()).await.unwrap_or_else(|e| panic!("{}", told(&e)));
    let Err(ComponentError::Differs(differences)) = staged.publish().await else { panic!("it was taken for right") };
    assert_eq!(differences, ["database 0 holds 1 keys in place of 2"]);
    assert_same_keys(&old, &Keyspace::of(&target));
    staged.undo().await.expect("undone");
    assert_same_keys(&old, &Keyspace::of(&target));
    assert!(target.cli(&["ROLE"]).starts_with("master"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_have_expired_since_are_no_difference() {
    for version in Version::ALL {
        let source = Redis::start(version, &[]);
        source.cli(&["SET", "stays", "x"]);
        source.cli(&["SET", "goes", "x", "PX", "2000"]);
        let backup = Backup::of_server(&source).await;
        assert_eq!(backup.part.fingerprint.as_ref().expect("noted")["keys"]["0"], 2);
        while source.cli(&["PTTL", "goes"]) != "-2" {
            tokio::task::yield_now().await;
        }
        let target = Redis::start(version, &[]);
        let restored = backup.restore(options(&target.url()), Destination::Configured).await.unwrap_or_else(|e| panic!("{}", told(&e)));
        assert!(compared(&restored.done).contains("2 keys in 1 database"), "{restored:?}");
        assert_eq!(target.cli(&["KEYS", "*"]), "stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_evicted_are_no_difference() {
    let source = Redis::start(Version::V7_0, &[]);
    let mut pipe = redis::pipe();
    for n in 0..20_000 {
        pipe.cmd("SET").arg(n).arg("x".repeat(400)).ignore();
    }
    pipe.exec(&mut source.connect()).expect("filled");
    let backup = Backup::of_server(&source).await;
    let target =
        Redis::start(Version::V7_0, &["--maxmemory", "6mb", "--maxmemory-policy", "allkeys-random", "--replica-ignore-maxmemory", "no"]);
    let restored = backup.restore(options(&target.url()), Destination::Configured).await.unwrap_or_else(|e| panic!("{}", told(&e)));
    assert!(compared(&restored.done).contains("20000 keys in 1 database"), "{restored:?}");
    let left: u64 = target.cli(&["DBSIZE"]).parse().expect("a number");
    assert!(left < 20_000, "nothing was evicted, so this shows nothing: {left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_too_few_databases_is_refused_before_anything_is_lost() {
    let source = Redis::start(Version::V7_0, &[]);
    fill(&source);
    let mut backup = Backup::of_server(&source).await;
    let target = Redis::start(Version::V7_0, &["--databases", "15"]);
    target.cli(&["SET", "old", "data"]);
    for fingerprint in [backup.part.fingerprint.clone(), None] {
        backup.part.fingerprint = fingerprint;
        let said = told(&backup.stage(options(&target.url()), Destination::Configured).await.map(drop).expect_err("too few"));
        assert!(said.contains("keys in database 15, but") && said.contains("has 15 databases"), "{said}");
    }
    assert_eq!(target.cli(&["KEYS", "*"]), "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_back_from_the_disk_and_compared() {
    let source = Redis::start(Version::V8_2, &[]);
    fill(&source);
    let backup = Backup::of_server(&source).await;
    let scratch = Scratch::new();
    let into = Destination::Into(format!("file://{}", scratch.join("dump.rdb").display()));
    let restored = backup.restore(options("redis://127.0.0.1:1"), into).await.unwrap_or_else(|e| panic!("{}", told(&e)));
    assert!(compared(&restored.done).contains("keys in 3 databases, 1 library of functions"), "{restored:?}");
}
