//! File systems that answer nothing any more: FUSE whose daemon is stopped, which is to a program what NFS is whose server is gone.

use std::fs::File;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::fuse::hangs;
use crate::support::{Backstay, Fuse, Outcome, Row, Scratch, toml};

/// A run that is not cut would hang for ever.
const PATIENCE: Duration = Duration::from_secs(60);

fn job(keys: &str) -> String {
    format!("[jobs.default]\ncompression = \"none\"\nstall_timeout = \"4s\"\n{keys}\n")
}

/// Waits until `ready`, for as long as the program runs.
#[track_caller]
fn until(mut child: Child, mut ready: impl FnMut(&Child) -> bool) -> Child {
    let deadline = Instant::now() + PATIENCE;
    while !ready(&child) {
        if child.try_wait().expect("look at it").is_some() {
            panic!("it has ended: {:?}", Outcome::of(child));
        }
        assert!(Instant::now() < deadline, "it does not come to pass");
        std::thread::yield_now();
    }
    child
}

fn status(outcome: &Outcome, component: &str) -> String {
    let answer = outcome.json();
    let components = answer["components"].as_array().expect("components");
    components.iter().find(|c| c["name"] == component).expect("the component")["status"].as_str().expect("a status").to_owned()
}

#[test]
fn a_directory_that_hangs_is_named_and_everything_else_is_stored() {
    let (scratch, target) = (Scratch::new(), Scratch::new());
    scratch.write("other/file", "x");
    scratch.write("tree/a/file", "x");
    scratch.write("behind/deep/file", "x");
    let large = File::create(scratch.write("behind/large", "")).expect("a file");
    large.set_len(256 << 20).expect("its size");
    let inside = Fuse::new(&scratch.join("behind"), scratch.join("tree/b"));
    let sections = |tree: &std::path::Path, keys: &str| {
        [
            job("components = [\"other\", \"tree\"]"),
            toml::directory("other", &scratch.join("other")),
            toml::directory("tree", tree),
            toml::file_target("local", target.path()),
            keys.to_owned(),
        ]
        .concat()
    };
    let path = |of: &str| format!("`{}` did not answer for 3s 750ms", scratch.join(of).display());

    // before its root is open, and in the midst of it
    let whole = Backstay::new(&sections(&scratch.join("tree"), ""));
    let at_once = Backstay::new(&sections(inside.path(), ""));
    for (backstay, hung) in [(&at_once, "tree/b"), (&whole, "tree/b")] {
        inside.freeze();
        let outcome = inside.end(backstay.spawn(&["backup", "--json"])).expect_code(3).expect_message(&path(hung));
        assert_eq!((status(&outcome, "tree").as_str(), status(&outcome, "other").as_str()), ("failed", "complete"), "{outcome:?}");
        outcome.expect_message("Look at the file system");
    }

    // and so a run can be stopped
    inside.freeze();
    let child = until(whole.spawn(&["backup"]), hangs);
    kill_process(Pid::from_child(&child), Signal::TERM).expect("send a signal");
    inside.end(child).expect_code(130);

    // in the midst of a file, which goes slowly because the target takes it slowly
    let slow = Backstay::new(&sections(&scratch.join("tree"), "limit = \"16MiB/s\"\n"));
    let read = |child: &Child| {
        let io = std::fs::read_to_string(format!("/proc/{}/io", child.id())).expect("its reads");
        let read = io.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("bytes that it has read");
        read.parse::<u64>().expect("a number")
    };
    let child = until(slow.spawn(&["backup"]), |child| read(child) > 32 << 20);
    inside.freeze();
    inside.end(child).expect_code(3).expect_message(&path("tree/b/large"));

    whole.succeed(&["backup"]);
    Row {
        scenario: "a directory lies on a file system that hangs (FUSE)",
        faults: "no answer, for ever, to its root, to a directory in it, to a read; SIGTERM then",
        runs: 4,
    }
    .print();
}

#[test]
fn a_target_that_hangs_is_given_up_and_the_others_are_written() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    scratch.write("media/file", "x");
    let hung = Fuse::new(&scratch.join("behind"), scratch.join("target"));
    let media = toml::directory("media", &scratch.join("media"));
    let targets = [toml::file_target("hung", hung.path()), toml::file_target("other", other.path())].concat();
    let both = Backstay::new(&[job("components = [\"media\"]"), media.clone(), targets].concat());
    let name = both.backup();

    let run = |args: &[&str]| {
        hung.freeze();
        hung.end(both.spawn(args))
    };
    let outcome = run(&["backup", "--json"]).expect_code(3).expect_message("of target `hung`: it did not answer for 4s");
    outcome.expect_message("Look at the file system that the target's directory lies on");
    let outcome = run(&["listbackups", "--json"]).expect_code(3);
    let listed: Vec<String> = outcome.json().as_array().expect("a list").iter().map(|b| b["target"].to_string()).collect();
    assert_eq!(listed, ["\"other\"", "\"other\""], "{outcome:?}");
    assert!(run(&["verify", &name]).expect_code(3).stdout.contains("sound"));
    for command in [&["check"][..], &["prune"]] {
        run(command).expect_code(3).expect_message("hung");
    }
    // and a run that waits for it can be stopped
    hung.freeze();
    let child = until(both.spawn(&["backup"]), hangs);
    kill_process(Pid::from_child(&child), Signal::TERM).expect("send a signal");
    hung.end(child).expect_code(130);

    // in the midst of an upload, which goes slowly
    let noise = scratch.join("media/noise");
    let mut bytes = vec![0; 24 << 20];
    blake3::Hasher::new_keyed(&[7; 32]).finalize_xof().fill(&mut bytes);
    std::fs::write(&noise, bytes).expect("written");
    let slow = [
        job("components = [\"media\"]"),
        media,
        toml::file_target("hung", hung.path()),
        "limit = \"8MiB/s\"\n".to_owned(),
        toml::file_target("other", other.path()),
    ];
    let slow = Backstay::new(&slow.concat());
    let unfinished = |_: &Child| {
        let names = std::fs::read_dir(hung.path()).expect("it answers").flatten().map(|entry| entry.path().join("media/media.tar#1"));
        names.into_iter().any(|path| std::fs::metadata(path).is_ok_and(|meta| meta.len() >= 8 << 20))
    };
    let child = until(slow.spawn(&["backup"]), unfinished);
    hung.freeze();
    hung.end(child).expect_code(3).expect_message("target `hung` did not take a part of");

    let outcome = both.succeed(&["verify", "--all"]);
    assert!(!outcome.stderr.contains("hung"), "{outcome:?}");
    both.backup();
    Row {
        scenario: "the directory of a target lies on a file system that hangs (FUSE)",
        faults: "no answer, for ever, to the first call of a backup, list, verification, check, prune; in the midst of an upload; SIGTERM",
        runs: 7,
    }
    .print();
}
