//! Every kind of fault: its exact text, and its place.

use super::*;
use crate::storage::{KINDS, Location};

const AT: &str = "config/backstay.toml";

/// One fault in the file, at `place` (`line:column: key: text`).
#[track_caller]
fn check(file: &str, place: &str) {
    check_faults(file, &[], &[&format!("{AT}:{place}")]);
}

#[track_caller]
fn check_env(variable: &str, value: &str, fault: &str) {
    check_faults("", &[(variable, value)], &[fault]);
}

#[test]
fn streams_are_a_number_that_memory_has_room_for_or_auto() {
    for value in ["1", "6", "\"4\"", "\"auto\"", "\"\""] {
        settings(&format!("[postgres.a]\njobs = {value}\n"), &[]);
    }
    check("[postgres.a]\njobs = 7\n", "2:8: postgres.a.jobs: `7` is not one of `1`, `2`, `3`, `4`, `5`, `6`, `auto`");
    check("[postgres.a]\njobs = 0\n", "2:8: postgres.a.jobs: `0` is not one of `1`, `2`, `3`, `4`, `5`, `6`, `auto`");
    check("[postgres.a]\njobs = \"many\"\n", "2:8: postgres.a.jobs: `many` is not one of `1`, `2`, `3`, `4`, `5`, `6`, `auto`");
}

#[test]
fn an_unknown_key_or_section_is_told_with_what_was_probably_meant() {
    check("[jobs.default]\nshedule = \"@daily\"\n", "2:1: jobs.default.shedule: unknown key (did you mean `schedule`?)");
    check("[jobs.default]\nkeep_dayly = 7\n", "2:1: jobs.default.keep_dayly: unknown key (did you mean `keep_daily`?)");
    check("[jobs.default]\nfrobnicate = 7\n", "2:1: jobs.default.frobnicate: unknown key");
    check("[job.default]\nlevel = 1\n", "1:2: job: unknown section (did you mean `jobs`?)");
    check("schedule = \"@daily\"\n", "1:1: schedule: unknown key; keys stand in a section, such as [jobs.default]");
    check("[jobs]\nschedule = \"@daily\"\n", "2:1: jobs.schedule: expected a section [jobs.NAME]");
    check("worker = 1\n", "1:1: worker: expected a section [worker]");
    check("[worker]\nlisten = \"127.0.0.1:1\"\ncores = 5\n", "3:1: worker.cores: unknown key");
    check("# ü\n[targets.a]\nurl = \"file:///x\"\n  endpont = \"\"\n", "4:3: targets.a.endpont: unknown key (did you mean `endpoint`?)");
    // what only authentik's environment may set
    check("[targets.a]\nurl = \"s3://b\"\ninsecure_skip_verify = true\n", "3:1: targets.a.insecure_skip_verify: unknown key");
}

#[test]
fn an_unknown_variable_of_ours_is_told_and_those_of_others_are_not() {
    check_env(
        "BACKSTAY__JOBS__DEFAULT__SHEDULE",
        "@daily",
        "BACKSTAY__JOBS__DEFAULT__SHEDULE: unknown key (did you mean `BACKSTAY__JOBS__DEFAULT__SCHEDULE`?)",
    );
    check_env(
        "BACKSTAY__JOBS__DEFAULT__SHEDULE",
        "",
        "BACKSTAY__JOBS__DEFAULT__SHEDULE: unknown key (did you mean `BACKSTAY__JOBS__DEFAULT__SCHEDULE`?)",
    );
    check_env("BACKSTAY__JOB__DEFAULT__LEVEL", "1", "BACKSTAY__JOB__DEFAULT__LEVEL: unknown section `job` (did you mean `jobs`?)");
    check_env("BACKSTAY__JOBS__SCHEDULE", "1", "BACKSTAY__JOBS__SCHEDULE: expected `BACKSTAY__JOBS__NAME__KEY`");
    check_env("BACKSTAY__WORKER__A__LISTEN", "1", "BACKSTAY__WORKER__A__LISTEN: expected `BACKSTAY__WORKER__KEY`");
    check_env("BACKSTAY__CONFIG", "x", "BACKSTAY__CONFIG: unknown section (did you mean `BACKSTAY_CONFIG`?)");
    check_env(
        "BACKSTAY_JOBS__DEFAULT__LEVEL",
        "1",
        "BACKSTAY_JOBS__DEFAULT__LEVEL: is not read (did you mean `BACKSTAY__JOBS__DEFAULT__LEVEL`?)",
    );
    // what Kubernetes sets for a service named `backstay`, and a program beside us
    settings("", &[("BACKSTAY_PORT", "tcp://10.0.0.1:80"), ("BACKSTAY_SERVICE_HOST", "10.0.0.1"), ("BACKSTAYX__A", "b"), ("PATH", "/")]);
}

#[test]
fn a_wrong_type_is_told_at_the_value() {
    check("[jobs.default]\nlevel = \"six\"\n", "2:9: jobs.default.level: expected a whole number, found a string: write it without quotes");
    check(
        "[jobs.default]\ncatch_up = \"yes\"\n",
        "2:12: jobs.default.catch_up: expected true or false, found a string: write it without quotes",
    );
    check(
        "[jobs.default]\ntargets = \"local\"\n",
        "2:11: jobs.default.targets: expected a list of strings, found a string: write it in brackets",
    );
    check("[jobs.default]\ntargets = [\"local\", 1]\n", "2:21: jobs.default.targets: expected a string, found a whole number");
    check("[jobs.default]\nkeep_last = -1\n", "2:13: jobs.default.keep_last: -1 is too small (at least 0)");
    check("[jobs.default]\nkeep_last = 99999999999\n", "2:13: jobs.default.keep_last: 99999999999 is too large (at most 4294967295)");
    check("[jobs.default]\nkeep_last = 1.5\n", "2:13: jobs.default.keep_last: expected a whole number, found a number with a fraction");
    check("[postgres.a]\nport = 65536\n", "2:8: postgres.a.port: 65536 is too large (at most 65535)");
    check("[postgres.a]\npassword = 123456\n", "2:12: postgres.a.password: expected a string, found a whole number: write it in quotes");
    check(
        "[jobs.default]\ncompression = \"zstandard\"\n",
        "2:15: jobs.default.compression: `zstandard` is not one of `gzip`, `zstd`, `none`",
    );
    check(
        "[jobs.default]\ncompression = \"gzp\"\n",
        "2:15: jobs.default.compression: `gzp` is not one of `gzip`, `zstd`, `none` (did you mean `gzip`?)",
    );
    check_env("BACKSTAY__JOBS__DEFAULT__LEVEL", "six", "BACKSTAY__JOBS__DEFAULT__LEVEL: `six` is not a whole number");
    check_env("BACKSTAY__JOBS__DEFAULT__CATCH_UP", "yes", "BACKSTAY__JOBS__DEFAULT__CATCH_UP: `yes` is not true or false");
    check_env("BACKSTAY__JOBS__DEFAULT__TARGETS", "[local]", "BACKSTAY__JOBS__DEFAULT__TARGETS: `[local]` is not a list of strings");
    check_env("BACKSTAY__POSTGRES__DB__PORT", "0", "BACKSTAY__POSTGRES__DB__PORT: 0 is too small (at least 1)");
    check_env("BACKSTAY__JOBS__DEFAULT__JITTER", "a\u{FFFD}b", "BACKSTAY__JOBS__DEFAULT__JITTER: the value is not UTF-8");
}

#[test]
fn a_name_must_be_one_and_be_unique() {
    let rule = "it must be 1 to 64 of a-z, 0-9 and `-`, and begin with a letter or digit";
    check("[jobs.Nightly]\n", &format!("1:7: jobs.Nightly: `Nightly` is not a valid name: {rule}"));
    check("[directory.a_b]\npath = \"/a\"\n", &format!("1:12: directory.a_b: `a_b` is not a valid name: {rule}"));
    check_env("BACKSTAY__JOBS__A.B__LEVEL", "1", &format!("BACKSTAY__JOBS__A.B__LEVEL: `a.b` is not a valid name: {rule}"));
    check(
        "[postgres.media]\nhost = \"db\"\n",
        "1:11: postgres.media: [directory.media] has the same name; the names of components are unique",
    );
    check(
        "[postgres.main]\nhost = \"db\"\n[redis.main]\nhost = \"r\"\n",
        "3:8: redis.main: [postgres.main] has the same name; the names of components are unique",
    );
}

#[test]
fn a_job_names_what_exists() {
    check(
        "[jobs.default]\ncomponents = [\"medai\"]\n",
        "2:14: jobs.default.components: there is no component `medai` (did you mean `media`?)",
    );
    check(
        "[jobs.default]\ntargets = [\"s3\"]\n[targets.here]\nurl = \"file:///x\"\n",
        "2:11: jobs.default.targets: there is no target `s3`; there are `here`",
    );
    check_env(
        "BACKSTAY__JOBS__DEFAULT__COMPONENTS",
        "media,postgres",
        "BACKSTAY__JOBS__DEFAULT__COMPONENTS: there is no component `postgres`; there are `blueprints`, `certs`, `custom-templates`, `media`",
    );
}

#[test]
fn a_job_has_a_schedule_a_policy_a_level_and_times_that_can_be() {
    check("[jobs.default]\nschedule = \"0 0 30 2 *\"\n", "2:12: jobs.default.schedule: `0 0 30 2 *` never fires");
    check("[jobs.default]\ndrill = \"0 0 30 2 *\"\n", "2:9: jobs.default.drill: `0 0 30 2 *` never fires");
    let zone = "[jobs.default]\ndrill = \"@weekly\"\ntimezone = \"Berlin\"\n";
    check(zone, "3:12: jobs.default.timezone: `Berlin` is not an IANA time zone");
    check("[jobs.default]\ntimezone = \"Europe/Berlln\"\n", "2:12: jobs.default.timezone: `Europe/Berlln` is not an IANA time zone");
    check_env(
        "TZ",
        "CET-1CEST",
        "TZ: jobs.default.timezone: `CET-1CEST` is not an IANA time zone; set `timezone` of the job, or `TZ` to a name such as `Europe/Berlin`",
    );
    check(
        "[jobs.default]\nkeep_last = 0\n",
        "2:13: jobs.default.keep_last: the job would keep nothing: at least one `keep_…` must be 1 or more",
    );
    check(
        "[jobs.default]\njitter = \"5 apples\"\n",
        "2:10: jobs.default.jitter: `5 apples` is not a duration, such as `90s`, `10m` or `1h 30m`",
    );
    check(
        "[jobs.default]\nstall_timeout = \"0s\"\n",
        "2:17: jobs.default.stall_timeout: must be longer than 0s: a stream that stalls would hold the job for ever",
    );
    let fault = Scene::new("[jobs.default]\nlevel = 10\n", &[]).faults();
    assert!(fault.starts_with("config/backstay.toml:2:9: jobs.default.level: level 10"), "{fault}");
    let fault = Scene::new("[jobs.default]\nschedule = \"every day\"\n", &[]).faults();
    assert!(fault.starts_with("config/backstay.toml:2:12: jobs.default.schedule: `every day` is not a cron expression"), "{fault}");
}

#[test]
fn a_target_has_a_place_of_its_own() {
    let credentials = "2:7: targets.a.url: must not hold credentials: use `access_key_id` and `secret_access_key`";
    check("[targets.a]\nurl = \"s3://id:key@b/x\"\n", credentials);
    check("[targets.a]\nurl = \"s3://id:ke/y@b/x\"\n", credentials);
    settings("[targets.a]\nurl = \"s3://b/me@home\"\n", &[]);
    let missing = format!("is missing: where do backups go? ({KINDS})");
    check("[targets.a]\nurl = \"\"\n", &format!("1:10: targets.a.url: {missing}"));
    check_env("BACKSTAY__TARGETS__A__REGION", "x", &format!("BACKSTAY__TARGETS__A__REGION: targets.a.url: {missing}"));
    check(
        "[targets.a]\nurl = \"/backups\"\n",
        &format!("2:7: targets.a.url: is not a URL: expected {KINDS} (did you mean `file:///backups`?)"),
    );
    check(
        "[targets.a]\nurl = \"file://backups\"\n",
        "2:7: targets.a.url: `file://backups` names a host: expected `file:///backups` or `file://./backups`",
    );
    check(
        "[targets.a]\nurl = \"s4://b\"\n",
        &format!("2:7: targets.a.url: there is no kind of target `s4://` (did you mean `s3`?): expected {KINDS}"),
    );
    check(
        "[targets.a]\nurl = \"s3://b:c/x\"\n",
        "2:7: targets.a.url: is not a bucket: its name may hold letters, digits, `.`, `-` and `_`",
    );
    check("[targets.a]\nurl = \"file:///x\"\n[targets.b]\nurl = \"file:///x/\"\n", "4:7: targets.b.url: is the same place as [targets.a]");
}

#[test]
fn each_kind_of_target_has_keys_of_its_own() {
    let fault = |line: &str, key: &str, owners: &str, place: &str| {
        format!("{line}: targets.a.{key}: is a key of {owners}, but the `url` is that of {place}")
    };
    let azure = "[targets.a]\nurl = \"az://c\"\naccount = \"a\"\naccount_key = \"k\"\n";
    check(&format!("{azure}region = \"eu\"\n"), &fault("5:10", "region", "S3", "a container in Azure"));
    check("[targets.a]\nurl = \"s3://b\"\nsas_token = \"x\"\n", &fault("3:13", "sas_token", "Azure", "a bucket in S3"));
    check("[targets.a]\nurl = \"file:///b\"\nregion = \"eu\"\n", &fault("3:10", "region", "S3", "a directory"));
    // nothing is set by an empty value
    settings(&format!("{azure}region = \"\"\n"), &[]);
}

#[test]
fn what_is_pasted_behind_a_url_is_refused_and_never_told() {
    let keys = "must not hold `?` or `#`: options go into keys of their own";
    let sas = "must not hold `?` or `#`: a shared access signature goes into `sas_token`, other options into keys";
    for (url, told) in [
        ("az://c/p?sv=2024-11-04&sig=canary", sas),
        ("az://c?sig=canary", sas),
        ("az://c/p?sig=can@ry", sas),
        ("https://account.blob.core.windows.net/c?sig=canary", keys),
        ("https://host/#x", keys),
        ("gs://b/p?userProject=canary", keys),
        ("s3://b/p?region=canary", keys),
        ("s3://b?region=canary", keys),
        ("s3://b/p#canary", keys),
    ] {
        check(&format!("[targets.a]\nurl = \"{url}\"\n"), &format!("2:7: targets.a.url: {told}"));
    }
    check("[bucket.a]\nurl = \"s3://b/p?canary\"\n", &format!("2:7: bucket.a.url: {keys}"));
    settings("[targets.a]\nurl = \"file:///x?y#z\"\n", &[]);
}

#[test]
fn the_keys_of_azure_fit_together() {
    let azure = |rest: &str| format!("[targets.a]\nurl = \"az://c/p\"\n{rest}\n");
    check(&azure("account_key = \"k\""), "1:10: targets.a.account: is missing: which storage account is it in?");
    let with = |rest: &str| azure(&format!("account = \"a\"\n{rest}"));
    check(
        &with("account_key = \"k\"\nsas_token = \"s\""),
        "5:13: targets.a.sas_token: is one of two credentials: `account_key` is set, too",
    );
    check(&with("client_secret = \"s\"\ntenant_id = \"t\""), "1:10: targets.a.client_id: is missing: `client_secret` is set");
    check(
        &with("storage_class = \"Archive\""),
        "4:17: targets.a.storage_class: `Archive` is not one of `Hot`, `Cool`, `Cold`: what is archived cannot be restored at once",
    );
    check(&with("part_size = \"5GiB\""), "4:13: targets.a.part_size: `5GiB` is out of range: Azure takes blocks of 1MiB to 4000MiB");
    check("[targets.a]\nurl = \"az://key@c\"\n", "2:7: targets.a.url: must not hold credentials: use `account_key` or `sas_token`");
    check(
        "[targets.a]\nurl = \"az://My_Container\"\naccount = \"a\"\n",
        "2:7: targets.a.url: is not a container: its name may hold lower-case letters, digits and `-`",
    );
}

#[test]
fn the_keys_of_google_fit_together() {
    let gcs = |rest: &str| format!("[targets.a]\nurl = \"gs://b/p\"\n{rest}\n");
    check(
        &gcs("storage_class = \"GLACIER\""),
        "3:17: targets.a.storage_class: `GLACIER` is not one of `STANDARD`, `NEARLINE`, `COLDLINE`, `ARCHIVE`",
    );
    check(&gcs("part_size = \"1MiB\""), "3:13: targets.a.part_size: `1MiB` is out of range: Google takes parts of 5MiB to 5GiB");
    check(&gcs("account_key = \"k\""), "3:15: targets.a.account_key: is a key of Azure, but the `url` is that of a bucket of Google");
    check("[targets.a]\nurl = \"gs://key@b\"\n", "2:7: targets.a.url: must not hold credentials: use `service_account`");
    let of = |keys: &str, env: &[(&str, &str)]| match settings(&gcs(keys), env).targets.remove(0).location {
        Location::Gcs { options, .. } => format!("{:?}", options.credentials),
        other => panic!("{other}"),
    };
    let file = ("GOOGLE_APPLICATION_CREDENTIALS", "/adc.json");
    assert_eq!(of("service_account = \"file:///key.json\"", &[file]), "Account(*** (file /key.json))");
    assert_eq!(of("", &[file]), "File(\"/adc.json\")");
    assert_eq!(of("", &[]), "Ambient");
}

#[test]
fn the_keys_of_webdav_fit_together() {
    let dav = |url: &str, rest: &str| format!("[targets.a]\nurl = \"{url}\"\n{rest}\n");
    let https = |rest: &str| dav("https://host/folder", rest);
    check(
        &dav("http://host/folder", "user = \"u\"\npassword = \"p\""),
        "2:7: targets.a.url: is not encrypted, and passwords would be readable on the way: use `https://`, or set `allow_http = true` for a \
         network that you trust",
    );
    settings(&dav("http://host/folder", "allow_http = true"), &[]);
    check(&https("user = \"u\""), "1:10: targets.a.password: is missing: `user` is set");
    check(&https("password = \"p\""), "1:10: targets.a.user: is missing: `password` is set");
    check(
        &https("user = \"u\"\npassword = \"p\"\ntoken = \"t\""),
        "5:9: targets.a.token: is one of two credentials: `user` or `password` is set, too",
    );
    check(&https("user = \"u:v\"\npassword = \"p\""), "3:8: targets.a.user: must not hold a `:` (RFC 7617)");
    check(
        &https("part_size = \"8MiB\""),
        "3:13: targets.a.part_size: is a key of S3, Azure, Google, but the `url` is that of a folder on a WebDAV server",
    );
    check(&dav("https://u:p@host/folder", ""), "2:7: targets.a.url: must not hold credentials: use `user` and `password`");
    let folder = |url: &str| format!("2:7: targets.a.url: `{url}` is not a folder of a WebDAV server (expected `https://host/folder`)");
    for url in ["https://", "https://host:port/folder"] {
        check(&dav(url, ""), &folder(url));
    }
    let places = settings("[targets.a]\nurl = \"https://host/a b/c/\"\n[targets.b]\nurl = \"https://host\"\n", &[]).targets;
    assert_eq!(names(places.iter().map(|target| &target.location)), ["https://host/a%20b/c", "https://host"]);
}

#[test]
#[cfg(feature = "sftp")]
fn the_keys_of_sftp_fit_together() {
    let sftp = |url: &str, rest: &str| format!("[targets.a]\nurl = \"{url}\"\n{rest}\n");
    let here = |rest: &str| sftp("sftp://me@host/folder", rest);
    check(
        &here("identity_file = \"/key\"\npassword = \"p\""),
        "4:12: targets.a.password: is one of two credentials: `identity_file` is set, too (a key with a passphrase has to be in an agent)",
    );
    check(&here("user = \"u\""), "3:8: targets.a.user: is a key of WebDAV, but the `url` is that of a folder on an SFTP server");
    for url in ["sftp://u:canary@host/folder", "sftp://u:can/ary@host/folder", "sftp://:canary@host/folder"] {
        check(&sftp(url, ""), "2:7: targets.a.url: must not hold credentials: use `identity_file` or `password`");
    }
    for url in ["sftp://host", "sftp://-oProxyCommand=x/folder", "sftp://host/a/../b"] {
        let text = format!(
            "2:7: targets.a.url: `{url}` is not a folder on an SFTP server (expected `sftp://user@host/path`, or `sftp://user@host/~/path` below \
             its home)"
        );
        check(&sftp(url, ""), &text);
    }
    let of = |rest: &str, env: &[(&str, &str)]| match settings(&here(rest), env).targets.remove(0).location {
        Location::Sftp { options, .. } => format!("{:?} {:?} {:?}", options.credentials, options.known_hosts_file, options.agent),
        other => panic!("{other}"),
    };
    assert_eq!(of("", &[]), "Ambient None None");
    assert_eq!(of("", &[("SSH_AUTH_SOCK", "/agent")]), "Ambient None Some(\"/agent\")");
    assert_eq!(of("password = \"p\"", &[]), "Password(***) None None");
    assert_eq!(of("identity_file = \"/key\"\nknown_hosts_file = \"/known\"", &[]), "Identity(\"/key\") Some(\"/known\") None");
}

#[test]
fn the_keys_of_s3_fit_together() {
    let s3 = |rest: &str| format!("[targets.a]\nurl = \"s3://b\"\n{rest}\n");
    check(
        &s3("endpoint = \"http://minio:9000\""),
        "3:12: targets.a.endpoint: `http://minio:9000` is not encrypted: use `https://`, or set `allow_http = true` for a network that you trust",
    );
    check(&s3("endpoint = \"minio:9000\""), "3:12: targets.a.endpoint: `minio:9000` is not a URL: expected `https://host:port`");
    check(&s3("access_key_id = \"a\""), "1:10: targets.a.secret_access_key: is missing: `access_key_id` is set");
    check(&s3("secret_access_key = \"a\""), "1:10: targets.a.access_key_id: is missing: `secret_access_key` is set");
    check(&s3("part_size = \"4MiB\""), "3:13: targets.a.part_size: `4MiB` is out of range: S3 takes parts of 5MiB to 5GiB");
    check(&s3("part_size = \"6GiB\""), "3:13: targets.a.part_size: `6GiB` is out of range: S3 takes parts of 5MiB to 5GiB");
    check(&s3("part_size = \"big\""), "3:13: targets.a.part_size: `big` is not a size, such as `16MiB`");
    for wrong in ["20MiB", "fast", "0B/s", "-1MiB/s"] {
        let expected = format!("3:9: targets.a.limit: `{wrong}` is not bytes a second, such as `20MiB/s`");
        check(&s3(&format!("limit = \"{wrong}\"")), &expected);
    }
    check("[worker]\nnice = 20\n", "2:8: worker.nice: 20 is too large (at most 19)");
    check("[worker]\nnice = -1\n", "2:8: worker.nice: -1 is too small (at least 0)");
    check("[worker]\nionice = \"idl\"\n", "2:10: worker.ionice: `idl` is not one of `none`, `best-effort`, `idle` (did you mean `idle`?)");
    check(&s3("max_parts = 10001"), "3:13: targets.a.max_parts: 10001 is too large (at most 10000)");
    check(&s3("addressing = \"pat\""), "3:14: targets.a.addressing: `pat` is not one of `path`, `virtual` (did you mean `path`?)");
    check(&s3("checksum = \"md5\""), "3:12: targets.a.checksum: `md5` is not one of `none`, `sha256`, `crc64nvme`");
    check(
        "[targets.a]\nurl = \"file:///x\"\nendpoint = \"https://minio\"\n",
        "3:12: targets.a.endpoint: is a key of S3, Azure, Google, but the `url` is that of a directory",
    );
}

#[test]
fn a_target_inside_of_its_own_source_is_refused() {
    let lies = |at: &str| {
        format!(
            "{at}: targets.usb.url: lies inside of [directory.media] (/media), so that each backup of job `default` would hold the ones \
             before it: `exclude` it there, or list other `components` in the job"
        )
    };
    check("[targets.usb]\nurl = \"file:///media/usb\"\n", &lies("2:7"));
    check("[targets.usb]\nurl = \"file:///media\"\n[directory.media]\nexclude = [\"*\"]\n", &lies("2:7"));
    check("[targets.usb]\nurl = \"file:///media/usb/x\"\n[directory.media]\nexclude = [\"/usc\"]\n", &lies("2:7"));
    settings("[targets.usb]\nurl = \"file:///media/usb/x\"\n[directory.media]\nexclude = [\"/usb\"]\n", &[]);
    settings("[targets.usb]\nurl = \"file:///media/usb\"\n[jobs.default]\ncomponents = [\"certs\"]\n", &[]);
    settings("[targets.usb]\nurl = \"file:///mediathek\"\n", &[]);
}

#[test]
fn a_target_inside_of_its_source_is_found_through_links() {
    let scene = Scene::new("[targets.t]\nurl = \"file://./link/new/backups\"\n[directory.tree]\npath = \"../tree\"\n", &[]);
    scene.write("tree/file", "");
    std::os::unix::fs::symlink(scene.path("tree"), scene.path("work/link")).expect("linked");
    assert!(scene.faults().starts_with("config/backstay.toml:2:7: targets.t.url: lies inside of [directory.tree]"), "{}", scene.faults());
}

#[test]
fn components_have_what_they_need() {
    check("[directory.a]\nexclude = []\n", "1:12: directory.a.path: is missing: which directory is it?");
    check(
        "[redis.a]\nmethod = \"bgsave\"\n",
        "2:10: redis.a.method: `bgsave` needs `rdb_path`, where the server's RDB file can be read from here",
    );
    check(
        "[worker]\nlisten = \"localhost\"\n",
        "2:10: worker.listen: `localhost` is not an address and a port, such as `127.0.0.1:9717` or `[::]:9717`",
    );
    check(
        "[postgres.a]\nhost = \"env://DB\"\n",
        "2:8: postgres.a.host: `env://` is read in secrets only; set the key by its `BACKSTAY__` variable instead",
    );
    let fault = Scene::new("[directory.a]\npath = \"/a\"\nexclude = [\"[z-a]\"]\n", &[]).faults();
    assert!(fault.starts_with("config/backstay.toml:3:11: directory.a.exclude: `[z-a]` is not a glob"), "{fault}");
}

#[test]
fn what_this_version_would_ignore_is_refused_and_harmless_without_a_value() {
    check(
        "[notify]\nurls = [\"https://x\"]\n",
        "2:8: notify.urls: notifications are not in this version; remove the key, so that nobody waits for a message",
    );
    let empty = "[encryption]\nrecipients = []\nidentity_file = \"\"\n[notify]\nurls = [\"\"]\nlevel = \"warn\"\n[jobs.default]\ndrill = \"\"\n\
                 [postgres.a]\njobs = 1\n[targets.a]\nurl = \"file:///x\"\nprofile = \"\"\nweb_identity = {}\n";
    settings(empty, &[("BACKSTAY__NOTIFY__URLS", "")]);
}

#[test]
fn the_keys_of_a_table_are_as_strict_as_all_others() {
    let at = "[targets.a]\nurl = \"s3://b\"\nendpoint = \"https://s3\"\n[targets.a.web_identity]\n";
    let check = |keys: &str, fault: &str| check(&format!("{at}{keys}"), fault);
    let sound = "token_url = \"https://a/t/\"\nclient_id = \"c\"\nclient_secret = \"s\"\n";
    let of = |more: &str| format!("{sound}{more}");
    settings(&format!("{at}{sound}"), &[]);
    check(&of("colour = \"r\"\n"), "8:1: targets.a.web_identity.colour: unknown key");
    check(&of("role_am = \"r\"\n"), "8:1: targets.a.web_identity.role_am: unknown key (did you mean `role_arn`?)");
    check(&of("duration = 900\n"), "8:12: targets.a.web_identity.duration: expected a string, found a whole number: write it in quotes");
    check(
        &of("duration = \"10m\"\n"),
        "8:12: targets.a.web_identity.duration: `10m` is out of range: stores give credentials for 15 minutes to a year",
    );
    check(&of("duration = \"long\"\n"), "8:12: targets.a.web_identity.duration: `long` is not a duration, such as `15m` or `1h`");
    check(&of("token = \"refresh\"\n"), "8:9: targets.a.web_identity.token: `refresh` is not one of `id_token`, `access_token`");
    check(
        &of("role_session_name = \"b\"\n"),
        "8:21: targets.a.web_identity.role_session_name: `b` is not a name of 2 to 64 letters, digits and characters of `_=,.@-+`",
    );
    let open = "is not encrypted: use `https://`, or set `allow_http = true` for a network that you trust";
    check(&of("sts_endpoint = \"http://x\"\n"), &format!("8:16: targets.a.web_identity.sts_endpoint: `http://x` {open}"));
    check(
        "token_url = \"https://u:canary@a/t/\"\nclient_id = \"c\"\nclient_secret = \"s\"\n",
        "5:13: targets.a.web_identity.token_url: must not hold credentials: use `client_secret` or `password`",
    );
    // told at what there is of the table
    check("scope = \"s\"\n", "5:9: targets.a.web_identity.token_url: is missing: who issues tokens? (or set `token_file`)");
    check(
        "token_url = \"https://a/t/\"\nclient_secret = \"s\"\n",
        "5:13: targets.a.web_identity.client_id: is missing: as which client is the token asked for?",
    );
    let alone = "token_url = \"https://a/t/\"\nclient_id = \"c\"\n";
    check(&format!("{alone}username = \"u\"\n"), "5:13: targets.a.web_identity.password: is missing: `username` is set");
    check(&format!("{alone}password = \"p\"\n"), "5:13: targets.a.web_identity.username: is missing: `password` is set");
    check(alone, "5:13: targets.a.web_identity.client_secret: is missing: or set `username` and `password`");
    check(
        "token_url = \"https://a/t/\"\ntoken_file = \"/t\"\n",
        "5:13: targets.a.web_identity.token_url: cannot be used together with `token_file`: a token comes from a file or from a provider",
    );
    let both = "cannot be used together with `web_identity`: credentials come from either";
    let keys = "[bucket.a]\nurl = \"s3://b\"\naccess_key_id = \"i\"\nsecret_access_key = \"k\"\nweb_identity = { token_file = \"/t\", role_arn = \"r\" }\n";
    let faults = Scene::new(keys, &[]).faults();
    assert!(faults.contains(&format!("3:17: bucket.a.access_key_id: {both}")), "{faults}");
    assert!(faults.contains(&format!("4:21: bucket.a.secret_access_key: {both}")), "{faults}");
    self::check(
        "[targets.a]\nurl = \"s3://b\"\nweb_identity = { token_file = \"/t\" }\n",
        "3:31: targets.a.web_identity.role_arn: is missing: AWS gives credentials for a role only",
    );
    self::check("[targets.a]\nurl = \"s3://b\"\nweb_identity = \"x\"\n", "3:16: targets.a.web_identity: expected a table, found a string");
    self::check(
        "[targets.a]\nurl = \"file:///b\"\nweb_identity = { token_file = \"/t\" }\n",
        "3:31: targets.a.web_identity.token_file: is a key of S3, but the `url` is that of a directory",
    );
}

#[test]
fn a_profile_stands_alone_and_is_somewhere() {
    let target = "[targets.a]\nurl = \"s3://b\"\n";
    let check = |keys: &str, fault: &str| check_faults(&format!("{target}{keys}"), &[("HOME", "/home/x")], &[&format!("{AT}:{fault}")]);
    let both = "cannot be used together with `profile`: credentials come from either";
    check("profile = \"p\"\nsession_token = \"t\"\n", &format!("4:17: targets.a.session_token: {both}"));
    check(
        "profile = \"p\"\n[targets.a.web_identity]\ntoken_file = \"/t\"\nrole_arn = \"r\"\n",
        &format!("5:14: targets.a.web_identity: {both}"),
    );
    let nowhere = "where is the profile `p`? HOME is not set, nor both AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE";
    self::check(&format!("{target}profile = \"p\"\n"), &format!("3:11: targets.a.profile: {nowhere}"));
    check_faults(
        "[targets.a]\nurl = \"file:///x\"\nprofile = \"p\"\n",
        &[],
        &[&format!("{AT}:3:11: targets.a.profile: is a key of S3, but the `url` is that of a directory")],
    );
}

#[test]
fn the_profile_of_the_environment_is_for_those_without_keys() {
    let of = |keys: &str, env: &[(&str, &str)]| {
        let env = [&[("HOME", "/home/x"), ("AWS_PROFILE", "everyday")], env].concat();
        let settings = settings(&format!("[targets.a]\nurl = \"s3://b\"\n{keys}"), &env);
        settings.targets[0].s3().expect("a bucket").profile.clone().map(|p| (p.name, p.config_file, p.credentials_file))
    };
    let at = |name: &str, config: &str| Some((name.to_owned(), config.into(), "/home/x/.aws/credentials".into()));
    assert_eq!(of("", &[]), at("everyday", "/home/x/.aws/config"));
    assert_eq!(of("profile = \"night\"\n", &[("AWS_CONFIG_FILE", "/etc/aws")]), at("night", "/etc/aws"));
    assert_eq!(of("access_key_id = \"i\"\nsecret_access_key = \"k\"\n", &[]), None);
    assert_eq!(of("", &[("AWS_ACCESS_KEY_ID", "i"), ("AWS_SECRET_ACCESS_KEY", "k")]), None);
    assert_eq!(of("web_identity = { token_file = \"/t\", role_arn = \"r\" }\n", &[]), None);
    // explicit, so that keys of the environment do not win over it
    assert_eq!(of("profile = \"night\"\n", &[("AWS_ACCESS_KEY_ID", "i")]), at("night", "/home/x/.aws/config"));
}

#[test]
fn a_table_can_be_set_by_the_environment() {
    let config = "[targets.off-site]\nurl = \"s3://b\"\nendpoint = \"https://s3\"\n";
    let env = [
        ("BACKSTAY__TARGETS__OFF_SITE__WEB_IDENTITY__TOKEN_URL", "https://a/t/"),
        ("BACKSTAY__TARGETS__OFF_SITE__WEB_IDENTITY__CLIENT_ID", "c"),
        ("BACKSTAY__TARGETS__OFF_SITE__WEB_IDENTITY__CLIENT_SECRET_FILE", "/run/secrets/client"),
        // never those of the environment besides
        ("AWS_ACCESS_KEY_ID", "i"),
        ("AWS_SECRET_ACCESS_KEY", "k"),
    ];
    let settings = settings(config, &env);
    let s3 = settings.targets[0].s3().expect("a bucket");
    assert!(s3.access_key_id.is_none() && s3.secret_access_key.is_none());
    let web = s3.web_identity.as_ref().expect("a web identity");
    assert_eq!(web.sts_endpoint, "https://s3");
    let crate::storage::TokenSource::Provider(provider) = &web.token else { panic!("{web:?}") };
    assert_eq!((provider.url.as_str(), provider.client_id.as_str(), provider.scope.as_str()), ("https://a/t/", "c", "openid minio"));
    assert_eq!(provider.client_secret.as_ref().expect("a secret").to_string(), "*** (file /run/secrets/client)");
    let variable = "BACKSTAY__TARGETS__OFF_SITE__WEB_IDENTITY__CLIENT_IDD";
    check_env(variable, "c", &format!("{variable}: unknown key (did you mean `BACKSTAY__TARGETS__OFF_SITE__WEB_IDENTITY__CLIENT_ID`?)"));
}

#[test]
fn what_nobody_could_decrypt_or_everybody_is_refused() {
    let none = "is not an age public key; `backstay keygen` prints one (`age1…`, X25519)";
    check("[encryption]\nrecipients = [\"age1x\"]\n", &format!("2:14: encryption.recipients: `age1x` {none}"));
    check_env("BACKSTAY__ENCRYPTION__RECIPIENTS", "age1x", &format!("BACKSTAY__ENCRYPTION__RECIPIENTS: `age1x` {none}"));
    let pair = crate::encryption::KeyPair::generate();
    let secret = format!("[encryption]\nrecipients = [\"{}\"]\n", pair.identity().expose());
    let fault = Scene::new(&secret, &[]).faults();
    assert!(fault.contains("this is a secret identity") && !fault.contains(pair.identity().expose()), "{fault}");
    let key = pair.recipient();
    check(
        &format!("[encryption]\npassphrase = \"x\"\nrecipients = [\"{key}\"]\n"),
        "2:14: encryption.passphrase: cannot be used together with `recipients`: an age file has either",
    );
    let many = |of: &dyn Fn() -> String| (0..65).map(|_| format!("\"{}\"", of())).collect::<Vec<_>>().join(", ");
    check(
        &format!("[encryption]\nrecipients = [{}]\n", many(&|| crate::encryption::KeyPair::generate().recipient())),
        "2:14: encryption.recipients: there are 65, and at most 64 can be",
    );
    // one that is named twice is one
    let settings = settings(&format!("[encryption]\nrecipients = [{}]\n", many(&|| key.clone())), &[]);
    assert_eq!(settings.encryption.lock().expect("a lock").expect("on").recipients(), [key]);
}

#[test]
fn all_faults_are_told_at_once_in_the_order_of_the_file() {
    check_faults(
        "[targets.a]\nurl = \"s5:///\"\nallow_htp = true\n\n[jobs.default]\nlevel = true\ncomponents = [\"nope\"]\n",
        &[("BACKSTAY__WORKER__PORT", "1"), ("AUTHENTIK_REDIS__DB", "x")],
        &[
            &format!("config/backstay.toml:2:7: targets.a.url: there is no kind of target `s5://` (did you mean `s3`?): expected {KINDS}"),
            "config/backstay.toml:3:1: targets.a.allow_htp: unknown key (did you mean `allow_http`?)",
            "config/backstay.toml:6:9: jobs.default.level: expected a whole number, found true or false",
            "config/backstay.toml:7:14: jobs.default.components: there is no component `nope`; there are `blueprints`, `certs`, `custom-templates`, `media`",
            "AUTHENTIK_REDIS__DB: redis.redis.db: `x` is not a whole number",
            "BACKSTAY__WORKER__PORT: unknown key",
        ],
    );
}

#[test]
fn what_is_not_toml_is_told_with_the_rest_of_what_is_wrong() {
    let faults = Scene::new("[jobs.default]\nlevel = \nkeep_last = 3 4\nshedule = 1\n", &[("BACKSTAY__WORKER__PORT", "1")]).faults();
    let places: Vec<_> = faults.lines().map(|l| l.split(": ").next().unwrap_or_default()).collect();
    assert!(faults.contains("not valid TOML"), "{faults}");
    for place in ["config/backstay.toml:2:", "config/backstay.toml:3:", "config/backstay.toml:4:1", "BACKSTAY__WORKER__PORT"] {
        assert!(places.iter().any(|p| p.starts_with(place)), "{place} is not among {places:?}");
    }
}

#[test]
fn a_file_that_is_named_must_be_there_and_readable() {
    let mut scene = Scene::new("", &[]);
    scene.options.file = Some("missing.toml".into());
    assert_eq!(scene.faults(), "missing.toml: there is no such file (named by --config)");
    check_env("BACKSTAY_CONFIG", "missing.toml", "missing.toml: there is no such file (named by BACKSTAY_CONFIG)");
    let scene = Scene::new("", &[]);
    scene.write("work/config/backstay.toml/x", "");
    assert!(scene.faults().starts_with("config/backstay.toml: cannot be read: "), "{}", scene.faults());
}

#[test]
fn a_job_that_copies_has_nothing_of_its_own_to_back_up() {
    let two = "[targets.a]\nurl = \"file:///a\"\n[targets.b]\nurl = \"file:///b\"\n[jobs.x]\nkeep_last = 3\n";
    let not = "is nothing of a job that copies: it copies backups as they are (set it for the job that makes them)";
    check(&format!("{two}copy_from = \"a\"\ncompression = \"zstd\"\n"), &format!("8:15: jobs.x.compression: {not}"));
    check(&format!("{two}copy_from = \"a\"\ncomponents = [\"media\"]\n"), &format!("8:14: jobs.x.components: {not}"));
    check(&format!("{two}copy_from = \"a\"\ndrill = \"@daily\"\n"), &format!("8:9: jobs.x.drill: {not}"));
    check(&format!("{two}copy_from = \"offsite\"\n"), "7:13: jobs.x.copy_from: there is no target `offsite`; there are `a`, `b`");
    check(&format!("{two}copy_from = \"a\"\ntargets = [\"a\"]\n"), "8:11: jobs.x.targets: `a` is what is copied from: name another");
    let one = "[targets.a]\nurl = \"file:///a\"\n[jobs.x]\ncopy_from = \"a\"\nkeep_last = 3\n";
    check(one, "3:7: jobs.x.targets: is empty, and there is no other target: where should the backups go?");
}

#[test]
fn keys_for_encryption_by_the_server_go_with_its_kind() {
    let s3 = "[targets.a]\nurl = \"s3://b\"\n";
    check(&format!("{s3}sse = \"customer\"\n"), "1:10: targets.a.sse_customer_key: is missing: `sse` is `customer`");
    check(&format!("{s3}sse_kms_key_id = \"k\"\n"), "3:18: targets.a.sse_kms_key_id: is not used: `sse` is not `aws:kms`");
    check(&format!("{s3}sse_customer_key = \"k\"\n"), "3:20: targets.a.sse_customer_key: is not used: `sse` is not `customer`");
    check(
        &format!("{s3}sse = \"customer\"\nsse_customer_key = \"k\"\nchecksum = \"sha256\"\n"),
        "5:12: targets.a.checksum: must be `none`: AWS joins no parts of both a checksum and a customer's key",
    );
    check(&format!("{s3}sse = \"aes256\"\n"), "3:7: targets.a.sse: `aes256` is not one of `AES256`, `aws:kms`, `aws:kms:dsse`, `customer`");
}

#[test]
fn jobs_that_copy_fit_together() {
    let two = "[targets.a]\nurl = \"file:///a\"\n[targets.b]\nurl = \"file:///b\"\n[jobs.x]\ncopy_from = \"a\"\n";
    check(two, "5:7: jobs.x.keep_last: is missing: how many backups shall be kept where they are copied to? (or another `keep_…`)");
    let twice = "keep_last = 3\n[jobs.y]\ncopy_from = \"a\"\ntargets = [\"b\"]\nkeep_weekly = 9\n";
    let text = "[jobs.x] copies there as well, and each would remove what the other keeps: put all `keep_…` into one";
    check(&format!("{two}{twice}"), &format!("10:11: jobs.y.targets: {text}"));
    let back = "keep_last = 3\n[jobs.default]\ntargets = [\"a\"]\n[jobs.y]\ncopy_from = \"b\"\nkeep_last = 3\n";
    let text = "what it copies comes back, so that it would run for ever: give it a `schedule`";
    let at = |place: &str, job: &str| format!("{AT}:{place}: jobs.{job}.copy_from: {text}");
    check_faults(&format!("{two}{back}"), &[], &[&at("6:13", "x"), &at("11:13", "y")]);
    settings(&format!("{two}schedule = \"@daily\"\n{back}"), &[]);
}

#[test]
fn a_signature_in_a_url_is_refused_and_not_shown() {
    let azure = "[targets.a]\nurl = \"az://c/p\"\naccount = \"x\"\nendpoint = \"https://x.example/?sv=1&sig=canary\"\n";
    let text = "must have nothing from `?` or `#` on: use `account_key` or `sas_token` for credentials";
    check(azure, &format!("4:12: targets.a.endpoint: {text}"));
}
