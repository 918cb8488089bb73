//! Secrets arrive to the letter from every layer, and leave by none.

use super::*;
use crate::config::{ComponentOptions, show, show_json};

/// What a shell, YAML, TOML or a lenient parser would change.
const ODD: &[&str] = &[
    "0123456",
    "1e10",
    "1e5",
    "true",
    "null",
    "0x1F",
    "a$b${c}=#\"' \\n d",
    " spaces ",
    "#",
    "=",
    "\"quoted\"",
    "[a]",
    "{a}",
    "a,b",
    "p@ss:w/rd?x%41",
    "ünï",
    "-1",
    "12",
    "1.50",
];

fn password(loaded: &Loaded) -> String {
    let found = loaded.settings.components.iter().find_map(|c| match c {
        ComponentOptions::Postgres(p) if p.name.as_str() == "postgres" => p.password.as_ref(),
        _ => None,
    });
    found.expect("a password").reveal().expect("readable").expose().to_owned()
}

fn in_file(password: &str) -> String {
    format!("[postgres.postgres]\npassword = {}\n", toml::Value::String(password.into()))
}

#[test]
fn an_odd_password_stays_to_the_letter_in_every_layer() {
    for odd in ODD {
        let file = Scene::new(&in_file(odd), &[]);
        let variable = Scene::new("", &[("BACKSTAY__POSTGRES__POSTGRES__PASSWORD", odd)]);
        let authentik = Scene::new("", &[("AUTHENTIK_POSTGRESQL__PASSWORD", odd)]);
        let key_file = Scene::new("", &[]);
        key_file.write("secret ?x#1", &format!("{odd}\n"));
        let path = key_file.path("secret ?x#1");
        let key_file = key_file.set("BACKSTAY__POSTGRES__POSTGRES__PASSWORD_FILE", &path);
        let reference = Scene::new("", &[]);
        reference.write("secret", &format!("{odd}\n"));
        let url = format!("file://{}", reference.path("secret"));
        let reference = reference.set("BACKSTAY__POSTGRES__POSTGRES__PASSWORD", &url);
        let credential = Scene::new("[postgres.postgres]\n", &[]);
        credential.write("credentials/postgres.postgres.password", &format!("{odd}\n"));
        let directory = credential.path("credentials");
        let credential = credential.set("CREDENTIALS_DIRECTORY", &directory);
        for (layer, scene) in [
            ("file", file),
            ("variable", variable),
            ("authentik", authentik),
            ("KEY_FILE", key_file),
            ("file://", reference),
            ("credential", credential),
        ] {
            assert_eq!(password(&scene.loaded()), *odd, "{layer}");
        }
    }
}

#[test]
fn a_string_that_is_no_secret_stays_to_the_letter_too() {
    for odd in ODD.iter().filter(|o| !o.is_empty()) {
        let settings = settings("", &[("BACKSTAY__POSTGRES__POSTGRES__USER", odd), ("AUTHENTIK_POSTGRESQL__NAME", odd)]);
        let Some(ComponentOptions::Postgres(postgres)) = settings.components.first() else { panic!("a PostgreSQL server") };
        assert_eq!((postgres.user.as_deref(), postgres.database.as_deref()), (Some(*odd), Some(*odd)));
    }
}

#[test]
fn a_secret_is_read_anew_each_time() {
    let scene = Scene::new("", &[]);
    scene.write("secret", "old\n");
    let path = scene.path("secret");
    let scene = scene.set("BACKSTAY__POSTGRES__POSTGRES__PASSWORD_FILE", &path);
    let loaded = scene.loaded();
    assert_eq!(password(&loaded), "old");
    scene.write("secret", "new\n");
    assert_eq!(password(&loaded), "new");
}

#[test]
fn a_credential_wins_over_the_file_and_a_variable_over_a_credential() {
    let scene = Scene::new(&in_file("file"), &[]);
    scene.write("credentials/postgres__postgres__password", "credential");
    scene.write("credentials/somebody-elses", "x");
    scene.write("credentials/other.thing", "x");
    let directory = scene.path("credentials");
    let scene = scene.set("CREDENTIALS_DIRECTORY", &directory);
    let loaded = scene.loaded();
    assert_eq!(password(&loaded), "credential");
    let row = show(&loaded).into_iter().find(|r| r.key == "postgres.postgres.password").expect("shown");
    assert_eq!(row.layer, "$CREDENTIALS_DIRECTORY/postgres__postgres__password");
    let scene = scene.set("BACKSTAY__POSTGRES__POSTGRES__PASSWORD", "variable");
    assert_eq!(password(&scene.loaded()), "variable");
}

#[test]
fn a_credential_that_cannot_be_meant_is_a_fault() {
    let scene = Scene::new("", &[]);
    for name in
        ["postgres.postgres.pasword", "postgres.password", "postgres.postgres.host", "redis.redis.password", "redis__redis__password"]
    {
        scene.write(&format!("credentials/{name}"), "x");
    }
    let directory = scene.path("credentials");
    let scene = scene.set("CREDENTIALS_DIRECTORY", &directory);
    let faults = scene.faults();
    assert_eq!(
        faults.lines().collect::<Vec<_>>(),
        [
            "$CREDENTIALS_DIRECTORY/postgres.password: expected `postgres.name.key`",
            "$CREDENTIALS_DIRECTORY/postgres.postgres.host: `host` is not a secret: set it in the file or as `BACKSTAY__POSTGRES__POSTGRES__HOST`",
            "$CREDENTIALS_DIRECTORY/postgres.postgres.pasword: unknown key (did you mean `password`?)",
            "$CREDENTIALS_DIRECTORY/redis__redis__password: another credential sets the same key",
        ]
    );
}

#[test]
fn a_secret_is_set_once_and_only_a_secret_by_a_file() {
    check_faults(
        "",
        &[("BACKSTAY__REDIS__A__PASSWORD", "canary"), ("BACKSTAY__REDIS__A__PASSWORD_FILE", "/x"), ("BACKSTAY__REDIS__A__HOST_FILE", "/x")],
        &[
            "BACKSTAY__REDIS__A__HOST_FILE: unknown key (did you mean `BACKSTAY__REDIS__A__HOST`?)",
            "BACKSTAY__REDIS__A__PASSWORD_FILE: the same key is also set by `BACKSTAY__REDIS__A__PASSWORD`",
        ],
    );
}

const CANARY: &str = "c4n4ry";

#[test]
fn no_secret_is_in_debug_or_in_show() {
    let file = format!(
        "[postgres.a]\nurl = \"postgres://u:{CANARY}@h/d\"\n[postgres.b]\nurl = \"host=h password={CANARY}\"\n[postgres.c]\n\
         url = \"postgres://h/d?password={CANARY}\"\npassword = \"env://NAME?{CANARY}\"\n[redis.r]\nurl = \"redis://:{CANARY}@h\"\npassword = \"{CANARY}\"\n\
         [targets.t]\nurl = \"s3://b\"\naccess_key_id = \"{CANARY}\"\nsecret_access_key = \"file:///x?{CANARY}\"\nsession_token = \"{CANARY}\"\n\
         [targets.k]\nurl = \"az://b\"\naccount = \"a\"\naccount_key = \"{CANARY}\"\n[targets.z]\nurl = \"az://z\"\naccount = \"a\"\nsas_token = \"{CANARY}\"\n\
         [targets.y]\nurl = \"az://y\"\naccount = \"a\"\ntenant_id = \"t\"\nclient_id = \"c\"\nclient_secret = \"{CANARY}\"\n\
         [targets.d]\nurl = \"https://h/d\"\nuser = \"u\"\npassword = \"{CANARY}\"\n[targets.e]\nurl = \"https://h/e\"\ntoken = \"{CANARY}\"\n\
         [targets.g]\nurl = \"gs://g\"\nservice_account = \"{CANARY}\"\n"
    );
    let env =
        [("BACKSTAY__POSTGRES__D__PASSWORD", CANARY), ("AUTHENTIK_POSTGRESQL__PASSWORD", CANARY), ("AUTHENTIK_REDIS__PASSWORD", CANARY)];
    let loaded = Scene::new(&file, &env).loaded();
    for (what, text) in [
        ("Debug", format!("{loaded:#?}")),
        ("show", show(&loaded).iter().map(|r| format!("{r:?} {}", r.text())).collect::<String>()),
        ("show_json", show_json(&loaded).to_string()),
    ] {
        assert!(text.contains("***"), "{what} shows that there is a secret");
        assert!(!text.contains(CANARY), "{what}: {text}");
    }
}

#[test]
fn show_says_where_a_secret_is_read() {
    let file = "[redis.r]\nurl = \"redis://host:6379/0\"\npassword = \"env://NAME?x\"\n";
    let loaded = Scene::new(file, &[("BACKSTAY__POSTGRES__P__PASSWORD_FILE", "/run/s")]).loaded();
    let of = |key: &str| show(&loaded).into_iter().find(|r| r.key == key).expect("shown").text();
    assert_eq!(of("redis.r.url"), "\"redis://host:6379/0\"");
    assert_eq!(of("redis.r.password"), "\"*** (variable NAME)\"");
    assert_eq!(of("postgres.p.password"), "\"*** (file /run/s)\"");
}

#[test]
fn no_secret_is_in_a_fault() {
    let files = [
        format!("[postgres.a]\npassword = \"{CANARY}\nhost = \"x\"\n"),
        format!("[postgres.a]\npassword = {CANARY}\n"),
        format!("[postgres.a]\npassword = \"x\" {CANARY}\n"),
        format!("[postgres.a]\npassword = '{CANARY}''\n"),
        format!("[postgres.a]\npassword = \"\\q{CANARY}\"\n"),
        format!("[postgres.a]\npassword = [\"{CANARY}\"]\n"),
        format!("[postgres.a]\npassword = {{ a = \"{CANARY}\" }}\n"),
        format!("[notify]\nurls = [\"https://{CANARY}\"]\n"),
        format!("[targets.a]\nurl = \"s3://id:{CANARY}@bucket\"\n"),
        format!("[targets.a]\nurl = \"s3://id:ab//{CANARY}@bucket\"\n"),
        format!("[targets.a]\nurl = \"s3://id:ab/c//{CANARY}@bucket\"\n"),
        format!("[targets.a]\nurl = \"s3://id:{CANARY}/b@bucket\"\n"),
        format!("[targets.a]\nurl = \"id:{CANARY}@s3://bucket\"\n"),
        format!("[targets.a]\nurl = \"https://id:{CANARY}@bucket\"\n"),
        format!("[targets.a]\nurl = \"az://id:{CANARY}@c\"\naccount = \"a\"\n"),
        format!("[targets.a]\nurl = \"az://c\"\naccount = \"a\"\naccount_key = \"{CANARY}\"\nsas_token = \"{CANARY}\"\n"),
        format!("[targets.a]\nurl = \"s3://b\"\nendpoint = \"https://id:{CANARY}@host\"\n"),
        format!("[targets.a]\nurl = \"s3://b\"\nendpoint = \"id:{CANARY}@host\"\n"),
        format!("[targets.a]\nurl = \"s3://b\"\naccess_key_id = \"{CANARY}\"\n"),
    ];
    for file in files {
        let faults = Scene::new(&file, &[]).faults();
        assert!(!faults.contains(CANARY), "{faults}\nof\n{file}");
    }
    for variable in
        ["BACKSTAY__POSTGRES__A__PASWORD", "BACKSTAY__NOTIFY__URLS", "BACKSTAY__POSTGRES__PASSWORD", "BACKSTAY_POSTGRES__A__PASSWORD"]
    {
        let faults = Scene::new("", &[(variable, CANARY)]).faults();
        assert!(!faults.contains(CANARY), "{faults}");
    }
}
