//! authentik's environment, as its own compose file sets it.

use super::*;
use crate::component::postgres::PostgresOptions;
use crate::component::redis::RedisOptions;
use crate::config::ComponentOptions;
use crate::storage::{Addressing, Location};

fn postgres(settings: &Settings) -> Option<PostgresOptions> {
    settings.components.iter().find_map(|c| if let ComponentOptions::Postgres(p) = c { Some(p.clone()) } else { None })
}

fn redis(settings: &Settings) -> Option<RedisOptions> {
    settings.components.iter().find_map(|c| if let ComponentOptions::Redis(r) = c { Some(r.clone()) } else { None })
}

fn text(secret: &Option<crate::secret::Secret>) -> String {
    format!("{secret:?}")
}

#[test]
fn the_environment_of_its_compose_file_gives_both_servers() {
    let env = [
        ("AUTHENTIK_POSTGRESQL__HOST", "postgresql"),
        ("AUTHENTIK_POSTGRESQL__USER", "authentik-user"),
        ("AUTHENTIK_POSTGRESQL__NAME", "authentik-db"),
        ("AUTHENTIK_POSTGRESQL__PASSWORD", "p"),
        ("AUTHENTIK_REDIS__HOST", "redis"),
        ("AUTHENTIK_SECRET_KEY", "not ours"),
        ("AUTHENTIK_ERROR_REPORTING__ENABLED", "true"),
    ];
    let settings = settings("", &env);
    let server = postgres(&settings).expect("a PostgreSQL server");
    assert_eq!((server.name.as_str(), server.host.as_deref(), server.port), ("postgres", Some("postgresql"), None));
    assert_eq!((server.user.as_deref(), server.database.as_deref()), (Some("authentik-user"), Some("authentik-db")));
    assert_eq!(server.password.expect("set").reveal().expect("a literal").expose(), "p");
    let server = redis(&settings).expect("a Redis server");
    assert_eq!((server.name.as_str(), server.host.as_deref(), server.url.is_none(), server.required), ("redis", Some("redis"), true, true));
}

#[test]
fn any_one_variable_is_enough_and_the_rest_is_as_authentik_has_it() {
    for (variable, value) in [("HOST", "localhost"), ("PORT", "5432"), ("PASSWORD", "x"), ("SSLMODE", "require"), ("USER", "authentik")] {
        let settings = settings("", &[(&format!("AUTHENTIK_POSTGRESQL__{variable}"), value), ("POSTGRES_PASSWORD", "y")]);
        let server = postgres(&settings).unwrap_or_else(|| panic!("{variable} makes a server"));
        assert_eq!((server.host.as_deref(), server.user.as_deref()), (Some("localhost"), Some("authentik")));
        assert_eq!(server.database.as_deref(), Some("authentik"));
        let expected = if variable == "PASSWORD" { "Some(***)" } else { "Some(*** (variable POSTGRES_PASSWORD))" };
        assert_eq!(text(&server.password), expected);
    }
    let none = settings("", &[("AUTHENTIK_POSTGRESQL__USE_PGBOUNCER", "true"), ("POSTGRES_PASSWORD", "y")]);
    assert!(postgres(&none).is_none() && redis(&none).is_none());
}

#[test]
fn tls_and_the_rest_of_a_connection_arrive() {
    let env = [
        ("AUTHENTIK_POSTGRESQL__PORT", "5433"),
        ("AUTHENTIK_POSTGRESQL__SSLMODE", "verify-full"),
        ("AUTHENTIK_POSTGRESQL__SSLROOTCERT", "/ca"),
        ("AUTHENTIK_POSTGRESQL__SSLCERT", "/cert"),
        ("AUTHENTIK_POSTGRESQL__SSLKEY", "/key"),
        ("AUTHENTIK_REDIS__PORT", "6380"),
        ("AUTHENTIK_REDIS__USERNAME", "u"),
        ("AUTHENTIK_REDIS__PASSWORD", "env://REDIS_PASSWORD"),
        ("AUTHENTIK_REDIS__DB", "3"),
        ("AUTHENTIK_REDIS__TLS", "True"),
        ("AUTHENTIK_REDIS__TLS_CA_CERT", "/redis-ca"),
    ];
    let both = settings("", &env);
    let server = postgres(&both).expect("a PostgreSQL server");
    assert_eq!((server.port, server.sslmode.as_deref(), server.sslrootcert), (Some(5433), Some("verify-full"), Some("/ca".into())));
    assert_eq!((server.sslcert, server.sslkey), (Some("/cert".into()), Some("/key".into())));
    let server = redis(&both).expect("a Redis server");
    assert_eq!((server.host.as_deref(), server.port, server.username.as_deref()), (Some("localhost"), Some(6380), Some("u")));
    assert_eq!((server.db, server.tls, server.ca_file), (Some(3), true, Some("/redis-ca".into())));
    assert_eq!(text(&server.password), "Some(*** (variable REDIS_PASSWORD))");
    assert!(!server.required, "the default host may be gone");
    for no in ["false", "no", "1"] {
        assert!(!redis(&settings("", &[("AUTHENTIK_REDIS__TLS", no)])).expect("a Redis server").tls, "{no}");
    }
}

#[test]
fn references_are_resolved_once() {
    let scene = Scene::new("", &[("DB_HOST", "env://OTHER"), ("OTHER", "wrong"), ("AUTHENTIK_POSTGRESQL__HOST", "env://DB_HOST?x")]);
    scene.write("name", "  db-name\n");
    let file = format!("file://{}", scene.path("name"));
    let missing = format!("file://{}?admin", scene.path("missing"));
    let scene = scene
        .set("AUTHENTIK_POSTGRESQL__NAME", &file)
        .set("AUTHENTIK_POSTGRESQL__USER", &missing)
        .set("AUTHENTIK_POSTGRESQL__PORT", "env://NOT_SET?5434")
        .set("AUTHENTIK_REDIS__HOST", "env://NOT_SET");
    let settings = scene.loaded().settings;
    let server = postgres(&settings).expect("a PostgreSQL server");
    assert_eq!((server.host.as_deref(), server.database.as_deref()), (Some("env://OTHER"), Some("db-name")));
    assert_eq!((server.user.as_deref(), server.port), (Some("admin"), Some(5434)));
    assert!(redis(&settings).is_none(), "neither a value nor a default");
}

#[test]
fn a_url_of_the_user_takes_the_place_of_its_connection() {
    let env = [
        ("AUTHENTIK_POSTGRESQL__HOST", "postgresql"),
        ("AUTHENTIK_POSTGRESQL__PASSWORD", "p"),
        ("AUTHENTIK_POSTGRESQL__SSLMODE", "require"),
    ];
    let server = postgres(&settings("[postgres.postgres]\nurl = \"postgres://u@other/db\"\n", &env)).expect("a PostgreSQL server");
    assert_eq!((server.host, server.user, server.database, server.password, server.sslmode), (None, None, None, None, None));
    let server = postgres(&settings("[postgres.postgres]\ndatabases = [\"*\"]\n", &env)).expect("a PostgreSQL server");
    assert_eq!((server.host.as_deref(), server.databases), (Some("postgresql"), vec!["*".to_owned()]));
    // a password of the user's own stays, unless the url brings one
    let file = "[postgres.a]\nhost = \"h\"\npassword = \"p\"\nsslmode = \"require\"\n";
    let with = |url: &str| postgres(&settings(file, &[("BACKSTAY__POSTGRES__A__URL", url)])).expect("a PostgreSQL server");
    let server = with("postgres://u@other/db");
    assert_eq!((server.host, text(&server.password), server.sslmode.as_deref()), (None, "Some(***)".into(), Some("require")));
    assert_eq!(with("postgres://u:q@other/db").password, None);
    assert_eq!(with("host=other password=q").password, None);
}

#[test]
fn the_bucket_of_its_old_backups_is_the_target() {
    let env = [
        ("AUTHENTIK_POSTGRESQL__S3_BACKUP__BUCKET", "old-backups"),
        ("AUTHENTIK_POSTGRESQL__S3_BACKUP__LOCATION", "/authentik/prod/"),
        ("AUTHENTIK_POSTGRESQL__S3_BACKUP__HOST", "http://minio:9000"),
        ("AUTHENTIK_POSTGRESQL__S3_BACKUP__ACCESS_KEY", "file:///run/id"),
        ("AUTHENTIK_POSTGRESQL__S3_BACKUP__SECRET_KEY", "k"),
        ("AUTHENTIK_POSTGRESQL__S3_BACKUP__INSECURE_SKIP_VERIFY", "true"),
    ];
    let alone = settings("", &env);
    assert!(postgres(&alone).is_none(), "a target is not a server");
    let [target] = alone.targets.as_slice() else { panic!("in place of local: {:?}", alone.targets) };
    assert_eq!(target.name.as_str(), "s3-backup");
    let Location::S3 { bucket, prefix, options: s3 } = &target.location else { panic!("{target:?}") };
    assert_eq!((bucket.as_str(), prefix.as_str()), ("old-backups", "authentik/prod"));
    assert_eq!((s3.endpoint.as_deref(), s3.region.as_deref()), (Some("http://minio:9000"), Some("eu-central-1")));
    assert_eq!((s3.addressing, s3.allow_http, s3.insecure_skip_verify), (Addressing::Path, true, true));
    assert_eq!((text(&s3.access_key_id), text(&s3.secret_access_key)), ("Some(*** (file /run/id))".into(), "Some(***)".into()));
    let beside = settings("[targets.offsite]\nurl = \"s3://b\"\n", &env);
    assert_eq!(names(beside.targets.iter().map(|t| &t.name)), ["offsite", "s3-backup"]);
    let aws = settings("", &env[..1]);
    let s3 = aws.targets[0].s3().expect("S3");
    assert_eq!((s3.addressing, s3.allow_http), (Addressing::Auto, false));
}

#[test]
fn its_directories_are_where_it_says_and_may_be_missing() {
    let env = [
        ("AUTHENTIK_STORAGE__FILE__PATH", "/data"),
        ("AUTHENTIK_CERT_DISCOVERY_DIR", "/c"),
        ("AUTHENTIK_BLUEPRINTS_DIR", "/b"),
        ("AUTHENTIK_EMAIL__TEMPLATE_DIR", "/t"),
    ];
    let paths = |env: &[(&str, &str)]| {
        let all = settings("", env).components;
        let directories = all.iter().filter_map(|c| if let ComponentOptions::Directory(d) = c { Some(d.clone()) } else { None });
        directories.map(|d| (d.name.to_string(), d.path.display().to_string(), d.required)).collect::<Vec<_>>()
    };
    let expected = [("blueprints", "/b"), ("certs", "/c"), ("custom-templates", "/t"), ("media", "/data")];
    assert_eq!(paths(&env), expected.map(|(name, path)| (name.to_owned(), path.to_owned(), false)));
    let both = paths(&[env[0], ("AUTHENTIK_STORAGE__MEDIA__FILE__PATH", "/m")]);
    assert!(both.contains(&("media".into(), "/m".into(), false)), "the one for the usage wins: {both:?}");
}

#[test]
fn what_cannot_be_right_is_told_by_its_variable() {
    check_faults(
        "",
        &[
            ("AUTHENTIK_POSTGRESQL__PORT", "postgres"),
            ("AUTHENTIK_POSTGRESQL__SSLMODE", "verify"),
            ("AUTHENTIK_REDIS__HOST", "file:///nonexistent/host"),
            ("AUTHENTIK_POSTGRESQL__S3_BACKUP__BUCKET", "b"),
            ("AUTHENTIK_POSTGRESQL__S3_BACKUP__HOST", "minio:9000"),
        ],
        &[
            "AUTHENTIK_POSTGRESQL__PORT: postgres.postgres.port: `postgres` is not a whole number",
            "AUTHENTIK_POSTGRESQL__S3_BACKUP__HOST: targets.s3-backup.endpoint: `minio:9000` is not a URL: expected `https://host:port`",
            "AUTHENTIK_POSTGRESQL__SSLMODE: postgres.postgres.sslmode: `verify` is not one of `disable`, `allow`, `prefer`, `require`, `verify-ca`, `verify-full` (did you mean `verify-ca`?)",
            "AUTHENTIK_REDIS__HOST: redis.redis.host: cannot read /nonexistent/host: No such file or directory (os error 2)",
        ],
    );
}

/// What a version's own compose file and `.env` give: sections with what they point to.
fn understood(env: &[(&str, &str)], directories: &[&str]) -> Vec<String> {
    let scene = Scene::new("", env);
    directories.iter().for_each(|directory| scene.write(&format!("root/{directory}/.keep"), ""));
    let Settings { components, targets, .. } = scene.loaded().settings;
    let mut found: Vec<String> = components
        .iter()
        .map(|component| match component {
            ComponentOptions::Postgres(o) => {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                format!("postgres {} {}@{}/{}", o.name, text(&o.user), text(&o.host), text(&o.database))
            }
            ComponentOptions::Redis(o) => format!("redis {} {}", o.name, o.host.clone().unwrap_or_default()),
            ComponentOptions::Directory(o) => format!("directory {} {}", o.name, o.path.display()),
            ComponentOptions::Bucket(o) => {
                format!(
                    "bucket {} {} {} {}",
                    o.name,
                    o.place.url(),
                    o.s3.endpoint.as_deref().unwrap_or("AWS"),
                    o.s3.region.as_deref().unwrap_or_default()
                )
            }
        })
        .collect();
    found.extend(targets.iter().map(|target| format!("target {} {}", target.name, target.location)));
    found.retain(|line| !["certs", "custom-templates", "blueprints"].iter().any(|name| line.starts_with(&format!("directory {name} "))));
    found
}

#[test]
fn every_version_is_understood_without_further_configuration() {
    let postgres = [
        ("AUTHENTIK_POSTGRESQL__HOST", "postgresql"),
        ("AUTHENTIK_POSTGRESQL__NAME", "authentik"),
        ("AUTHENTIK_POSTGRESQL__USER", "authentik"),
        ("AUTHENTIK_POSTGRESQL__PASSWORD", "p"),
        ("AUTHENTIK_SECRET_KEY", "not ours"),
    ];
    let redis = ("AUTHENTIK_REDIS__HOST", "redis");
    let s3 = |more: &[(&'static str, &'static str)]| [&postgres[..], more].concat();
    let (database, cache, media) = ("postgres postgres authentik@postgresql/authentik", "redis redis redis", "directory media /media");
    let local = "target local file:///";
    type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a [&'a str], &'a [&'a str]);
    let cases: [Case<'_>; 7] = [
        ("2021.4, local", s3(&[redis]), &["media"], &[database, cache, media, local]),
        (
            "2021.4, S3",
            s3(&[redis, ("AUTHENTIK_POSTGRESQL__S3_BACKUP__BUCKET", "old"), ("AUTHENTIK_POSTGRESQL__S3_BACKUP__REGION", "eu-west-1")]),
            &["media"],
            &[database, cache, media, "target s3-backup s3://old"],
        ),
        ("2023.10, file", s3(&[redis]), &["media"], &[database, cache, media, local]),
        (
            "2024.8, media in a bucket of AWS",
            s3(&[
                redis,
                ("AUTHENTIK_STORAGE__MEDIA__BACKEND", "s3"),
                ("AUTHENTIK_STORAGE__MEDIA__S3__BUCKET_NAME", "authentik-media"),
                ("AUTHENTIK_STORAGE__MEDIA__S3__REGION", "us-east-2"),
                ("AUTHENTIK_STORAGE__MEDIA__S3__ACCESS_KEY", "id"),
                ("AUTHENTIK_STORAGE__MEDIA__S3__SECRET_KEY", "k"),
            ]),
            &[],
            &[database, cache, media, "bucket media-bucket s3://authentik-media AWS us-east-2", local],
        ),
        ("2025.10, Redis is gone", s3(&[]), &["media"], &[database, media, local]),
        ("2025.12, file", s3(&[]), &["data"], &[database, "directory data /data", media, local]),
        (
            "2025.12, two buckets on MinIO",
            s3(&[
                ("AUTHENTIK_STORAGE__BACKEND", "s3"),
                ("AUTHENTIK_STORAGE__S3__ENDPOINT", "http://minio:9000"),
                ("AUTHENTIK_STORAGE__S3__ACCESS_KEY", "file:///run/id"),
                ("AUTHENTIK_STORAGE__S3__SECRET_KEY", "k"),
                ("AUTHENTIK_STORAGE__S3__SESSION_TOKEN", "t"),
                ("AUTHENTIK_STORAGE__S3__BUCKET_NAME", "authentik-data"),
                ("AUTHENTIK_STORAGE__REPORTS__S3__BUCKET_NAME", "reports"),
                ("AUTHENTIK_STORAGE__REPORTS__S3__REGION", "eu"),
            ]),
            &[],
            &[
                database,
                media,
                "bucket media-bucket s3://authentik-data http://minio:9000 us-east-1",
                "bucket reports-bucket s3://reports http://minio:9000 eu",
                local,
            ],
        ),
    ];
    for (version, env, directories, expected) in cases {
        let found = understood(&env, directories);
        assert_eq!(found.len(), expected.len(), "{version}: {found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{version}: {found} in place of {expected}");
        }
    }
    assert!(!understood(&[("AUTHENTIK_LOG_LEVEL", "info")], &["data"]).iter().any(|line| line.contains("/data")), "not authentik's");
}

#[test]
fn one_bucket_for_all_usages_is_one_component_and_a_usage_may_stay_in_files() {
    let buckets = |env: &[(&str, &str)]| {
        let all = understood(env, &[]);
        all.into_iter()
            .filter(|line| line.starts_with("bucket"))
            .map(|l| l.split(' ').take(3).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    let (s3, name) = (("AUTHENTIK_STORAGE__BACKEND", "s3"), ("AUTHENTIK_STORAGE__S3__BUCKET_NAME", "one"));
    assert_eq!(buckets(&[s3, name]), ["bucket media-bucket s3://one"]);
    assert_eq!(buckets(&[s3, name, ("AUTHENTIK_STORAGE__MEDIA__BACKEND", "file")]), ["bucket reports-bucket s3://one"]);
    assert_eq!(buckets(&[name]), [""; 0]);
}

#[test]
fn connection_options_win_and_what_they_hold_else_is_noted() {
    // {"host": "db", "port": 6432, "sslmode": "verify-full", "application_name": "x"}
    let text = "eyJob3N0IjogImRiIiwgInBvcnQiOiA2NDMyLCAic3NsbW9kZSI6ICJ2ZXJpZnktZnVsbCIsICJhcHBsaWNhdGlvbl9uYW1lIjogIngifQ==";
    let env = [("AUTHENTIK_POSTGRESQL__HOST", "postgresql"), ("AUTHENTIK_POSTGRESQL__CONN_OPTIONS", text)];
    let loaded = Scene::new("", &env).loaded();
    let server = postgres(&loaded.settings).expect("a PostgreSQL server");
    assert_eq!((server.host.as_deref(), server.port, server.sslmode.as_deref()), (Some("db"), Some(6432), Some("verify-full")));
    assert_eq!(loaded.notes, ["AUTHENTIK_POSTGRESQL__CONN_OPTIONS: `application_name` make no difference here"]);
    check_faults(
        "",
        &[("AUTHENTIK_POSTGRESQL__CONN_OPTIONS", "e30")],
        &["AUTHENTIK_POSTGRESQL__CONN_OPTIONS: is not the base64 of a JSON object"],
    );
}

#[test]
fn what_an_operator_should_know_is_noted() {
    let notes = |env: &[(&str, &str)]| Scene::new("", env).loaded().notes.join("\n");
    assert_eq!(notes(&[("AUTHENTIK_POSTGRESQL__HOST", "db"), ("AUTHENTIK_POSTGRESQL__USE_PGBOUNCER", "false")]), "");
    assert!(notes(&[("AUTHENTIK_POSTGRESQL__USE_PGBOUNCER", "True")]).contains("BACKSTAY__POSTGRES__POSTGRES__HOST"));
    assert!(notes(&[("AUTHENTIK_POSTGRESQL__READ_REPLICAS__0__HOST", "r")]).contains("written to"));
    assert!(notes(&[("AUTHENTIK_SECRET_KEY", "s")]).contains("keep your .env"));
    let pod = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    assert!(notes(&[pod]).contains("go with it"));
    assert_eq!(notes(&[pod, ("BACKSTAY__TARGETS__A__URL", "s3://b")]), "");
}

#[test]
fn a_bucket_that_cannot_be_read_is_a_fault() {
    let s3 = ("AUTHENTIK_STORAGE__BACKEND", "s3");
    let fault = |env: &[(&str, &str)]| Scene::new("", env).faults();
    assert!(fault(&[s3]).contains("AUTHENTIK_STORAGE__S3__BUCKET_NAME is set"));
    let name = ("AUTHENTIK_STORAGE__S3__BUCKET_NAME", "b");
    assert!(fault(&[s3, name, ("AUTHENTIK_STORAGE__S3__SIGNATURE_VERSION", "s3")]).contains("version 4"));
    // a profile, and nobody's home to find it in
    assert!(fault(&[s3, name, ("AUTHENTIK_STORAGE__S3__SESSION_PROFILE", "p")]).contains("where is the profile `p`?"));
    Scene::new("", &[s3, name, ("AUTHENTIK_STORAGE__S3__SIGNATURE_VERSION", "s3v4")]).loaded();
}
