//! Encrypted backups: who can read them, with this program and with stock tools, and who cannot.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::site::Site;
use crate::support::process::run;
use crate::support::{Backstay, Keyspace, Major, Redis, Scratch, Seaweed, Tree, Version, assert_same_keys, assert_same_tree, toml};

/// An identity file, and the public key in it.
struct Key {
    path: PathBuf,
    public: String,
}

impl Key {
    /// Made by the program.
    fn make(place: &Scratch, name: &str) -> Self {
        let path = place.join(name);
        let public = Backstay::new("").succeed(&["keygen", "--output", &path.display().to_string()]).stdout.trim().to_owned();
        Self { path, public }
    }

    /// Whoever holds it encrypts nothing.
    fn only(&self) -> String {
        format!("[encryption]\n{}", self.line())
    }

    fn line(&self) -> String {
        format!("identity_file = {}\n", toml::quoted(self.path.display().to_string()))
    }
}

fn to(keys: &[&Key]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| toml::quoted(&key.public)).collect();
    format!("[encryption]\nrecipients = [{}]\n", keys.join(", "))
}

/// The stored files of a backup, but for `manifest.json` and `SHA256SUMS`.
fn artifacts(backup: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(backup).expect("a backup").map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir());
    folders.flat_map(|folder| std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path())).collect()
}

fn manifest(backup: &Path) -> (String, Value) {
    let text = std::fs::read_to_string(backup.join("manifest.json")).expect("a manifest");
    (text.clone(), serde_json::from_str(&text).expect("JSON"))
}

/// By tools that know nothing of the program.
fn stock(dir: &Path, script: &str) {
    run(Command::new("bash").args(["-e", "-o", "pipefail", "-c", script]).current_dir(dir));
}

#[test]
fn everything_comes_back_from_both_targets_by_either_identity_and_by_stock_tools() {
    let (place, store, seaweed) = (Scratch::new(), Scratch::new(), Seaweed::start());
    let (ours, escrow) = (Key::make(&place, "ours"), Key::make(&place, "escrow"));
    let site = Site::filled(Major::V17, Version::V7_0);
    let before = site.state();
    let targets = [toml::file_target("local", &store.join("backups")), toml::s3_target("s3", &seaweed, Seaweed::BUCKET)].concat();
    let config = |extra: &str| format!("{}{targets}{}{extra}", site.components(), to(&[&ours, &escrow]));
    // the host that is backed up holds no identity
    let backstay = Backstay::new(&config(""));
    let name = backstay.backup();

    let backup = store.join("backups").join(&name);
    let files = artifacts(&backup);
    assert!(files.len() >= 6, "with fingerprints, which tell of the content: {files:?}");
    for file in &files {
        assert!(file.display().to_string().ends_with(".gz.age"), "{}", file.display());
        assert!(std::fs::read(file).expect("read").starts_with(b"age-encryption.org/v1\n"), "{}", file.display());
    }
    let (text, manifest) = manifest(&backup);
    assert_eq!((&manifest["format"], &manifest["recipients"]), (&json!(2), &json!([ours.public, escrow.public])));
    assert!(!text.contains("\"fingerprint\":"), "what tells of the content is encrypted: {text}");

    // by stock tools, with the one and with the other
    let keys = [ours.path.display().to_string(), escrow.path.display().to_string()];
    stock(&backup, "sha256sum --check --quiet SHA256SUMS");
    let (data, tree) = (Scratch::new(), Scratch::new());
    let rdb = data.join("dump.rdb").display().to_string();
    stock(&backup, &format!("age -d -i {} redis/dump.rdb.gz.age | gunzip > {rdb}", keys[0]));
    assert_same_keys(&Keyspace::of(&site.redis), &Keyspace::of(&Redis::start_in(Version::V7_0, data, &[])));
    let unpack = "tar -x -p --numeric-owner --xattrs --xattrs-include='*' --acls";
    stock(&backup, &format!("age -d -i {} media/media.tar.gz.age | gunzip | {unpack} -C {}", keys[1], tree.path().display()));
    assert_same_tree(&Tree::of(&site.files.join("media")), &Tree::of(tree.path()));
    let dump = place.join("app.dump");
    stock(&backup, &format!("age -d -i {} postgres/app.dump.gz.age | gunzip > {}", keys[1], dump.display()));
    site.postgres.create_database("stock");
    run(site.postgres.client("pg_restore", "stock").args(["--exit-on-error", "--dbname=stock"]).arg(&dump));
    site.postgres.psql("DROP DATABASE stock");

    for (key, target) in [(&ours, "local"), (&escrow, "s3")] {
        site.change();
        backstay.configure(&config(&key.line()));
        backstay.succeed(&["restore", &name, "--target", target, "--yes", "--no-safety-backup"]);
        site.assert_is(&before);
    }
    // the safety backup is as secret as what it replaces
    site.change();
    backstay.succeed(&["restore", &name, "--target", "local", "--yes"]);
    let listed = backstay.succeed(&["listbackups", "--json"]).json();
    let safety = listed.as_array().expect("a list").iter().find(|b| b["name"] != json!(name)).expect("a safety backup")["name"].clone();
    let safety = store.join("backups").join(safety.as_str().expect("a name"));
    assert!(artifacts(&safety).iter().all(|file| file.extension().is_some_and(|e| e == "age")));
    site.assert_is(&before);

    // an export is plain, and says so
    let out = Scratch::new();
    backstay.succeed(&["export", &name, &out.join("plain").display().to_string()]);
    stock(&out.join("plain"), "sha256sum --check --quiet SHA256SUMS && tar -tf media/media.tar >/dev/null && test -f redis/dump.rdb");
    assert!(std::fs::read_to_string(out.join("plain/RESTORE.md")).expect("read").contains("these files are not any more"));
    // and so is a drill
    backstay.succeed(&["verify", "--drill", &name, "--target", "s3"]);
}

/// A small site of one directory: what is asked is who may read.
struct Small {
    files: Scratch,
    store: Scratch,
    backstay: Backstay,
}

impl Small {
    fn new(encryption: &str) -> Self {
        let (files, store) = (Scratch::new(), Scratch::new());
        files.write("media/secret.txt", "the content of the only file");
        let small = Self { files, store, backstay: Backstay::new("") };
        small.configure(encryption);
        small
    }

    fn configure(&self, encryption: &str) {
        let config = [toml::directory("media", &self.files.join("media")), toml::file_target("local", &self.store.join("backups"))];
        self.backstay
            .configure(&format!("{}[jobs.default]\ncomponents = [\"media\"]\ntargets = [\"local\"]\n{encryption}", config.concat()));
    }

    fn backup(&self, name: &str) -> PathBuf {
        self.store.join("backups").join(name)
    }

    fn verify(&self, name: &str) -> (i32, Value) {
        let outcome = self.backstay.run(&["verify", name, "--json"]);
        (outcome.code.unwrap_or(-1), outcome.json())
    }

    fn listed(&self) -> Value {
        self.backstay.succeed(&["listbackups", "--json"]).json()[0].clone()
    }

    fn content(&self) -> String {
        std::fs::read_to_string(self.files.join("media/secret.txt")).expect("read")
    }
}

#[test]
fn without_the_right_identity_nothing_is_touched() {
    let place = Scratch::new();
    let (right, wrong) = (Key::make(&place, "right"), Key::make(&place, "wrong"));
    let small = Small::new(&to(&[&right]));
    let name = small.backstay.backup();
    small.files.write("media/secret.txt", "changed");
    let tree = Tree::of(small.files.path());
    let out = place.join("out").display().to_string();
    let missing = "identity_file = \"/nonexistent/key\"\n";
    for (identity, says) in [
        (String::new(), format!("it is encrypted to {}, and there is nothing here to decrypt it with", right.public)),
        (wrong.line(), format!("it is encrypted to {}, and none of the keys here is one of these", right.public)),
        (missing.to_owned(), "read identity file /nonexistent/key".to_owned()),
    ] {
        small.configure(&format!("{}{identity}", to(&[&right])));
        for command in [&["restore", &name, "--yes"][..], &["export", &name, &out], &["verify", "--drill", &name]] {
            small.backstay.run(command).expect_code(78).expect_message(&says);
        }
    }
    assert_same_tree(&tree, &Tree::of(small.files.path()));
    assert!(!place.join("out").exists());
    assert_eq!(small.backstay.succeed(&["listbackups", "--json"]).json().as_array().map(Vec::len), Some(1), "no safety backup was made");

    // of several identities one fits, whatever else is in the file
    let both =
        format!("# ours\n\n{}{}", std::fs::read_to_string(&wrong.path).expect("read"), std::fs::read_to_string(&right.path).expect("read"));
    let both = Key { path: place.write("both", both), public: String::new() };
    small.configure(&both.only());
    small.backstay.succeed(&["restore", &name, "--yes", "--no-safety-backup"]).expect_message("chmod 600");
    assert_eq!(small.content(), "the content of the only file");
}

#[test]
fn a_verification_without_an_identity_says_so_and_does_not_count_as_one() {
    let place = Scratch::new();
    let (right, wrong) = (Key::make(&place, "right"), Key::make(&place, "wrong"));
    let small = Small::new(&to(&[&right]));
    let name = small.backstay.backup();
    let statuses = |answer: &Value| -> Vec<String> {
        let objects = answer[0]["objects"].as_array().expect("objects");
        objects.iter().map(|object| object["status"].as_str().unwrap_or_default().to_owned()).collect()
    };

    let (code, answer) = small.verify(&name);
    assert_eq!((code, &answer[0]["status"]), (0, &json!("intact")), "{answer}");
    assert_eq!(statuses(&answer), ["intact", "intact", "sound"], "{answer}");
    small.backstay.succeed(&["verify", &name]).expect_message("only the stored bytes were compared");
    assert_eq!(small.listed()["verified"], Value::Null);

    small.configure(&right.only());
    let (code, answer) = small.verify(&name);
    assert_eq!((code, &answer[0]["status"]), (0, &json!("sound")), "{answer}");
    assert!(small.listed()["verified"].is_string());

    // what cannot be decrypted is not damaged: nobody should throw it away for that
    small.configure(&wrong.only());
    let (code, answer) = small.verify(&name);
    assert_eq!((code, &answer[0]["status"]), (3, &json!("unreadable")), "{answer}");

    // damage is found without an identity too, and with one
    let artifact = small.backup(&name).join("media/media.tar.gz.age");
    let sound = std::fs::read(&artifact).expect("read");
    let mut flipped = sound.clone();
    flipped[sound.len() - 20] ^= 1;
    for damaged in [flipped, sound[..sound.len() - 1].to_vec()] {
        std::fs::write(&artifact, damaged).expect("damaged");
        for identity in [String::new(), right.line(), wrong.line()] {
            small.configure(&format!("{}{identity}", to(&[&right])));
            assert_eq!((small.verify(&name).0, &small.listed()["status"]), (12, &json!("damaged")), "{identity}");
        }
        small.configure(&right.only());
        small.files.write("media/secret.txt", "changed");
        small.backstay.run(&["restore", &name, "--yes", "--no-safety-backup"]).expect_code(12);
        assert_eq!(small.content(), "changed");
    }
}

#[test]
fn a_passphrase_encrypts_and_decrypts_and_stays_secret() {
    let place = Scratch::new();
    let passphrase = "correct horse battery staple";
    let secret = place.write("passphrase", format!("{passphrase}\n")).display().to_string();
    let small = Small::new(&format!("[encryption]\npassphrase = \"file://{secret}\"\n"));
    let name = small.backstay.backup();
    let artifact = std::fs::read(small.backup(&name).join("media/media.tar.gz.age")).expect("read");
    let header = String::from_utf8_lossy(&artifact[..100]).into_owned();
    let work = header.lines().nth(1).expect("a recipient");
    assert!(work.starts_with("-> scrypt ") && work.ends_with(" 15"), "{work}");
    assert!(!manifest(&small.backup(&name)).0.contains(passphrase));

    small.files.write("media/secret.txt", "changed");
    std::fs::write(&secret, "wrong").expect("written");
    small.backstay.run(&["restore", &name, "--yes"]).expect_code(78).expect_message("it is encrypted with a passphrase");
    std::fs::write(&secret, "").expect("written");
    small.backstay.run(&["backup"]).expect_code(78).expect_message("`encryption.passphrase` is empty");
    std::fs::remove_file(&secret).expect("removed");
    small.backstay.run(&["backup"]).expect_code(78).expect_message("read the passphrase");
    assert_eq!(
        small.backstay.succeed(&["listbackups", "--json"]).json().as_array().map(Vec::len),
        Some(1),
        "nothing was stored in the clear"
    );
    std::fs::write(&secret, passphrase).expect("written");
    small.backstay.succeed(&["restore", &name, "--yes"]);
    assert_eq!(small.content(), "the content of the only file");
    let said = small.backstay.succeed(&["config", "show"]);
    assert!(!said.stdout.contains(passphrase), "{}", said.stdout);
}

#[test]
fn a_key_is_made_for_its_owner_and_never_over_another() {
    let place = Scratch::new();
    let key = Key::make(&place, "key");
    let text = std::fs::read_to_string(&key.path).expect("read");
    assert_eq!(std::fs::metadata(&key.path).expect("a file").permissions().mode() & 0o777, 0o600);
    assert!(text.contains(&format!("# public key: {}\n", key.public)) && text.contains("\nAGE-SECRET-KEY-1"), "{text}");
    let path = key.path.display().to_string();
    let derived = String::from_utf8(run(Command::new("age-keygen").args(["-y", &path]))).expect("a key");
    assert_eq!(derived.trim(), key.public, "stock age-keygen reads it");

    let program = Backstay::new("");
    let refused = program.run(&["keygen", "-o", &path]).expect_code(2).expect_message("never overwritten");
    assert_eq!((refused.stdout.as_str(), std::fs::read_to_string(&key.path).expect("read")), ("", text));
    let said = program.succeed(&["keygen"]);
    assert!(
        said.stdout.lines().any(|line| line.starts_with("AGE-SECRET-KEY-1")) && !said.stderr.contains("AGE-SECRET-KEY-1Q"),
        "{}",
        said.stderr
    );
}

#[test]
fn check_says_who_could_read_the_backups_and_what_a_drill_lacks() {
    let place = Scratch::new();
    let (ours, escrow) = (Key::make(&place, "ours"), Key::make(&place, "escrow"));
    let small = Small::new("");
    let verdicts = |code: i32| -> Vec<(String, String)> {
        let answer = small.backstay.run(&["check", "--json"]).expect_code(code).json();
        let rows = answer.as_array().expect("rows").iter();
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        rows.map(|row| (text(row, "subject"), text(row, "verdict"))).filter(|(s, _)| s == "encryption" || s.starts_with("drill")).collect()
    };
    let row = |subject: &str, verdict: &str| (subject.to_owned(), verdict.to_owned());
    assert_eq!(verdicts(0), []);
    small.configure(&to(&[&ours, &escrow]));
    assert_eq!(verdicts(0), [row("encryption", "ok")]);
    small.configure(&format!("{}{}", to(&[&ours, &escrow]), ours.line()));
    assert_eq!(verdicts(0), [row("encryption", "warning")]);
    small.configure(&format!("drill = \"@weekly\"\n{}", to(&[&ours])));
    assert_eq!(verdicts(3), [row("encryption", "ok"), row("drill of default", "FAILED")]);
    small.configure("[encryption]\nidentity_file = \"/nonexistent/key\"\n");
    assert_eq!(verdicts(3), [row("encryption", "FAILED")]);
}

/// Changes what a manifest says. Whoever can write to a target can make all checksums fit.
fn forge(backup: &Path) {
    let path = backup.join("manifest.json");
    let (text, _) = manifest(backup);
    let old = backstay::manifest::sha256_hex(text.as_bytes());
    let mut forged = text.replace("\"tool\": \"backstay ", "\"tool\": \"Backstay ");
    assert_ne!(forged, text);
    let mark = "\"integrity\": \"sha256:";
    let at = forged.find(mark).expect("a checksum") + mark.len();
    forged.replace_range(at..at + 64, &"0".repeat(64));
    let digits = backstay::manifest::sha256_hex(forged.as_bytes());
    forged.replace_range(at..at + 64, &digits);
    let sums = std::fs::read_to_string(backup.join("SHA256SUMS")).expect("read");
    std::fs::write(backup.join("SHA256SUMS"), sums.replace(&old, &backstay::manifest::sha256_hex(forged.as_bytes()))).expect("written");
    std::fs::write(path, forged).expect("written");
}

#[test]
fn a_backup_that_nobody_who_is_trusted_has_signed_is_refused_everywhere_and_touched_by_nothing() {
    let place = Scratch::new();
    let keygen = |name: &str| {
        let path = place.join(name).display().to_string();
        let public = Backstay::new("").succeed(&["keygen", "--signing", "--output", &path]).stdout.trim().to_owned();
        assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        (format!("signing_key = \"file://{path}\"\n"), format!("trusted_signers = [\"{public}\"]\n"))
    };
    let ((ours, trust), (theirs, _)) = (keygen("ours"), keygen("theirs"));
    let (all, one) = ("[encryption]\n", "keep_last = 1\n[encryption]\n");
    let small = Small::new(all);
    let unsigned = small.backstay.backup();
    small.configure(&format!("{all}{theirs}"));
    let stranger = small.backstay.backup();
    small.configure(&format!("{all}{ours}{trust}"));
    let forged = small.backstay.backup();
    small.backstay.succeed(&["verify", &forged]);
    forge(&small.backup(&forged));
    // retention neither counts the others nor removes them
    small.configure(&format!("{one}{ours}{trust}"));
    let (older, good) = (small.backstay.backup(), small.backstay.backup());
    let there: Vec<bool> = [&unsigned, &stranger, &forged, &older, &good].map(|name| small.backup(name).exists()).to_vec();
    assert_eq!(there, [true, true, true, false, true]);
    // signed, but not by whom it says, and newer than all
    small.configure(&format!("{all}{ours}{trust}"));
    let newest = small.backstay.backup();
    forge(&small.backup(&newest));
    small.configure(&format!("{one}{trust}"));
    small.files.write("media/secret.txt", "changed");
    let out = place.join("out").display().to_string();
    let refused = [
        (&unsigned, "is not signed"),
        (&stranger, "who is not among `encryption.trusted_signers`"),
        (&forged, "it was forged, or changed after it was signed"),
        (&newest, "it was forged, or changed after it was signed"),
    ];
    for (name, why) in refused {
        for command in [&["restore", name, "--yes"][..], &["export", name, &out], &["verify", name], &["verify", "--drill", name]] {
            small.backstay.run(command).expect_code(12).expect_message(why).expect_message("add that key to `encryption.trusted_signers`");
        }
        let listed = small.backstay.succeed(&["listbackups", "--json"]).json();
        let row = listed.as_array().expect("rows").iter().find(|row| row["name"] == json!(name)).expect("it is listed");
        assert_eq!((&row["status"], &row["untrusted_targets"]), (&json!("untrusted"), &json!(["local"])), "{row}");
    }
    assert_eq!((small.content().as_str(), place.join("out").exists()), ("changed", false));
    small.backstay.succeed(&["prune"]);
    assert!([&unsigned, &stranger, &forged, &good, &newest].iter().all(|name| small.backup(name).exists()));
    // the newest that is trusted is the latest
    small.backstay.succeed(&["restore", "latest", "--yes", "--no-safety-backup"]);
    assert_eq!(small.content(), "the content of the only file");
    // without a signature that is asked for, the forgery is a backup like any other
    small.configure("");
    for name in [&stranger, &forged, &newest] {
        small.backstay.succeed(&["verify", name]);
    }
}

#[test]
fn a_copy_needs_no_identity_and_keeps_the_signature() {
    let place = Scratch::new();
    let key = Key::make(&place, "key");
    let path = place.join("signing").display().to_string();
    let public = Backstay::new("").succeed(&["keygen", "--signing", "--output", &path]).stdout.trim().to_owned();
    let signing = format!("signing_key = \"file://{path}\"\n");
    let trust = format!("trusted_signers = [\"{public}\"]\n{}", toml::file_target("second", &place.join("second")));
    let small = Small::new(&format!("{}{trust}", to(&[&key])));
    let unsigned = small.backstay.backup();
    small.configure(&format!("{}{signing}{trust}", to(&[&key])));
    let signed = small.backstay.backup();
    let copy = |name: &str| small.backstay.run(&["copy", name, "--from", "local", "--to", "second"]);
    copy(&unsigned).expect_code(12).expect_message("is not signed");
    assert!(!place.join("second").join(&unsigned).join("manifest.json").exists());
    copy(&signed).expect_code(0);
    small.configure(&format!("{}{trust}", key.only()));
    small.files.write("media/secret.txt", "changed");
    small.backstay.succeed(&["restore", &signed, "--target", "second", "--yes", "--no-safety-backup"]);
    assert_eq!(small.content(), "the content of the only file");
}

#[test]
fn a_dump_of_old_that_nobody_can_have_signed_is_refused_where_signatures_are_asked_for() {
    let small = Small::new(&format!("[encryption]\ntrusted_signers = [\"ed25519:{}\"]\n", "d75a980182b10ab7".repeat(4)));
    let dump = "authentik-backup-2021-10-03-115557.sql";
    std::fs::create_dir_all(small.store.join("backups")).expect("a directory");
    std::fs::write(small.store.join("backups").join(dump), "-- PostgreSQL database dump\n").expect("written");
    let listed = small.listed();
    let name = listed["name"].as_str().expect("a dump").to_owned();
    small.backstay.run(&["restore", &name, "--yes"]).expect_code(12).expect_message("has no manifest that could be signed");
}

/// What was made before encryption was turned on, after it was turned off, and to a key that was replaced.
#[test]
fn old_backups_stay_readable_by_whoever_could_read_them() {
    let place = Scratch::new();
    let (old, new) = (Key::make(&place, "old"), Key::make(&place, "new"));
    let small = Small::new("");
    let mut names = Vec::new();
    for encryption in [String::new(), to(&[&old]), to(&[&old, &new]), to(&[&new]), String::new()] {
        small.configure(&encryption);
        small.files.write("media/secret.txt", format!("content {}", names.len()));
        names.push(small.backstay.backup());
    }
    for (identity, readable) in [
        (String::new(), [true, false, false, false, true]),
        (old.line(), [true, true, true, false, true]),
        (new.line(), [true, false, true, true, true]),
    ] {
        small.configure(&format!("{}{identity}", to(&[&new])));
        for (at, (name, readable)) in names.iter().zip(readable).enumerate() {
            let outcome = small.backstay.run(&["restore", name, "--yes", "--no-safety-backup"]);
            outcome.expect_code(if readable { 0 } else { 78 });
            if readable {
                assert_eq!(small.content(), format!("content {at}"));
            }
        }
    }
}
