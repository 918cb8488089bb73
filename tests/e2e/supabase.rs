//! A database of the shape of a self-hosted Supabase's: backed up by its superuser, restored over itself and onto an empty server.

use crate::support::{Backstay, Fingerprint, Major, Postgres, Scratch, assert_same_database, toml};

fn server(major: Major) -> Postgres {
    let server = Postgres::start_with(major, &[("wal_level", "logical")]);
    let script = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/supabase.sql")).expect("read the fixture");
    server.psql(&script);
    server.create_database("_supabase");
    server.psql_in("_supabase", "CREATE SCHEMA _analytics; CREATE TABLE _analytics.log_events (id uuid PRIMARY KEY, body jsonb)");
    server
}

/// Its two databases; the first of them is the one that every server has.
fn program(server: &Postgres, store: &Scratch) -> Backstay {
    let target = toml::file_target("local", &store.join("backups"));
    Backstay::new(&[toml::postgres("postgres", server, &["postgres", "_supabase"]), target].concat())
        .env("BACKSTAY__JOBS__DEFAULT__COMPONENTS", "postgres")
}

#[test]
fn a_database_of_its_shape_comes_back_over_itself_and_on_an_empty_server() {
    for major in [Major::V15, Major::V17] {
        let (server, store) = (server(major), Scratch::new());
        let state =
            |server: &Postgres| [Fingerprint::roles(server), Fingerprint::of(server, "postgres"), Fingerprint::of(server, "_supabase")];
        let before = state(&server);
        assert!(before[1].tables() >= 8, "{}", before[1].tables());
        let name = program(&server, &store).backup();

        server.psql(
            "DROP EVENT TRIGGER pgrst_ddl_watch; DROP SCHEMA storage CASCADE; TRUNCATE auth.users CASCADE; DROP PUBLICATION supabase_realtime",
        );
        server.psql_in("_supabase", "DROP SCHEMA _analytics CASCADE");
        program(&server, &store).succeed(&["restore", &name, "--yes"]);
        let empty = Postgres::start_with(major, &[("wal_level", "logical")]);
        program(&empty, &store).succeed(&["restore", &name, "--yes", "--no-safety-backup"]);
        for restored in [&server, &empty] {
            for (before, after) in before.iter().zip(&state(restored)) {
                assert_same_database(before, after);
            }
            // its services find what they are used to
            let own = "SET ROLE authenticator; SET ROLE authenticated; SET request.jwt.claim.sub = ''; SELECT count(*) FROM public.todos";
            assert_eq!(restored.psql(own).lines().last(), Some("0"), "row-level security is in force");
            restored.psql("SET ROLE supabase_auth_admin; INSERT INTO auth.users (email) VALUES ('new@example.org')");
            assert_eq!(restored.psql("SELECT count(*) FROM public.todos").trim(), "201", "the trigger fires");
        }
    }
}
