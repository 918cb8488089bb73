//! Databases in several archives: split at backup, brought back by us and by stock tools.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstay::chain::describe;
use backstay::clock::SystemClock;
use backstay::component::postgres::{
    Binary, Dump, Endpoint, Jobs, Order, Patience, PostgresOptions, PostgresRestorer, PostgresSource, archive, facts,
};
use backstay::component::{Artifact, ByteStream, ComponentError, Notes, RestoreOptions, Restorer, RunContext, Source};
use backstay::job::{self, Job, Request};
use backstay::manifest::{Encoding, Facts, Kind};
use backstay::name::ComponentName;
use backstay::pipeline::{Budget, Codec, Engine};
use backstay::retention::Policy;
use backstay::signature::Authenticity;
use backstay::storage::{Access, Location, Target, TargetOptions};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::stored::{Stored, options};
use super::{ODD, chain, failed, ident, is_damage, outside, restore, rich_server, stage, with_clients};
use crate::postgres_source::{sessions, until};
use crate::support::{Backstay, Fingerprint, Major, Postgres, Scratch, assert_same_database, toml};

/// Long enough for a busy machine, short enough for a test.
const IMPATIENT: Patience = Patience { lock_wait: Duration::from_secs(2), attempts: 2 };

/// Names with everything that is a wildcard, a quote or an option somewhere.
const NAMES: &[&str] = &[
    "a*?[b].$\"c",
    "Upper",
    "upper",
    "with space",
    "back\\slash",
    "new\nline",
    "ü",
    "-t",
    "p|(q)+{1}^",
    "$$",
    "a.b",
    "it's",
    "public.Upper",
];

fn jobs(number: u32) -> Jobs {
    Jobs::Number(number.try_into().expect("not 0"))
}

fn in_streams(server: &Postgres, database: &str, number: u32) -> PostgresOptions {
    PostgresOptions { jobs: jobs(number), ..options(server, &[database]) }
}

/// Tables that are large enough to be split off, of every kind that matters.
fn big_tables(server: &Postgres, database: &str) {
    let filler = "SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, 7000) i";
    let mut sql = String::from("CREATE SCHEMA \"We \"\"ird.*\"; SET search_path = \"We \"\"ird.*\", public;\n");
    for name in NAMES {
        let name = ident(name);
        sql += &format!("CREATE TABLE {name} (\"I d\" int PRIMARY KEY, v text NOT NULL); INSERT INTO {name} {filler};\n");
    }
    sql += &format!(
        "CREATE TYPE side AS ENUM ('l', 'r');
         CREATE TABLE sides (s side, v text) PARTITION BY HASH (s);
         CREATE TABLE sides_0 PARTITION OF sides FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE sides_1 PARTITION OF sides FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO sides SELECT (ARRAY['l', 'r'])[1 + i % 2]::side, repeat(md5(i::text), 5) FROM generate_series(1, 20000) i;
         CREATE TABLE deep (k int NOT NULL, v text, PRIMARY KEY (k)) PARTITION BY RANGE (k);
         CREATE TABLE deep_low PARTITION OF deep FOR VALUES FROM (0) TO (5000) PARTITION BY RANGE (k);
         CREATE TABLE deep_low_1 PARTITION OF deep_low FOR VALUES FROM (0) TO (5000);
         CREATE TABLE deep_rest PARTITION OF deep DEFAULT;
         INSERT INTO deep {filler};
         CREATE TABLE refers (k int REFERENCES deep, v text); INSERT INTO refers {filler};
         CREATE TABLE elder (i int, v text); INSERT INTO elder {filler};
         CREATE TABLE younger (w int GENERATED ALWAYS AS (i * 2) STORED) INHERITS (elder); INSERT INTO younger (i, v) {filler};
         CREATE TABLE counted (id bigint GENERATED ALWAYS AS IDENTITY, v text); INSERT INTO counted (v) SELECT v FROM ONLY elder;
         CREATE TABLE own (who text, v text); INSERT INTO own SELECT 'x', v FROM elder; ALTER TABLE own ENABLE ROW LEVEL SECURITY;
         ALTER TABLE own FORCE ROW LEVEL SECURITY; CREATE POLICY mine ON own USING (who = current_user);
         CREATE UNLOGGED TABLE unlogged AS {filler};
         CREATE TABLE itself (i int PRIMARY KEY, up int REFERENCES itself, v text); INSERT INTO itself SELECT i, 7001 - i, v FROM ONLY elder;
         CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM own;
         CREATE TABLE long (v text); INSERT INTO long SELECT string_agg(md5(i::text), '') FROM generate_series(1, 100000) i;
         INSERT INTO long VALUES (''), (''), (NULL), ('\\.');
         SELECT lo_from_bytea(777, decode(repeat('00ff', 50000), 'hex'));\n"
    );
    server.psql_in(database, &sql);
}

/// As docs/emergency-restore.md says.
fn stock_restore(server: &Postgres, database: &str, stored: &Stored, from: &str) {
    server.create_database(database);
    let scratch = Scratch::new();
    let mut archives = Vec::new();
    for artifact in stored.component.artifacts.iter().filter(|a| a.database.as_deref() == Some(from)) {
        archives.push(scratch.write(artifact.path.file(), &stored.objects[&artifact.path]));
    }
    let run = |file: &std::path::Path, section: &str| {
        let arguments = ["--exit-on-error", "--dbname", database, section];
        let restored = server.client("pg_restore", "").args(arguments).arg(file).output().expect("run pg_restore");
        assert!(restored.status.success(), "{section} {}: {}", file.display(), String::from_utf8_lossy(&restored.stderr));
    };
    run(&archives[0], "--section=pre-data");
    archives.iter().for_each(|file| run(file, "--section=data"));
    run(&archives[0], "--section=post-data");
}

/// Between [`ODD`] on `source` and `database` on `target`. The hash of an enum's value is another one in another database, so that rows go
/// to other partitions: `sides` is compared as a whole. `bare`: but for what belongs to the database itself.
fn differences(source: &Postgres, target: &Postgres, database: &str, bare: bool) -> Vec<String> {
    let mut found = Fingerprint::of(source, ODD).differences(&Fingerprint::of(target, database));
    found.retain(|d| !(d.starts_with("table We \"ird.*.sides_") || bare && d.starts_with("database ")));
    let sides = "SELECT s, count(*), sum(hashtext(v)) FROM \"We \"\"ird.*\".sides GROUP BY s ORDER BY s";
    assert_eq!(source.psql_in(ODD, sides), target.psql_in(database, sides));
    found
}

async fn round(major: Major) {
    let (source, target) = (rich_server(major), Postgres::start(major));
    big_tables(&source, ODD);
    let stored = Stored::of(in_streams(&source, ODD, 3)).await;
    let files: Vec<_> = stored.component.artifacts.iter().map(|a| a.path.file().to_owned()).collect();
    let stem = backstay::name::file_stem(ODD);
    assert_eq!(files, ["globals.sql".to_owned(), format!("{stem}.dump"), format!("{stem}.data-1.dump"), format!("{stem}.data-2.dump")]);
    let split = facts::databases(&stored.component.facts).expect("databases")[ODD].split.clone();
    assert_eq!(split.iter().map(|s| s.archive.clone()).collect::<Vec<_>>(), files[2..]);
    assert!(split.iter().all(|s| s.tables.len() > 3), "{split:?}");
    for artifact in &stored.component.artifacts[1..] {
        archive::walk(&stored.objects[&artifact.path][..]).await.expect("an archive to its end");
    }

    let restored = restore(&PostgresRestorer::new(options(&target, &[])), &stored, &RestoreOptions::default()).await;
    assert_eq!(restored.warnings, Vec::<String>::new(), "{major:?}");
    assert_eq!(differences(&source, &target, ODD, false), [""; 0], "{major:?}");
    stock_restore(&target, "stock", &stored, ODD);
    assert_eq!(differences(&source, &target, "stock", true), [""; 0], "{major:?}");
}

#[tokio::test]
async fn several_streams_hold_what_one_holds_whatever_tables_are_called() {
    round(Major::V15).await;
}

#[test]
fn several_streams_come_back_in_16() {
    if with_clients("postgres_restore::streams::several_streams_come_back_in_16", &[Major::V16]) {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(round(Major::V16));
    }
}

#[test]
fn several_streams_come_back_in_17() {
    if with_clients("postgres_restore::streams::several_streams_come_back_in_17", &[Major::V17]) {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(round(Major::V17));
    }
}

#[test]
fn several_streams_come_back_in_18() {
    if with_clients("postgres_restore::streams::several_streams_come_back_in_18", &[Major::V18]) {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(round(Major::V18));
    }
}

#[test]
fn the_regression_database_comes_back_out_of_several_streams() {
    let server = Postgres::start_regression();
    let store = Scratch::new();
    let refresh =
        "SELECT format('REFRESH MATERIALIZED VIEW %s', oid::regclass) FROM pg_class WHERE relkind = 'm' AND relispopulated\n\\gexec\n";
    server.psql_in("regression", &refresh.repeat(3));
    let before = Fingerprint::of(&server, "regression");
    let postgres = toml::postgres("postgres", &server, &["regression"]) + "jobs = 3\n";
    let backstay = Backstay::new(&[postgres, toml::file_target("local", &store.join("backups"))].concat());
    let name = backstay.backup();
    let stored = store.join("backups").join(&name).join("postgres");
    for file in ["regression.dump.gz", "regression.data-1.dump.gz", "regression.data-2.dump.gz"] {
        assert!(stored.join(file).exists(), "{file}");
    }
    server.psql("DROP DATABASE regression WITH (FORCE)");
    backstay.succeed(&["restore", &name, "--yes"]);
    assert_same_database(&before, &Fingerprint::of(&server, "regression"));
}

#[tokio::test]
async fn a_damaged_stream_of_rows_changes_nothing() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    big_tables(&server, "app");
    let mut stored = Stored::of(in_streams(&server, "app", 3)).await;
    let restorer = PostgresRestorer::new(options(&server, &[]));
    let before = outside(&server);
    // a digit of a row: COPY takes it
    stored.flip_in("app.data-2.dump", &"c4ca4238a0b923820dcc509a6f75849b".repeat(2));
    let error = failed(stage(&restorer, &stored, &RestoreOptions::default()).await, &server, &before);
    assert!(is_damage(&error) && chain(&error).contains("app.data-2.dump"), "{}", chain(&error));
    // without it, nothing would say that rows are missing
    stored.component.artifacts.retain(|a| a.path.file() != "app.data-2.dump");
    let error = failed(stage(&restorer, &stored, &RestoreOptions::default()).await, &server, &before);
    assert!(chain(&error).contains("lacks the archive `app.data-2.dump`"), "{}", chain(&error));
}

/// The table of contents is read twice, and only the second reading is verified.
#[tokio::test]
async fn a_table_of_contents_that_was_damaged_only_once_changes_nothing() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in("app", "CREATE TABLE t (i int); COMMENT ON TABLE t IS 'as it was'");
    let stored = Stored::of(in_streams(&server, "app", 1)).await;
    let before = outside(&server);
    let mut part = stored.component();
    let (sound, once) = (part.open.clone(), AtomicBool::new(true));
    let main = part.component.artifacts.last().expect("an archive").path.clone();
    let mut bytes = stored.objects[&main].to_vec();
    let at = bytes.windows(9).position(|w| w == b"as it was").expect("the comment");
    bytes[at] ^= 1;
    part.open = Arc::new(move |artifact| {
        if artifact.path != main || !once.swap(false, Ordering::Relaxed) {
            return sound(artifact);
        }
        let damaged = std::io::Cursor::new(bytes.clone());
        Box::pin(async move { Ok(Box::new(damaged) as ByteStream) })
    });
    let restorer = PostgresRestorer::new(options(&server, &[]));
    let staged = restorer.stage(&part, &RestoreOptions::default(), &RunContext::default()).await;
    let error = failed(staged, &server, &before);
    assert!(chain(&error).contains("its table of contents is another one"), "{}", chain(&error));
}

/// Servers up to 17 take a line `\.` for the end of the rows and drop the rest without a word.
#[tokio::test]
async fn rows_that_the_server_drops_are_an_error() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in("app", "CREATE TABLE t AS SELECT 'zz' AS v FROM generate_series(1, 10)");
    let mut stored = Stored::of(in_streams(&server, "app", 1)).await;
    stored.rewrite("app.dump", "zz\n", "\\.\n");
    let before = outside(&server);
    let restorer = PostgresRestorer::new(options(&server, &[]));
    let error = failed(stage(&restorer, &stored, &RestoreOptions::default()).await, &server, &before);
    assert!(chain(&error).contains("10 were sent, and the server took 0"), "{}", chain(&error));
}

/// Rows in another encoding go over our connections; an archive with such names is left to pg_restore.
#[tokio::test]
async fn databases_of_other_encodings_come_back() {
    let server = Postgres::start(Major::V15);
    let names = ["latin", "ascii"];
    for (name, encoding) in names.into_iter().zip(["LATIN1", "SQL_ASCII"]) {
        server.psql(&format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"));
        let filler = "SELECT i, repeat('x' || chr(233), 100) FROM generate_series(1, 9000) i";
        for table in ["one", "two"] {
            server.psql_in(name, &format!("CREATE TABLE {table} (i int, v text); INSERT INTO {table} {filler}"));
        }
    }
    let round = async |names: &[&str]| {
        let stored = Stored::of(PostgresOptions { jobs: jobs(3), ..options(&server, names) }).await;
        for name in names {
            server.psql_in(name, "DROP TABLE one");
        }
        restore(&PostgresRestorer::new(options(&server, &[])), &stored, &RestoreOptions::default()).await;
    };
    let before = names.map(|name| Fingerprint::of(&server, name));
    round(&names).await;
    for (name, before) in names.iter().zip(&before) {
        assert_same_database(before, &Fingerprint::of(&server, name));
    }
    server.psql_in("latin", "SELECT format('CREATE TABLE %I AS TABLE one', 'caf' || chr(233))\n\\gexec\n");
    let rows = "SELECT format('SELECT count(*), sum(hashtext(v)) FROM %I', t) FROM unnest(ARRAY['one', 'caf' || chr(233)]) t\n\\gexec\n";
    let before = server.psql_in("latin", rows);
    round(&["latin"]).await;
    assert_eq!(server.psql_in("latin", rows), before);
}

/// The archives of `app`, none begun.
async fn artifacts(server: &Postgres) -> Vec<Artifact> {
    let source = PostgresSource::new(PostgresOptions { globals: false, ..in_streams(server, "app", 3) }).with_patience(IMPATIENT);
    source.open(&RunContext::default()).await.expect("opened")
}

async fn read(artifact: Artifact) -> Result<Vec<u8>, String> {
    let mut stream = artifact.open.await.map_err(|e| describe(&e))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.map_err(|e| describe(&e))?;
    Ok(bytes)
}

#[tokio::test]
async fn streams_whose_snapshot_was_lost_do_not_all_end_well() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    big_tables(&server, "app");
    let mut artifacts = artifacts(&server).await.into_iter();
    let mut first = artifacts.next().expect("the main one").open.await.expect("begun");
    server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'backstay' AND datname = 'app'");
    first.read_to_end(&mut Vec::new()).await.expect("not the last one");
    let mut last = Ok(Vec::new());
    for artifact in artifacts {
        last = read(artifact).await;
    }
    let said = last.expect_err("unprotected");
    assert!(said.contains("the dump may be incomplete"), "{said}");
}

#[tokio::test]
async fn a_stream_that_fails_fails_the_backup() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    big_tables(&server, "app");
    let mut streams = Vec::new();
    for artifact in artifacts(&server).await {
        streams.push(artifact.open.await.expect("begun"));
    }
    // they all began together: one of them is ended while none was read
    assert_eq!(server.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'"), "3");
    let one = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_dump' ORDER BY backend_start DESC LIMIT 1";
    server.psql(&format!("SELECT pg_terminate_backend(pid) FROM ({one}) AS one"));
    let mut failures = 0;
    for mut stream in streams {
        failures += usize::from(stream.read_to_end(&mut Vec::new()).await.is_err());
    }
    assert_eq!(failures, 1, "and that is the component's failure");
}

/// An ACCESS EXCLUSIVE request that queues between the snapshot and the dumps blocks all of them, and they begin again.
#[tokio::test]
async fn a_queued_exclusive_lock_costs_a_new_snapshot_and_not_the_streams() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    big_tables(&server, "app");
    let altered = "SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid WHERE attname = 'added' AND relname = 'elder'";
    let source = PostgresOptions { globals: false, ..in_streams(&server, "app", 3) };
    let endpoint = Endpoint::from_options(&PostgresOptions { database: Some("app".into()), ..source }).expect("an endpoint");
    let pg_dump = waits_first(&server);
    let (notes, cancel) = (Notes::default(), CancellationToken::new());
    let order = Order { endpoint: &endpoint, pg_dump: &pg_dump.0, patience: &IMPATIENT, notes: &notes, cancel: &cancel, accounts: None };
    let dumps = Dump::start_all(&order, 3).await.expect("streams");
    let mut found = Vec::new();
    for mut dump in dumps {
        let mut bytes = Vec::new();
        dump.read_to_end(&mut bytes).await.expect("whole");
        archive::walk(&bytes[..]).await.expect("an archive");
        found.push(bytes);
    }
    assert_eq!(server.psql_in("app", altered), "1", "the one who waited had its turn");
    let with = found.iter().filter(|bytes| bytes.windows(7).any(|w| w == b"\"added\"")).count();
    assert!(with >= 1, "the second snapshot, in which the column is there");
}

/// A `pg_dump` whose first run waits until somebody queues for an exclusive lock.
fn waits_first(server: &Postgres) -> (Binary, Scratch) {
    let scratch = Scratch::new();
    let real = server.bin("pg_dump");
    let script = format!(
        "#!/bin/sh\n\
         if mkdir {mark} 2>/dev/null; then\n\
           PATH={bin}:$PATH\n\
           PGAPPNAME=alter psql -Xqc 'ALTER TABLE \"We \"\"ird.*\".elder ADD added int' >/dev/null 2>&1 &\n\
         fi\n\
         until [ -e {mark}/queued ]; do\n\
           if [ \"$({bin}/psql -XAtqc 'SELECT count(*) FROM pg_locks WHERE NOT granted')\" != 0 ]; then mkdir -p {mark}/queued; fi\n\
         done\n\
         exec {real} \"$@\"\n",
        mark = scratch.join("mark").display(),
        bin = real.parent().expect("a folder").display(),
        real = real.display(),
    );
    let path = scratch.write("pg_dump", script);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    (Binary { path, major: 15, version: "15".into() }, scratch)
}

/// A run of a job over `source`, into a directory, with memory for parts of one stream at a time.
async fn run(source: Arc<dyn Source>, store: &Scratch) -> Result<job::Report, job::JobError> {
    let name = || "local".parse().expect("a name");
    let location = Location::File(store.path().to_owned());
    let options = TargetOptions { name: name(), location, limit: None };
    let job = Job {
        name: "default".parse().expect("a name"),
        sources: vec![source],
        targets: vec![(name(), Target::open(&options, Access::Write))],
        policy: Policy { last: NonZeroU32::new(2), ..Policy::default() },
        codec: Codec::new(Encoding::Gzip, 1).expect("a codec"),
        lock: None,
        authenticity: Authenticity::default(),
        stall_timeout: Duration::from_secs(60),
        timeout: None,
    };
    let engine = Engine::new(Budget::new(12 << 20), 2);
    job::run(job, Request::default(), &engine, &SystemClock, &CancellationToken::new()).await
}

#[tokio::test]
async fn streams_take_turns_where_memory_has_room_for_one() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.create_database("second");
    big_tables(&server, "app");
    let store = Scratch::new();
    let both = PostgresOptions { jobs: jobs(4), ..options(&server, &["app", "second"]) };
    let report = run(Arc::new(PostgresSource::new(both)), &store).await.expect("a backup");
    let files: Vec<_> = report.manifest.artifacts().map(|a| a.path.file().to_owned()).collect();
    let expected = ["globals.sql", "app.dump", "app.data-1.dump", "app.data-2.dump", "app.data-3.dump", "second.dump"];
    assert_eq!(files, expected.map(|file| format!("{file}.gz")), "in the order of the source");
}

/// A source whose last stream fails after its last byte.
struct Broken(PostgresSource);

#[async_trait::async_trait]
impl Source for Broken {
    fn name(&self) -> &ComponentName {
        self.0.name()
    }

    fn kind(&self) -> Kind {
        self.0.kind()
    }

    async fn check(&self) -> Result<Facts, ComponentError> {
        self.0.check().await
    }

    async fn open(&self, run: &RunContext) -> Result<Vec<Artifact>, ComponentError> {
        let mut artifacts = self.0.open(run).await?;
        let Artifact { file, format, database, estimate, open } = artifacts.pop().expect("one at least");
        let open = async move {
            let broken = futures_util::stream::iter([Err::<bytes::Bytes, _>(std::io::Error::other("it broke"))]);
            let stream = open.await?.chain(tokio_util::io::StreamReader::new(broken));
            Ok(Box::new(stream) as ByteStream)
        };
        artifacts.push(Artifact { file, format, database, estimate, open: Box::pin(open) });
        Ok(artifacts)
    }
}

#[tokio::test]
async fn one_stream_that_fails_leaves_nothing_of_the_component() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    big_tables(&server, "app");
    let store = Scratch::new();
    let error = run(Arc::new(Broken(PostgresSource::new(in_streams(&server, "app", 3)))), &store).await.expect_err("nothing left");
    assert!(error.to_string().contains("it broke"), "{error}");
    // the lease was given back, and keeps its number
    let left: Vec<_> = walkdir(store.path()).into_iter().filter(|path| !path.to_string_lossy().contains("/.backstay/leases/")).collect();
    assert!(left.is_empty(), "{left:?}");
    until(|| sessions(&server) == "0").await;
}

/// Every file below.
fn walkdir(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|e| e.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { walkdir(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn tables_of_extensions_and_parents_stay_where_they_are() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    big_tables(&server, "app");
    server.psql_in(
        "app",
        "CREATE TABLE of_extension AS SELECT i, repeat('x', 500) AS v FROM generate_series(1, 9000) i;
         ALTER EXTENSION plpgsql ADD TABLE of_extension",
    );
    let stored = Stored::of(in_streams(&server, "app", 6)).await;
    let split = facts::databases(&stored.component.facts).expect("databases")["app"].split.clone();
    let tables: Vec<_> = split.iter().flat_map(|s| s.tables.clone()).collect();
    for name in ["of_extension", "\"sides\"", "\"deep\"", "\"deep_low\"", "seen"] {
        assert!(tables.iter().all(|t| !t.ends_with(name)), "{name}: {tables:?}");
    }
    assert!(tables.iter().any(|t| t.ends_with("\"sides_0\"")) && split.len() == 5, "{split:?}");
}
