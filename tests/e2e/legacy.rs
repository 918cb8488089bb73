//! authentik's old dumps in a target: listed, restored, refused where they are not whole, never touched.

use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use crate::support::pg_compare::{Fingerprint, assert_same_database};
use crate::support::{Backstay, Major, Postgres, Scratch, sample, toml};

/// As authentik 2021.4 named and 2021.5 named theirs.
const OLD: &str = "default-worker-1-2020-10-03-115557.psql.gz";
const NEWER: &str = "authentik-backup-2021.5.1-2021-05-12-000000.sql";

struct Old {
    server: Postgres,
    store: Scratch,
    backstay: Backstay,
    before: Fingerprint,
    /// What `pg_dump --clean` wrote.
    dump: Vec<u8>,
}

impl Old {
    fn new(major: Major) -> Self {
        let server = Postgres::start(major);
        sample::fill_postgres(&server);
        let store = Scratch::new();
        let config = format!("{}{}", toml::file_target("local", store.path()), toml::postgres("postgres", &server, &["app"]));
        let dump = crate::support::process::run(server.client("pg_dump", "app").arg("--clean"));
        let before = Fingerprint::of(&server, "app");
        Self { server, backstay: Backstay::new(&config), store, before, dump }
    }

    fn put(&self, file: &str, bytes: &[u8]) -> PathBuf {
        let path = self.store.join(file);
        if file.ends_with(".gz") {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(bytes).expect("compressed");
            std::fs::write(&path, gzip.finish().expect("compressed")).expect("written");
        } else {
            std::fs::write(&path, bytes).expect("written");
        }
        path
    }

    /// What users do to a database between two backups.
    fn change(&self) -> Fingerprint {
        self.server.psql_in("app", "CREATE TABLE public.newer (x int); INSERT INTO public.newer VALUES (1)");
        Fingerprint::of(&self.server, "app")
    }

    #[track_caller]
    fn assert_is(&self, expected: &Fingerprint) {
        assert_same_database(expected, &Fingerprint::of(&self.server, "app"));
        assert_eq!(self.server.databases().iter().filter(|name| name.contains("backstay")).count(), 0, "{:?}", self.server.databases());
    }
}

#[test]
fn old_dumps_are_listed_and_restored_and_stay() {
    let old = Old::new(Major::V15);
    // from the days when pg_dump said so
    let dump =
        String::from_utf8_lossy(&old.dump).replace("SET row_security = off;", "SET row_security = off;\nSET default_with_oids = false;");
    let files = [old.put(OLD, dump.as_bytes()), old.put(NEWER, dump.as_bytes())];
    old.put("notes.sql", b"no dump");
    let listed = old.backstay.succeed(&["listbackups", "--json"]).json();
    let named: Vec<_> = listed.as_array().expect("a list").iter().map(|row| (&row["name"], &row["status"], &row["created"])).collect();
    let (first, second) = (json!("2020-10-03T11:55:57Z"), json!("2021-05-12T00:00:00Z"));
    assert_eq!(named, [(&json!(OLD), &json!("legacy"), &first), (&json!(NEWER), &json!("legacy"), &second)]);
    for file in [OLD, NEWER] {
        let changed = old.change();
        let plan = old.backstay.succeed(&["restore", "-i", file, "--dry-run"]).stdout;
        assert!(plan.contains("with psql 15"), "{plan}");
        old.assert_is(&changed);
        old.backstay.succeed(&["restore", "-i", file, "--yes"]);
        old.assert_is(&old.before);
    }
    old.backstay.backup();
    old.backstay.succeed(&["prune"]);
    assert!(files.iter().all(|file| file.exists()), "they are never deleted");
    // with the safety backup of each restore
    assert_eq!(old.backstay.succeed(&["listbackups", "--json"]).json().as_array().map(Vec::len), Some(5));
}

#[test]
fn a_dump_that_is_not_whole_or_does_more_than_dump_changes_nothing() {
    let old = Old::new(Major::V17);
    let changed = old.change();
    let text = String::from_utf8_lossy(&old.dump).into_owned();
    let end = text.rfind("-- PostgreSQL database dump complete").expect("the last line");
    let with = |line: &str| format!("{}{line}\n{}", &text[..end], &text[end..]);
    let marker = old.store.join("marker");
    let cases = [
        ("cut", text[..text.len() / 2].to_owned(), 12, "its last line is missing"),
        ("shell", with(&format!("\\! touch {}", marker.display())), 1, "is a command for psql"),
        ("within", with(&format!("SELECT 1 \\! touch {}", marker.display())), 1, "restricted"),
        // what looks like rows to whoever does not know that it stands in a comment
        ("rows", with(&format!("/*\nCOPY public.a (t) FROM stdin;\n*/\n\\! touch {}\n\\.", marker.display())), 1, "restricted"),
        ("long", with(&format!("\\! touch {} #{}", marker.display(), "x".repeat(100_000))), 1, "is a command for psql"),
        ("failing", with("SELECT 1 FROM public.no_such_table;"), 1, "no_such_table"),
    ];
    for (case, text, code, message) in cases {
        for file in [format!("authentik-backup-{case}-2021-05-12-000000.sql"), format!("default-{case}-2021-05-12-000000.psql.gz")] {
            old.put(&file, text.as_bytes());
            old.backstay.run(&["restore", &file, "--yes"]).expect_code(code).expect_message(message);
            old.assert_is(&changed);
        }
    }
    assert!(!marker.exists());
    let gz = old.put(OLD, &old.dump);
    let bytes = std::fs::read(&gz).expect("read");
    std::fs::write(&gz, &bytes[..bytes.len() / 2]).expect("cut");
    old.backstay.run(&["restore", OLD, "--yes"]).expect_code(12);
    old.assert_is(&changed);
    old.backstay.run(&["restore", "default-none-2021-05-12-000000.psql", "--yes"]).expect_code(10);
}

#[test]
fn a_user_who_is_no_superuser_gets_what_he_may_have() {
    let server = Postgres::start(Major::V16);
    server.psql("CREATE ROLE authentik; CREATE ROLE operator LOGIN PASSWORD 'o' CREATEDB");
    server.create_database("authentik");
    let schema = "CREATE TABLE a (id uuid PRIMARY KEY, data jsonb); \
                  CREATE TABLE b (a uuid REFERENCES a, t text); ALTER TABLE a OWNER TO authentik; GRANT SELECT ON a TO authentik; \
                  INSERT INTO a SELECT gen_random_uuid(), '{}' FROM generate_series(1, 100); INSERT INTO b SELECT id, 'x' FROM a";
    server.psql_in("authentik", schema);
    let store = Scratch::new();
    let dump = crate::support::process::run(server.client("pg_dump", "authentik").arg("--clean"));
    std::fs::write(store.join(NEWER), dump).expect("written");
    server.psql("DROP DATABASE authentik; DROP ROLE authentik");
    let url = server.url_as("operator", "o", "authentik");
    let target = toml::file_target("local", store.path());
    let backstay = Backstay::new(&format!("{target}[postgres.postgres]\nurl = \"{url}\"\n"));
    let outcome = backstay.succeed(&["restore", NEWER, "--yes"]);
    assert!(outcome.stdout.contains("authentik, postgres was restored without that"), "{}", outcome.stdout);
    let owned = "SELECT (SELECT count(*) FROM a JOIN b ON b.a = a.id), (SELECT count(*) FROM pg_tables WHERE tableowner = 'operator')";
    assert_eq!(server.psql_in("authentik", owned).trim(), "100|2");
}
