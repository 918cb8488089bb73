//! Mounted volumes: their root cannot be renamed, and what is mounted inside a tree must not be deleted with it. These tests mount, so they
//! need root.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::support::{Mount, Scratch, Tree, assert_same_tree};

async fn taken(scratch: &Scratch) -> Taken {
    scratch.write("tree/new/file", "new");
    scratch.write("tree/both", "new");
    chmod(&scratch.join("tree"), 0o750);
    lchown(scratch.join("tree"), Some(21), Some(22)).expect("chown");
    set_time(&scratch.join("tree"), 1_000_000_000, 5);
    take(options(&scratch.join("tree"))).await.expect("read")
}

#[tokio::test]
async fn the_entries_of_a_mount_point_are_swapped() {
    let scratch = Scratch::new();
    let taken = taken(&scratch).await;
    let mount = Mount::new(scratch.join("volume"));
    scratch.write("volume/both", "old");
    scratch.write("volume/old/file", "old");
    let restored = restore(&stored(&taken), mount.path()).await;
    assert_same_tree(&Tree::of(&scratch.join("tree")), &Tree::of(mount.path()));
    assert_eq!(restored.warnings, Vec::<String>::new());
}

#[tokio::test]
async fn a_swap_is_undone() {
    let scratch = Scratch::new();
    let taken = taken(&scratch).await;
    let mount = Mount::new(scratch.join("volume"));
    scratch.write("volume/both", "old");
    scratch.write("volume/old/file", "old");
    set_time(mount.path(), 1_234_567, 8);
    for publish in [true, false] {
        let before = Tree::of(mount.path());
        let mut staged = stage(&stored(&taken), mount.path(), false).await.expect("staged");
        if publish {
            staged.publish().await.expect("published");
            assert_eq!(std::fs::read(mount.path().join("both")).expect("there"), b"new");
        }
        staged.undo().await.expect("undone");
        assert_same_tree(&before, &Tree::of(mount.path()));
    }
}

#[tokio::test]
async fn old_entries_of_a_mount_point_are_kept_on_request_and_survive_the_next_restore() {
    let scratch = Scratch::new();
    let taken = taken(&scratch).await;
    let mount = Mount::new(scratch.join("volume"));
    scratch.write("volume/old", "old");
    let mut staged = stage(&stored(&taken), mount.path(), true).await.expect("staged");
    staged.publish().await.expect("published");
    let restored = staged.finish().await.expect("finished");
    assert!(restored.done.iter().any(|line| line.contains(".backstay-old-")), "{restored:?}");
    restore(&stored(&taken), mount.path()).await;
    let kept = names(mount.path()).into_iter().find(|name| name.starts_with(".backstay-old-")).expect("kept");
    assert_eq!(names(&mount.path().join(kept)), ["old"]);
    assert_eq!(names(mount.path()).len(), 3);
}

#[tokio::test]
async fn an_interrupted_swap_is_brought_back_by_the_next_restore() {
    for phase in ["out", "in"] {
        let scratch = Scratch::new();
        let mount = Mount::new(scratch.join("volume"));
        scratch.write("volume/.backstay-journal", format!("backstay-journal 1\nsuffix 0a1b2c3d\nphase {phase}\nmodified 1234.5\n"));
        scratch.write("volume/.backstay-old-0a1b2c3d/moved", "old");
        scratch.write("volume/.backstay-new-0a1b2c3d/new-1", "new");
        scratch.write(if phase == "out" { "volume/not-moved" } else { "volume/new-2" }, "x");
        let cut = stored_as(0, Facts::new(), || Box::new(tokio::io::empty()));
        let to = RestoreOptions { to: Destination::Into(mount.path().display().to_string()), keep_old: false, ..RestoreOptions::default() };
        let restorer = DirectoryRestorer::new(options(std::path::Path::new("/x")));
        let plan = restorer.plan(&cut, &to).await.expect("a plan");
        assert!(plan.steps[0].contains("interrupted restore"), "{plan:?}");
        assert!(restorer.stage(&cut, &to, &RunContext::default()).await.is_err());
        let old: &[&str] = if phase == "out" { &["moved", "not-moved"] } else { &["moved"] };
        assert_eq!(names(mount.path()), old, "phase {phase}");
        let root = std::fs::metadata(mount.path()).expect("there");
        assert_eq!((root.mtime(), root.mtime_nsec()), (1234, 500_000_000));
    }
}

#[tokio::test]
async fn an_undo_that_is_interrupted_itself_loses_nothing() {
    let scratch = Scratch::new();
    let mount = Mount::new(scratch.join("volume"));
    scratch.write("volume/.backstay-journal", "backstay-journal 1\nsuffix 0a1b2c3d\nphase in\nmodified 1\n");
    scratch.write("volume/.backstay-old-0a1b2c3d/a", "old");
    scratch.write("volume/.backstay-new-0a1b2c3d/c", "new");
    scratch.write("volume/b", "new");
    // a mount point cannot be moved: the undo stops there, after `a` was brought back
    let obstacle = Mount::new(scratch.join("volume/.backstay-old-0a1b2c3d/m"));
    let cut = stored_as(0, Facts::new(), || Box::new(tokio::io::empty()));
    let to = RestoreOptions { to: Destination::Into(mount.path().display().to_string()), keep_old: false, ..RestoreOptions::default() };
    let restorer = DirectoryRestorer::new(options(std::path::Path::new("/x")));
    let swapped_back = || {
        let place = mount.path();
        backstay::component::directory::Swap::interrupted(place).expect("a journal").expect("an interrupted swap").undo()
    };
    assert!(swapped_back().is_err());
    assert_eq!(std::fs::read(mount.path().join("a")).expect("brought back"), b"old");
    drop(obstacle);
    assert!(restorer.stage(&cut, &to, &RunContext::default()).await.is_err());
    assert_eq!(names(mount.path()), ["a", "m"]);
}

#[tokio::test]
async fn a_journal_that_is_not_understood_stops_the_restore() {
    let scratch = Scratch::new();
    let taken = taken(&scratch).await;
    let mount = Mount::new(scratch.join("volume"));
    for text in [
        "",
        "backstay-journal 2\n",
        "backstay-journal 1\nsuffix ../..\nphase in\nmodified 1\n",
        "backstay-journal 1\nsuffix 0a\nphase x\nmodified 1\n",
    ] {
        scratch.write("volume/.backstay-journal", text);
        assert!(stage(&stored(&taken), mount.path(), false).await.is_err(), "{text:?}");
        assert_eq!(names(mount.path()), [".backstay-journal"]);
    }
}

#[tokio::test]
async fn what_is_mounted_in_a_tree_is_stored_and_keeps_the_tree_from_being_replaced() {
    let scratch = Scratch::new();
    scratch.write("data/file", "x");
    let mount = Mount::new(scratch.join("data/volume"));
    scratch.write("data/volume/inner", "y");
    let taken = take(options(&scratch.join("data"))).await.expect("read");
    assert_eq!((&taken.facts["files"], &taken.facts["mounts"]), (&2.into(), &serde_json::json!(["volume"])));
    let error = stage(&stored(&taken), &scratch.join("data"), false).await.err().expect("refused");
    assert!(error.to_string().contains("something is mounted inside it"), "{error}");
    drop(mount);
    restore(&stored(&taken), &scratch.join("data")).await;
    assert_eq!(std::fs::read(scratch.join("data/volume/inner")).expect("there"), b"y");
}
