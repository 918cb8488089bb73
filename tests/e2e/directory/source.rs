//! What is stored of a tree, and how it is read while it changes.

use std::fs::OpenOptions;
use std::io::{IoSliceMut, Write};
use std::os::unix::net::UnixListener;

use rustix::io::{ReadWriteFlags, preadv2};

use super::*;
use crate::support::{Scratch, Tree, assert_same_tree};

/// A member of an archive as the `tar` crate, an independent reader, sees it.
struct Seen {
    path: String,
    bytes: Vec<u8>,
}

fn members(tar: &[u8]) -> Vec<Seen> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("an archive");
    entries
        .map(|entry| {
            let mut entry = entry.expect("a sound entry");
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).expect("whole");
            Seen { path: String::from_utf8_lossy(&entry.path_bytes()).into_owned(), bytes }
        })
        .collect()
}

fn extract(program: &str, arguments: &[&str], tar: &[u8]) -> Scratch {
    let scratch = Scratch::new();
    let out = scratch.join("out");
    std::fs::create_dir(&out).expect("created");
    let archive = scratch.write("media.tar", tar);
    let output = std::process::Command::new(program)
        .args(arguments)
        .arg("-C")
        .arg(&out)
        .arg("-f")
        .arg(&archive)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {errors}");
    scratch
}

#[tokio::test]
async fn gnu_tar_extracts_everything() {
    let scratch = Scratch::new();
    fill(scratch.path());
    let taken = take(options(scratch.path())).await.expect("read");
    assert_eq!(taken.warnings, Vec::<String>::new());
    let out = extract("tar", &["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xp"], &taken.tar);
    assert_same_tree(&Tree::of(scratch.path()), &Tree::of(&out.join("out")));
}

#[tokio::test]
async fn bsdtar_extracts_names_contents_and_holes() {
    let scratch = Scratch::new();
    fill(scratch.path());
    let taken = take(options(scratch.path())).await.expect("read");
    let out = extract("bsdtar", &["--xattrs", "--numeric-owner", "-xp"], &taken.tar);
    // what bsdtar 3.6 does in its own way: ACLs from other records only, `%3D` in a name, fractions before 1970, the time of a root that exists
    let own_way = [".:", "attributes/acl:", "attributes/default:", "attributes/file:", "times/negative:", "times/just-before:"];
    let differences = Tree::of(scratch.path()).differences(&Tree::of(&out.join("out")));
    let differences: Vec<_> = differences.into_iter().filter(|line| !own_way.iter().any(|known| line.starts_with(known))).collect();
    assert_eq!(differences, Vec::<String>::new());
}

#[tokio::test]
async fn a_file_that_shrinks_is_padded_and_named_and_the_rest_is_whole() {
    let scratch = Scratch::new();
    let big = scratch.write("tree/a-big", noise(64 << 20));
    scratch.write("tree/b-after", "after");
    let run = RunContext::default();
    let mut stream = open(options(&scratch.join("tree")), &run).await.expect("opened");
    let mut tar = vec![stream.read_u8().await.expect("a first byte")];
    OpenOptions::new().write(true).open(&big).expect("opened").set_len(32 << 20).expect("cut");
    stream.read_to_end(&mut tar).await.expect("to the end");
    let seen = members(&tar);
    assert_eq!(seen.iter().map(|s| s.path.as_str()).collect::<Vec<_>>(), ["./", "./a-big", "./b-after"]);
    assert_eq!(seen[1].bytes.len(), 64 << 20);
    assert!(seen[1].bytes[..32 << 20] == noise(64 << 20)[..32 << 20] && seen[1].bytes[32 << 20..].iter().all(|b| *b == 0));
    assert_eq!(seen[2].bytes, b"after");
    let warnings = run.notes.take().1;
    assert_eq!(warnings, ["`a-big` shrank while it was read: 33554432 bytes of it are stored as zeros"]);
}

#[tokio::test]
async fn a_file_that_grows_is_stored_as_it_was_and_named() {
    let scratch = Scratch::new();
    let big = scratch.write("tree/a-big", noise(64 << 20));
    scratch.write("tree/b-after", "after");
    let run = RunContext::default();
    let mut stream = open(options(&scratch.join("tree")), &run).await.expect("opened");
    let mut tar = vec![stream.read_u8().await.expect("a first byte")];
    OpenOptions::new().append(true).open(&big).expect("opened").write_all(&noise(100_000)).expect("written");
    stream.read_to_end(&mut tar).await.expect("to the end");
    let seen = members(&tar);
    assert!(seen[1].bytes == noise(64 << 20), "its first bytes as they were");
    assert_eq!(seen[2].bytes, b"after");
    assert_eq!(run.notes.take().1, ["`a-big` changed while it was read: its first 67108864 bytes are stored"]);
}

/// More small files than are ever read ahead of their turn: what comes after them is not yet known when the first byte is there.
fn put_far_apart(scratch: &Scratch) {
    for n in 0..600 {
        scratch.write(format!("tree/a-small/{n:03}"), "x");
    }
}

#[tokio::test]
async fn what_vanishes_is_a_warning() {
    let scratch = Scratch::new();
    scratch.write("tree/a-big", noise(64 << 20));
    put_far_apart(&scratch);
    let file = scratch.write("tree/b-file", "x");
    scratch.write("tree/c-directory/x", "x");
    scratch.write("tree/d-after", "after");
    let run = RunContext::default();
    let mut stream = open(options(&scratch.join("tree")), &run).await.expect("opened");
    let mut tar = vec![stream.read_u8().await.expect("a first byte")];
    std::fs::remove_file(file).expect("removed");
    std::fs::remove_dir_all(scratch.join("tree/c-directory")).expect("removed");
    stream.read_to_end(&mut tar).await.expect("to the end");
    let paths: Vec<_> = members(&tar).into_iter().map(|s| s.path).filter(|path| !path.starts_with("./a-small/")).collect();
    assert_eq!(paths, ["./", "./a-big", "./d-after"]);
    let warnings = run.notes.take().1;
    assert_eq!(warnings, ["`b-file` vanished while the directory was read", "`c-directory` vanished while the directory was read"]);
}

#[tokio::test]
async fn an_entry_that_changes_its_type_is_stored_as_what_it_is() {
    let scratch = Scratch::new();
    scratch.write("tree/a-big", noise(64 << 20));
    put_far_apart(&scratch);
    let file = scratch.write("tree/b-becomes-a-link", "x");
    let other = scratch.write("tree/c-becomes-a-fifo", "x");
    let third = scratch.write("tree/d-becomes-a-directory", "x");
    let run = RunContext::default();
    let mut stream = open(options(&scratch.join("tree")), &run).await.expect("opened");
    let first = stream.read_u8().await.expect("a first byte");
    std::fs::remove_file(&file).and_then(|()| symlink("elsewhere", &file)).expect("replaced");
    std::fs::remove_file(&other).expect("removed");
    mknodat(CWD, &other, FileType::Fifo, Mode::RUSR, 0).expect("a fifo");
    std::fs::remove_file(third).expect("removed");
    scratch.write("tree/d-becomes-a-directory/in/it", "found");
    let mut tar = vec![first];
    stream.read_to_end(&mut tar).await.expect("to the end");
    let (facts, warnings) = run.notes.take();
    assert_eq!((&facts["symlinks"], &facts["others"], warnings.len()), (&1.into(), &1.into(), 0));
    let seen = members(&tar);
    let last: Vec<_> = seen[seen.len() - 3..].iter().map(|seen| (seen.path.as_str(), seen.bytes.as_slice())).collect();
    assert_eq!(
        last,
        [("./d-becomes-a-directory/", &b""[..]), ("./d-becomes-a-directory/in/", b""), ("./d-becomes-a-directory/in/it", b"found")]
    );
}

/// How many bytes of a file are in the page cache, by util-linux, which asks without changing that.
fn cached(path: &std::path::Path) -> u64 {
    let output = std::process::Command::new("fincore").args(["-nbo", "RES"]).arg(path).output().expect("fincore");
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_else(|_| panic!("{output:?}"))
}

#[tokio::test]
async fn the_page_cache_is_left_as_it_was() {
    let scratch = Scratch::new();
    let hot = [scratch.write("tree/hot", noise(8 << 20)), scratch.write("tree/hot-small", noise(9000))];
    let cold = scratch.write("tree/cold-small", noise(9000));
    let file = std::fs::File::open(&cold).expect("opened");
    file.sync_all().expect("written through");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice is taken");
    let before = hot.each_ref().map(|path| cached(path));
    assert_eq!((before, cached(&cold)), ([8 << 20, 12 << 10], 0), "this test needs a file system that drops pages, such as ext4");
    for _ in 0..2 {
        take(options(&scratch.join("tree"))).await.expect("read");
        assert_eq!(hot.each_ref().map(|path| cached(path)), before, "what was there is still there");
        // where the kernel can drop what it reads (Linux 6.14), what was not there is not there now
        let drop = ReadWriteFlags::from_bits_retain(0x80);
        if preadv2(&file, &mut [IoSliceMut::new(&mut [0; 9000])], 0, drop).is_ok() {
            assert_eq!(cached(&cold), 0);
        }
    }
}

/// A file that not even root may read: the kernel refuses to open attributes that can only be written (fs/kernfs/file.c, `kernfs_fop_open`).
const UNREADABLE: &str = "/sys/bus/cpu/uevent";

#[tokio::test]
async fn what_cannot_be_read_fails_by_name_unless_the_user_chose_to_skip_it() {
    assert!(std::path::Path::new(UNREADABLE).exists(), "this test needs {UNREADABLE}");
    let mut options = options(std::path::Path::new("/sys/bus/cpu"));
    options.exclude = vec!["devices".into(), "drivers".into(), "drivers_*".into()];
    let error = take(options.clone()).await.map(|taken| taken.warnings).expect_err("it cannot be read");
    assert_eq!(error.to_string(), "read `uevent` in /sys/bus/cpu");
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<backstay::component::ComponentError>()).expect("ours");
    assert!(inner.advice().expect("advice").contains("skip_unreadable"));

    options.skip_unreadable = true;
    let taken = take(options).await.expect("skipped");
    assert_eq!(taken.warnings.len(), 1);
    assert!(taken.warnings[0].starts_with("`uevent` could not be read"), "{:?}", taken.warnings);
    assert_eq!(members(&taken.tar).len(), 1);
}

#[tokio::test]
async fn facts_tell_what_was_found() {
    let scratch = Scratch::new();
    scratch.write("tree/sub/file", "12345");
    scratch.write("tree/cache/x", "x");
    scratch.write("tree/sub/keep.tmp", "x");
    scratch.write("tree/sub/drop.tmp", "x");
    std::fs::hard_link(scratch.join("tree/sub/file"), scratch.join("tree/sub/other")).expect("a link");
    symlink("x", scratch.join("tree/link")).expect("a link");
    let _socket = UnixListener::bind(scratch.join("tree/socket")).expect("a socket");
    let mut options = options(&scratch.join("tree"));
    options.exclude = vec!["/cache/".into(), "*.tmp".into(), "!keep.tmp".into()];
    let taken = take(options).await.expect("read");
    let facts = |key: &str| taken.facts[key].clone();
    assert_eq!((facts("files"), facts("directories"), facts("symlinks"), facts("hard_links")), (2.into(), 2.into(), 1.into(), 1.into()));
    assert_eq!((facts("bytes"), facts("excluded"), facts("skipped_sockets")), (6.into(), 2.into(), 1.into()));
    assert_eq!(facts("sockets"), serde_json::json!(["socket"]));
    let paths: Vec<_> = members(&taken.tar).into_iter().map(|s| s.path).collect();
    assert_eq!(paths, ["./", "./link", "./sub/", "./sub/file", "./sub/keep.tmp", "./sub/other"]);
}

#[tokio::test]
async fn a_missing_root_is_absent_or_a_failure() {
    let scratch = Scratch::new();
    let run = RunContext::default();
    let required = options(&scratch.join("none"));
    let built_in = DirectoryOptions { required: false, ..required.clone() };
    assert!(matches!(open(built_in.clone(), &run).await, Err(ComponentError::Absent(_))));
    assert!(matches!(DirectorySource::new(built_in).check().await, Err(ComponentError::Absent(_))));
    assert!(matches!(open(required, &run).await, Err(ComponentError::Directory(_))));
    let file = scratch.write("file", "x");
    let not_a_directory = DirectoryOptions { required: false, ..options(&file) };
    assert!(matches!(open(not_a_directory, &run).await, Err(ComponentError::Directory(_))));
    let bad_glob = DirectoryOptions { exclude: vec!["[z-a]".into()], ..options(scratch.path()) };
    assert!(matches!(DirectorySource::new(bad_glob).check().await, Err(ComponentError::Directory(_))));
}

#[tokio::test]
async fn links_are_not_followed_but_the_root_and_media_are() {
    let scratch = Scratch::new();
    scratch.write("volume/file", "x");
    scratch.write("data/inner/media/in", "x");
    symlink(scratch.join("volume"), scratch.join("data/media")).expect("a link");
    symlink(scratch.join("volume"), scratch.join("data/other")).expect("a link");
    symlink("data", scratch.join("root")).expect("a link");
    let taken = take(options(&scratch.join("root"))).await.expect("read");
    let paths: Vec<_> = members(&taken.tar).into_iter().map(|s| s.path).collect();
    assert_eq!(paths, ["./", "./inner/", "./inner/media/", "./inner/media/in", "./media/", "./media/file", "./other"]);
    assert_eq!(taken.facts["followed"], format!("media -> {}", scratch.join("volume").display()));

    // a link that leads to the tree itself, above it or into it stays a link, as does one that leads nowhere
    for target in [scratch.join("data"), scratch.path().to_owned(), scratch.join("data/inner"), scratch.join("none")] {
        std::fs::remove_file(scratch.join("data/media")).expect("removed");
        symlink(&target, scratch.join("data/media")).expect("a link");
        let taken = take(options(&scratch.join("data"))).await.expect("read");
        assert_eq!(taken.facts["symlinks"], 2, "{}", target.display());
    }
}

#[tokio::test]
async fn a_cancelled_run_is_an_error_of_the_stream() {
    let scratch = Scratch::new();
    scratch.write("tree/big", noise(64 << 20));
    let run = RunContext::default();
    let mut stream = open(options(&scratch.join("tree")), &run).await.expect("opened");
    stream.read_u8().await.expect("a first byte");
    run.cancel.cancel();
    assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
}

#[tokio::test]
async fn a_directory_that_is_half_swapped_is_no_backup() {
    let scratch = Scratch::new();
    scratch.write("tree/.backstay-old-85e300dd/aside", "old");
    scratch.write("tree/not-yet-moved", "old");
    for (phase, sound) in [("out", false), ("in", false), ("done", true)] {
        scratch.write("tree/.backstay-journal", format!("backstay-journal 1\nsuffix 85e300dd\nphase {phase}\nmodified 1700000000.5\n"));
        let opened = open(options(&scratch.join("tree")), &RunContext::default()).await.map(drop);
        assert_eq!(opened.map_err(|e| e.to_string().contains("half swapped")), if sound { Ok(()) } else { Err(true) }, "{phase}");
    }
}
