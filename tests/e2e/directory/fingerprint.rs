//! What a backup notes of a tree, and what a restore makes of it.

use std::os::unix::fs::MetadataExt;

use backstay::component::Detail;
use serde_json::Value;

use super::*;
use crate::support::process::run;
use crate::support::scratch::Unprivileged;
use crate::support::{Backstay, Scratch, toml};

/// A rich tree in a scratch directory, and what was taken of it.
async fn rich() -> (Scratch, Taken) {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.join("tree")).expect("created");
    fill(&scratch.join("tree"));
    let taken = take(options(&scratch.join("tree"))).await.expect("read");
    (scratch, taken)
}

async fn noted(root: &Path, fingerprint: Detail) -> Value {
    take(DirectoryOptions { fingerprint, ..options(root) }).await.expect("read").fingerprint.unwrap_or_default()
}

/// The differences for which a restore was given up. What was in its way is still there, and nothing else.
async fn differs(part: &StoredComponent, scratch: &Scratch) -> Vec<String> {
    scratch.write("to/place/old", "old");
    let result = stage(part, &scratch.join("to/place"), false).await;
    assert_eq!(names(&scratch.join("to")), ["place"], "the new tree is gone");
    assert_eq!(names(&scratch.join("to/place")), ["old"]);
    match result.map(drop) {
        Err(ComponentError::Differs(differences)) => differences,
        other => panic!("it is not what was backed up: {other:?}"),
    }
}

#[tokio::test]
async fn a_restored_tree_is_compared_with_what_was_noted() {
    let (scratch, taken) = rich().await;
    let restored = restore(&stored(&taken), &scratch.join("to")).await;
    let compared = restored.done.iter().find(|line| line.starts_with("compared with")).expect("compared");
    let noted = taken.fingerprint.as_ref().expect("noted");
    let files = format!(": {} files, {} directories", noted["files"], noted["directories"]);
    assert!(compared.contains(&files) && compared.ends_with(" bytes"), "{compared}");
    // what a backup of the restored tree notes is the same again
    assert_eq!(take(options(&scratch.join("to"))).await.expect("read").fingerprint, taken.fingerprint);
}

#[tokio::test]
async fn where_holes_are_does_not_matter() {
    let scratch = Scratch::new();
    let content = [vec![0; 1 << 20], noise(5000), vec![0; 3 << 20]].concat();
    scratch.write("tree/file", &content);
    let file = std::fs::File::create(scratch.join("tree/sparse")).expect("created");
    std::os::unix::fs::FileExt::write_all_at(&file, &content[1 << 20..(1 << 20) + 5000], 1 << 20).expect("written");
    file.set_len(content.len() as u64).expect("a hole at its end");
    drop(file);
    let whole = Scratch::new();
    for name in ["file", "sparse"] {
        whole.write(format!("tree/{name}"), &content);
    }
    for path in ["tree/file", "tree/sparse", "tree"] {
        set_time(&scratch.join(path), 1_000_000_000, 5);
        set_time(&whole.join(path), 1_000_000_000, 5);
    }
    assert_eq!(noted(&scratch.join("tree"), Detail::Full).await, noted(&whole.join("tree"), Detail::Full).await);
}

#[tokio::test]
async fn every_difference_of_a_tree_changes_its_fingerprint() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 12] = [
        ("a byte", |tree| std::fs::write(tree.join("a"), "B").expect("written")),
        ("a name", |tree| std::fs::rename(tree.join("a"), tree.join("c")).expect("renamed")),
        ("a length", |tree| std::fs::write(tree.join("a"), "AA").expect("written")),
        ("an entry more", |tree| std::fs::create_dir(tree.join("d/new")).expect("created")),
        ("an entry less", |tree| std::fs::remove_file(tree.join("b")).expect("removed")),
        ("a mode", |tree| chmod(&tree.join("d"), 0o700)),
        ("an owner", |tree| lchown(tree.join("a"), Some(1234), None).expect("chown")),
        ("a time", |tree| set_time(&tree.join("a"), 1_000_000_000, 6)),
        ("an attribute", |tree| attribute(&tree.join("a"), "user.note", b"other")),
        ("an ACL", |tree| attribute(&tree.join("a"), "system.posix_acl_access", &acl())),
        ("where a link leads", |tree| {
            std::fs::remove_file(tree.join("link")).expect("removed");
            symlink("b", tree.join("link")).expect("a link");
        }),
        ("a second name", |tree| {
            std::fs::remove_file(tree.join("d/again")).expect("removed");
            std::fs::write(tree.join("d/again"), "A").expect("written");
        }),
    ];
    let mut seen = Vec::new();
    for (what, change) in [("nothing", (|_| {}) as fn(&Path)), ("nothing", |_| {})].into_iter().chain(changes) {
        let scratch = Scratch::new();
        let tree = scratch.join("tree");
        scratch.write("tree/a", "A");
        scratch.write("tree/b", "A");
        std::fs::create_dir(tree.join("d")).expect("created");
        std::fs::hard_link(tree.join("a"), tree.join("d/again")).expect("linked");
        symlink("a", tree.join("link")).expect("a link");
        attribute(&tree.join("a"), "user.note", b"one");
        let settle =
            || ["a", "b", "c", "d/again", "d/new", "link", "d", ""].iter().filter(|path| tree.join(path).symlink_metadata().is_ok());
        for path in settle() {
            set_time(&tree.join(path), 1_000_000_000, 5);
        }
        change(&tree);
        for path in settle().filter(|_| what != "a time") {
            set_time(&tree.join(path), 1_000_000_000, 5);
        }
        let noted = noted(&tree, Detail::Full).await;
        match what {
            "nothing" => assert!(seen.is_empty() || seen.contains(&noted), "{noted}"),
            _ => assert!(!seen.contains(&noted), "{what}: {noted}"),
        }
        seen.push(noted);
    }
}

#[tokio::test]
async fn what_is_not_what_was_noted_is_never_switched_in() {
    let (scratch, mut taken) = rich().await;
    let other = Scratch::new();
    other.write("tree/file", "x");
    let foreign = take(options(&other.join("tree"))).await.expect("read");
    let own = std::mem::replace(&mut taken.fingerprint, foreign.fingerprint.clone());
    let told = differs(&stored(&taken), &scratch).await;
    assert!(told[0].starts_with("the archive was unpacked as it is, and holds ") && told[0].contains("1 file, 1 directory"), "{told:?}");
    // the same counts, and another content
    let mut wrong = own.expect("noted");
    wrong["contents"] = foreign.fingerprint.expect("noted")["contents"].clone();
    taken.fingerprint = Some(wrong.clone());
    let told = differs(&stored(&taken), &scratch).await;
    assert!(told[0].contains("other contents or attributes than were noted"), "{told:?}");
    // of which a count knows nothing
    for sum in ["contents", "attributes"] {
        wrong.as_object_mut().expect("an object").remove(sum);
    }
    taken.fingerprint = Some(wrong.clone());
    assert!(restore(&stored(&taken), &scratch.join("counted")).await.done[1].ends_with("counted only"));
    wrong["bytes"] = 1.into();
    taken.fingerprint = Some(wrong);
    differs(&stored(&taken), &scratch).await;
}

/// Gives one stream after the other, as if the archive had changed since it was unpacked.
fn changing(first: Vec<u8>, then: Vec<u8>, fingerprint: Option<Value>) -> StoredComponent {
    let mut streams = std::collections::VecDeque::from([first]);
    let streams = std::sync::Mutex::new({
        streams.push_back(then);
        streams
    });
    let mut stored = stored_as(0, Facts::new(), move || {
        let mut streams = streams.lock().expect("no test panics with it");
        let bytes = if streams.len() > 1 { streams.pop_front().expect("two") } else { streams[0].clone() };
        Box::new(io::Cursor::new(bytes))
    });
    stored.component.fingerprint = fingerprint;
    stored
}

#[tokio::test]
async fn entries_that_differ_are_named() {
    let tree = |content: &'static str| async move {
        let scratch = Scratch::new();
        for n in 0..8 {
            scratch.write(format!("tree/same-{n}"), "x");
        }
        scratch.write("tree/d/file", content);
        for n in 0..content.len() {
            scratch.write(format!("tree/d/only-{n}"), "x");
        }
        chmod(&scratch.join("tree/same-1"), if content.len() > 1 { 0o600 } else { 0o644 });
        for path in ["tree/d", "tree"] {
            set_time(&scratch.join(path), 1_000_000_000, 0);
        }
        for n in 0..8 {
            set_time(&scratch.join(format!("tree/same-{n}")), 1_000_000_000, 0);
        }
        take(options(&scratch.join("tree"))).await.expect("read")
    };
    let (one, other) = (tree("1").await, tree("22").await);
    let scratch = Scratch::new();
    // what lies on the disk is `one`; the backup is `other`
    let told = differs(&changing(one.tar, other.tar, other.fingerprint), &scratch).await;
    let expected = ["`d/file` has 1 bytes in place of 2", "`d/only-1` is missing", "`same-1` has mode 0644 in place of 0600"];
    assert!(expected.iter().all(|line| told.iter().any(|told| told == line)), "{told:?}");
}

#[tokio::test]
async fn more_differences_than_are_named_are_counted() {
    let scratch = Scratch::new();
    for n in 0..9 {
        scratch.write(format!("tree/{n}"), "x");
    }
    let many = take(options(&scratch.join("tree"))).await.expect("read");
    for n in 1..9 {
        std::fs::remove_file(scratch.join(format!("tree/{n}"))).expect("removed");
    }
    let few = take(options(&scratch.join("tree"))).await.expect("read");
    let told = differs(&changing(many.tar.clone(), few.tar.clone(), few.fingerprint.clone()), &scratch).await;
    assert_eq!((told.len(), told.last().map(String::as_str)), (6, Some("and 4 more")), "{told:?}");
    assert!(told[1].ends_with("is not in the backup"), "{told:?}");
    let told = differs(&changing(few.tar, many.tar, many.fingerprint), &scratch).await;
    assert!(told[1].ends_with("is missing"), "{told:?}");
}

#[tokio::test]
async fn backups_without_a_fingerprint_and_with_a_later_one_are_restored() {
    let scratch = Scratch::new();
    scratch.write("tree/file", "x");
    let off = take(DirectoryOptions { fingerprint: Detail::Off, ..options(&scratch.join("tree")) }).await.expect("read");
    assert_eq!(off.fingerprint, None);
    let restored = restore(&stored(&off), &scratch.join("to")).await;
    assert!(restored.done.iter().any(|line| line.contains("holds no fingerprint")), "{restored:?}");
    let later = Taken { fingerprint: Some(serde_json::json!({"version": 2})), ..off };
    let restored = restore(&stored(&later), &scratch.join("to")).await;
    assert!(restored.done.iter().any(|line| line.contains("not known here")), "{restored:?}");
    let bad = Taken { fingerprint: Some(serde_json::json!({"version": 1, "files": -1})), ..later };
    let refused = stage(&stored(&bad), &scratch.join("to"), false).await.map(drop).expect_err("no fingerprint");
    assert!(matches!(refused, ComponentError::Fingerprint(_)), "{refused:?}");
}

#[tokio::test]
async fn a_file_that_changes_is_noted_as_it_was_stored() {
    let scratch = Scratch::new();
    scratch.write("tree/a", noise(4 << 20));
    scratch.write("tree/b", noise(4 << 20));
    let run = RunContext::default();
    let mut stream = open(options(&scratch.join("tree")), &run).await.expect("opened");
    let mut tar = vec![0; 1 << 20];
    stream.read_exact(&mut tar).await.expect("begun");
    // the walk is a few chunks ahead, in the middle of `a`: one file shrinks and one grows
    std::fs::File::options().write(true).open(scratch.join("tree/a")).and_then(|file| file.set_len(100)).expect("cut");
    scratch.write("tree/b", noise(5 << 20));
    stream.read_to_end(&mut tar).await.expect("read");
    let (facts, warnings) = run.notes.take();
    assert!(warnings.iter().any(|line| line.contains("shrank")), "{warnings:?}");
    let taken = Taken { tar, facts, warnings, fingerprint: run.notes.take_fingerprint() };
    let restored = restore(&stored(&taken), &scratch.join("to")).await;
    assert!(restored.done.iter().any(|line| line.starts_with("compared with")), "{restored:?}");
}

#[test]
fn what_an_ordinary_user_may_not_set_is_no_difference() {
    let (source, site) = (Scratch::new(), Scratch::unprivileged());
    std::fs::create_dir(source.join("tree")).expect("created");
    fill(&source.join("tree"));
    let target = toml::file_target("local", &site.join("backups"));
    let backstay = Backstay::new(&[toml::directory("media", &source.join("tree")), target.clone()].concat());
    let name = backstay.backup();
    let mine = Unprivileged::get().expect("the tree can be filled by root only");
    let owner = format!("{}:{}", mine.uid, mine.gid);
    run(std::process::Command::new("chown").arg("-R").arg(owner).arg(site.path()));
    let place = site.join("to");
    let config = site.write("backstay.toml", [toml::directory("media", &place), target].concat());
    let mut restore = Unprivileged::command(env!("CARGO_BIN_EXE_backstay"));
    restore.arg("--config").arg(&config).args(["restore", "--yes", &name]).env("TMPDIR", site.path()).current_dir(site.path());
    let said = restore.output().expect("run backstay");
    let said = [said.stdout, said.stderr].map(|text| String::from_utf8(text).expect("UTF-8")).concat();
    for part in ["could not be set", "only root may create a device", "compared with the backup's fingerprint", "named in the warnings"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(std::fs::metadata(&place).map(|tree| tree.uid()).expect("restored"), mine.uid);
}
