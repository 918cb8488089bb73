//! Single tables, into a database of their own.

use super::databases;
use crate::support::{Backstay, Fingerprint, Major, Outcome, Postgres, Scratch, assert_same_database, sample, toml, tools};

/// A server with one backup in a directory.
struct Stored {
    server: Postgres,
    store: Scratch,
    backstay: Backstay,
}

impl Stored {
    /// With this many streams a database.
    fn new(major: Major, jobs: u32) -> Self {
        let (server, store) = (Postgres::start(major), Scratch::new());
        sample::fill_postgres(&server);
        server.psql_in(
            "app",
            "CREATE TABLE shop.big AS SELECT i, repeat(md5(i::text), 20) AS text FROM generate_series(1, 4000) i;
             ALTER TABLE shop.big ADD PRIMARY KEY (i)",
        );
        let component = toml::postgres("postgres", &server, &["app"]);
        let backstay = Backstay::new(&[component, format!("jobs = {jobs}\n"), toml::file_target("local", &store.join("backups"))].concat());
        backstay.backup();
        Self { server, store, backstay }
    }

    fn restore(&self, args: &[&str]) -> Outcome {
        self.backstay.run(&[&["restore", "latest", "--yes"], args].concat())
    }

    /// The one database that a restore of tables has left.
    fn side(&self) -> String {
        let new: Vec<String> = databases(&self.server).into_iter().filter(|name| name != "app").collect();
        assert!(new.len() == 1 && new[0].starts_with("app_tables_2"), "{new:?}");
        new[0].clone()
    }
}

/// Rows, in an order of their own.
fn rows(server: &Postgres, database: &str, table: &str) -> String {
    server.psql_in(database, &format!("SELECT t::text FROM {table} t ORDER BY 1"))
}

#[test]
fn a_table_comes_back_beside_the_live_one() {
    for jobs in [1, 3] {
        let stored = Stored::new(Major::V15, jobs);
        let server = &stored.server;
        let before = rows(server, "app", "shop.customer");
        server.psql_in(
            "app",
            "DROP PUBLICATION everything; DELETE FROM shop.purchase; UPDATE shop.customer SET name = 'changed' WHERE amount > 5",
        );
        let live = Fingerprint::of(server, "app");

        let plan = stored.backstay.succeed(&["restore", "latest", "--dry-run", "--table", "shop.customer"]).stdout;
        assert!(plan.contains("app_tables_2") && plan.contains("is not touched") && plan.contains("COPY"), "{plan}");
        assert_eq!(databases(server), ["app"], "a plan only");

        let done = stored.restore(&["--table", "shop.customer"]).expect_code(0).stdout;
        assert!(done.contains("table \"shop\".\"customer\": 3000 row(s)") && done.contains("policy \"small\""), "{done}");
        assert!(done.contains("as its fingerprint in the backup: 1 table with 3000 rows"), "{done}");
        let side = stored.side();
        assert_eq!(rows(server, &side, "shop.customer"), before);
        assert_same_database(&live, &Fingerprint::of(server, "app"));
        let relations = "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'shop' \
             AND relkind IN ('r', 'p', 'v', 'm', 'S', 'i') ORDER BY 1";
        assert_eq!(
            server.psql_in(&side, relations).lines().collect::<Vec<_>>(),
            ["customer", "customer_doc", "customer_id_seq", "customer_partial", "customer_pkey"]
        );
        let quiet = "SELECT (SELECT count(*) FROM pg_trigger), relacl IS NULL, relrowsecurity FROM pg_class WHERE relname = 'customer'";
        assert_eq!(server.psql_in(&side, quiet), "0|t|f");
        let next = "INSERT INTO shop.customer (name) VALUES ('x') RETURNING id";
        assert_eq!(server.psql_in(&side, next).lines().next(), Some("3001"), "its sequence stands where it stood");

        // the way back that the plan says
        let copy = done.lines().find_map(|line| line.split_once("To copy rows back: ")).expect("a command to paste").1;
        server.psql_in(&side, "DELETE FROM shop.customer WHERE id > 3000");
        server.psql_in("app", "DELETE FROM shop.customer");
        let url = server.url("postgres");
        let mut shell = std::process::Command::new("sh");
        let pasted = copy.replace("psql -X -d ", "on ");
        shell.args(["-ec", &format!("on() {{ psql -X -v ON_ERROR_STOP=1 \"$URL dbname=$1\" \"$2\" \"$3\"; }}; {pasted}")]);
        let status = shell.env("URL", conninfo(&url)).env("PATH", tools::path_with(&Major::ALL)).status().expect("run sh");
        assert!(status.success());
        assert_eq!(rows(server, "app", "shop.customer"), before);
    }
}

/// `postgres://user:password@host:port/database` as keys and values, so that a database can be added.
fn conninfo(url: &str) -> String {
    let url = url::Url::parse(url).expect("a URL");
    let password = percent_encoding::percent_decode_str(url.password().unwrap_or_default()).decode_utf8().expect("UTF-8");
    let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
    let (host, port) = (url.host_str().expect("a host"), url.port().expect("a port"));
    format!("host={host} port={port} user={} password='{quoted}'", url.username())
}

#[test]
fn a_partitioned_table_and_odd_names_come_back_whole() {
    let stored = Stored::new(Major::V15, 3);
    let server = &stored.server;
    let before = ["shop.purchase", "\"Odd \"\"Schema\"\"\".\"tab\"\"le; DROP\"", "shop.child"].map(|table| rows(server, "app", table));
    server.psql_in("app", "DROP TABLE shop.purchase, shop.child CASCADE");
    let odd = "\"Odd \"\"Schema\"\"\".\"tab\"\"le; DROP\"";
    let args = ["--table", "shop.purchase", "--table", odd, "--table", "shop.child", "--into", "postgres=look", "--jobs", "4"];
    let done = stored.restore(&args).expect_code(0).stdout;
    assert!(done.contains("foreign key \"purchase_customer_fkey\"") && done.contains("SELECT * FROM"), "{done}");
    assert_eq!(["shop.purchase", odd, "shop.child"].map(|table| rows(server, "look", table)), before);
    assert_eq!(rows(server, "look", "ONLY shop.parent"), "", "needed by a child, its rows were not asked for");
    let partitions = "SELECT count(*) FROM pg_partition_tree('shop.purchase') WHERE isleaf";
    assert_eq!(server.psql_in("look", partitions), "2");
    assert_eq!(databases(server), ["app", "look"]);
}

#[test]
fn what_is_not_in_the_backup_is_said_before_anything_is_touched() {
    let stored = Stored::new(Major::V15, 1);
    let before = stored.server.psql("SELECT oid, datname FROM pg_database ORDER BY 1");
    stored.restore(&["--table", "public.customer"]).expect_code(10).expect_message("Did you mean \"shop\".\"customer\"?");
    stored.restore(&["--table", "shop.customer", "--table", "shop.nowhere"]).expect_code(10).expect_message("\"shop\".\"nowhere\"");
    stored.restore(&["--table", "shop.happy"]).expect_code(10).expect_message("is a view");
    stored.restore(&["--table", "customer"]).expect_code(2).expect_message("SCHEMA.TABLE");
    stored.restore(&["--table", "shop.customer", "--dry-run", "--database", "other"]).expect_code(10).expect_message("\"other\"");
    stored.restore(&["--table", "shop.customer", "--into", "postgres=app"]).expect_code(1).expect_message("exists");
    let elsewhere = format!("postgres={}", stored.server.url("app"));
    stored.restore(&["--table", "shop.customer", "--into", &elsewhere]).expect_code(1).expect_message("exists");
    // known before anything is loaded
    stored.restore(&["--table", "shop.customer", "--into", &elsewhere, "--dry-run"]).expect_code(1).expect_message("exists");
    assert_eq!(stored.server.psql("SELECT oid, datname FROM pg_database ORDER BY 1"), before);
}

#[test]
fn damage_of_other_rows_is_found_too() {
    let stored = Stored::new(Major::V15, 1);
    let name = std::fs::read_dir(stored.store.join("backups")).expect("a directory").map(|e| e.expect("an entry").file_name());
    let name = name.map(|n| n.to_string_lossy().into_owned()).find(|n| n.starts_with("default-")).expect("a backup");
    let file = stored.store.join("backups").join(name).join("postgres/app.dump.gz");
    let mut bytes = std::fs::read(&file).expect("read an artifact");
    let at = bytes.len() - 30;
    bytes[at] ^= 0x10;
    std::fs::write(&file, bytes).expect("damage an artifact");
    let before = stored.server.psql("SELECT oid, datname FROM pg_database ORDER BY 1");
    stored.restore(&["--table", "shop.room"]).expect_code(12);
    assert_eq!(stored.server.psql("SELECT oid, datname FROM pg_database ORDER BY 1"), before);
}

#[test]
fn tables_of_several_databases_are_asked_for_by_name() {
    let (server, store) = (Postgres::start(Major::V18), Scratch::new());
    for name in ["one", "two"] {
        server.psql(&format!("CREATE DATABASE {name}; CREATE ROLE owner_{name}"));
        server.psql_in(name, &format!("CREATE TABLE t AS SELECT '{name}' AS a; ALTER TABLE t OWNER TO owner_{name}"));
    }
    let backstay = Backstay::new(&[toml::postgres("postgres", &server, &["*"]), toml::file_target("local", store.path())].concat());
    backstay.backup();
    backstay.run(&["restore", "latest", "--yes", "--table", "public.t"]).expect_code(2).expect_message("--database");
    server.psql("DROP DATABASE two");
    server.psql("DROP ROLE owner_two");
    let args = ["restore", "latest", "--yes", "--database", "two", "--table", "public.t", "--into", "postgres=look"];
    let done = backstay.succeed(&args).stdout;
    assert!(done.contains("\"owner_two\" is missing"), "{done}");
    assert_eq!(rows(&server, "look", "t"), "(two)");
    assert_eq!(server.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'owner_two'"), "0", "no role is created for a look");
}
