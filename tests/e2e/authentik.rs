//! authentik's environment and a database of its shape, from the backup to what is restored.

use crate::support::{Backstay, Fingerprint, Major, Postgres, Scratch, assert_same_database, toml};

const USER: &str = "authentik";
const SECRET: &str = "c2VjcmV0/+==";

/// A server with authentik's role and its database, filled.
fn server(major: Major, role: &str) -> Postgres {
    let server = Postgres::start_with(major, &[("wal_level", "replica")]);
    server.psql(&format!("CREATE ROLE {USER} LOGIN {role} PASSWORD '{SECRET}'; CREATE DATABASE {USER} OWNER {USER}"));
    let script = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/authentik.sql")).expect("read the fixture");
    server.psql_in(USER, &format!("SET ROLE {USER}; {script}"));
    server
}

/// The program in the environment of its `.env`, with nothing configured but where the backups go.
fn program(server: &Postgres, store: &Scratch) -> Backstay {
    let config = format!("{}[jobs.default]\ncomponents = [\"postgres\"]\n", toml::file_target("local", &store.join("backups")));
    [("HOST", "127.0.0.1"), ("PORT", &server.port().to_string()), ("NAME", USER), ("USER", USER), ("PASSWORD", SECRET)]
        .into_iter()
        .fold(Backstay::new(&config), |program, (key, value)| program.env(format!("AUTHENTIK_POSTGRESQL__{key}"), value))
        .env("AUTHENTIK_SECRET_KEY", "not in any backup")
}

/// A member of the manifest of a backup's only component.
fn fact(store: &Scratch, name: &str, fact: &str) -> serde_json::Value {
    let manifest = std::fs::read(store.join("backups").join(name).join("manifest.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    manifest["components"][0]["facts"][fact].clone()
}

/// As the superuser of a compose file, and as one that a chart has made.
#[test]
fn a_database_of_its_shape_comes_back_as_it_was() {
    for (major, role) in [(Major::V15, "SUPERUSER"), (Major::V17, "CREATEDB"), (Major::V18, "SUPERUSER")] {
        let (server, store) = (server(major, role), Scratch::new());
        let before = Fingerprint::of(&server, USER);
        assert!(before.tables() >= 36, "{}", before.tables());
        let backstay = program(&server, &store);
        let name = backstay.backup();
        // a migration that went wrong
        server.psql_in(
            USER,
            "DROP TABLE authentik_core_token; DROP MATERIALIZED VIEW authentik_core_groupancestry;
             ALTER TABLE authentik_core_group ADD parent uuid; DELETE FROM authentik_events_event; DROP FUNCTION notify_enqueueing CASCADE;
             UPDATE authentik_core_user SET attributes = '{}'",
        );
        backstay.succeed(&["restore", &name, "--yes"]);
        assert_same_database(&before, &Fingerprint::of(&server, USER));
        // what was restored works: the trigger keeps the closure, keys refuse what they should, identities go on
        let ancestors = "SELECT count(*) FROM authentik_core_groupancestry";
        let closed: u32 = server.psql_in(USER, ancestors).trim().parse().expect("a number");
        server.psql_in(USER, "DELETE FROM authentik_core_groupparentage WHERE child_id = md5('g30')::uuid");
        assert!(server.psql_in(USER, ancestors).trim().parse::<u32>().expect("a number") < closed);
        let user = "INSERT INTO authentik_core_user (password, username, email, is_active, date_joined, uuid, name, path, attributes, \
            password_change_date) SELECT '', $1, '', true, now(), gen_random_uuid(), '', '', '{}', now() RETURNING id";
        assert_eq!(server.psql_in(USER, &user.replace("$1", "'new'")).lines().next(), Some("501"));
        assert!(server.try_psql(USER, &user.replace("$1", "'user-1'")).is_err_and(|error| error.contains("username")));
    }
}

#[test]
fn a_replica_is_dumped_where_that_is_wanted_and_what_a_restore_replaces_is_not() {
    for major in [Major::V15, Major::V18] {
        let (mut server, store) = (server(major, "SUPERUSER"), Scratch::new());
        let replica = server.standby();
        let port = replica.port().to_string();
        let without = program(&server, &store)
            .env("AUTHENTIK_POSTGRESQL__READ_REPLICAS__0__HOST", "127.0.0.1")
            .env("AUTHENTIK_POSTGRESQL__READ_REPLICAS__0__PORT", &port);
        assert_eq!(fact(&store, &without.backup(), "in_recovery"), false);
        let told = without.succeed(&["check", "--config-only"]).stdout;
        assert!(told.contains("BACKSTAY__POSTGRES__POSTGRES__FROM_REPLICA=true"), "{told}");

        let backstay = without.env("BACKSTAY__POSTGRES__POSTGRES__FROM_REPLICA", "true");
        // no standby has the rows of an unlogged table
        server.psql_in(USER, "DELETE FROM django_postgres_cache_cacheentry");
        let before = Fingerprint::of(&server, USER);
        wait_for(&server, &replica);
        replica.psql("SELECT pg_wal_replay_pause()");
        server.psql_in(USER, "INSERT INTO authentik_install_id VALUES ('late')");
        let answer = backstay.succeed(&["backup", "--json"]).json();
        let name = answer["name"].as_str().expect("a name").to_owned();
        assert_eq!(fact(&store, &name, "in_recovery"), true);
        assert!(answer["components"][0]["warnings"].to_string().contains("replay is paused"), "{answer}");

        backstay.succeed(&["restore", &name, "--yes"]);
        assert_same_database(&before, &Fingerprint::of(&server, USER));
        let listed = backstay.succeed(&["listbackups", "--json"]).json();
        let safety = listed.as_array().expect("rows").iter().filter_map(|row| row["name"].as_str()).max().expect("a backup").to_owned();
        assert_ne!(safety, name);
        assert_eq!(fact(&store, &safety, "in_recovery"), false, "the row that the replica has not received would be lost");
        backstay.succeed(&["restore", &safety, "--yes"]);
        assert_eq!(server.psql_in(USER, "SELECT count(*) FROM authentik_install_id").trim(), "2");

        // one that is cut off has old data for good
        server.stop();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while replica.psql("SELECT count(*) FROM pg_stat_wal_receiver").trim() != "0" {
            assert!(std::time::Instant::now() < deadline, "the receiver goes on without a sender");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let answer = backstay.succeed(&["backup", "--json"]).json();
        let warnings = answer["components"][0]["warnings"].to_string();
        assert!(warnings.contains("receives nothing from its primary"), "{warnings}");
        replica.psql("SELECT pg_promote(wait => false)");
        // what is replayed until then may cancel a question
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !replica.try_psql("postgres", "SELECT pg_is_in_recovery()").is_ok_and(|answer| answer.trim() == "f") {
            assert!(std::time::Instant::now() < deadline, "{}", replica.log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let answer = backstay.succeed(&["backup", "--json"]).json();
        assert!(answer["components"][0]["warnings"].to_string().contains("is no replica"), "{answer}");
    }
}

/// Until the replica has replayed all that the server has written.
fn wait_for(server: &Postgres, replica: &Postgres) {
    let written = server.psql("SELECT pg_current_wal_lsn()");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while replica.psql(&format!("SELECT pg_last_wal_replay_lsn() >= '{}'", written.trim())).trim() != "t" {
        assert!(std::time::Instant::now() < deadline, "{}", replica.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
