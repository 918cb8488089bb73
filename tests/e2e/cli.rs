//! The program from outside: what it says, which code it ends with, and what it never tells.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::site::Site;
use crate::support::postgres::PASSWORD;
use crate::support::{Backstay, Fingerprint, Major, Outcome, Postgres, Redis, Scratch, Seaweed, Version, sample, toml};

#[test]
fn an_unknown_key_is_an_error_wherever_it_stands() {
    let scratch = Scratch::new();
    let sound = [toml::directory("media", scratch.path()), toml::file_target("local", &scratch.join("b"))].concat();
    let commands =
        [&["backup"][..], &["listbackups"], &["restore", "latest", "--yes"], &["check", "--config-only"], &["worker"], &["prune"]];
    for args in commands {
        let in_file = Backstay::new(&format!("{sound}[jobs.default]\nscedule = \"@daily\"\nkeep_lst = 3\n"));
        let outcome = in_file.run(args).expect_code(78);
        // every fault at once, with its place and what was meant
        for text in ["scedule", "schedule", "keep_lst", "keep_last", "backstay.toml"] {
            assert!(outcome.stderr.contains(text), "{text}: {}", outcome.stderr);
        }
        let in_env = Backstay::new(&sound).env("BACKSTAY__TARGETS__LOCAL__REGIN", "x");
        in_env.run(args).expect_code(78).expect_message("BACKSTAY__TARGETS__LOCAL__REGIN");
    }
    assert!(!scratch.join("b").exists());
}

#[test]
fn a_schedule_that_never_fires_is_an_error() {
    let scratch = Scratch::new();
    let sound = toml::directory("media", scratch.path());
    for schedule in ["0 0 30 2 *", "99 * * * *", "now and then"] {
        let backstay = Backstay::new(&format!("{sound}[jobs.default]\nschedule = \"{schedule}\"\n"));
        backstay.run(&["check", "--config-only"]).expect_code(78).expect_message("schedule");
    }
}

#[test]
fn mistakes_on_the_command_line_are_usage() {
    let backstay = Backstay::new("");
    for args in [&[][..], &["frobnicate"], &["restore"], &["backup", "--frob"], &["backup", "Not A Name"], &["-q", "-v", "check"]] {
        backstay.run(args).expect_code(2);
    }
    for args in [&["--help"][..], &["--version"], &["restore", "--help"], &["completions", "bash"], &["man"], &["config", "schema"]] {
        assert!(!backstay.succeed(args).stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_lost_component_makes_a_partial_backup() {
    let site = Site::filled(Major::V15, Version::V7_0);
    let store = Scratch::new();
    let target = toml::file_target("local", &store.join("backups"));
    let lost = [
        ("wrong password", format!("[postgres.lost]\nurl = {}\n", toml::quoted(site.postgres.url_as("postgres", "canary-wrong", "app")))),
        ("no such server", "[postgres.lost]\nurl = \"postgres://u@127.0.0.1:1/app\"\n".to_owned()),
        ("no such database", format!("[postgres.lost]\nurl = {}\n", toml::quoted(site.postgres.url("nowhere")))),
        ("no such Redis", "[redis.lost]\nurl = \"redis://127.0.0.1:1\"\n".to_owned()),
        ("no such directory", "[directory.lost]\npath = \"/no/such/directory\"\n".to_owned()),
    ];
    for (what, section) in lost {
        let backstay = Backstay::new(&[section, toml::directory("media", &site.files.join("media")), target.clone()].concat());
        let outcome = backstay.run(&["backup", "--json"]).expect_code(3).expect_message("lost");
        assert!(!outcome.stderr.contains("canary"), "{}", outcome.stderr);
        let answer = outcome.json();
        assert_eq!(answer["status"], json!("partial"), "{what}");
        let name = answer["name"].as_str().expect("a name");
        let list = backstay.succeed(&["listbackups", "--json"]).json();
        let listed = list.as_array().expect("an array").iter().find(|b| b["name"] == name).expect("it is listed");
        assert_eq!((&listed["status"], &listed["components"]), (&json!("partial"), &json!(["media"])), "{what}");
        // `latest` is a complete one
        backstay.run(&["restore", "latest", "--yes"]).expect_code(10);
        fs::remove_dir_all(store.join("backups")).expect("forget it");
    }
}

#[test]
fn retention_keeps_the_newest_and_a_failed_run_removes_nothing() {
    let (source, store) = (Scratch::new(), Scratch::new());
    let target = toml::file_target("local", &store.join("backups"));
    let config = |source: &std::path::Path| {
        [toml::directory("media", source), target.clone(), "[jobs.default]\nkeep_last = 2\n".to_owned()].concat()
    };
    let backstay = Backstay::new(&config(source.path()));
    let names: Vec<String> = (0..3).map(|_| backstay.backup()).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 3, "{names:?}");
    let listed = |backstay: &Backstay| -> Vec<String> {
        let list = backstay.succeed(&["listbackups", "--json"]).json();
        list.as_array().expect("an array").iter().map(|b| b["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(listed(&backstay), names[1..]);
    backstay.configure(&config(&source.join("missing")));
    let answer = backstay.run(&["backup", "--json"]).expect_code(3).json();
    assert_eq!((&answer["name"], &answer["status"]), (&json!(null), &json!("failed")));
    assert_eq!(listed(&backstay), names[1..]);
    assert!(!backstay.succeed(&["prune", "--dry-run"]).stdout.is_empty());
}

/// Each secret is a canary: it may stand in no answer, message, argument or file that the program writes.
#[test]
fn no_secret_is_ever_told() {
    // of this test alone: another's may stand in the arguments of its tools
    const POSTGRES_PASSWORD: &str = "canary postgres $ = # \" ' pass";
    const REDIS_PASSWORD: &str = "canary redis $ = # \" ' pass";
    let postgres = Postgres::start(Major::V15);
    sample::fill_postgres(&postgres);
    postgres.psql(&format!("ALTER ROLE postgres PASSWORD '{}'", POSTGRES_PASSWORD.replace('\'', "''")));
    let redis = Redis::start(Version::V7_0, &["--requirepass", REDIS_PASSWORD]);
    sample::fill_redis(&redis);
    let (files, store, seaweed) = (Scratch::new(), Scratch::new(), Seaweed::start());
    files.write("media/file", "x");
    let site = Site { postgres, redis, files };
    let targets = [toml::file_target("local", &store.join("backups")), toml::s3_target("s3", &seaweed, Seaweed::BUCKET)].concat();
    let encoded = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    let config = format!("{}{targets}", site.components()).replace(&encoded(PASSWORD), &encoded(POSTGRES_PASSWORD));
    let backstay = Backstay::new(&config).env("BACKSTAY_LOG", "trace");

    let secrets: Vec<String> =
        [POSTGRES_PASSWORD, REDIS_PASSWORD, &seaweed.secret_key].iter().flat_map(|s| [(*s).to_owned(), encoded(s)]).collect();

    let watch = Watch::start(secrets.clone());
    let mut outcomes: Vec<(String, Outcome)> = Vec::new();
    let mut run = |backstay: &Backstay, args: &[&str]| outcomes.push((format!("{args:?}"), backstay.run(args)));
    for args in [
        &["config", "show"][..],
        &["config", "show", "--json"],
        &["check", "-vv"],
        &["backup", "-vv"],
        &["--log-format", "json", "-vv", "backup", "--json"],
        &["listbackups", "--json", "-vv"],
        &["restore", "latest", "--dry-run"],
        &["restore", "latest", "--yes", "-vv"],
        &["prune", "-vv"],
    ] {
        run(&backstay, args);
    }
    // errors are where secrets slip out
    let broken = Backstay::new(&config.replace("postgres://", "postgers://").replace("redis://", "rediss://")).env("BACKSTAY_LOG", "trace");
    for args in [&["check", "-vv"][..], &["backup", "-vv"]] {
        run(&broken, args);
    }
    site.redis.cli(&["CONFIG", "SET", "requirepass", "another"]);
    site.postgres.psql("ALTER ROLE postgres PASSWORD 'another'");
    for args in [&["check", "-vv"][..], &["backup", "-vv"], &["restore", "latest", "--yes", "-vv"]] {
        run(&backstay, args);
    }
    let seen = watch.stop();

    assert_eq!(outcomes[3].1.code, Some(0), "{}", outcomes[3].1.stderr);
    assert_eq!(outcomes[7].1.code, Some(0), "{}", outcomes[7].1.stderr);
    for (args, outcome) in &outcomes {
        for secret in &secrets {
            assert!(!outcome.stdout.contains(secret.as_str()), "{args} answers with a secret:\n{}", outcome.stdout);
            assert!(!outcome.stderr.contains(secret.as_str()), "{args} tells a secret:\n{}", outcome.stderr);
        }
    }
    assert!(seen.pg_dump, "the watch saw no pg_dump, so it saw nothing");
    assert_eq!(seen.leaks, BTreeSet::new(), "secrets in argument lists");
    for manifest in fs::read_dir(store.join("backups")).expect("read the target") {
        let file = manifest.expect("an entry").path().join("manifest.json");
        let Ok(text) = fs::read_to_string(&file) else { continue };
        assert!(!secrets.iter().any(|s| text.contains(s.as_str())), "{}: {text}", file.display());
    }
}

/// Reads the argument list of every process, over and over.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Argument lists with a secret in them.
    leaks: BTreeSet<String>,
    pg_dump: bool,
}

impl Watch {
    fn start(secrets: Vec<String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                for process in fs::read_dir("/proc").expect("read /proc").flatten() {
                    let Ok(line) = fs::read(process.path().join("cmdline")) else { continue };
                    let line = String::from_utf8_lossy(&line).replace('\0', " ");
                    // the test's own servers and clients are started with passwords
                    if line.contains("redis-server") || line.contains("redis-cli") {
                        continue;
                    }
                    seen.pg_dump |= line.contains("pg_dump") && line.contains("--format=custom") || line.contains("pg_dump -Fc");
                    if secrets.iter().any(|secret| line.contains(secret.as_str())) {
                        seen.leaks.insert(line);
                    }
                }
                // often enough to see a child that lives for tens of milliseconds
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            seen
        });
        Self { stop, thread }
    }

    fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watch ends")
    }
}

/// `$ = # " '`, spaces, leading zeros and a newline at the end of a secret file.
#[test]
fn a_password_is_taken_literally_wherever_it_is_written() {
    let server = Postgres::start(Major::V15);
    server.create_database("app");
    server.psql_in("app", "CREATE TABLE t AS SELECT 1 AS a");
    let before = Fingerprint::of(&server, "app");
    let store = Scratch::new();
    let secret = store.write_secret("password", format!("{PASSWORD}\n"));
    let section = |password: &str| {
        let target = toml::file_target("local", &store.join("backups"));
        let port = server.port();
        format!("[postgres.postgres]\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"postgres\"\ndatabase = \"app\"\n{password}{target}")
    };
    let line = |value: &str| format!("password = {}\n", toml::quoted(value));
    for (config, env) in [
        (section(&line(PASSWORD)), None),
        (section(&line(&format!("file://{}", secret.display()))), None),
        (section(&line("env://THE_PASSWORD")), Some(("THE_PASSWORD", PASSWORD))),
        (section(""), Some(("BACKSTAY__POSTGRES__POSTGRES__PASSWORD", PASSWORD))),
        (section(""), Some(("AUTHENTIK_POSTGRESQL__PASSWORD", PASSWORD))),
    ] {
        let mut backstay = Backstay::new(&config);
        if let Some((key, value)) = env {
            backstay = backstay.env(key, value);
        }
        let outcome = backstay.run(&["backup", "--only", "postgres"]);
        assert_eq!(outcome.code, Some(0), "{env:?}\n{config}\n{}", outcome.stderr);
    }
    let backstay = Backstay::new(&section(&line(PASSWORD)));
    let name = backstay.backup();
    server.psql_in("app", "DROP TABLE t");
    backstay.succeed(&["restore", &name, "--yes"]);
    assert_eq!(before.differences(&Fingerprint::of(&server, "app")), [""; 0]);
}
