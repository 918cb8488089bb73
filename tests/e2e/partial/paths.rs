//! A part of a directory, into a directory of its own.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use crate::support::{Backstay, Outcome, Scratch, Tree, assert_same_tree, toml};

/// A directory with one backup.
struct Stored {
    files: Scratch,
    _store: Scratch,
    backstay: Backstay,
}

impl Stored {
    fn new() -> Self {
        let (files, store) = (Scratch::new(), Scratch::new());
        for (name, content) in [("a.png", "a"), ("icons/b.png", "b"), ("icons/deep/er/c.txt", "c"), ("secret/key", "k"), ("secret/z", "z")]
        {
            files.write(format!("media/{name}"), content);
        }
        let media = files.join("media");
        fs::hard_link(media.join("a.png"), media.join("icons/link")).expect("link");
        fs::hard_link(media.join("a.png"), media.join("icons/other link")).expect("link");
        fs::hard_link(media.join("icons/b.png"), media.join("icons/deep/own")).expect("link");
        symlink("../secret/key", media.join("icons/symlink")).expect("symlink");
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_007, 123_456_789);
        for name in ["a.png", "icons/deep", "icons", "."] {
            fs::File::open(media.join(name)).expect("open").set_modified(long_ago).expect("set the time");
        }
        let backstay = Backstay::new(&[toml::directory("media", &media), toml::file_target("local", store.path())].concat());
        backstay.backup();
        Self { files, _store: store, backstay }
    }

    fn media(&self) -> PathBuf {
        self.files.join("media")
    }

    fn restore(&self, args: &[&str]) -> Outcome {
        self.backstay.run(&[&["restore", "latest", "--yes"], args].concat())
    }

    /// What lies beside the live directory.
    fn beside(&self) -> Vec<String> {
        let entries = fs::read_dir(self.files.path()).expect("a directory");
        let names = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name != "media").collect()
    }
}

#[test]
fn a_part_comes_back_beside_the_live_directory() {
    let stored = Stored::new();
    let expected = Tree::of(&stored.media().join("icons"));
    let above = fs::metadata(stored.media()).expect("there").mtime_nsec();
    fs::remove_dir_all(stored.media().join("icons")).expect("remove");
    stored.files.write("media/newer", "x");
    let live = Tree::of(&stored.media());

    let plan = stored.backstay.succeed(&["restore", "latest", "--dry-run", "--path", "icons/**"]).stdout;
    assert!(plan.contains("media.restored-2") && plan.contains("is not touched"), "{plan}");
    assert_eq!(stored.beside(), [""; 0], "a plan only");

    stored.restore(&["--path", "icons/**"]).expect_code(0);
    let beside = stored.beside();
    assert!(beside.len() == 1 && beside[0].starts_with("media.restored-2"), "{beside:?}");
    let side = stored.files.join(&beside[0]);
    assert_same_tree(&expected, &Tree::of(&side.join("icons")));
    assert_same_tree(&live, &Tree::of(&stored.media()));
    assert_eq!(fs::read_dir(&side).expect("a directory").count(), 1, "nothing but what was asked for");
    assert_eq!(fs::metadata(&side).expect("there").mtime_nsec(), above);
    assert_eq!(fs::read(side.join("icons/link")).expect("read a file"), b"a", "its first name was not asked for");
    let inode = |name: &str| fs::metadata(side.join("icons").join(name)).expect("there").ino();
    assert_eq!(inode("link"), inode("other link"));
    assert_eq!(inode("b.png"), inode("deep/own"));
}

#[test]
fn a_part_goes_where_it_is_sent_if_nothing_is_there() {
    let stored = Stored::new();
    let live = Tree::of(&stored.media());
    let out = stored.files.join("out");
    let into = format!("media={}", out.display());
    fs::create_dir(&out).expect("create a directory");
    stored.restore(&["--only", "media", "--path", "*.png", "--path", "secret/", "--path", "!z", "--into", &into]).expect_code(0);
    let mut names = Vec::new();
    for directory in ["", "icons", "secret"] {
        names.extend(fs::read_dir(out.join(directory)).expect("a directory").map(|e| e.expect("an entry").path()));
    }
    let mut names: Vec<_> = names.iter().map(|n| n.strip_prefix(&out).expect("below").display().to_string()).collect();
    names.sort();
    assert_eq!(names, ["a.png", "icons", "icons/b.png", "secret", "secret/key"]);

    stored.restore(&["--path", "*.png", "--into", &into]).expect_code(1).expect_message("not empty");
    let over = format!("media={}", stored.media().display());
    stored.restore(&["--path", "*.png", "--into", &over]).expect_code(1).expect_message("not empty");
    stored.restore(&["--path", "*.png", "--only", "other"]).expect_code(10);
    stored.restore(&["--path", "*.png", "--table", "a.b"]).expect_code(2);
    stored.restore(&["--path", "[z-a]"]).expect_code(2);
    assert_same_tree(&live, &Tree::of(&stored.media()));
}

#[test]
fn what_matches_nothing_is_said_and_leaves_nothing() {
    let stored = Stored::new();
    stored.restore(&["--path", "icons/**", "--path", "imges/**"]).expect_code(10).expect_message("`imges/**`");
    assert_eq!(stored.beside(), [""; 0]);
}
