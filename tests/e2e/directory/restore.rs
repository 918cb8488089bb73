//! What comes back, and that nothing is lost when it does not.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{OFlags, mkdirat, openat};

use super::*;
use crate::support::{Scratch, Tree, assert_same_tree};

#[tokio::test]
async fn a_rich_tree_comes_back_in_place_of_the_old_one() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.join("tree")).expect("created");
    fill(&scratch.join("tree"));
    let before = Tree::of(&scratch.join("tree"));
    let taken = take(options(&scratch.join("tree"))).await.expect("read");
    // beside the original, into a parent that hands an ACL down, over something that is in the way
    scratch.write("to/place/old", "old");
    attribute(&scratch.join("to"), "system.posix_acl_default", &acl());
    let restored = restore(&stored(&taken), &scratch.join("to/place")).await;
    assert_same_tree(&before, &Tree::of(&scratch.join("to/place")));
    assert_eq!(restored.warnings, Vec::<String>::new());
    assert_eq!(names(&scratch.join("to")), ["place"]);
}

#[tokio::test]
async fn a_tree_that_does_not_exist_yet_is_made_and_undone() {
    let scratch = Scratch::new();
    scratch.write("tree/file", "x");
    let taken = take(options(&scratch.join("tree"))).await.expect("read");
    std::fs::create_dir(scratch.join("to")).expect("created");
    let mut staged = stage(&stored(&taken), &scratch.join("to/place"), false).await.expect("staged");
    staged.publish().await.expect("published");
    assert!(scratch.join("to/place/file").exists());
    staged.undo().await.expect("undone");
    assert_eq!(names(&scratch.join("to")), Vec::<String>::new());
}

#[tokio::test]
async fn undo_brings_the_old_tree_back_before_and_after_publishing() {
    let scratch = Scratch::new();
    scratch.write("tree/file", "new");
    let taken = take(options(&scratch.join("tree"))).await.expect("read");
    scratch.write("to/place/old", "old");
    let before = Tree::of(&scratch.join("to"));
    for publish in [false, true] {
        let mut staged = stage(&stored(&taken), &scratch.join("to/place"), false).await.expect("staged");
        assert!(scratch.join("to/place/old").exists(), "the old tree stays in service");
        if publish {
            staged.publish().await.expect("published");
            assert_eq!(names(&scratch.join("to/place")), ["file"]);
        }
        staged.undo().await.expect("undone");
        set_time(&scratch.join("to"), 1, 0);
        let after = Tree::of(&scratch.join("to"));
        let differences: Vec<_> = before.differences(&after).into_iter().filter(|line| !line.starts_with(".:")).collect();
        assert_eq!(differences, Vec::<String>::new());
    }
}

#[tokio::test]
async fn the_old_tree_is_kept_on_request_and_reported_by_the_next_plan() {
    let scratch = Scratch::new();
    scratch.write("tree/file", "new");
    let taken = take(options(&scratch.join("tree"))).await.expect("read");
    scratch.write("to/place/old", "old");
    let part = stored(&taken);
    let mut staged = stage(&part, &scratch.join("to/place"), true).await.expect("staged");
    staged.publish().await.expect("published");
    let restored = staged.finish().await.expect("finished");
    let kept = names(&scratch.join("to")).into_iter().find(|name| name.starts_with(".place.backstay-old-")).expect("kept");
    assert_eq!(names(&scratch.join("to").join(&kept)), ["old"]);
    assert!(restored.done.iter().any(|line| line.contains(&kept)), "{restored:?}");
    let to = RestoreOptions {
        to: Destination::Into(scratch.join("to/place").display().to_string()),
        keep_old: false,
        ..RestoreOptions::default()
    };
    let plan = DirectoryRestorer::new(options(std::path::Path::new("/x"))).plan(&part, &to).await.expect("a plan");
    assert!(plan.steps.iter().any(|step| step.contains(&kept)), "{plan:?}");
}

#[tokio::test]
async fn the_configured_path_may_be_a_link() {
    let scratch = Scratch::new();
    scratch.write("tree/file", "new");
    let taken = take(options(&scratch.join("tree"))).await.expect("read");
    scratch.write("real/old", "old");
    symlink("real", scratch.join("link")).expect("a link");
    let restorer = DirectoryRestorer::new(options(&scratch.join("link")));
    let mut staged = restorer.stage(&stored(&taken), &RestoreOptions::default(), &RunContext::default()).await.expect("staged");
    staged.publish().await.expect("published");
    staged.finish().await.expect("finished");
    assert!(scratch.join("link").is_symlink());
    assert_eq!(names(&scratch.join("real")), ["file"]);
}

#[tokio::test]
async fn a_stream_that_fails_leaves_everything_as_it_was() {
    let scratch = Scratch::new();
    scratch.write("tree/file", noise(3 << 20));
    scratch.write("tree/locked/file", "x");
    chmod(&scratch.join("tree/locked"), 0o500);
    let taken = take(options(&scratch.join("tree"))).await.expect("read");
    scratch.write("to/place/old", "old");
    // half of it; all but the end mark; all, and then the error by which a wrong hash shows
    for length in [taken.tar.len() / 2, taken.tar.len() - 10_240, taken.tar.len()] {
        for ends in [false, true] {
            if ends && length == taken.tar.len() {
                continue;
            }
            let tar: Arc<[u8]> = taken.tar[..length].into();
            let part = stored_as(tar.len(), Facts::new(), move || {
                let bytes = io::Cursor::new(tar.clone());
                if ends { Box::new(bytes) } else { Box::new(bytes.chain(Failing)) }
            });
            let result = stage(&part, &scratch.join("to/place"), false).await;
            assert!(result.is_err(), "{length} of {} bytes, {ends}", taken.tar.len());
            assert_eq!(names(&scratch.join("to")), ["place"]);
            assert_eq!(names(&scratch.join("to/place")), ["old"]);
        }
    }
}

/// A stream that ends in an error.
struct Failing;

impl tokio::io::AsyncRead for Failing {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Err(io::Error::other("the hash does not match")))
    }
}

/// A stream that never goes on, and says when it was asked to.
struct Stalled(Arc<AtomicBool>, tokio_util::sync::CancellationToken);

impl tokio::io::AsyncRead for Stalled {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        self.0.store(true, Ordering::SeqCst);
        self.1.cancel();
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn a_cancelled_restore_leaves_nothing_even_if_its_stream_stalls() {
    let scratch = Scratch::new();
    scratch.write("tree/file", noise(3 << 20));
    let taken = take(options(&scratch.join("tree"))).await.expect("read");
    std::fs::create_dir(scratch.join("to")).expect("created");
    let run = RunContext::default();
    let stalled = Arc::new(AtomicBool::new(false));
    let tar: Arc<[u8]> = taken.tar[..1 << 20].into();
    let (flag, cancel) = (stalled.clone(), run.cancel.clone());
    let part =
        stored_as(tar.len(), Facts::new(), move || Box::new(io::Cursor::new(tar.clone()).chain(Stalled(flag.clone(), cancel.clone()))));
    let to = RestoreOptions {
        to: Destination::Into(scratch.join("to/place").display().to_string()),
        keep_old: false,
        ..RestoreOptions::default()
    };
    let result = DirectoryRestorer::new(options(std::path::Path::new("/x"))).stage(&part, &to, &run).await;
    assert!(matches!(result, Err(ComponentError::Cancelled)));
    assert!(stalled.load(Ordering::SeqCst));
    assert_eq!(names(&scratch.join("to")), Vec::<String>::new());
}

#[tokio::test]
async fn a_destination_that_cannot_work_is_refused() {
    let scratch = Scratch::new();
    scratch.write("tree/file", "x");
    let taken = take(options(&scratch.join("tree"))).await.expect("read");
    let part = stored(&taken);
    let file = scratch.write("file", "x");
    for to in [PathBuf::from("relative"), "/".into(), scratch.join("no/where"), file, "/proc/backstay".into()] {
        assert!(stage(&part, &to, false).await.is_err(), "{}", to.display());
    }
    let huge = stored_as(1 << 60, Facts::new(), || Box::new(tokio::io::empty()));
    let error = stage(&huge, &scratch.join("place"), false).await.err().expect("there is no such disk");
    assert!(error.to_string().contains("has room for"), "{error}");
}

#[tokio::test]
async fn a_sparse_file_beyond_8_gib_comes_back_with_its_holes() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let scratch = Scratch::new();
    let ends = [10 << 30, (20 << 30) - 1];
    let file = std::fs::File::create(scratch.write("tree/sparse", "")).expect("created");
    file.set_len(20 << 30).expect("sized");
    for end in ends {
        file.write_all_at(b"x", end).expect("written");
    }
    let taken = take(options(&scratch.join("tree"))).await.expect("read");
    assert!(taken.tar.len() < 1 << 20);
    restore(&stored(&taken), &scratch.join("place")).await;
    let file = std::fs::File::open(scratch.join("place/sparse")).expect("there");
    let meta = file.metadata().expect("metadata");
    assert_eq!(meta.len(), 20 << 30);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    for end in ends {
        let mut byte = [0];
        file.read_exact_at(&mut byte, end).expect("read");
        assert_eq!(&byte, b"x");
    }
}

#[tokio::test]
async fn a_tree_deeper_than_a_path_can_be_comes_back() {
    const DEPTH: usize = 300;
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.join("tree")).expect("created");
    let directory = OFlags::RDONLY | OFlags::DIRECTORY;
    let name = "d".repeat(30);
    let mut at = rustix::fs::open(scratch.join("tree"), directory, Mode::empty()).expect("opened");
    for level in 0..DEPTH {
        // one file before and one after the way down, so that the walk has to find its way back
        for file in ["a", "z"] {
            let file = openat(&at, file, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("created");
            rustix::io::write(&file, level.to_string().as_bytes()).expect("written");
        }
        mkdirat(&at, &name, Mode::RWXU).expect("created");
        at = openat(&at, &name, directory, Mode::empty()).expect("opened");
    }
    let taken = take(options(&scratch.join("tree"))).await.expect("read");
    assert_eq!((&taken.facts["files"], &taken.facts["directories"]), (&(2 * DEPTH).into(), &(DEPTH + 1).into()));
    scratch.write("to/place/old", "x");
    restore(&stored(&taken), &scratch.join("to/place")).await;
    let mut at = rustix::fs::open(scratch.join("to/place"), directory, Mode::empty()).expect("opened");
    for level in 0..DEPTH {
        for file in ["a", "z"] {
            let file = openat(&at, file, OFlags::RDONLY, Mode::empty()).expect("it is there");
            let mut text = [0; 10];
            let length = rustix::io::read(&file, &mut text).expect("readable");
            assert_eq!(&text[..length], level.to_string().as_bytes());
        }
        at = openat(&at, &name, directory, Mode::empty()).expect("it is there");
    }
    // and goes again
    scratch.write("other/file", "x");
    let other = take(options(&scratch.join("other"))).await.expect("read");
    restore(&stored(&other), &scratch.join("to/place")).await;
    assert_eq!((names(&scratch.join("to")), names(&scratch.join("to/place"))), (vec!["place".to_owned()], vec!["file".to_owned()]));
}
