//! Restores of PostgreSQL databases, onto servers in use.

mod fingerprints;
mod plan;
mod stored;
mod streams;
mod versions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstay::component::postgres::PostgresRestorer;
use backstay::component::{ComponentError, Destination, RestoreOptions, Restored, Restorer, RunContext, Staged};
use backstay::pipeline::UnpackError;

use self::stored::{Stored, options, options_of};
use crate::support::{Fingerprint, Major, Postgres, assert_same_database, tools};

const ROLES: &str = include_str!("../fixtures/rich_roles.sql");
const RICH: &str = include_str!("../fixtures/rich.sql");

/// Names that are easy to get wrong.
const ODD: &str = "We \"ird' =\\ Db-ü";
const LONG: &str = "Long_name_of_63_bytes_x_x_x_x_x_x_x_x_x_x_x_x_x_x_x_x_x_x_x_x_x";

/// Clients of other majors than Debian's must be on the PATH: runs the test `name` once more in a process of its own that has them, and
/// says whether this is that process.
fn with_clients(name: &str, majors: &[Major]) -> bool {
    const MARK: &str = "BACKSTAY_TEST_WITH_CLIENTS";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let mut again = std::process::Command::new(std::env::current_exe().expect("this test's own path"));
    again.args(["--exact", name, "--nocapture"]).env(MARK, "1").env("PATH", tools::path_with(majors));
    let output = again.output().expect("run the test once more");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn rich_server(major: Major) -> Postgres {
    let server = Postgres::start_with(major, &[("max_prepared_transactions", "2"), ("wal_level", "logical")]);
    server.psql(ROLES);
    rich(&server, ODD);
    server
}

fn rich(server: &Postgres, name: &str) {
    let quoted = ident(name);
    server.psql(&format!(
        "CREATE DATABASE {quoted} TEMPLATE template0 OWNER \"app owner\" ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'"
    ));
    let rich = match server.major() {
        Major::V15 => RICH.to_owned(),
        // contrib is in Debian's packages only
        _ => RICH.lines().filter(|line| !line.contains("trgm")).collect::<Vec<_>>().join("\n"),
    };
    server.psql_in(name, &rich);
    server.psql(&format!(
        "COMMENT ON DATABASE {quoted} IS 'it''s; a \\ comment';
         ALTER DATABASE {quoted} SET search_path = '\"$user\"', 'We \"ird; --', public;
         ALTER DATABASE {quoted} SET work_mem = '12MB';
         ALTER DATABASE {quoted} SET \"my.own\" = 'a, \"b\"';
         ALTER ROLE reader IN DATABASE {quoted} SET DateStyle = 'German, DMY';
         ALTER DATABASE {quoted} CONNECTION LIMIT 7;
         REVOKE ALL ON DATABASE {quoted} FROM PUBLIC;
         GRANT CONNECT ON DATABASE {quoted} TO reader WITH GRANT OPTION;"
    ));
}

fn into(text: &str) -> RestoreOptions {
    RestoreOptions { to: Destination::Into(text.to_owned()), ..RestoreOptions::default() }
}

async fn stage(restorer: &PostgresRestorer, stored: &Stored, options: &RestoreOptions) -> Result<Box<dyn Staged>, ComponentError> {
    restorer.stage(&stored.component(), options, &RunContext::default()).await
}

async fn restore(restorer: &PostgresRestorer, stored: &Stored, options: &RestoreOptions) -> Restored {
    let mut staged = stage(restorer, stored, options).await.unwrap_or_else(|e| panic!("stage: {}", chain(&e)));
    staged.publish().await.unwrap_or_else(|e| panic!("publish: {}", chain(&e)));
    staged.finish().await.unwrap_or_else(|e| panic!("finish: {}", chain(&e)))
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn is_damage(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |e| e.source()).any(|e| {
        e.downcast_ref::<std::io::Error>()
            .and_then(|e| e.get_ref())
            .and_then(|e| e.downcast_ref::<UnpackError>())
            .is_some_and(UnpackError::is_damage)
    })
}

/// Databases with their numbers, and roles: what a failed restore must leave as it was.
fn outside(server: &Postgres) -> String {
    server.psql(
        "SELECT oid, datname, datallowconn, datconnlimit FROM pg_database ORDER BY 1;
         SELECT rolname, rolpassword FROM pg_authid ORDER BY 1;
         SELECT spcname FROM pg_tablespace ORDER BY 1",
    )
}

/// That `outcome` is an error, and that it left everything as it was.
fn failed<T>(outcome: Result<T, ComponentError>, server: &Postgres, before: &str) -> ComponentError {
    let error = outcome.err().expect("the restore fails");
    assert_eq!(outside(server), before, "after: {}", chain(&error));
    error
}

#[tokio::test]
async fn everything_comes_back_on_a_new_server() {
    let source = rich_server(Major::V15);
    source.create_database(LONG);
    source.psql_in(LONG, "CREATE TABLE t AS SELECT generate_series(1, 10) a");
    let stored = Stored::of(options(&source, &[ODD, LONG])).await;
    let target = Postgres::start(Major::V15);
    let restorer = PostgresRestorer::new(options(&source, &[]));
    let to = into(target.url("").trim_end_matches('/'));

    let plan = restorer.plan(&stored.component(), &to).await.unwrap_or_else(|e| panic!("plan: {}", chain(&e)));
    let text = plan.steps.join("\n");
    assert!(text.contains(&format!("Database \"{ODD}\"")) && text.contains("does not exist there and is created"), "{text}");

    let restored = restore(&restorer, &stored, &to).await;
    assert_eq!(restored.warnings, Vec::<String>::new());
    for database in [ODD, LONG] {
        assert_same_database(&Fingerprint::of(&source, database), &Fingerprint::of(&target, database));
    }
    assert_same_database(&Fingerprint::roles(&source), &Fingerprint::roles(&target));
    assert_eq!(source.databases(), target.databases());
    let statistics = "SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'parent'";
    assert_eq!(target.psql_in(ODD, statistics), "t", "analyzed");
}

#[tokio::test]
async fn a_database_in_use_is_replaced_without_a_moment_without_one() {
    let server = rich_server(Major::V15);
    let space = crate::support::Scratch::unprivileged();
    server.psql(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.path().display()));
    server.psql(&format!("ALTER DATABASE {} SET TABLESPACE fast", ident(ODD)));
    let before = Fingerprint::of(&server, ODD);
    let stored = Stored::of(options(&server, &[ODD])).await;
    server.psql_in(ODD, "DROP TABLE child; CREATE TABLE public.newer (); DROP MATERIALIZED VIEW counts; ALTER TYPE mood ADD VALUE 'new'");
    server.psql(&format!(
        "ALTER ROLE \"app owner\" PASSWORD 'changed' CREATEDB; DROP ROLE \"m \"\"q\"\"\";
         ALTER DATABASE {0} RESET ALL; COMMENT ON DATABASE {0} IS NULL; ALTER DATABASE {0} CONNECTION LIMIT 50",
        ident(ODD)
    ));
    let roles = "SELECT rolname, rolpassword, rolcreatedb FROM pg_authid WHERE rolname IN ('app owner', 'postgres') ORDER BY 1";
    let role_before = server.psql(roles);

    // Clients that connect again at once whenever they are cut, and what they are told.
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (stop, url) = (Arc::clone(&stop), server.url(ODD));
            tokio::spawn(async move {
                let mut refusals = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let (client, connection) = match tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
                        Ok(connected) => connected,
                        Err(error) => {
                            refusals.push(chain(&error));
                            continue;
                        }
                    };
                    let driver = tokio::spawn(connection);
                    while !stop.load(Ordering::Relaxed) && client.simple_query("SELECT pg_sleep(0.01)").await.is_ok() {}
                    driver.abort();
                }
                refusals
            })
        })
        .collect();
    let restorer = PostgresRestorer::new(options(&server, &[]));
    let mut staged = stage(&restorer, &stored, &RestoreOptions::default()).await.expect("staged");
    assert_eq!(server.psql_in(ODD, "SELECT to_regclass('newer')"), "newer", "the old one is in service until it is replaced");
    staged.publish().await.expect("published");
    let restored = staged.finish().await.expect("finished");
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        for refusal in client.await.expect("a client") {
            // Who waited at the door when the name changed hands; and who was ended before it was in.
            let fair = refusal.contains("dropped or renamed") || refusal.contains("administrator command") || refusal.contains("closed");
            assert!(fair, "{refusal}");
        }
    }

    assert_same_database(&before, &Fingerprint::of(&server, ODD));
    assert_eq!(server.psql(roles), role_before, "roles that exist are left alone");
    assert_eq!(server.psql("SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = 'm \"q\"'"), "t");
    let space = format!(
        "SELECT spcname FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = '{}'",
        ODD.replace('\'', "''")
    );
    assert_eq!(server.psql(&space), "fast");
    assert_eq!(server.databases().len(), 4, "{:?}", server.databases());
    assert!(restored.done.iter().any(|line| line.contains("role \"m \"q\"\" was created")), "{restored:?}");
}

#[tokio::test]
async fn a_damaged_or_lost_stream_changes_nothing() {
    let server = rich_server(Major::V15);
    let restorer = PostgresRestorer::new(options(&server, &[]));
    let backup = async || Stored::of(options(&server, &[ODD])).await;
    let (mut cut, mut flipped, mut late) = (backup().await, backup().await, backup().await);
    server.psql("DROP ROLE \"m \"\"q\"\"\"");
    let before = outside(&server);

    cut.cut(ODD);
    let error = failed(stage(&restorer, &cut, &RestoreOptions::default()).await, &server, &before);
    assert!(is_damage(&error), "{}", chain(&error));

    flipped.flip(ODD, "marker-of-the-last-row");
    let error = failed(stage(&restorer, &flipped, &RestoreOptions::default()).await, &server, &before);
    assert!(is_damage(&error), "{}", chain(&error));

    // Bytes that pg_restore is content with, and a checksum that is not theirs.
    for artifact in &mut late.component.artifacts {
        artifact.blake3 = "0".repeat(64);
    }
    late.component.artifacts.retain(|a| a.database.is_some());
    let error = failed(stage(&restorer, &late, &RestoreOptions::default()).await, &server, &before);
    assert!(is_damage(&error), "{}", chain(&error));
}

#[tokio::test]
async fn damage_that_pg_restore_stumbles_over_is_still_called_damage() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    // The second table is there so that pg_restore fails long before the stream ends.
    let tables = "CREATE TABLE a AS SELECT i AS a, 123456789 AS b FROM generate_series(1, 5000) i;
        CREATE TABLE b AS SELECT i AS a, 'some text' AS b FROM generate_series(1, 400000) i";
    server.psql_in("app", tables);
    let mut stored = Stored::of(options(&server, &["app"])).await;
    stored.flip("app", "\t123456789");
    let before = outside(&server);
    let restorer = PostgresRestorer::new(options(&server, &[]));
    let error = failed(stage(&restorer, &stored, &RestoreOptions::default()).await, &server, &before);
    assert!(is_damage(&error), "{}", chain(&error));
}

#[tokio::test]
async fn a_cancelled_restore_leaves_nothing_behind() {
    let server = rich_server(Major::V15);
    let mut stored = Stored::of(options(&server, &[ODD])).await;
    server.psql("DROP ROLE \"m \"\"q\"\"\"");
    let before = outside(&server);
    let half = stored.stall(ODD);
    let run = RunContext::default();
    let cancel = run.cancel.clone();
    let watch = tokio::spawn(async move {
        half.await.expect("half of the stream is read");
        cancel.cancel();
    });
    let restorer = PostgresRestorer::new(options(&server, &[]));
    let outcome = restorer.stage(&stored.component(), &RestoreOptions::default(), &run).await;
    watch.await.expect("it was cancelled");
    assert!(matches!(failed(outcome, &server, &before), ComponentError::Cancelled));
}

#[tokio::test]
async fn when_the_second_database_fails_the_first_is_untouched() {
    let server = Postgres::start(Major::V15);
    for name in ["a", "b"] {
        server.create_database(name);
        server.psql_in(name, "CREATE TABLE t AS SELECT 'marker' AS a");
    }
    let mut stored = Stored::of(options(&server, &["a", "b"])).await;
    server.psql_in("a", "INSERT INTO t VALUES ('newer')");
    stored.flip("b", "marker");
    let before = outside(&server);
    let restorer = PostgresRestorer::new(options(&server, &[]));
    failed(stage(&restorer, &stored, &RestoreOptions::default()).await, &server, &before);
    assert_eq!(server.psql_in("a", "SELECT count(*) FROM t"), "2");
}

#[tokio::test]
async fn several_databases_are_swapped_at_once_or_not_at_all() {
    let server = Postgres::start(Major::V15);
    for name in ["a", "b"] {
        server.create_database(name);
        server.psql_in(name, "CREATE TABLE t AS SELECT 'old' AS a");
    }
    let stored = Stored::of(options(&server, &["a", "b"])).await;
    for name in ["a", "b"] {
        server.psql_in(name, "UPDATE t SET a = 'new'");
    }
    let restorer = PostgresRestorer::new(options(&server, &[]));
    let mut staged = stage(&restorer, &stored, &RestoreOptions::default()).await.expect("staged");
    let of_b = server.databases().into_iter().find(|name| name.starts_with("b_backstay_new")).expect("a helper");
    server.psql(&format!("DROP DATABASE {of_b}"));
    let before = outside(&server);
    failed(staged.publish().await, &server, &before);
    assert_eq!(server.psql_in("a", "SELECT a FROM t"), "new");
    staged.undo().await.expect("undone");
    assert_eq!(server.databases(), ["a", "b", "postgres", "template0", "template1"]);

    restore(&restorer, &stored, &RestoreOptions::default()).await;
    assert_eq!((server.psql_in("a", "SELECT a FROM t"), server.psql_in("b", "SELECT a FROM t")), ("old".into(), "old".into()));
    assert_eq!(server.databases(), ["a", "b", "postgres", "template0", "template1"]);
}

#[tokio::test]
async fn a_published_restore_can_be_undone() {
    let server = rich_server(Major::V15);
    let stored = Stored::of(options(&server, &[ODD])).await;
    server.psql("DROP ROLE \"m \"\"q\"\"\"");
    server.psql_in(ODD, "CREATE TABLE newer ()");
    let (before, print) = (outside(&server), Fingerprint::of(&server, ODD));
    let restorer = PostgresRestorer::new(options(&server, &[]));
    for publish in [false, true] {
        let mut staged = stage(&restorer, &stored, &RestoreOptions::default()).await.expect("staged");
        if publish {
            staged.publish().await.expect("published");
            assert_eq!(server.psql_in(ODD, "SELECT to_regclass('newer') IS NULL"), "t");
        }
        staged.undo().await.unwrap_or_else(|e| panic!("undo: {}", chain(&e)));
        assert_eq!(outside(&server), before);
        assert_same_database(&print, &Fingerprint::of(&server, ODD));
    }
}

#[tokio::test]
async fn an_undo_does_not_touch_what_somebody_else_put_there() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    let stored = Stored::of(options(&server, &["app"])).await;
    let mut staged = stage(&PostgresRestorer::new(options(&server, &[])), &stored, &RestoreOptions::default()).await.expect("staged");
    staged.publish().await.expect("published");
    server.psql("ALTER DATABASE app RENAME TO theirs; CREATE DATABASE app");
    server.psql_in("app", "CREATE TABLE precious ()");
    let before = outside(&server);
    failed(staged.undo().await, &server, &before);
    assert_eq!(server.psql_in("app", "SELECT to_regclass('precious')"), "precious");
}

#[tokio::test]
async fn another_name_leaves_the_original_alone() {
    let server = rich_server(Major::V15);
    let stored = Stored::of(options(&server, &[ODD])).await;
    let before = outside(&server);
    let restorer = PostgresRestorer::new(options(&server, &[]));
    let restored = restore(&restorer, &stored, &into("New \"name")).await;
    let (old, new) = (Fingerprint::of(&server, ODD), Fingerprint::of(&server, "New \"name"));
    assert_eq!(old.differences(&new), Vec::<String>::new());
    server.psql("DROP DATABASE \"New \"\"name\"");
    assert_eq!(outside(&server), before);
    assert!(restored.done.contains(&"database \"New \"\"name\" was created".to_owned()), "{restored:?}");
}

#[tokio::test]
async fn what_was_replaced_can_be_kept() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    let stored = Stored::of(options(&server, &["app"])).await;
    server.psql_in("app", "CREATE TABLE newer ()");
    let restorer = PostgresRestorer::new(options(&server, &[]));
    let restored = restore(&restorer, &stored, &RestoreOptions { keep_old: true, ..RestoreOptions::default() }).await;
    let old = server.databases().into_iter().find(|name| name.starts_with("app_backstay_old_")).expect("it is kept");
    assert!(restored.done.iter().any(|line| line.contains(&old)), "{restored:?}");
    assert!(server.try_psql(&old, "SELECT 1").expect_err("closed").contains("not currently accepting connections"));
    server.psql(&format!("ALTER DATABASE {old} ALLOW_CONNECTIONS true"));
    assert_eq!(server.psql_in(&old, "SELECT to_regclass('newer')"), "newer");
    let plan = restorer.plan(&stored.component(), &RestoreOptions::default()).await.expect("a plan").steps.join("\n");
    assert!(plan.contains(&old), "{plan}");
}

#[tokio::test]
async fn special_databases_come_back_as_they_were() {
    let server = Postgres::start(Major::V15);
    server.psql(
        "CREATE DATABASE pattern IS_TEMPLATE true; CREATE DATABASE full_up CONNECTION LIMIT 0; CREATE ROLE someone; CREATE TABLE t ()",
    );
    let names = ["postgres", "pattern", "full_up"];
    let stored = Stored::of(options(&server, &names)).await;
    let facts = "SELECT datname, datistemplate, datconnlimit, datallowconn FROM pg_database ORDER BY 1";
    let (before, print) = (server.psql(facts), Fingerprint::of(&server, "postgres"));
    let old = server.psql("SELECT oid FROM pg_database WHERE datname IN ('postgres', 'pattern', 'full_up')");
    server.psql("DROP TABLE t");
    restore(&PostgresRestorer::new(options(&server, &[])), &stored, &RestoreOptions::default()).await;
    assert_eq!(server.psql(facts), before);
    assert_same_database(&print, &Fingerprint::of(&server, "postgres"));
    let still = format!("SELECT count(*) FROM pg_database WHERE oid IN ({})", old.replace('\n', ","));
    assert_eq!(server.psql(&still), "0", "each was replaced");
}

#[tokio::test]
async fn a_missing_role_is_named_and_nothing_is_left() {
    let source = rich_server(Major::V15);
    let stored = Stored::of(options(&source, &[ODD])).await.without_globals();
    let target = Postgres::start(Major::V15);
    let before = outside(&target);
    let restorer = PostgresRestorer::new(options(&target, &[]));
    let error = failed(stage(&restorer, &stored, &RestoreOptions::default()).await, &target, &before);
    assert!(chain(&error).contains("role \"app owner\" does not exist"), "{}", chain(&error));
    assert!(error.advice().expect("advice").contains("Create the role"), "{:?}", error.advice());
}

#[tokio::test]
async fn a_tablespace_without_its_place_is_a_warning() {
    let source = Postgres::start(Major::V15);
    let space = crate::support::Scratch::unprivileged();
    source.psql(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.path().display()));
    source.psql("CREATE DATABASE app TABLESPACE fast");
    source.psql_in("app", "CREATE TABLE t (a int PRIMARY KEY USING INDEX TABLESPACE pg_default); INSERT INTO t VALUES (1)");
    source.psql("CREATE DATABASE other");
    source.psql_in("other", "CREATE TABLE t TABLESPACE fast AS SELECT 1 AS a");
    let stored = Stored::of(options(&source, &["app", "other"])).await;
    drop((source, space));
    let target = Postgres::start(Major::V15);
    let restored = restore(&PostgresRestorer::new(options(&target, &[])), &stored, &RestoreOptions::default()).await;
    assert_eq!((target.psql_in("app", "SELECT a FROM t"), target.psql_in("other", "SELECT a FROM t")), ("1".into(), "1".into()));
    let warnings = restored.warnings.join("\n");
    assert!(warnings.contains("could not create tablespace \"fast\""), "{warnings}");
    assert!(warnings.contains("database \"app\": its tablespace \"fast\" is not on this server"), "{warnings}");
}

#[test]
fn a_newer_server_takes_an_older_backup_and_not_the_other_way_round() {
    if !with_clients("postgres_restore::a_newer_server_takes_an_older_backup_and_not_the_other_way_round", &[Major::V17]) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let (old, new) = (Postgres::start(Major::V15), rich_server(Major::V17));
        old.psql(ROLES);
        old.create_database("app");
        old.psql_in("app", "CREATE TABLE t AS SELECT 1 AS a; ALTER TABLE t OWNER TO \"app owner\"");
        let stored = Stored::of(options(&old, &["app"])).await;
        restore(&PostgresRestorer::new(options(&new, &[])), &stored, &RestoreOptions::default()).await;
        assert_eq!(new.psql_in("app", "SELECT a, tableowner FROM t, pg_tables WHERE tablename = 't'"), "1|app owner");

        let stored = Stored::of(options(&new, &[ODD])).await;
        let before = outside(&old);
        let restorer = PostgresRestorer::new(options(&old, &[]));
        let error = failed(restorer.plan(&stored.component(), &RestoreOptions::default()).await, &old, &before);
        let text = error.to_string();
        assert!(text.contains("PostgreSQL 17") && text.contains("PostgreSQL 15"), "{text}");
        failed(stage(&restorer, &stored, &RestoreOptions::default()).await, &old, &before);

        let before = Fingerprint::of(&new, ODD);
        new.psql_in(ODD, "DROP TABLE child");
        restore(&PostgresRestorer::new(options(&new, &[])), &stored, &RestoreOptions::default()).await;
        assert_same_database(&before, &Fingerprint::of(&new, ODD));
    });
}

#[test]
fn every_major_gets_its_own_back() {
    if !with_clients("postgres_restore::every_major_gets_its_own_back", &[Major::V16, Major::V17, Major::V18]) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        for major in [Major::V16, Major::V17, Major::V18] {
            let (source, target) = (rich_server(major), Postgres::start(major));
            let stored = Stored::of(options(&source, &[ODD])).await;
            let restored = restore(&PostgresRestorer::new(options(&target, &[])), &stored, &RestoreOptions::default()).await;
            assert_eq!(restored.warnings, Vec::<String>::new(), "{major:?}");
            assert_same_database(&Fingerprint::of(&source, ODD), &Fingerprint::of(&target, ODD));
            assert_same_database(&Fingerprint::roles(&source), &Fingerprint::roles(&target));
        }
    });
}

#[test]
fn a_pg_restore_that_cannot_read_the_archive_is_refused_beforehand() {
    if !with_clients("postgres_restore::a_pg_restore_that_cannot_read_the_archive_is_refused_beforehand", &[]) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let server = Postgres::start(Major::V18);
        let mut stored = Stored::of(options(&Postgres::start(Major::V15), &["postgres"])).await;
        stored.component.facts.insert("client_version".into(), "18.4".into());
        let restorer = PostgresRestorer::new(options(&server, &[]));
        let error = restorer.plan(&stored.component(), &RestoreOptions::default()).await.expect_err("refused");
        assert!(error.to_string().contains("pg_dump 18") && error.to_string().contains("found only 15"), "{error}");
    });
}

/// A user who owns `app` and may create databases, and nothing else.
fn modest(server: &Postgres) -> String {
    server.psql("CREATE ROLE modest LOGIN CREATEDB PASSWORD 'm'; CREATE ROLE other; CREATE DATABASE app OWNER modest");
    server.psql_in(
        "app",
        "CREATE EXTENSION pg_trgm; CREATE TABLE mine AS SELECT 1 AS a; ALTER TABLE mine OWNER TO modest;
         GRANT SELECT ON mine TO other; CREATE TABLE theirs AS SELECT 2 AS a; ALTER TABLE theirs OWNER TO other",
    );
    server.url_as("modest", "m", "app")
}

#[tokio::test]
async fn who_is_no_superuser_restores_what_he_owns() {
    let server = Postgres::start(Major::V15);
    let url = modest(&server);
    let stored = Stored::of(options(&server, &["app"])).await;
    server.psql_in("app", "DROP TABLE mine");
    let restorer = PostgresRestorer::new(options_of(&url, &[]));
    let restored = restore(&restorer, &stored, &RestoreOptions::default()).await;
    let rows = "SELECT mine.a, theirs.a FROM mine, theirs; SELECT tableowner FROM pg_tables WHERE schemaname = 'public';
        SELECT has_table_privilege('other', 'mine', 'SELECT')";
    assert_eq!(server.psql_in("app", rows), "1|2\nmodest\nmodest\nt");
    assert!(restored.warnings.iter().any(|w| w.contains("no superuser")), "{restored:?}");
    assert_eq!(server.databases(), ["app", "postgres", "template0", "template1"]);
}

#[tokio::test]
async fn a_missing_role_costs_a_modest_user_privileges_and_no_data() {
    let server = Postgres::start(Major::V15);
    let url = modest(&server);
    let stored = Stored::of(options(&server, &["app"])).await;
    server.psql("DROP DATABASE app WITH (FORCE); DROP ROLE other");
    let restored = restore(&PostgresRestorer::new(options_of(&url, &[])), &stored, &RestoreOptions::default()).await;
    assert_eq!(server.psql_in("app", "SELECT a FROM mine"), "1");
    assert!(restored.warnings.iter().any(|w| w.contains("could not create role \"other\"")), "{restored:?}");
    assert!(restored.warnings.iter().any(|w| w.contains("no privileges")), "{restored:?}");
}

#[tokio::test]
async fn a_session_that_may_not_be_ended_keeps_the_old_database_in_service() {
    let server = Postgres::start(Major::V15);
    let url = modest(&server);
    let stored = Stored::of(options(&server, &["app"])).await;
    let (client, connection) = tokio_postgres::connect(&server.url("app"), tokio_postgres::NoTls).await.expect("connected");
    let driver = tokio::spawn(connection);
    let restorer = PostgresRestorer::new(options_of(&url, &[])).with_patience(Duration::from_secs(1));
    let mut staged = stage(&restorer, &stored, &RestoreOptions::default()).await.expect("staged");
    let before = outside(&server);
    let error = failed(staged.publish().await, &server, &before);
    assert!(error.to_string().contains("postgres (?, pid"), "{error}");
    client.simple_query("SELECT a FROM mine").await.expect("the session lives, and so does its database");
    staged.undo().await.expect("undone");
    assert_eq!(server.databases(), ["app", "postgres", "template0", "template1"]);
    driver.abort();
}

#[tokio::test]
async fn what_hangs_on_a_database_forbids_to_replace_it() {
    let server = Postgres::start_with(Major::V15, &[("wal_level", "logical"), ("max_prepared_transactions", "2")]);
    server.create_database("app");
    let stored = Stored::of(options(&server, &["app"])).await;
    let restorer = PostgresRestorer::new(options(&server, &[]));
    for (tie, untie, named) in [
        ("SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')", "SELECT pg_drop_replication_slot('cdc')", "\"cdc\""),
        (
            "CREATE SUBSCRIPTION sub CONNECTION 'host=127.0.0.1' PUBLICATION p WITH (connect = false)",
            "ALTER SUBSCRIPTION sub SET (slot_name = NONE); DROP SUBSCRIPTION sub",
            "\"sub\"",
        ),
        ("BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'two'", "ROLLBACK PREPARED 'two'", "prepared"),
    ] {
        // Before, and while the restore is under way.
        let mut staged = stage(&restorer, &stored, &RestoreOptions::default()).await.expect("staged");
        let before = outside(&server);
        server.psql_in("app", tie);
        let late = failed(staged.publish().await, &server, &before);
        assert!(late.to_string().contains(named), "{late}");
        staged.undo().await.expect("undone");
        let early = restorer.plan(&stored.component(), &RestoreOptions::default()).await.expect_err("refused");
        assert!(early.to_string().contains(named), "{early}");
        restorer.plan(&stored.component(), &into("elsewhere")).await.expect("another name is fine");
        server.psql_in("app", untie);
    }
}

#[tokio::test]
async fn a_restored_subscription_sleeps_and_can_be_undone() {
    let source = Postgres::start_with(Major::V15, &[("wal_level", "logical")]);
    source.create_database("app");
    source.psql_in("app", "CREATE SUBSCRIPTION sub CONNECTION 'host=127.0.0.1' PUBLICATION p WITH (connect = false)");
    let stored = Stored::of(options(&source, &["app"])).await;
    let target = Postgres::start(Major::V15);
    let restorer = PostgresRestorer::new(options(&target, &[]));
    let staged = stage(&restorer, &stored, &RestoreOptions::default()).await.expect("staged");
    staged.undo().await.unwrap_or_else(|e| panic!("undo: {}", chain(&e)));
    assert_eq!(target.databases(), ["postgres", "template0", "template1"]);
    let restored = restore(&restorer, &stored, &RestoreOptions::default()).await;
    assert!(restored.warnings.iter().any(|w| w.contains("\"sub\"")), "{restored:?}");
    assert_eq!(target.psql_in("app", "SELECT subname, subenabled FROM pg_subscription"), "sub|f");
}
