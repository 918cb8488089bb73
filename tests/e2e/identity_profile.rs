//! Profiles of AWS's own files, with keys and with a program that prints them, against SeaweedFS.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::support::sample::dense_media;
use crate::support::{Backstay, Scratch, Seaweed, toml};

/// A store, a directory to back up, and files of AWS's tools.
struct Site {
    store: Seaweed,
    source: Scratch,
    home: Scratch,
}

impl Site {
    fn new() -> Self {
        Self { store: Seaweed::start(), source: dense_media(), home: Scratch::new() }
    }

    /// With `keys` of the target.
    fn program(&self, keys: &str) -> Backstay {
        let media = toml::directory("media", &self.source.join("media"));
        let target = format!(
            "[targets.aws]\nurl = \"s3://{}\"\nendpoint = {}\nallow_http = true\n{keys}",
            Seaweed::BUCKET,
            toml::quoted(self.store.endpoint())
        );
        self.at_home(&["[jobs.default]\ncomponents = [\"media\"]\n", &media, &target].concat())
    }

    fn at_home(&self, config: &str) -> Backstay {
        let file = |name: &str| self.home.join(format!(".aws/{name}"));
        Backstay::new(config).env("AWS_CONFIG_FILE", file("config")).env("AWS_SHARED_CREDENTIALS_FILE", file("credentials"))
    }

    fn write(&self, file: &str, text: &str) {
        self.home.write(format!(".aws/{file}"), text);
    }

    fn keys(&self) -> String {
        format!("aws_access_key_id = {}\naws_secret_access_key = {}\n", self.store.access_key, self.store.secret_key)
    }

    /// Writes a program that runs `script` and then prints the store's keys, which end after so many seconds.
    fn helper(&self, script: &str, seconds: u64) -> String {
        let text = format!(
            "#!/bin/sh\necho \"$*\" >> '{calls}'\nenv > '{env}'\n{script}\nprintf '{{\"Version\": 1, \"AccessKeyId\": \"{id}\", \"SecretAccessKey\": \"{secret}\", \
             \"Expiration\": \"%s\"}}' \"$(date -u -d '+{seconds} seconds' +%Y-%m-%dT%H:%M:%SZ)\"\n",
            calls = self.home.join("calls").display(),
            env = self.home.join("env").display(),
            id = self.store.access_key,
            secret = self.store.secret_key,
        );
        let path = self.home.write("the helper", text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
        format!("[profile night]\ncredential_process = \"{}\" --for 'a run' $HOME\n", path.display())
    }

    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.home.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

const NIGHT: &str = "profile = \"night\"\n";

#[test]
fn the_keys_of_a_profile_are_used_and_read_again() {
    let site = Site::new();
    site.write("config", "[profile night]\nregion = eu-central-1\naws_access_key_id = nobody\n");
    site.write("credentials", &format!("[other]\n{}[night]\n{}", site.keys().replace("AK", "XX"), site.keys()));
    let backstay = site.program(NIGHT);
    let outcome = backstay.succeed(&["-vvv", "backup"]);
    assert!(!outcome.stderr.contains(&site.store.secret_key), "{}", outcome.stderr);
    site.program("profile = \"other\"\n").run(&["backup"]).expect_code(3).expect_message("InvalidAccessKeyId");
    site.write("credentials", "[night]\n");
    let half = backstay.run(&["backup"]).expect_code(3);
    half.expect_message("the profile `night` has no `aws_secret_access_key`").expect_message("Correct the profile");
}

#[test]
fn a_bucket_is_read_by_a_profile() {
    let site = Site::new();
    site.write("credentials", &format!("[night]\n{}", site.keys()));
    let backups = Scratch::new();
    let bucket = format!(
        "[jobs.default]\ncomponents = [\"files\"]\n[bucket.files]\nurl = \"s3://{}\"\nendpoint = {}\nallow_http = true\n{NIGHT}",
        Seaweed::BUCKET,
        toml::quoted(site.store.endpoint())
    );
    site.at_home(&[bucket, toml::file_target("local", &backups.join("backups"))].concat()).backup();
}

#[test]
fn a_program_prints_keys_and_sees_nothing_it_needs_not() {
    let site = Site::new();
    site.write("config", &site.helper("", 3600));
    let backstay = site.program(NIGHT).env("DB_PASSWORD", "canary").env("AWS_PROFILE", "elsewhere");
    let name = backstay.backup();
    assert_eq!(site.calls(), ["--for a run $HOME"], "once for a whole run");
    let env = std::fs::read_to_string(site.home.join("env")).expect("it ran");
    assert!(env.contains("HOME=") && env.contains("AWS_CONFIG_FILE="), "{env}");
    assert!(!env.contains("canary") && !env.contains("AWS_PROFILE"), "{env}");
    backstay.succeed(&["verify", &name]);
    assert_eq!(site.calls().len(), 2);
}

/// They end after six seconds; the upload takes longer.
#[test]
fn a_program_is_asked_again_before_its_keys_end() {
    let site = Site::new();
    site.write("config", &site.helper("", 6));
    let began = Instant::now();
    site.program(&format!("{NIGHT}limit = \"800KiB/s\"\n")).backup();
    assert!(began.elapsed() > Duration::from_secs(7), "over before the keys were");
    assert!(site.calls().len() >= 2, "{:?}", site.calls());
}

#[test]
fn a_program_is_asked_again_when_the_store_does_not_take_its_keys() {
    let site = Site::new();
    let stale = "{\"Version\": 1, \"AccessKeyId\": \"nobody\", \"SecretAccessKey\": \"canary\"}";
    let once = format!("[ $(wc -l < '{}') -gt 1 ] || {{ echo '{stale}'; exit; }}", site.home.join("calls").display());
    site.write("config", &site.helper(&once, 3600));
    site.program(NIGHT).backup();
    assert_eq!(site.calls().len(), 2, "once more, and then not again");

    // nobody gives others
    site.write("config", &site.helper(&format!("echo '{stale}'; exit"), 3600));
    let outcome = site.program(NIGHT).run(&["backup"]).expect_code(3).expect_message("InvalidAccessKeyId");
    assert!(!outcome.stderr.contains("canary"), "{}", outcome.stderr);
}

#[test]
fn what_is_wrong_with_a_profile_is_said() {
    let site = Site::new();
    let backstay = site.program(NIGHT);
    let fails = |texts: [&str; 2]| {
        let outcome = backstay.run(&["backup"]).expect_code(3);
        for text in [site.store.secret_key.as_str(), "canary"] {
            assert!(!outcome.stderr.contains(text), "{}", outcome.stderr);
        }
        texts.into_iter().fold(outcome, |outcome, text| outcome.expect_message(text));
    };
    fails(["there is no profile `night` in", "Check `profile`"]);
    site.write("config", "[profile night]\nsso_session = s\nsso_account_id = 1\n");
    fails(["the profile `night` signs in by SSO", "aws configure export-credentials --profile night --format process"]);
    site.write("config", "[profile night]\nrole_arn = r\nsource_profile = x\n");
    fails(["the profile `night` takes a role", "credential_process = aws configure export-credentials"]);
    site.write("config", "[profile night]\nregion = x\n");
    fails(["has no `aws_access_key_id` or `credential_process`", "Correct the profile"]);
    site.write("config", "[profile night]\ncredential_process = no-such-program x\n");
    fails(["there is no program `no-such-program`", "its whole path"]);
    site.write("config", "[profile night]\ncredential_process = sh -c 'x\n");
    fails(["a quote in it does not end", "Correct the profile"]);
    site.write("config", &site.helper("echo 'canary' >&2; echo 'sign in first' >&2; exit 4", 3600));
    fails(["(exit status: 4): sign in first", "Run the command by hand"]);
    site.write("config", &site.helper("echo 'it was KEYkey0123456789KEYkey0123456789, alas' >&2; exit 4", 3600));
    fails(["it was ***, alas", "Run the command by hand"]);
    site.write("config", &site.helper("echo canary; exit 0", 3600));
    fails(["holds no credentials: it is no JSON object", "Run the command by hand"]);
    assert_ne!(backstay.run(&["listbackups"]).code, Some(0));
    backstay.run(&["check"]).expect_code(3);
}

#[test]
fn the_profile_of_the_environment_never_takes_the_place_of_keys() {
    let site = Site::new();
    site.write("credentials", &format!("[everyday]\n{}", site.keys()));
    site.program("").env("AWS_PROFILE", "everyday").backup();
    let keys = format!("access_key_id = \"{}\"\nsecret_access_key = \"{}\"\n", site.store.access_key, site.store.secret_key);
    site.program(&keys).env("AWS_PROFILE", "nobody").backup();
    let by_environment =
        site.program("").env("AWS_ACCESS_KEY_ID", &site.store.access_key).env("AWS_SECRET_ACCESS_KEY", &site.store.secret_key);
    by_environment.env("AWS_PROFILE", "nobody").backup();
}
