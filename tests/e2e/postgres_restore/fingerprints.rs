//! What a backup notes of a database, and what a restore compares with it.

use backstay::component::postgres::fingerprint::Fingerprint as Noted;
use backstay::component::postgres::{Accounts, Binary, Dump, Endpoint, Order, Patience, PostgresOptions, PostgresRestorer, PostgresSource};
use backstay::component::{ComponentError, Detail, Notes, RestoreOptions, RunContext, Source};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::stored::{Stored, options};
use super::{ODD, chain, failed, into, outside, restore, rich_server, stage, with_clients};
use crate::support::{Backstay, Fingerprint, Major, Postgres, Scratch, toml};

/// Tables whose rows are easy to read back wrongly.
const AWKWARD: &str = r#"
CREATE SCHEMA "We ""ird; --";
SET search_path = "We ""ird; --", public;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE "ta'b\l""e" (
    "a ""b" int, m money, i interval, z timestamptz, t time with time zone, f float8, g float4, b bytea, j json, k jsonb, x xml,
    a int[], p pair, d positive, e mood, r tstzrange, n numeric, u uuid, v varchar(9), c char(5), h "char", o oid, l regclass, w name,
    y tsvector, s inet, bits bit varying, q text, twice int GENERATED ALWAYS AS ("a ""b" * 2) STORED);
INSERT INTO "ta'b\l""e" SELECT i, (i * 1000.5)::numeric::money, i * interval '1 month 1 day 0.000001 s', timestamptz '1880-01-01 UTC' + i * interval '1 year',
    time with time zone '12:00+05:30', i / 3.0, i / 7.0, decode(md5(i::text), 'hex'), json_build_object('k  ', i), jsonb_build_object('k', i / 10.0),
    xmlelement(name a, i), ARRAY[i, NULL], (i, E'x\t\n\\')::pair, i, 'ok', tstzrange(now(), NULL), i / 10.00, md5(i::text)::uuid, 'v' || i, 'c', 'h', i,
    'pg_class', 'n', 'a fat cat'::tsvector, '10.0.0.1/8', b'101', repeat(E'line\n\r\\.\t' || chr(9731), i % 40) FROM generate_series(1, 3000) i;
INSERT INTO "ta'b\l""e" ("a ""b", f, n, q) VALUES (-1, 'NaN', 'NaN', ''), (0, '-Infinity', 0, '\.'), (2, -0.0, 1.500, NULL);
CREATE TABLE one (v text);
INSERT INTO one VALUES (''), ('\.'), (NULL), ('\N'), (E'\n');
CREATE TABLE nothing ();
INSERT INTO nothing SELECT FROM generate_series(1, 4);
CREATE TABLE empty (i int);
CREATE TABLE only_generated (g int GENERATED ALWAYS AS (1 + 1) STORED);
INSERT INTO only_generated DEFAULT VALUES;
CREATE TABLE dropped (a int, b int, c int);
INSERT INTO dropped SELECT i, i, i FROM generate_series(1, 100) i;
ALTER TABLE dropped DROP COLUMN b;
-- the child gets its columns in another order when it is restored
CREATE TABLE base (x int, y text);
CREATE TABLE derived (z int, y text, x int);
INSERT INTO derived SELECT i, i || 'y', -i FROM generate_series(1, 50) i;
ALTER TABLE derived INHERIT base;
INSERT INTO base VALUES (1, 'own');
CREATE TABLE part (d date NOT NULL, v int) PARTITION BY RANGE (d);
CREATE TABLE part_2020 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') PARTITION BY HASH (v);
CREATE TABLE part_2020_0 PARTITION OF part_2020 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE part_2020_1 PARTITION OF part_2020 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE part_rest PARTITION OF part DEFAULT;
INSERT INTO part SELECT date '2020-06-01' + i, i FROM generate_series(1, 400) i;
-- whose rows a restore distributes anew
CREATE TABLE moods (m mood, v int) PARTITION BY HASH (m);
CREATE TABLE moods_0 PARTITION OF moods FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE moods_1 (v int, m mood);
ALTER TABLE moods ATTACH PARTITION moods_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO moods SELECT CASE i % 2 WHEN 0 THEN 'sad'::mood ELSE 'ok' END, i FROM generate_series(1, 30) i;
CREATE UNLOGGED TABLE hasty AS SELECT generate_series(1, 10) i;
CREATE TABLE tenant (who name, what text);
INSERT INTO tenant VALUES ('reader', 'mine'), ('other', 'theirs');
ALTER TABLE tenant ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON tenant USING (who = current_user);
CREATE TABLE large AS SELECT i, repeat(md5(i::text), 3) t FROM generate_series(1, 800000) i;
CREATE SEQUENCE lonely MINVALUE -500 START -3 INCREMENT -2 MAXVALUE 5;
SELECT nextval('lonely'), nextval('lonely');
CREATE SEQUENCE round MAXVALUE 3 CYCLE;
SELECT nextval('round') FROM generate_series(1, 5);
CREATE SEQUENCE untouched;
SELECT lo_from_bytea(0, ''), lo_from_bytea(0, 'small'), lo_from_bytea(0, decode(repeat('00ff10', 200000), 'hex'));
SELECT lo_put(lo_from_bytea(0, ''), 300000, 'behind a hole');
SELECT lo_from_bytea(0, convert_to(repeat('x', 262144), 'UTF8'));
CREATE VIEW seen AS SELECT * FROM part WHERE d > '2020-02-01' AND v <> 3;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM part;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN NEW; END; $f$;
CREATE TRIGGER touched BEFORE UPDATE ON base FOR EACH ROW EXECUTE FUNCTION touch();
CREATE INDEX ON large (t);
"#;

fn awkward(server: &Postgres, database: &str) {
    server.create_database(database);
    server.psql(&format!(
        "ALTER DATABASE {database} SET TimeZone = 'Asia/Kolkata'; ALTER DATABASE {database} SET DateStyle = 'German, DMY';
         ALTER DATABASE {database} SET IntervalStyle = 'iso_8601'; ALTER DATABASE {database} SET bytea_output = 'escape';
         ALTER DATABASE {database} SET extra_float_digits = -3; ALTER DATABASE {database} SET search_path = 'nowhere'"
    ));
    // not all test servers are built with libxml
    let sql = if server.major() == Major::V15 {
        AWKWARD.to_owned()
    } else {
        AWKWARD.replace("x xml", "x text").replace("xmlelement(name a, i)", "i")
    };
    server.psql_in(database, &sql);
}

fn noted(stored: &Stored) -> Noted {
    serde_json::from_value(stored.component.fingerprint.clone().expect("a fingerprint")).expect("its form")
}

fn in_words(done: &[String]) -> String {
    done.join("\n")
}

#[tokio::test]
async fn awkward_tables_come_back_and_compare_as_they_were() {
    let server = Postgres::start(Major::V15);
    awkward(&server, "app");
    let stored = Stored::of(options(&server, &["app"])).await;
    let fingerprint = noted(&stored);
    let app = &fingerprint.databases["app"];
    assert_eq!(app.left_out, Vec::<String>::new());
    let hashed: Vec<_> = app.tables.iter().filter(|(_, t)| t.hash.is_none()).map(|(name, t)| (name.as_str(), t.rows, t.tree)).collect();
    assert_eq!(hashed, [("\"We \"\"ird; --\".\"moods\"", 30, true)], "all others by every row");
    // as another program counts them
    let other = Fingerprint::of(&server, "app");
    assert_eq!(app.tables.len(), other.tables() - 1 - 1, "two leaves are one tree, and the view is computed anew");
    for (name, table) in app.tables.iter().filter(|(_, table)| !table.tree) {
        let plain = name.replace("\"\"", "\u{1}").replace('"', "").replace('\u{1}', "\"");
        let fact = other.fact(&format!("table {plain}")).unwrap_or_else(|| panic!("{plain}"));
        assert_eq!(fact.split('|').next(), Some(table.rows.to_string().as_str()), "{name}");
    }
    assert_eq!(app.large_objects.as_ref().map(|o| o.count), Some(5));
    let restored = restore(&PostgresRestorer::new(options(&server, &[])), &stored, &RestoreOptions::default()).await;
    let said = in_words(&restored.done);
    let tables = app.tables.len();
    assert!(said.contains(&format!("{tables} tables with")) && said.contains(&format!("({} by every row)", tables - 1)), "{said}");
    assert!(said.contains("3 sequences, 5 large objects") && !said.contains("not compared"), "{said}");
    let differences = other.differences(&Fingerprint::of(&server, "app"));
    let unexpected: Vec<_> = differences.iter().filter(|what| !what.contains("moods_")).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

/// Changes one thing in the fingerprint, as if the backup had been of other data, and sees the restore refused.
async fn refused(server: &Postgres, stored: &mut Stored, change: impl FnOnce(&mut Value), expected: &str) {
    let sound = stored.component.fingerprint.clone();
    change(&mut stored.component.fingerprint.as_mut().expect("a fingerprint")["databases"]["app"]);
    assert_ne!(stored.component.fingerprint, sound, "the change is one");
    let before = outside(server);
    let restorer = PostgresRestorer::new(options(server, &[]));
    let error = failed(stage(&restorer, stored, &RestoreOptions::default()).await, server, &before);
    assert!(matches!(error, ComponentError::Differs(_)), "{}", chain(&error));
    assert!(chain(&error).contains(expected), "{}", chain(&error));
    stored.component.fingerprint = sound;
}

#[tokio::test]
async fn whatever_differs_is_found_and_the_old_database_stays() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in(
        "app",
        "CREATE TABLE t (i int, v text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 100) i;
         CREATE SEQUENCE q; SELECT nextval('q'); SELECT lo_from_bytea(1, 'content'); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    );
    let mut stored = Stored::of(options(&server, &["app"])).await;
    let (sound, artifacts) = (stored.objects.clone(), stored.component.artifacts.clone());
    let restorer = PostgresRestorer::new(options(&server, &[]));
    server.psql_in("app", "CREATE TABLE newer (i int)");
    let before = outside(&server);

    // what is stored is not what was there: one value, a row less, a row twice
    let row = |i: u32| server.psql(&format!("SELECT {i} || E'\\t' || md5('{i}')")) + "\n";
    for (from, to, expected) in [
        (row(7), row(7).replace('7', "8"), "table \"public\".\"t\" has its 100 rows, but not all are as they were"),
        (row(7), row(8), "not all are as they were"),
    ] {
        (stored.objects, stored.component.artifacts) = (sound.clone(), artifacts.clone());
        stored.rewrite("app.dump", &from, &to);
        let error = failed(stage(&restorer, &stored, &RestoreOptions::default()).await, &server, &before);
        assert!(matches!(error, ComponentError::Differs(_)) && chain(&error).contains(expected), "{}", chain(&error));
        assert!(!chain(&error).contains(from.trim().split('\t').next_back().expect("a hash")), "no row's content");
    }
    (stored.objects, stored.component.artifacts) = (sound, artifacts);
    let rows = |rows: u64| move |app: &mut Value| app["tables"]["\"public\".\"t\""]["rows"] = rows.into();
    refused(&server, &mut stored, rows(99), "table \"public\".\"t\" has 100 rows, and had 99").await;
    refused(&server, &mut stored, rows(101), "table \"public\".\"t\" has 100 rows, and had 101").await;
    let gone = |app: &mut Value| app["tables"]["\"public\".\"gone\""] = json!({"rows": 3});
    refused(&server, &mut stored, gone, "table \"public\".\"gone\" with 3 rows is missing").await;
    refused(&server, &mut stored, |app| app["sequences"]["\"public\".\"q\""]["last_value"] = 5.into(), "behind the 5").await;
    refused(&server, &mut stored, |app| app["large_objects"]["count"] = 2.into(), "1 large objects, and there were 2").await;
    refused(&server, &mut stored, |app| app["large_objects"]["hash"] = "0".into(), "not all as they were").await;
    refused(&server, &mut stored, |app| app["schema"]["functions"]["names"] = "0".into(), "are others").await;
    refused(&server, &mut stored, |app| app["schema"]["functions"]["definitions"] = "0".into(), "not all defined").await;

    assert_eq!(server.psql_in("app", "SELECT count(*) FROM pg_class WHERE relname = 'newer'"), "1", "in service as it was");
    // who wants it all the same
    stored.component.fingerprint.as_mut().expect("a fingerprint")["databases"]["app"]["tables"]["\"public\".\"t\""]["rows"] = 1.into();
    let off = PostgresRestorer::new(PostgresOptions { fingerprint: Detail::Off, ..options(&server, &[]) });
    let restored = restore(&off, &stored, &RestoreOptions::default()).await;
    assert!(in_words(&restored.done).contains("database \"app\": not compared, as configured"), "{:?}", restored.done);
}

#[tokio::test]
async fn a_backup_without_a_fingerprint_is_restored_and_that_is_said() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in("app", "CREATE TABLE t AS SELECT 1 AS i");
    let stored = Stored::of(PostgresOptions { fingerprint: Detail::Off, ..options(&server, &["app"]) }).await;
    assert_eq!(stored.component.fingerprint, None);
    let restored = restore(&PostgresRestorer::new(options(&server, &[])), &stored, &RestoreOptions::default()).await;
    assert!(in_words(&restored.done).contains("no fingerprint in the backup: not compared"), "{:?}", restored.done);
}

#[tokio::test]
async fn counts_alone_find_a_row_too_few_and_hash_nothing() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in("app", "CREATE TABLE t AS SELECT generate_series(1, 10) i; SELECT lo_from_bytea(1, 'content')");
    let mut stored = Stored::of(PostgresOptions { fingerprint: Detail::Counts, ..options(&server, &["app"]) }).await;
    let fingerprint = noted(&stored);
    let app = &fingerprint.databases["app"];
    assert!(app.tables["\"public\".\"t\""].hash.is_none() && app.large_objects.as_ref().is_some_and(|o| o.hash.is_none() && o.count == 1));
    refused(&server, &mut stored, |app| app["tables"]["\"public\".\"t\""]["rows"] = 11.into(), "has 10 rows, and had 11").await;
    let restored = restore(&PostgresRestorer::new(options(&server, &[])), &stored, &RestoreOptions::default()).await;
    assert!(in_words(&restored.done).contains("1 table with 10 rows, counted only"), "{:?}", restored.done);
}

/// Rows come and go all the time, and sequences move; what is restored is still what was noted.
#[tokio::test]
async fn writes_during_the_backup_disturb_nothing() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in(
        "app",
        "CREATE TABLE t (i serial, v text); INSERT INTO t (v) SELECT repeat('x', 300) FROM generate_series(1, 100000);
         CREATE TABLE emptied AS SELECT generate_series(1, 1000) i",
    );
    let mut writer = server.client("psql", "app");
    let script = "INSERT INTO t (v) SELECT 'new' FROM generate_series(1, 50); DELETE FROM t WHERE i % 97 = (random() * 96)::int; \
         UPDATE t SET v = 'changed' WHERE i % 89 = (random() * 88)::int; \\watch 0.01\n";
    let scratch = Scratch::new();
    let file = scratch.write("write.sql", script);
    let mut writer = writer.args(["--no-psqlrc", "--quiet", "--file"]).arg(file).stdout(std::process::Stdio::null()).spawn().expect("psql");
    let stored = Stored::of(options(&server, &["app"])).await;
    writer.kill().expect("end the writer");
    writer.wait().expect("it ended");
    server.psql_in("app", "TRUNCATE emptied");
    let restored = restore(&PostgresRestorer::new(options(&server, &[])), &stored, &RestoreOptions::default()).await;
    assert!(in_words(&restored.done).contains("2 tables with"), "{:?}", restored.done);
    assert_eq!(server.psql_in("app", "SELECT count(*) FROM emptied"), "1000");
}

/// Somebody who waits for an exclusive lock stands in nobody's way: the session that counts has its locks already.
#[tokio::test]
async fn a_queued_exclusive_lock_does_not_hold_up_the_counting() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in("app", "CREATE TABLE t AS SELECT i, repeat('x', 500) v FROM generate_series(1, 20000) i");
    let run = RunContext::default();
    let source = PostgresSource::new(PostgresOptions { globals: false, ..options(&server, &["app"]) });
    let mut artifacts = source.open(&run).await.expect("opened");
    let mut stream = artifacts.pop().expect("one").open.await.expect("begun");
    let mut waiting = server.client("psql", "app").args(["--no-psqlrc", "--command", "ALTER TABLE t ADD added int"]).spawn().expect("psql");
    while server.psql("SELECT count(*) FROM pg_locks WHERE NOT granted") == "0" {
        tokio::task::yield_now().await;
    }
    stream.read_to_end(&mut Vec::new()).await.expect("whole");
    assert!(waiting.wait().expect("it ended").success());
    let noted: Noted = serde_json::from_value(run.notes.take_fingerprint().expect("noted")).expect("its form");
    assert_eq!(noted.databases["app"].tables["\"public\".\"t\""].rows, 20000);
    assert_eq!(run.notes.take().1, Vec::<String>::new());
}

#[tokio::test]
async fn rows_that_cannot_be_counted_cost_the_count_and_not_the_backup() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in("app", "CREATE TABLE t AS SELECT generate_series(1, 10) i; CREATE TABLE other AS TABLE t; CREATE SEQUENCE secret");
    server.psql("CREATE ROLE backup LOGIN PASSWORD 'x' IN ROLE pg_read_all_data; ALTER DATABASE app CONNECTION LIMIT 50");
    // pg_dump needs the sequence: it may read it when its turn comes
    let as_backup = PostgresOptions {
        url: Some(backstay::secret::Secret::parse(&server.url_as("backup", "x", "app"))),
        globals: false,
        ..options(&server, &["app"])
    };
    let stored = Stored::of(as_backup).await;
    let app = &noted(&stored).databases["app"];
    assert_eq!((app.tables.len(), app.sequences.len()), (2, 1));
    let restored = restore(&PostgresRestorer::new(options(&server, &[])), &stored, &RestoreOptions::default()).await;
    assert!(in_words(&restored.done).contains("2 tables with 20 rows"), "{:?}", restored.done);
}

#[tokio::test]
async fn several_streams_make_one_fingerprint() {
    let server = Postgres::start(Major::V15);
    awkward(&server, "app");
    server.create_database("second");
    server.psql_in("second", "CREATE TABLE t AS SELECT 1 AS i");
    let one = Stored::of(options(&server, &["app", "second"])).await;
    let jobs = backstay::component::postgres::Jobs::Number(std::num::NonZeroU32::new(3).expect("not 0"));
    let three = Stored::of(PostgresOptions { jobs, ..options(&server, &["app", "second"]) }).await;
    assert!(three.component.artifacts.iter().any(|a| a.path.file().contains(".data-")), "split");
    assert_eq!(one.component.fingerprint, three.component.fingerprint);
    assert_eq!(noted(&one).databases.len(), 2);
    let restored = restore(&PostgresRestorer::new(options(&server, &[])), &three, &RestoreOptions::default()).await;
    let said = in_words(&restored.done);
    assert!(said.contains("\"app\" is as its fingerprint") && said.contains("\"second\" is as its fingerprint"), "{said}");
}

/// From each major to the next one.
#[tokio::test]
async fn newer_majors_are_compared_too() {
    if !with_clients("postgres_restore::fingerprints::newer_majors_are_compared_too", &Major::ALL) {
        return;
    }
    for pair in Major::ALL.windows(2) {
        let (source, target) = (Postgres::start(pair[0]), Postgres::start(pair[1]));
        awkward(&source, "app");
        // what 15 can write and others may not read; and what takes long
        source.psql_in("app", r#"ALTER TABLE "We ""ird; --"."ta'b\l""e" ALTER x TYPE text; DROP TABLE "We ""ird; --".large"#);
        let stored = Stored::of(options(&source, &["app"])).await;
        let restorer = PostgresRestorer::new(options(&target, &[]));
        let restored = restore(&restorer, &stored, &RestoreOptions::default()).await;
        let said = in_words(&restored.done);
        assert!(said.contains("database \"app\" is as its fingerprint"), "{pair:?}: {said}");
        assert!(said.contains("definitions of the schema") && said.contains("majors write its values in different words"), "{said}");
        // and that it would have been found
        let mut other = stored;
        other.component.fingerprint.as_mut().expect("a fingerprint")["databases"]["app"]["tables"]["\"We \"\"ird; --\".\"one\""]["hash"] =
            "0".into();
        let error = stage(&restorer, &other, &into("again")).await.err().expect("it differs");
        assert!(matches!(error, ComponentError::Differs(_)), "{pair:?}: {}", chain(&error));
    }
}

#[tokio::test]
async fn whoever_is_no_superuser_gets_no_false_alarm() {
    let source = rich_server(Major::V15);
    source.psql_in(ODD, "DROP EVENT TRIGGER watch; DROP PUBLICATION everything; COMMENT ON EXTENSION pg_trgm IS NULL");
    let stored = Stored::of(options(&source, &[ODD])).await;
    let target = Postgres::start(Major::V15);
    target.psql("CREATE ROLE plain LOGIN CREATEDB PASSWORD 'x'; CREATE ROLE reader");
    let restorer = PostgresRestorer::new(PostgresOptions {
        url: Some(backstay::secret::Secret::parse(&target.url_as("plain", "x", "postgres"))),
        ..options(&target, &[])
    });
    let restored = restore(&restorer, &stored, &RestoreOptions::default()).await;
    let said = in_words(&restored.done);
    assert!(said.contains("is as its fingerprint in the backup"), "{said}");
    // FORCE ROW LEVEL SECURITY: even its owner may not read it as a whole
    assert!(said.contains("\"tenant\": query would be affected by row-level security"), "{said}");
    assert!(restored.warnings.iter().any(|w| w.contains("missing here") && w.contains("app owner")), "{:?}", restored.warnings);
}

/// A `pg_dump` that leaves the rows of a table out and says nothing.
#[tokio::test]
async fn a_dump_that_lacks_rows_fails() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in("app", "CREATE TABLE kept AS SELECT 1 AS i; CREATE TABLE lost AS SELECT generate_series(1, 3) i");
    let scratch = Scratch::new();
    let real = server.bin("pg_dump");
    let path = scratch.write("pg_dump", format!("#!/bin/sh\nexec {} --exclude-table-data=lost \"$@\"\n", real.display()));
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let pg_dump = Binary { path, major: 15, version: "15".into() };
    let endpoint = Endpoint::from_options(&PostgresOptions { database: Some("app".into()), ..options(&server, &[]) }).expect("an endpoint");
    let endpoint = endpoint.with_database("app");
    let (notes, cancel, patience) = (Notes::default(), CancellationToken::new(), Patience::default());
    let accounts = std::sync::Arc::new(Accounts::new(Detail::Full, Vec::new(), notes.clone()));
    let order =
        Order { endpoint: &endpoint, pg_dump: &pg_dump, patience: &patience, notes: &notes, cancel: &cancel, accounts: Some(&accounts) };
    let mut dump = Dump::start(&order).await.expect("begun");
    let error = dump.read_to_end(&mut Vec::new()).await.expect_err("it lacks rows");
    assert!(chain(&error).contains("table \"public\".\"lost\" with 3 rows is not in it"), "{}", chain(&error));
    // nothing but the check finds it
    let mut dump = Dump::start(&Order { accounts: None, ..order }).await.expect("begun");
    dump.read_to_end(&mut Vec::new()).await.expect("an end");
}

/// Through the program: a fingerprint of many tables lies beside the archives, is verified, exported and compared.
#[test]
fn a_large_fingerprint_is_an_artifact_like_the_others() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in("app", "SELECT format('CREATE TABLE %I AS SELECT i, now() AS at FROM generate_series(1, 5) i', 'table number ' || n) FROM generate_series(1, 300) n\n\\gexec\n");
    let store = Scratch::new();
    let config = [toml::postgres("postgres", &server, &["app"]), toml::file_target("local", &store.join("backups"))].concat();
    let backstay = Backstay::new(&config);
    let name = backstay.backup();
    let file = store.join("backups").join(&name).join("postgres/fingerprint.json.gz");
    assert!(file.exists());
    backstay.succeed(&["verify", &name]);
    let plain = store.join("plain");
    backstay.succeed(&["export", &name, plain.to_str().expect("a path")]);
    let found = walk(&plain).into_iter().find(|p| p.ends_with("fingerprint.json")).expect("exported");
    let text: Value = serde_json::from_slice(&std::fs::read(found).expect("read")).expect("JSON");
    assert_eq!(text["databases"]["app"]["tables"].as_object().map(serde_json::Map::len), Some(300));
    let restored = backstay.succeed(&["restore", &name, "--yes"]);
    let said = restored.stdout.clone() + &restored.stderr;
    assert!(said.contains("300 tables with 1500 rows"), "{said}");

    // other data than was noted: exit code 12, and what is in service stays
    let mut bytes = std::fs::read(&file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    server.psql_in("app", "CREATE TABLE newer ()");
    let refused = backstay.run(&["restore", &name, "--yes"]).expect_code(12);
    assert!(refused.stderr.contains("fingerprint"), "{}", refused.stderr);
    assert_eq!(server.psql_in("app", "SELECT count(*) FROM pg_class WHERE relname = 'newer'"), "1");
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|e| e.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
