//! Which layer wins, which file is read, and what is there without any.

use std::num::NonZeroU32;
use std::time::Duration;

use super::*;
use crate::config::{ComponentOptions, JobSettings, show, show_json};
use crate::manifest::Encoding;
use crate::process::{IoPriority, Priority};
use crate::storage::{Addressing, Checksum, Limiter, Location, S3Options};

/// The keys of S3 of the only target.
fn s3_of(file: &str, env: &[(&str, &str)]) -> S3Options {
    settings(file, env).targets.remove(0).s3().cloned().expect("S3")
}

fn only_job(settings: &Settings) -> &JobSettings {
    let [job] = settings.jobs.as_slice() else { panic!("one job: {:?}", settings.jobs) };
    job
}

#[track_caller]
fn check_layer(loaded: &Loaded, key: &str, text: &str, layer: &str) {
    let rows = show(loaded);
    let row = rows.iter().find(|r| r.key == key).unwrap_or_else(|| panic!("{key} is not shown"));
    assert_eq!((row.text().as_str(), row.layer.as_str()), (text, layer), "{key}");
}

#[test]
fn without_any_configuration_the_defaults_of_the_contract_are_in_force() {
    let scene = Scene::new("", &[]);
    let loaded = scene.loaded();
    assert_eq!(loaded.file, None);
    let settings = &loaded.settings;
    let job = only_job(settings);
    let schedule = job.schedule.as_ref().expect("a schedule");
    assert_eq!((job.name.as_str(), schedule.text(), schedule.zone()), ("default", "0 0 * * *", chrono_tz::UTC));
    assert_eq!(names(&job.components), ["blueprints", "certs", "custom-templates", "media"]);
    assert_eq!(names(&job.targets), ["local"]);
    assert_eq!((job.policy.last, job.policy.daily), (NonZeroU32::new(10), None));
    assert_eq!((job.codec.encoding, job.catch_up), (Encoding::Gzip, true));
    assert_eq!((job.jitter, job.timeout, job.stall_timeout), (Duration::ZERO, None, Duration::from_secs(600)));
    assert_eq!(settings.targets[0].location, Location::File(scene.options.cwd.join("backups")));
    assert_eq!(settings.worker.listen, Some("127.0.0.1:9717".parse().expect("an address")));
    for component in &settings.components {
        let ComponentOptions::Directory(directory) = component else { panic!("only directories: {component:?}") };
        assert!(!directory.required && directory.exclude.is_empty(), "{directory:?}");
    }
}

#[test]
fn in_a_container_the_default_target_is_the_root_directory_of_backups() {
    let in_container = |scene: Scene| scene.loaded().settings.targets[0].location == Location::File("/backups".into());
    assert!(!in_container(Scene::new("", &[])));
    for mark in ["root/.dockerenv", "root/run/.containerenv"] {
        let scene = Scene::new("", &[]);
        scene.write(mark, "");
        assert!(in_container(scene), "{mark}");
    }
    assert!(in_container(Scene::new("", &[("KUBERNETES_SERVICE_HOST", "10.0.0.1")])));
    assert!(in_container(Scene::new("", &[("container", "podman")])));
    assert!(!in_container(Scene::new("", &[("container", "")])));
}

#[test]
fn a_later_layer_wins() {
    let redis = |loaded: &Loaded| match loaded.settings.components.iter().find(|c| c.name().as_str() == "redis") {
        Some(ComponentOptions::Redis(redis)) => redis.clone(),
        other => panic!("a Redis: {other:?}"),
    };
    let authentik = ("AUTHENTIK_REDIS__PORT", "1001");
    let ours = ("BACKSTAY__REDIS__REDIS__PORT", "1003");
    let file = "[redis.redis]\nport = 1002\n";
    let loaded = Scene::new("", &[authentik]).loaded();
    assert_eq!((redis(&loaded).port, redis(&loaded).required), (Some(1001), false));
    check_layer(&loaded, "redis.redis.port", "1001", "AUTHENTIK_REDIS__PORT");
    check_layer(&loaded, "redis.redis.host", "\"localhost\"", "default of authentik");
    let loaded = Scene::new(file, &[authentik]).loaded();
    assert_eq!((redis(&loaded).port, redis(&loaded).required), (Some(1002), true));
    check_layer(&loaded, "redis.redis.port", "1002", "config/backstay.toml:2");
    let loaded = Scene::new(file, &[authentik, ours]).loaded();
    assert_eq!(redis(&loaded).port, Some(1003));
    check_layer(&loaded, "redis.redis.port", "1003", "BACKSTAY__REDIS__REDIS__PORT");
    check_layer(&loaded, "jobs.default.keep_last", "10", "default");
    let json = show_json(&loaded);
    let row = json.as_array().and_then(|rows| rows.iter().find(|r| r["key"] == "redis.redis.port")).expect("shown");
    assert_eq!(*row, serde_json::json!({ "key": "redis.redis.port", "value": 1003, "layer": "BACKSTAY__REDIS__REDIS__PORT" }));
}

#[test]
fn lists_are_replaced_not_joined() {
    let file = "[jobs.default]\ncomponents = [\"media\", \"certs\"]\n";
    assert_eq!(names(&only_job(&settings(file, &[])).components), ["media", "certs"]);
    for text in ["certs", " certs ,", "[\"certs\"]"] {
        let settings = settings(file, &[("BACKSTAY__JOBS__DEFAULT__COMPONENTS", text)]);
        assert_eq!(names(&only_job(&settings).components), ["certs"], "{text}");
    }
}

#[test]
fn an_empty_string_is_unset_in_every_layer() {
    let loaded = Scene::new(
        "[jobs.default]\ntimezone = \"Europe/Berlin\"\nlevel = \"\"\ncompression = \"\"\n[targets.local]\nurl = \"file:///x\"\nca_file = \"\"\n",
        &[
            ("BACKSTAY__JOBS__DEFAULT__TIMEZONE", ""),
            ("BACKSTAY__JOBS__DEFAULT__SCHEDULE", ""),
            ("BACKSTAY__WORKER__LISTEN", ""),
            ("BACKSTAY__TARGETS__OFFSITE__URL", ""),
            ("BACKSTAY__POSTGRES__POSTGRES__PASSWORD", ""),
            ("AUTHENTIK_POSTGRESQL__HOST", ""),
            ("AUTHENTIK_POSTGRESQL__S3_BACKUP__BUCKET", ""),
            ("AUTHENTIK_POSTGRESQL__S3_BACKUP__HOST", "https://minio"),
            ("AUTHENTIK_REDIS__HOST", ""),
            ("BACKSTAY_CONFIG", ""),
            ("CREDENTIALS_DIRECTORY", ""),
            ("TZ", ""),
        ],
    )
    .loaded();
    let job = only_job(&loaded.settings);
    let schedule = job.schedule.as_ref().expect("the schedule is not switched off by an empty variable");
    assert_eq!((schedule.text(), schedule.zone()), ("0 0 * * *", chrono_tz::Europe::Berlin));
    assert!(loaded.settings.worker.listen.is_some());
    assert_eq!(names(loaded.settings.targets.iter().map(|t| &t.name)), ["local"]);
    assert_eq!(loaded.settings.components.len(), 4);
}

#[test]
fn a_drill_has_a_schedule_of_its_own_in_the_zone_of_the_job() {
    let settings = settings("[jobs.default]\ndrill = \"0 5 * * SUN\"\ntimezone = \"Europe/Berlin\"\n", &[]);
    let job = only_job(&settings);
    let drill = job.drill.as_ref().expect("a schedule");
    assert_eq!((drill.text(), drill.zone()), ("0 5 * * SUN", chrono_tz::Europe::Berlin));
    assert_eq!(job.schedule.as_ref().expect("the default").text(), "0 0 * * *");
}

#[test]
fn in_the_file_an_empty_schedule_is_only_by_hand_and_an_empty_listen_no_http() {
    let settings = settings("[jobs.default]\nschedule = \"\"\n[worker]\nlisten = \"\"\n", &[]);
    assert!(only_job(&settings).schedule.is_none());
    assert_eq!(settings.worker.listen, None);
}

#[test]
fn the_zone_of_the_environment_is_the_default() {
    let zone = |file: &str, tz: &str| only_job(&settings(file, &[("TZ", tz)])).schedule.as_ref().map(|s| s.zone().to_string());
    assert_eq!(zone("", "Europe/Berlin").as_deref(), Some("Europe/Berlin"));
    assert_eq!(zone("", ":Asia/Tokyo").as_deref(), Some("Asia/Tokyo"));
    assert_eq!(zone("", "/usr/share/zoneinfo/Europe/Paris").as_deref(), Some("Europe/Paris"));
    assert_eq!(zone("[jobs.default]\ntimezone = \"UTC\"\n", "Europe/Berlin").as_deref(), Some("UTC"));
}

#[test]
fn an_underscore_in_a_variable_is_a_dash_of_a_name() {
    let settings = settings(
        "[directory.own-files]\npath = \"/a\"\n",
        &[
            ("BACKSTAY__DIRECTORY__CUSTOM_TEMPLATES__PATH", "/t"),
            ("BACKSTAY__DIRECTORY__OWN_FILES__PATH", "/b"),
            ("BACKSTAY__DIRECTORY__NEW__ONE__PATH", "/c"),
            ("BACKSTAY__DIRECTORY__OWN_FILES__SKIP_UNREADABLE", "TRUE"),
        ],
    );
    let of = |name: &str| {
        settings.components.iter().find_map(|c| match c {
            ComponentOptions::Directory(d) if d.name.as_str() == name => {
                Some((d.path.display().to_string(), d.required, d.skip_unreadable))
            }
            _ => None,
        })
    };
    assert_eq!(of("custom-templates"), Some(("/t".into(), true, false)));
    assert_eq!(of("own-files"), Some(("/b".into(), true, true)));
    assert_eq!(of("new--one"), Some(("/c".into(), true, false)));
    assert_eq!(of("media"), Some(("/media".into(), false, false)));
}

#[test]
fn the_first_file_found_is_read() {
    let mut scene = Scene::new("[jobs.cwd]\n", &[]);
    scene.write("root/etc/backstay/backstay.toml", "[jobs.etc]\n");
    scene.write("work/variable.toml", "[jobs.variable]\n");
    scene.write("flag.toml", "[jobs.flag]\n");
    let job = |scene: &Scene| only_job(&scene.loaded().settings).name.to_string();
    assert_eq!(job(&scene), "cwd");
    scene.options.env.insert("BACKSTAY_CONFIG".into(), "variable.toml".into());
    assert_eq!(job(&scene), "variable");
    scene.options.file = Some(scene.path("flag.toml").into());
    assert_eq!(job(&scene), "flag");
    let scene = Scene::new("", &[]);
    scene.write("root/etc/backstay/backstay.toml", "[jobs.etc]\n");
    assert_eq!(job(&scene), "etc");
}

#[test]
fn a_configured_job_or_target_takes_the_place_of_the_built_in_one() {
    let settings = settings(
        "[jobs.nightly]\nkeep_last = 0\nkeep_daily = 7\ntimeout = \"2h\"\ncompression = \"zstd\"\n[targets.t]\nurl = \"file://../x\"\n",
        &[],
    );
    let job = only_job(&settings);
    assert_eq!((job.name.as_str(), names(&job.targets)), ("nightly", vec!["t".to_string()]));
    assert_eq!((job.policy.last, job.policy.daily), (None, NonZeroU32::new(7)));
    assert_eq!((job.timeout, job.codec.encoding), (Some(Duration::from_secs(7200)), Encoding::Zstd));
}

#[test]
fn every_key_of_s3_arrives() {
    let file = "[targets.a]\nurl = \"s3://bucket/some/prefix/\"\nendpoint = \"http://minio:9000/\"\nregion = \"eu\"\naccess_key_id = \"i\"\n\
                secret_access_key = \"k\"\nsession_token = \"t\"\naddressing = \"virtual\"\nallow_http = true\nca_file = \"/ca.pem\"\n\
                part_size = \"16MiB\"\nmax_parts = 1000\nstorage_class = \"STANDARD_IA\"\nchecksum = \"sha256\"\n";
    let target = settings(file, &[("AWS_REGION", "x"), ("AWS_ACCESS_KEY_ID", "x")]).targets.remove(0);
    let Location::S3 { bucket, prefix, options: s3 } = target.location else { panic!("{target:?}") };
    assert_eq!((bucket.as_str(), prefix.as_str()), ("bucket", "some/prefix"));
    let secret = |s: &Option<crate::secret::Secret>| s.as_ref().map(|s| s.reveal().expect("a literal").expose().to_owned());
    assert_eq!((s3.endpoint.as_deref(), s3.region.as_deref()), (Some("http://minio:9000"), Some("eu")));
    assert_eq!((secret(&s3.access_key_id), secret(&s3.secret_access_key)), (Some("i".into()), Some("k".into())));
    assert_eq!((secret(&s3.session_token), s3.addressing, s3.checksum), (Some("t".into()), Addressing::Virtual, Checksum::Sha256));
    assert_eq!((s3.allow_http, s3.ca_file, s3.part_size), (true, Some("/ca.pem".into()), Some(16 << 20)));
    assert_eq!((s3.max_parts, s3.storage_class.as_deref(), s3.insecure_skip_verify), (1000, Some("STANDARD_IA"), false));
}

#[test]
fn credentials_of_azure_are_those_of_the_section_or_those_of_the_environment() {
    let of = |keys: &str, env: &[(&str, &str)]| {
        let file = format!("[targets.a]\nurl = \"az://c/p\"\naccount = \"a\"\n{keys}");
        let Location::Azure { options, .. } = settings(&file, env).targets.remove(0).location else { panic!("not Azure") };
        format!("{:?}", options.credentials)
    };
    let key = ("AZURE_STORAGE_KEY", "x");
    let principal =
        [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c"), ("AZURE_FEDERATED_TOKEN_FILE", "/f"), ("AZURE_CLIENT_SECRET", "x")];
    for (keys, env, expected) in [
        ("account_key = \"k\"\n", &[][..], "Key(***)"),
        ("sas_token = \"file:///sas\"\n", &[key], "Sas(*** (file /sas))"),
        ("", &[key], "Key(*** (variable AZURE_STORAGE_KEY))"),
        ("", &[("AZURE_STORAGE_SAS_TOKEN", "x")], "Sas(*** (variable AZURE_STORAGE_SAS_TOKEN))"),
        ("", &principal[..3], "Federated { tenant: \"t\", client: \"c\", token_file: \"/f\", authority: None }"),
        (
            "",
            &[principal[0], principal[1], principal[3]],
            "Client { tenant: \"t\", client: \"c\", secret: *** (variable AZURE_CLIENT_SECRET), authority: None }",
        ),
        ("", &[], "Managed { client: None, endpoint: None }"),
        ("", &[principal[1], ("IDENTITY_ENDPOINT", "http://i")], "Managed { client: Some(\"c\"), endpoint: Some(\"http://i\") }"),
        ("client_id = \"own\"\n", &[key], "Managed { client: Some(\"own\"), endpoint: None }"),
        (
            "tenant_id = \"t\"\nclient_id = \"own\"\nfederated_token_file = \"/own\"\n",
            &[key, ("AZURE_AUTHORITY_HOST", "https://login.example")],
            "Federated { tenant: \"t\", client: \"own\", token_file: \"/own\", authority: Some(\"https://login.example\") }",
        ),
    ] {
        assert_eq!(of(keys, env), expected, "{keys}{env:?}");
    }
    let file = "[targets.a]\nurl = \"az://c\"\nstorage_class = \"Cool\"\npart_size = \"32MiB\"\nendpoint = \"https://a.blob.example/\"\n";
    let target = settings(file, &[("AZURE_STORAGE_ACCOUNT", "of-env")]).targets.remove(0);
    assert_eq!(target.location.to_string(), "az://c");
    let Location::Azure { options, .. } = target.location else { panic!("not Azure") };
    assert_eq!((options.account.as_str(), options.endpoint.as_deref()), ("of-env", Some("https://a.blob.example")));
    assert_eq!((options.storage_class.as_deref(), options.part_size), (Some("Cool"), Some(32 << 20)));
}

#[test]
fn limits_and_priorities_arrive_and_are_off_unless_set() {
    let set = settings(
        "[targets.a]\nurl = \"file:///a\"\nlimit = \"20MiB/s\"\n[targets.b]\nurl = \"file:///b\"\nlimit = \" 1.5 MB /s\"\n\
         [worker]\nnice = 19\nionice = \"idle\"\n",
        &[],
    );
    let limits: Vec<_> = set.targets.iter().map(|t| t.limit.as_ref().map(Limiter::bytes_per_second)).collect();
    assert_eq!(limits, [Some(20 << 20), Some(1_500_000)]);
    assert_eq!(set.worker.priority, Priority { nice: 19, io: IoPriority::Idle });
    let unset = settings("", &[]);
    assert!(unset.targets[0].limit.is_none() && unset.worker.priority == Priority::default());
}

#[test]
fn keys_of_s3_fall_back_to_those_of_aws_all_or_none() {
    let aws = [("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_SESSION_TOKEN", "x"), ("AWS_DEFAULT_REGION", "r")];
    let s3 = s3_of("[targets.a]\nurl = \"s3://b\"\n", &aws);
    assert_eq!(format!("{:?}", s3.access_key_id), "Some(*** (variable AWS_ACCESS_KEY_ID))");
    assert_eq!(format!("{:?}", s3.session_token), "Some(*** (variable AWS_SESSION_TOKEN))");
    assert_eq!(s3.region.as_deref(), Some("r"));
    let own = "[targets.a]\nurl = \"s3://b\"\naccess_key_id = \"i\"\nsecret_access_key = \"k\"\n";
    let s3 = s3_of(own, &aws);
    assert_eq!((s3.session_token, s3.max_parts), (None, 10_000), "a token of the environment does not belong to keys of the file");
    let s3 = s3_of("[targets.a]\nurl = \"s3://b\"\n", &[]);
    assert_eq!((s3.access_key_id, s3.region.as_deref()), (None, Some("us-east-1")));
}

const TWO: &str = "[targets.local]\nurl = \"file:///a\"\n[targets.offsite]\nurl = \"file:///b\"\n";

#[test]
fn a_job_that_copies_takes_its_targets_from_the_others_and_nothing_else() {
    let settings = settings(&format!("{TWO}[jobs.offsite]\ncopy_from = \"local\"\ntargets = [\"offsite\"]\nkeep_monthly = 6\n"), &[]);
    let [job] = settings.jobs.as_slice() else { panic!("{:?}", settings.jobs) };
    assert_eq!((job.name.as_str(), job.targets.iter().map(|t| t.as_str()).collect()), ("default", vec!["local"]));
    let [copy] = settings.copies.as_slice() else { panic!("{:?}", settings.copies) };
    assert_eq!((copy.from.as_str(), copy.targets.iter().map(|t| t.as_str()).collect()), ("local", vec!["offsite"]));
    assert!(matches!(copy.when, When::Follows), "{copy:?}");
    assert_eq!((copy.policy.last.map(u32::from), copy.policy.monthly.map(u32::from)), (Some(10), Some(6)));
    assert_eq!(settings.before_copying(&copy.from), std::slice::from_ref(&job.name));
}

#[test]
fn a_job_that_copies_runs_when_it_is_told_to() {
    let when = |lines: &str| {
        let text = format!(
            "{TWO}[jobs.nightly]\ntargets = [\"local\", \"offsite\"]\n[jobs.offsite]\ncopy_from = \"local\"\nkeep_last = 3\n{lines}"
        );
        let settings = settings(&text, &[]);
        assert_eq!(settings.jobs.len(), 1);
        // what a job names, it writes to
        assert_eq!(settings.writers(&"offsite".parse().expect("a name")).count(), 1);
        settings.copies[0].when.clone()
    };
    assert!(matches!(when("schedule = \"\"\n"), When::Asked));
    assert!(matches!(when("schedule = \"0 4 * * *\"\n"), When::Scheduled(_)));
    assert!(matches!(when(""), When::Follows));
}

#[test]
fn a_job_that_copies_to_wherever_it_can_leaves_the_others_what_it_copies_from() {
    let settings = settings(&format!("{TWO}[jobs.offsite]\ncopy_from = \"local\"\nkeep_last = 3\n"), &[]);
    assert_eq!(settings.jobs[0].targets, [settings.copies[0].from.clone()]);
    assert_eq!(settings.copies[0].targets.iter().map(|t| t.as_str()).collect::<Vec<_>>(), ["offsite"]);
}

#[test]
fn retention_of_copies_concerns_the_jobs_whose_backups_come_there() {
    let three = format!(
        "{TWO}[targets.cold]\nurl = \"file:///c\"\n[jobs.offsite]\ncopy_from = \"local\"\ntargets = [\"offsite\"]\nkeep_last = 3\n"
    );
    let chain = settings(
        &format!(
            "{three}[jobs.default]\ntargets = [\"local\"]\n[jobs.cold]\ncopy_from = \"offsite\"\ntargets = [\"cold\"]\nkeep_yearly = 3\n"
        ),
        &[],
    );
    for copy in &chain.copies {
        let governed = chain.governed(copy).expect("one job");
        assert_eq!(governed.iter().map(|job| job.as_str()).collect::<Vec<_>>(), ["default"], "{copy:?}");
    }
    let elsewhere = settings(&format!("{three}[jobs.default]\ntargets = [\"cold\"]\n"), &[]);
    assert_eq!(elsewhere.governed(&elsewhere.copies[0]), None);
}
