//! The ground the other tests stand on: every server starts, and the comparers tell what differs.

use std::os::unix::fs::symlink;

use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use crate::support::{Authority, Fingerprint, Keyspace, Major, Postgres, Redis, Scratch, Seaweed, Tree, Version};

#[test]
fn each_postgres_answers_and_its_clients_dump_it() {
    for major in Major::ALL {
        let server = Postgres::start(major);
        let version: u32 = server.psql("SELECT current_setting('server_version_num')").parse().expect("a number");
        assert_eq!(version / 10_000, major.number());
        let mut dump = server.client("pg_dump", "postgres");
        assert!(dump.env("PGPASSWORD", "").output().expect("run pg_dump").status.success());
        let over_tcp = server.client("psql", "").args(["-Atc", "SELECT 1", &server.url("postgres")]).output().expect("run psql");
        assert_eq!(String::from_utf8_lossy(&over_tcp.stdout), "1\n", "{}", String::from_utf8_lossy(&over_tcp.stderr));
    }
}

#[test]
fn a_stopped_postgres_comes_back_with_its_data() {
    let mut server = Postgres::start_with(Major::V15, &[("fsync", "on")]);
    server.psql("CREATE TABLE t AS SELECT 7 AS a; CHECKPOINT");
    server.stop();
    assert!(server.try_psql("postgres", "SELECT 1").is_err());
    server.start_again();
    assert_eq!(server.psql("SELECT a FROM t"), "7");
}

#[test]
fn the_regression_database_is_whole() {
    let server = Postgres::start_regression();
    let fingerprint = Fingerprint::of(&server, "regression");
    assert!(fingerprint.tables() > 300, "{}", fingerprint.tables());
    assert_eq!(fingerprint.differences(&Fingerprint::of(&server, "regression")), [""; 0]);
}

#[test]
fn each_redis_answers() {
    for version in Version::ALL {
        let mut server = Redis::start(version, &["--requirepass", "a b'\"#"]);
        server.cli(&["SET", "k", "v"]);
        assert_eq!(server.cli(&["GET", "k"]), "v");
        server.cli(&["SAVE"]);
        server.stop();
        server.start_again();
        assert_eq!(server.cli(&["GET", "k"]), "v");
    }
}

#[test]
fn postgres_and_redis_speak_tls() {
    let authority = Authority::new();
    let redis = Redis::start_tls(&authority, &[]);
    assert_eq!(redis.cli(&["PING"]), "PONG");
    let postgres = Postgres::start_tls(&authority);
    let url = format!("{}?sslmode=verify-full&sslrootcert={}", postgres.url("postgres"), authority.ca().display());
    let tls = postgres.client("psql", "").args(["-Atc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &url]).output();
    assert_eq!(String::from_utf8_lossy(&tls.expect("run psql").stdout), "t\n");
}

#[tokio::test]
async fn seaweedfs_stores_objects() {
    let server = Seaweed::start();
    let bucket = server.bucket(Seaweed::BUCKET);
    bucket.put(&"a/b".into(), PutPayload::from_static(b"x")).await.expect("put");
    let names: Vec<_> = bucket.list(None).map_ok(|object| object.location.to_string()).try_collect().await.expect("list");
    assert_eq!(names, ["a/b"]);
    assert!(server.bucket("nowhere").put(&"a".into(), PutPayload::from_static(b"x")).await.is_err());
    server.create_bucket("second");
    server.bucket("second").put(&"a".into(), PutPayload::from_static(b"x")).await.expect("put");
}

#[test]
fn the_database_comparer_sees_every_kind_of_change() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in(
        "app",
        "CREATE TABLE t (b int, a text); INSERT INTO t VALUES (1, 'x'), (1, 'x'), (2, NULL);
         CREATE SEQUENCE s; SELECT lo_from_bytea(4711, 'large'); CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t",
    );
    let before = Fingerprint::of(&server, "app");
    assert_eq!(before.tables(), 2);
    assert_eq!(before.differences(&Fingerprint::of(&server, "app")), [""; 0]);
    for (change, fact) in [
        ("UPDATE t SET b = 3 WHERE b = 2", "table public.t"),
        ("DELETE FROM t WHERE b = 1", "table public.t"),
        ("SELECT nextval('s')", "sequence public.s"),
        ("SELECT lo_put(4711, 0, 'L')", "large object 4711"),
        ("CREATE INDEX ON t (a)", "schema"),
        ("ALTER DATABASE app SET work_mem = '5MB'", "database setting *"),
        ("ALTER DATABASE app CONNECTION LIMIT 7", "database connection limit"),
        ("COMMENT ON DATABASE app IS 'c'", "database comment"),
        ("REVOKE CONNECT ON DATABASE app FROM public", "database acl"),
        ("REFRESH MATERIALIZED VIEW m", "table public.m"),
    ] {
        let before = Fingerprint::of(&server, "app");
        server.psql_in("app", change);
        let found = before.differences(&Fingerprint::of(&server, "app"));
        assert!(found.iter().any(|line| line.starts_with(fact)), "{change}: {found:?}");
    }
    let before = Fingerprint::roles(&server);
    server.psql("CREATE ROLE r LOGIN PASSWORD 'x'");
    assert_eq!(before.differences(&Fingerprint::roles(&server)).len(), 1);
}

#[test]
fn the_key_comparer_sees_every_kind_of_change() {
    let fill = [
        "SET s v",
        "RPUSH l a b",
        "SADD t a b c",
        "HSET h f v",
        "ZADD z 1 a",
        "XADD x 1-1 f v",
        "XGROUP CREATE x g 0",
        "SET e v PX 100000",
    ];
    let changes = [
        "APPEND s w",
        "LSET l 0 z",
        "SADD t d",
        "HSET h f w",
        "ZADD z 2 a",
        "XREADGROUP GROUP g c STREAMS x >",
        "PEXPIRE e 50000",
        "MOVE s 3",
    ];
    for version in Version::ALL {
        let server = Redis::start(version, &[]);
        let run = |line: &str| server.cli(&line.split(' ').collect::<Vec<_>>());
        for line in fill {
            run(line);
        }
        assert_eq!(Keyspace::of(&server).keys(), 7);
        for change in changes {
            let before = Keyspace::of(&server);
            assert_eq!(before.differences(&Keyspace::of(&server)), [""; 0], "{version:?}");
            run(change);
            assert_ne!(before.differences(&Keyspace::of(&server)), [""; 0], "{version:?}: {change}");
        }
    }
}

#[test]
fn the_tree_comparer_sees_every_kind_of_change() {
    let scratch = Scratch::new();
    scratch.write("d/file", "content");
    scratch.write("other", "content");
    let root = scratch.path();
    let attribute = |name: &str| rustix::fs::lsetxattr(root.join("d/file"), name, b"v", rustix::fs::XattrFlags::empty());
    let changes: [(&str, &dyn Fn()); 5] = [
        ("content", &|| drop(scratch.write("d/file", "CONTENT"))),
        ("link", &|| symlink("file", root.join("d/link")).expect("symlink")),
        ("hard link", &|| std::fs::hard_link(root.join("d/file"), root.join("hard")).expect("link")),
        ("attribute", &|| attribute("user.test").expect("set an attribute")),
        ("removal", &|| std::fs::remove_file(root.join("other")).expect("remove")),
    ];
    for (name, change) in changes {
        let before = Tree::of(root);
        assert_eq!(before.differences(&Tree::of(root)), [""; 0]);
        change();
        assert_ne!(before.differences(&Tree::of(root)), [""; 0], "{name}");
    }
}
