//! `verify` finds every damage and nothing else; `export` writes what stock tools restore.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::site::{Site, program};
use crate::support::process::{output, run};
use crate::support::{Backstay, Major, Scratch, Seaweed, Tree, Version, assert_same_tree, toml};

/// Every object of a backup but its manifest.
fn objects(backup: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(backup).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(objects(&path));
        } else if path.file_name().is_some_and(|n| n != "manifest.json") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn status(backstay: &Backstay, args: &[&str]) -> (i32, serde_json::Value) {
    let outcome = backstay.run(&[&["verify", "--json"], args].concat());
    (outcome.code.unwrap_or(-1), outcome.json())
}

#[test]
fn every_object_that_is_damaged_cut_or_missing_is_found_and_remembered() {
    let (site, store) = (Site::filled(Major::V15, Version::V7_0), Scratch::new());
    let backstay = program(&site, &toml::file_target("local", &store.join("backups")));
    let name = backstay.backup();
    let backup = store.join("backups").join(&name);

    let (code, answer) = status(&backstay, &["latest"]);
    assert_eq!((code, &answer[0]["status"]), (0, &json!("sound")), "{answer}");
    let list = backstay.succeed(&["listbackups", "--json"]).json();
    assert!(list[0]["verified"].is_string(), "{list}");

    let objects = objects(&backup);
    assert!(objects.len() > 4, "{objects:?}");
    for object in objects {
        let sound = std::fs::read(&object).expect("read");
        let mut flipped = sound.clone();
        flipped[sound.len() / 2] ^= 1;
        for damaged in [Some(flipped), Some(sound[..sound.len() - 1].to_vec()), None] {
            match &damaged {
                Some(bytes) => std::fs::write(&object, bytes).expect("damaged"),
                None => std::fs::remove_file(&object).expect("removed"),
            }
            let (code, answer) = status(&backstay, &[&name]);
            let path = object.strip_prefix(&backup).expect("below").to_string_lossy().into_owned();
            let damage = answer[0]["damage"].to_string();
            assert!(code == 12 && answer[0]["status"] == "damaged" && damage.contains(&path), "{path}: {code} {answer}");
            // whatever the bytes look like, they are not those that were written
            assert!(!damage.contains("as it was written"), "{answer}");
            // one damage, one finding
            assert_eq!(answer[0]["damage"].as_array().map(Vec::len), Some(1), "{answer}");
        }
        let list = backstay.succeed(&["listbackups", "--json"]).json();
        assert_eq!((&list[0]["status"], &list[0]["damaged_targets"]), (&json!("damaged"), &json!(["local"])), "{list}");
        std::fs::write(&object, sound).expect("healed");
    }
    assert_eq!(status(&backstay, &["--all"]).0, 0);
    assert_eq!(backstay.succeed(&["listbackups", "--json"]).json()[0]["status"], "complete");
}

#[test]
fn a_damaged_manifest_and_a_backup_that_does_not_exist_are_told_apart() {
    let (source, store) = (Scratch::new(), Scratch::new());
    source.write("media/a", "content");
    let config = [toml::directory("media", &source.join("media")), toml::file_target("local", &store.join("backups"))];
    let backstay = Backstay::new(&config.concat());
    let name = backstay.backup();
    backstay.run(&["verify", "default-2020-01-01-000000"]).expect_code(10);
    backstay.run(&["verify", "nonsense"]).expect_code(10);
    backstay.run(&["verify"]).expect_code(2);
    let manifest = store.join("backups").join(&name).join("manifest.json");
    let text = std::fs::read_to_string(&manifest).expect("read").replace("\"content", "\"Content").replacen("media", "medja", 1);
    std::fs::write(&manifest, text).expect("damaged");
    assert_eq!(status(&backstay, &[&name]).0, 12);
    assert_eq!(status(&backstay, &["--all"]).0, 12);
}

#[test]
fn verdicts_are_kept_for_each_copy_and_go_with_the_backup() {
    let (source, store, seaweed) = (Scratch::new(), Scratch::new(), Seaweed::start());
    source.write("media/a", "content");
    let targets = [toml::s3_target("offsite", &seaweed, Seaweed::BUCKET), toml::file_target("local", &store.join("backups"))].concat();
    let keep = "[jobs.default]\nkeep_last = 1\n";
    let backstay = Backstay::new(&[&toml::directory("media", &source.join("media")), &targets, keep].concat());
    let first = backstay.backup();
    let artifact = store.join("backups").join(&first).join("media/media.tar.gz");
    std::fs::write(&artifact, "not a tar").expect("damaged");
    let (code, answer) = status(&backstay, &[&first]);
    let found: Vec<_> = answer.as_array().expect("an array").iter().map(|r| (&r["target"], &r["status"])).collect();
    assert_eq!((code, found.len()), (12, 2), "{answer}");
    assert!(found.contains(&(&json!("offsite"), &json!("sound"))) && found.contains(&(&json!("local"), &json!("damaged"))), "{answer}");
    let list = backstay.succeed(&["listbackups", "--json"]).json();
    assert!(list[0]["verified"].is_string() && list[0]["damaged_targets"] == json!(["local"]), "{list}");
    assert_eq!(status(&backstay, &[&first, "--target", "offsite"]).0, 0);

    assert!(store.join("backups/.backstay/verified").join(&first).exists());
    backstay.backup();
    assert!(!store.join("backups/.backstay/verified").join(&first).exists(), "removed with its backup");
}

#[test]
fn an_export_is_plain_files_whose_commands_restore_them() {
    let (site, store, out) = (Site::filled(Major::V16, Version::V7_0), Scratch::new(), Scratch::new());
    let target = format!("{}[jobs.default]\ncompression = \"zstd\"\n", toml::file_target("local", &store.join("backups")));
    let backstay = program(&site, &target);
    let name = backstay.backup();
    let folder = out.join("plain");
    let folder_text = folder.display().to_string();
    backstay.succeed(&["export", &name, &folder_text]);

    run(std::process::Command::new("sha256sum").args(["-c", "--strict", "SHA256SUMS"]).current_dir(&folder));
    let text = std::fs::read_to_string(folder.join("RESTORE.md")).expect("instructions");
    // every file is named by a command
    for object in objects(&folder) {
        let path = object.strip_prefix(&folder).expect("below").to_string_lossy().into_owned();
        assert!(path == "SHA256SUMS" || path == "RESTORE.md" || text.contains(&path), "{path} is not in\n{text}");
    }
    // the tar command as it is printed, but for where the tree goes
    let tree = PathBuf::from(text.lines().find_map(|l| l.strip_prefix("mkdir ")?.strip_suffix(".new")).expect("a directory"));
    let line = text.lines().find(|l| l.starts_with("tar -x")).expect("a tar command");
    let to = out.join("tree");
    std::fs::create_dir(&to).expect("made");
    let line = line.replace(&format!("{}.new", tree.display()), &to.display().to_string());
    run(std::process::Command::new("sh").args(["-ec", &line]).current_dir(&folder));
    assert_same_tree(&Tree::of(&tree), &Tree::of(&to));
    // and the dump, into a server
    let dump = objects(&folder).into_iter().find(|p| p.extension().is_some_and(|e| e == "dump")).expect("a dump");
    site.postgres.create_database("exported");
    let status =
        output(site.postgres.client("pg_restore", "exported").args(["--exit-on-error", "-j", "2", "-d", "exported"]).arg(dump)).status;
    assert!(status.success());

    backstay.run(&["export", &name, &folder_text]).expect_code(2).expect_message("not empty");
    std::fs::write(store.join("backups").join(&name).join("media/media.tar.zst"), "damaged").expect("damaged");
    let second = out.join("second");
    backstay.run(&["export", &name, &second.display().to_string()]).expect_code(12);
    assert!(!second.exists(), "nothing is left");
}
