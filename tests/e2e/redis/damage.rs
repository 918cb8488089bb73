//! Damage on the way: nothing incomplete is stored, and a target keeps what it has.

use std::{fs, io};

use backstay::component::redis::{RedisOptions, RedisRestorer, RedisSource};
use backstay::component::{Destination, RestoreOptions, Restorer, RunContext, Source};
use tokio::io::AsyncReadExt;

use super::common::{Backup, fill, noise, options, told};
use crate::support::{Keyspace, Redis, Scratch, Version, assert_same_keys};

/// A backup, and another server of that version with data of its own, which is what it holds before.
async fn backup_and_target(version: Version, args: &[&str]) -> (Backup, Redis, Keyspace) {
    let source = Redis::start(version, &[]);
    fill(&source);
    let backup = Backup::of_server(&source).await;
    let target = Redis::start(version, args);
    target.cli(&["SET", "old", "data"]);
    let before = Keyspace::of(&target);
    (backup, target, before)
}

/// Its data is that, and it is a master with its own settings, that lives.
fn unharmed(server: &Redis, before: &Keyspace) {
    assert!(server.cli(&["ROLE"]).starts_with("master"));
    assert_eq!(server.cli(&["CONFIG", "GET", "masterauth"]).trim_end(), "masterauth");
    assert_same_keys(before, &Keyspace::of(server));
    assert_eq!(server.cli(&["SET", "written", "after"]), "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_of_its_rdb_is_an_error() {
    for (version, args) in [
        (Version::V6_2, &[][..]),
        (Version::V7_0, &[]),
        (Version::V8_2, &[]),
        // the marker's way
        (Version::V7_0, &["--repl-diskless-sync-delay", "0"]),
    ] {
        let mut server = Redis::start(version, args);
        let mut connection = server.connect();
        let value = noise(32 << 20);
        for n in 0..4 {
            redis::cmd("SET").arg(n).arg(&value).exec(&mut connection).expect("set");
        }
        if !args.is_empty() {
            fs::remove_dir_all(server.dir()).expect("its disk is gone");
        }
        let run = RunContext::default();
        let artifact = RedisSource::new(options(&server.url())).open(&run).await.expect("open").remove(0);
        let mut stream = artifact.open.await.unwrap_or_else(|e| panic!("{}", told(&e)));
        let mut some = vec![0; 1 << 20];
        stream.read_exact(&mut some).await.expect("the first bytes");
        server.stop();
        let error = stream.read_to_end(&mut Vec::new()).await.expect_err("it cannot be whole");
        assert!(matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{error:?}");
        assert!(!run.notes.take().0.contains_key("rdb_version"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_or_a_cut_never_reaches_a_server() {
    let (sound, target, before) = backup_and_target(Version::V7_0, &[]).await;
    let mut flipped = sound.rdb.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let cut = sound.rdb[..middle].to_vec();
    for damaged in [flipped, cut, Vec::new(), b"REDIS0010".to_vec()] {
        let mut backup = sound.clone();
        backup.store(damaged);
        let said = told(&backup.stage(options(&target.url()), Destination::Configured).await.err().expect("damaged"));
        assert!(said.contains("not sound"), "{said}");
    }
    unharmed(&target, &before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_read_that_fails_leaves_the_old_data() {
    for version in Version::ALL {
        let (backup, target, before) = backup_and_target(version, &["--repl-diskless-load", "swapdb"]).await;
        let restorer = RedisRestorer::new(options(&target.url()));
        let mut staged =
            restorer.stage(&backup.stored(1), &RestoreOptions::default(), &RunContext::default()).await.expect("the first read is sound");
        let said = told(&staged.publish().await.expect_err("the second is not"));
        assert!(said.contains("the hash does not match"), "{said}");
        staged.undo().await.expect("undone");
        assert_eq!(target.cli(&["CONFIG", "GET", "repl-diskless-load"]), "repl-diskless-load\nswapdb");
        unharmed(&target, &before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_with_another_length_leaves_the_old_data() {
    let (backup, target, before) = backup_and_target(Version::V7_0, &[]).await;
    for raw_bytes in [backup.rdb.len() as u64 - 1, backup.rdb.len() as u64 + 1] {
        let mut backup = backup.clone();
        backup.part.artifacts[0].raw_bytes = raw_bytes;
        let said = told(&backup.stage(options(&target.url()), Destination::Configured).await.err().expect("another length"));
        assert!(said.contains("bytes"), "{said}");
    }
    unharmed(&target, &before);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_restore_leaves_the_old_data() {
    let (backup, target, before) = backup_and_target(Version::V7_0, &[]).await;
    let run = RunContext::default();
    let restorer = RedisRestorer::new(options(&target.url()));
    let mut staged = restorer.stage(&backup.stored(usize::MAX), &RestoreOptions::default(), &run).await.expect("staged");
    run.cancel.cancel();
    assert!(staged.publish().await.is_err());
    staged.undo().await.expect("undone");
    unharmed(&target, &before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_not_become_a_replica_keeps_its_settings() {
    let source = Redis::start(Version::V7_0, &[]);
    let backup = Backup::of_server(&source).await;
    let target = Redis::start(Version::V7_0, &["--repl-diskless-load", "swapdb"]);
    target.cli(&["SET", "old", "data"]);
    target.cli(&["ACL", "SETUSER", "partial", "on", ">pw", "~*", "+@all", "-replicaof", "-slaveof"]);
    let before = Keyspace::of(&target);
    let url = target.url().replace("redis://", "redis://partial:pw@");
    let mut staged = backup.stage(RedisOptions { ..options(&url) }, Destination::Configured).await.expect("staged");
    let said = told(&staged.publish().await.expect_err("refused"));
    assert!(said.contains("REPLICAOF") && said.contains("+replicaof"), "{said}");
    // else what it held would stay on this host, and be told of by every later plan
    staged.undo().await.expect("undone");
    assert_eq!(target.cli(&["CONFIG", "GET", "repl-diskless-load"]), "repl-diskless-load\nswapdb");
    unharmed(&target, &before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_held_is_not_lost_when_the_load_kills_it() {
    let source = Redis::start(Version::V7_0, &[]);
    let mut backup = Backup::of_server(&source).await;
    // a value of a type that there is not, under a checksum that is right
    let mut rdb = backup.rdb[..backup.rdb.len() - 9].to_vec();
    rdb.extend_from_slice(b"\xfe\x00\xc8\x01k\x01v\xff");
    let checksum = crc::Crc::<u64>::new(&crc::CRC_64_REDIS).checksum(&rdb);
    rdb.extend_from_slice(&checksum.to_le_bytes());
    backup.store(rdb);
    // which would tell before
    backup.part.fingerprint = None;
    let target = Redis::start(Version::V7_0, &[]);
    fill(&target);
    let before = Keyspace::of(&target);
    let mut staged = backup.stage(options(&target.url()), Destination::Configured).await.expect("staged");
    let said = told(&staged.publish().await.expect_err("it cannot be loaded"));
    staged.undo().await.expect_err("the server is gone, and that is told again");
    let kept = said.split("is kept in ").nth(1).and_then(|rest| rest.split(": ").next()).expect("it says where");
    let scratch = Scratch::new();
    fs::rename(kept, scratch.join("dump.rdb")).or_else(|_| fs::copy(kept, scratch.join("dump.rdb")).map(drop)).expect("it is there");
    assert_same_keys(&before, &Keyspace::of(&Redis::start_in(Version::V7_0, scratch, &[])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_a_killed_restore_left_behind_is_freed_by_the_next_one() {
    for version in Version::ALL {
        let source = Redis::start(version, &[]);
        fill(&source);
        let backup = Backup::of_server(&source).await;
        let before = Keyspace::of(&source);
        let target = Redis::start(version, &[]);
        target.cli(&["SET", "old", "data"]);
        let worker = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = worker.local_addr().expect("bound").port().to_string();
        for setting in [["masteruser", "backstay-restore"], ["masterauth", "one-time"]] {
            target.cli(&["CONFIG", "SET", setting[0], setting[1]]);
        }
        target.cli(&["REPLICAOF", "127.0.0.1", &port]);
        // a restore that is still under way is left alone
        let said = told(&backup.stage(options(&target.url()), Destination::Configured).await.err().expect("refused"));
        assert!(said.contains("it is a replica of"), "{said}");
        drop(worker);
        backup.restore(options(&target.url()), Destination::Configured).await.unwrap_or_else(|e| panic!("{}", told(&e)));
        unharmed(&target, &before);
        assert_eq!(target.cli(&["CONFIG", "GET", "masteruser"]).trim_end(), "masteruser");
        // the same without our mark is somebody's replica
        target.cli(&["REPLICAOF", "127.0.0.1", &port]);
        let said = told(&backup.stage(options(&target.url()), Destination::Configured).await.err().expect("refused"));
        assert!(said.contains("it is a replica of"), "{said}");
    }
}
