//! PostgreSQL as a source, against real servers: what it gives is whole, or it is an error that says why.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::time::Duration;

use backstay::chain::describe;
use backstay::component::postgres::{
    Binary, Dump, Endpoint, Order, Patience, PostgresError, PostgresOptions, PostgresSource, Snapshot, Tool, facts,
};
use backstay::component::{Artifact, ComponentError, Notes, RunContext, Source};
use backstay::secret::Secret;
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::support::postgres::PASSWORD;
use crate::support::{Authority, Fingerprint, Major, Postgres, Scratch};

/// Long enough for a busy machine to reach the lock, short enough for a test.
const IMPATIENT: Patience = Patience { lock_wait: Duration::from_secs(2), attempts: 2 };

fn options(url: &str) -> PostgresOptions {
    PostgresOptions { url: Some(Secret::parse(url)), ..PostgresOptions::new("postgres".parse().expect("a name")) }
}

fn only(server: &Postgres, database: &str) -> PostgresOptions {
    PostgresOptions { globals: false, ..options(&server.url(database)) }
}

/// Opens a source and reads every artifact to its end.
async fn read_all(options: PostgresOptions) -> Result<(Vec<(String, Vec<u8>)>, RunContext), String> {
    let run = RunContext::default();
    let source = PostgresSource::new(options).with_patience(IMPATIENT);
    let artifacts = source.open(&run).await.map_err(|e| say(&e))?;
    let mut read = Vec::new();
    for artifact in artifacts {
        let file = artifact.file.clone();
        read.push((file, read_artifact(artifact).await?));
    }
    Ok((read, run))
}

async fn read_artifact(artifact: Artifact) -> Result<Vec<u8>, String> {
    let mut stream = artifact.open.await.map_err(|e| say(&e))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.map_err(|e| describe(&e))?;
    Ok(bytes)
}

/// An error as an operator reads it. It never holds the password.
fn say(error: &ComponentError) -> String {
    let text = format!("{}. {}", describe(error), error.advice().unwrap_or_default());
    assert!(!text.contains(PASSWORD), "{text}");
    text
}

/// What the source says instead of a dump.
async fn refusal(options: PostgresOptions) -> String {
    match read_all(options).await {
        Ok((read, _)) => panic!("a dump instead of an error: {:?}", read.iter().map(|(f, b)| (f, b.len())).collect::<Vec<_>>()),
        Err(said) => said,
    }
}

fn restore(server: &Postgres, database: &str, archive: &[u8]) {
    server.create_database(database);
    let scratch = Scratch::new();
    let file = scratch.write("archive", archive);
    let restored =
        server.client("pg_restore", "").args(["--exit-on-error", "--dbname", database]).arg(file).output().expect("run pg_restore");
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
}

/// A table that no pipe and no buffer swallows whole.
fn big_table(server: &Postgres, database: &str) {
    server.psql_in(database, "CREATE TABLE big AS SELECT i, repeat(md5(i::text), 40) AS t FROM generate_series(1, 20000) i");
}

#[tokio::test]
async fn what_is_dumped_restores_to_the_same() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in(
        "app",
        r#"CREATE SCHEMA "a.b"; CREATE TABLE "a.b"."Ta""ble" (id serial PRIMARY KEY, v text);
        INSERT INTO "a.b"."Ta""ble" (v) SELECT md5(i::text) FROM generate_series(1, 5000) i;
        CREATE TABLE parts (k int) PARTITION BY RANGE (k); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (9);
        INSERT INTO parts VALUES (1), (2); CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM parts;
        SELECT lo_from_bytea(0, 'large');
        CREATE ROLE reader PASSWORD 'x'; COMMENT ON DATABASE app IS 'it''s'; ALTER DATABASE app SET work_mem = '5MB';
        ALTER DATABASE app CONNECTION LIMIT 7; GRANT CONNECT ON DATABASE app TO reader"#,
    );
    let (read, run) = read_all(options(&server.url("app"))).await.expect("a backup");
    let [(globals, roles), (file, archive)] = &read[..] else { panic!("{:?}", read.iter().map(|(f, _)| f).collect::<Vec<_>>()) };
    assert_eq!((globals.as_str(), file.as_str()), ("globals.sql", "app.dump"));
    assert!(String::from_utf8_lossy(roles).contains("CREATE ROLE \"reader\""));
    restore(&server, "again", archive);
    let differences = Fingerprint::of(&server, "app").differences(&Fingerprint::of(&server, "again"));
    let within: Vec<_> = differences.iter().filter(|d| !d.starts_with("database ")).collect();
    assert!(within.is_empty(), "what belongs to the database itself is in the facts, but {within:?}");
    let (recorded, warnings) = run.notes.take();
    assert_eq!(warnings, Vec::<String>::new());
    assert!(recorded[facts::SERVER_VERSION_NUM].as_u64() > Some(150_000));
    let app = &facts::databases(&recorded).expect("databases")["app"];
    assert_eq!((app.owner.as_deref(), app.encoding.as_deref(), app.connection_limit), (Some("postgres"), Some("UTF8"), Some(7)));
    assert_eq!((app.comment.as_deref(), app.locale_provider.as_deref()), (Some("it's"), Some("libc")));
    assert_eq!(
        app.settings.iter().map(|s| (s.role.clone(), s.settings.clone())).collect::<Vec<_>>(),
        [(None, vec!["work_mem=5MB".into()])]
    );
    assert!(app.acl.as_ref().is_some_and(|acl| acl.contains(&"reader=c/postgres".to_owned())), "{:?}", app.acl);
    assert!(app.snapshot.is_some() && app.archive_version.as_deref() == Some("1.14"), "{app:?}");
    assert!(app.size_bytes > Some(1_000_000));
}

#[tokio::test]
async fn every_database_is_taken_whatever_it_is_called() {
    let server = Postgres::start(Major::V15);
    let names = ["a=b", "postgres://x/y", "it's \"q\" \\ %20", "-Fp", "ü b", "host=nowhere dbname=z", "new\nline"];
    for name in names {
        server.create_database(name);
        server.psql_in(name, "CREATE TABLE t AS SELECT current_database() AS name");
    }
    let all = PostgresOptions { databases: vec!["*".into()], ..options(&server.url(names[1])) };
    let (read, _) = read_all(all).await.expect("a backup");
    assert_eq!(read.len(), 1 + names.len() + 1, "globals, these, and `postgres`");
    for (at, name) in names.iter().enumerate() {
        let file = format!("{}.dump", backstay::name::file_stem(name));
        let (_, archive) = read.iter().find(|(f, _)| *f == file).unwrap_or_else(|| panic!("{file} is missing"));
        let again = format!("again{at}");
        restore(&server, &again, archive);
        assert_eq!(server.psql_in(&again, "SELECT name FROM t"), *name);
    }
}

#[tokio::test]
async fn a_password_may_hold_anything() {
    let server = Postgres::start(Major::V15);
    let odd = "a $ = # \" ' \\ : @ / ? % & \n\t ü 0123456 1e10 ";
    server.psql(&format!("CREATE ROLE odd SUPERUSER LOGIN PASSWORD E'{}'", odd.replace('\\', "\\\\").replace('\'', "''")));
    read_all(options(&server.url_as("odd", odd, "postgres"))).await.expect("by URL");
    let key = PostgresOptions {
        user: Some("odd".into()),
        password: Some(Secret::Literal(backstay::secret::Revealed::new(odd))),
        ..options(&server.url("postgres"))
    };
    read_all(key).await.expect("by key");
}

#[tokio::test]
async fn a_password_file_is_read_as_libpq_reads_it() {
    let server = Postgres::start(Major::V15);
    let scratch = Scratch::new();
    let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
    let file = scratch.write_secret("pgpass", format!("other:*:*:*:wrong\n127.0.0.1:{}:*:postgres:{escaped}\n", server.port()));
    let url =
        |file: &std::path::Path| format!("host=127.0.0.1 port={} user=postgres dbname=postgres passfile={}", server.port(), file.display());
    read_all(options(&url(&file))).await.expect("a backup");
    let open = scratch.write("open", std::fs::read(&file).expect("readable"));
    assert!(refusal(options(&url(&open))).await.contains("password missing"), "others can read that file");
}

#[tokio::test]
async fn a_wrong_password_is_an_error_that_does_not_repeat_it() {
    let server = Postgres::start(Major::V15);
    let said = refusal(options(&server.url_as("postgres", "wr0ng-s3cret", "postgres"))).await;
    assert!(said.contains("password authentication failed for user \"postgres\""), "{said}");
    assert!(said.contains("Check user and password") && !said.contains("wr0ng-s3cret"), "{said}");
}

#[tokio::test]
async fn a_server_that_is_down_is_an_error() {
    let mut server = Postgres::start(Major::V15);
    server.stop();
    let said = refusal(options(&server.url("postgres"))).await;
    assert!(said.contains("connect to PostgreSQL") && said.contains("refused"), "{said}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_an_error_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = silent.local_addr().expect("an address").port();
    let said = refusal(options(&format!("postgres://u:p@127.0.0.1:{port}/d?connect_timeout=2"))).await;
    assert!(said.contains("no answer within 2 s"), "{said}");
}

#[tokio::test]
async fn a_missing_database_is_an_error() {
    let server = Postgres::start(Major::V15);
    let said = refusal(options(&server.url("nowhere"))).await;
    assert!(said.contains("database \"nowhere\" does not exist"), "{said}");
    let listed = PostgresOptions { databases: vec!["postgres".into(), "gone".into()], ..options(&server.url("postgres")) };
    let said = refusal(listed).await;
    assert!(said.contains("no database `gone`"), "{said}");
    // without a `database`, the user's name is only a guess
    let all = PostgresOptions { databases: vec!["*".into()], ..options(&server.url("nowhere")) };
    read_all(all).await.expect("another database is the entrance");
}

#[tokio::test]
async fn a_server_newer_than_every_client_is_refused_with_both_versions() {
    let server = Postgres::start(Major::V18);
    let said = refusal(options(&server.url("postgres"))).await;
    assert!(said.contains("PostgreSQL 18 server") && said.contains("found only 15") && said.contains("postgresql-client-18"), "{said}");
}

#[tokio::test]
async fn a_dump_that_is_killed_is_an_error_not_an_end() {
    let server = Postgres::start(Major::V15);
    big_table(&server, "postgres");
    let mut dump = start(&server, "postgres").await.expect("a dump");
    let pid = i32::try_from(dump.pid().expect("it runs")).expect("a pid");
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).expect("a pid"), rustix::process::Signal::KILL).expect("killed");
    let error = dump.read_to_end(&mut Vec::new()).await.expect_err("cut short");
    assert!(describe(&error).contains("signal: 9"), "{error}");
}

#[tokio::test]
async fn a_backend_that_is_terminated_is_an_error_not_an_end() {
    let server = Postgres::start(Major::V15);
    big_table(&server, "postgres");
    let mut dump = start(&server, "postgres").await.expect("a dump");
    server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pg_dump'");
    let error = dump.read_to_end(&mut Vec::new()).await.expect_err("cut short");
    let said = describe(&error);
    let seen = said.contains("due to administrator command") || said.contains("server closed the connection");
    assert!(said.contains("dump database `postgres`: pg_dump failed") && seen, "{said}");
}

#[tokio::test]
async fn a_dump_whose_snapshot_was_lost_is_an_error_not_an_end() {
    let server = Postgres::start(Major::V15);
    big_table(&server, "postgres");
    let mut dump = start(&server, "postgres").await.expect("a dump");
    server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'backstay'");
    let error = dump.read_to_end(&mut Vec::new()).await.expect_err("unprotected");
    assert!(describe(&error).contains("the dump may be incomplete"), "{}", describe(&error));
}

#[tokio::test]
async fn a_cancelled_dump_is_an_error_and_leaves_nothing_behind() {
    let server = Postgres::start(Major::V15);
    big_table(&server, "postgres");
    let run = RunContext::default();
    let source = PostgresSource::new(only(&server, "postgres"));
    let artifact = source.open(&run).await.expect("opened").pop().expect("a dump");
    let mut stream = artifact.open.await.expect("started");
    run.cancel.cancel();
    let error = stream.read_to_end(&mut Vec::new()).await.expect_err("cancelled");
    assert!(describe(&error).contains("cancelled"), "{error}");
    drop(stream);
    until(|| sessions(&server) == "0").await;
}

#[tokio::test]
async fn a_dump_that_is_dropped_leaves_nothing_behind() {
    let server = Postgres::start(Major::V15);
    big_table(&server, "postgres");
    let dump = start(&server, "postgres").await.expect("a dump");
    assert_ne!(sessions(&server), "0");
    drop(dump);
    until(|| sessions(&server) == "0").await;
}

pub fn sessions(server: &Postgres) -> String {
    server.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('backstay', 'pg_dump')")
}

pub async fn until(mut done: impl FnMut() -> bool) {
    let waited = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.expect("in time");
}

fn order<'a>(endpoint: &'a Endpoint, pg_dump: &'a Binary, notes: &'a Notes, cancel: &'a CancellationToken) -> Order<'a> {
    Order { endpoint, pg_dump, patience: &IMPATIENT, notes, cancel, accounts: None }
}

async fn start(server: &Postgres, database: &str) -> Result<Dump, PostgresError> {
    let endpoint = Endpoint::from_options(&options(&server.url(database))).expect("an endpoint");
    let (endpoint, _) = endpoint.settle(None).await.expect("a connection");
    let pg_dump = Tool::PgDump.find(15).await.expect("installed");
    Dump::start(&order(&endpoint, &pg_dump, &Notes::default(), &CancellationToken::new())).await
}

/// The race of all races: a snapshot alone would read the table as empty, and succeed.
#[tokio::test]
async fn a_table_that_the_snapshot_shows_cannot_be_truncated_before_its_dump() {
    let server = Postgres::start(Major::V15);
    server.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let endpoint = Endpoint::from_options(&options(&server.url("postgres"))).expect("an endpoint");
    let snapshot = Snapshot::take(&endpoint, &IMPATIENT).await.expect("a snapshot");
    for rewrite in ["TRUNCATE t", "ALTER TABLE t ALTER i TYPE bigint", "DROP TABLE t"] {
        let refused = server.try_psql("postgres", &format!("SET lock_timeout = '100ms'; {rewrite}")).expect_err(rewrite);
        assert!(refused.contains("lock timeout"), "{refused}");
    }
    let dump = server.client("pg_dump", "postgres").args(["-Fp", "--snapshot", snapshot.id()]).output().expect("run pg_dump");
    assert!(dump.status.success());
    assert_eq!(String::from_utf8_lossy(&dump.stdout).lines().filter(|l| l.parse::<u32>().is_ok()).count(), 1000);
    snapshot.release().await.expect("still held");
    server.psql("TRUNCATE t");
}

/// The window between listing and locking, held open by a lock on one table while another one is made.
#[tokio::test]
async fn a_table_that_comes_while_the_others_are_locked_is_locked_too() {
    let server = Postgres::start(Major::V15);
    server.psql("CREATE TABLE first AS SELECT 1 AS i");
    let endpoint = Endpoint::from_options(&options(&server.url("postgres"))).expect("an endpoint");
    let session = endpoint.connect(None).await.expect("a connection");
    session.batch_execute("BEGIN; LOCK TABLE first").await.expect("locked");
    let patience = Patience { lock_wait: Duration::from_secs(20), attempts: 2 };
    let mut taking = pin!(Snapshot::take(&endpoint, &patience));
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    while_polling(taking.as_mut(), until(|| server.psql(waits) == "1")).await;
    server.psql("CREATE TABLE second AS SELECT 2 AS i");
    session.batch_execute("COMMIT").await.expect("released");
    let snapshot = taking.await.expect("a snapshot, at the second attempt");
    let refused = server.try_psql("postgres", "SET lock_timeout = '100ms'; TRUNCATE second").expect_err("it is locked");
    assert!(refused.contains("lock timeout"), "{refused}");
    snapshot.release().await.expect("still held");
}

/// Drives `background` while `work` is done.
async fn while_polling<B: Future>(background: B, work: impl Future<Output = ()>) {
    tokio::select! {
        _ = background => panic!("it ended before its time"),
        () = work => {}
    }
}

#[tokio::test]
async fn a_lock_that_is_not_to_be_had_names_its_holder() {
    let server = Postgres::start(Major::V15);
    server.psql("CREATE TABLE busy AS SELECT 1 AS i");
    let holder = Endpoint::from_options(&options(&format!("{}?application_name=migration", server.url("postgres")))).expect("an endpoint");
    let session = holder.connect(None).await.expect("a connection");
    session.batch_execute("BEGIN; LOCK TABLE busy").await.expect("locked");
    let said = refusal(only(&server, "postgres")).await;
    assert!(said.contains("busy is locked by process") && said.contains("application `migration`"), "{said}");
    assert!(!said.contains("BEGIN"), "no query text: {said}");
}

/// `pg_dump` waits behind a queued ACCESS EXCLUSIVE request, which waits for the snapshot's own lock: the server sees no deadlock.
#[tokio::test]
async fn a_queued_exclusive_lock_costs_a_new_snapshot_and_not_the_dump() {
    let server = Postgres::start(Major::V15);
    server.psql("CREATE TABLE t AS SELECT generate_series(1, 10) AS i");
    let scratch = Scratch::new();
    let real = server.bin("pg_dump");
    let script = format!(
        "#!/bin/sh\n\
         if mkdir {mark} 2>/dev/null; then\n\
           PATH={bin}:$PATH\n\
           PGAPPNAME=alter psql -Xqc 'ALTER TABLE t ADD j int' >/dev/null 2>&1 &\n\
           until [ \"$(psql -XAtqc 'SELECT count(*) FROM pg_locks WHERE NOT granted')\" = 1 ]; do :; done\n\
         fi\n\
         exec {real} \"$@\"\n",
        mark = scratch.join("mark").display(),
        bin = real.parent().expect("a folder").display(),
        real = real.display(),
    );
    let path = scratch.write("pg_dump", script);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let pg_dump = Binary { path, major: 15, version: "15".into() };
    let endpoint = Endpoint::from_options(&options(&server.url("postgres"))).expect("an endpoint");
    let mut dump = Dump::start(&order(&endpoint, &pg_dump, &Notes::default(), &CancellationToken::new())).await.expect("a dump");
    let mut archive = Vec::new();
    dump.read_to_end(&mut archive).await.expect("whole");
    restore(&server, "again", &archive);
    assert_eq!(server.psql_in("again", "SELECT count(*), count(j) FROM t"), "10|0", "with the new column: the second snapshot");
}

#[tokio::test]
async fn an_ordinary_user_gets_roles_without_passwords_and_a_warning() {
    let server = Postgres::start(Major::V15);
    server.psql("CREATE ROLE backup LOGIN PASSWORD 'b'; CREATE ROLE app PASSWORD 'a'");
    let (read, run) = read_all(options(&server.url_as("backup", "b", "postgres"))).await.expect("a backup");
    let roles = String::from_utf8_lossy(&read[0].1).into_owned();
    assert!(roles.contains("CREATE ROLE \"app\"") && !roles.contains("PASSWORD"), "{roles}");
    let (_, warnings) = run.notes.take();
    assert_eq!(warnings, ["globals.sql holds no passwords of roles: `backup` may not read pg_authid"]);
}

#[tokio::test]
async fn what_a_user_may_not_read_is_an_error_with_advice_and_a_hint_before() {
    let server = Postgres::start(Major::V15);
    server.psql("CREATE ROLE backup LOGIN PASSWORD 'b'; CREATE TABLE secret (i int)");
    let options = PostgresOptions { globals: false, ..options(&server.url_as("backup", "b", "postgres")) };
    let run = RunContext::default();
    let artifact = PostgresSource::new(options.clone()).open(&run).await.expect("opened").pop().expect("a dump");
    let said = say(&artifact.open.await.err().expect("not readable"));
    assert!(said.contains("permission denied for table secret") && said.contains("pg_read_all_data"), "{said}");
    let hints = PostgresSource::new(options.clone()).check().await.expect("checked")[facts::HINTS].to_string();
    assert!(hints.contains("may not read `secret`"), "{hints}");

    server.psql("GRANT SELECT ON secret TO backup; ALTER TABLE secret ENABLE ROW LEVEL SECURITY; INSERT INTO secret VALUES (1)");
    let hints = PostgresSource::new(options.clone()).check().await.expect("checked")[facts::HINTS].to_string();
    assert!(hints.contains("row-level security hides rows of `secret`"), "{hints}");
    let artifact = PostgresSource::new(options).open(&run).await.expect("opened").pop().expect("a dump");
    let said = match artifact.open.await {
        Err(error) => say(&error),
        Ok(mut stream) => describe(&stream.read_to_end(&mut Vec::new()).await.expect_err("rows would be missing")),
    };
    assert!(said.contains("row-level security"), "{said}");
}

#[tokio::test]
async fn a_check_says_what_a_backup_would_find_and_writes_nothing() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    let all = PostgresOptions { databases: vec!["*".into()], ..options(&server.url("app")) };
    let found = PostgresSource::new(all).check().await.expect("checked");
    assert_eq!(facts::databases(&found).expect("databases").keys().collect::<Vec<_>>(), ["app", "postgres"]);
    assert_eq!(found[facts::HINTS], serde_json::json!([]));
    assert!(found[facts::CLIENT_VERSION].as_str().is_some_and(|v| v.starts_with("15.")));
}

/// Every sslmode against every server, ours and libpq's own verdict.
#[tokio::test]
async fn every_sslmode_decides_as_libpq_does() {
    let authority = Authority::new();
    let other = Authority::new();
    let (encrypted, plain) = (Postgres::start_tls(&authority), Postgres::start(Major::V15));
    let (good, bad) = (authority.ca().display().to_string(), other.ca().display().to_string());
    let right = "host=localhost hostaddr=127.0.0.1";
    let wrong = "host=elsewhere.example hostaddr=127.0.0.1";
    // mode, root certificate, host → does the encrypted server do? (it takes no plain connections)
    let table = [
        ("disable", "", right, false),
        ("allow", "", right, true),
        ("prefer", "", wrong, true),
        ("prefer", &bad, right, false),
        ("require", "", wrong, true),
        ("require", &good, wrong, true),
        ("require", &bad, right, false),
        ("verify-ca", &good, right, true),
        ("verify-ca", &good, wrong, true),
        ("verify-ca", &bad, right, false),
        ("verify-full", &good, right, true),
        ("verify-full", &good, wrong, false),
        ("verify-full", &good, "host=127.0.0.1", true),
        ("verify-full", &bad, right, false),
    ];
    for (mode, root, host, expected) in table {
        assert_eq!(verdicts(&encrypted, mode, root, host).await, (expected, expected), "{mode} root={root} {host} (ours, libpq's)");
    }
    for (mode, expected) in
        [("disable", true), ("allow", true), ("prefer", true), ("require", false), ("verify-ca", false), ("verify-full", false)]
    {
        assert_eq!(verdicts(&plain, mode, &good, right).await, (expected, expected), "{mode}, a server without TLS (ours, libpq's)");
    }
    let url = format!("{}?sslmode=verify-full&sslrootcert={good}", encrypted.url("postgres"));
    read_all(options(&url)).await.expect("a whole backup over TLS");
    let said = refusal(options(&format!("{}?sslmode=verify-full", encrypted.url("postgres")))).await;
    assert!(said.contains("needs a root certificate") && said.contains("\"system\""), "{said}");
}

/// Whether we connect, and whether `psql` does with what we would give to a child.
async fn verdicts(server: &Postgres, mode: &str, root: &str, host: &str) -> (bool, bool) {
    let url = format!("{host} port={} dbname=postgres sslmode={mode} sslrootcert='{root}'", server.port());
    let options = PostgresOptions {
        user: Some("postgres".into()),
        password: Some(Secret::Literal(backstay::secret::Revealed::new(PASSWORD))),
        ..options(&url)
    };
    let endpoint = Endpoint::from_options(&options).expect("an endpoint");
    let psql = Tool::Psql.find(15).await.expect("installed");
    let theirs = psql.command().args(["-XAtc", "SELECT 1"]).envs(endpoint.child_env(15)).run(&CancellationToken::new()).await;
    (endpoint.connect(None).await.is_ok(), theirs.is_ok())
}

/// A PgBouncer before a server.
struct Pooler {
    child: std::process::Child,
    port: u16,
    _scratch: Scratch,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pooler {
    async fn start(server: &Postgres, mode: &str) -> Self {
        let scratch = Scratch::unprivileged();
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address").port();
        let users = scratch.write("users", format!("\"postgres\" \"{}\"\n", PASSWORD.replace('"', "\"\"")));
        let config = scratch.write(
            "pgbouncer.ini",
            format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nunix_socket_dir=\n\
                 auth_type=plain\nauth_file={}\npool_mode={mode}\n",
                server.port(),
                users.display(),
            ),
        );
        let program = PathBuf::from("/usr/sbin/pgbouncer");
        assert!(program.exists(), "{} is missing: run ./test, which installs it", program.display());
        let mut command: Command = crate::support::scratch::Unprivileged::command(program);
        let child = command.arg("-q").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run pgbouncer");
        let pooler = Self { child, port, _scratch: scratch };
        until(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        pooler
    }
}

#[tokio::test]
async fn a_pooler_that_shares_sessions_is_refused_and_one_that_does_not_is_a_server() {
    let server = Postgres::start(Major::V15);
    for (mode, refused) in [("transaction", true), ("statement", true), ("session", false)] {
        let pooler = Pooler::start(&server, mode).await;
        let options = PostgresOptions { port: Some(pooler.port), ..options(&server.url("postgres")) };
        match read_all(options).await {
            Err(said) if refused => assert!(said.contains("pooler that shares sessions"), "{mode}: {said}"),
            Ok((read, _)) if !refused => assert_eq!(read.len(), 2),
            Err(said) => panic!("{mode}: {said}"),
            Ok(_) => panic!("{mode}: a dump went through"),
        }
    }
}
