//! A FUSE file system that hangs when it is told to, as a network file system does whose server is gone. Needs root.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Outcome;

/// `bindfs`, which shows a directory at another place. Dropped, it answers again, and is unmounted.
#[derive(Debug)]
pub struct Fuse {
    at: PathBuf,
    daemon: Child,
}

impl Fuse {
    /// Shows `directory` at `at`; both are created.
    pub fn new(directory: &Path, at: PathBuf) -> Self {
        for path in [directory, &at] {
            std::fs::create_dir_all(path).expect("created");
        }
        let mut command = Command::new("bindfs");
        // nothing is remembered: every question is the daemon's to answer
        command.args(["-f", "-o", "attr_timeout=0,entry_timeout=0,negative_timeout=0"]).arg(directory).arg(&at);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = command.spawn().unwrap_or_else(|e| panic!("bindfs is needed: run ./test, which installs it ({e})"));
        let fuse = Self { at, daemon };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !fuse.is_mounted() {
            assert!(Instant::now() < deadline, "bindfs does not mount {}, which needs root and /dev/fuse", fuse.at.display());
            std::thread::yield_now();
        }
        fuse
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        mounts.lines().any(|line| line.split(' ').nth(1) == self.at.to_str())
    }

    pub fn path(&self) -> &Path {
        &self.at
    }

    /// From now on nothing is answered.
    pub fn freeze(&self) {
        kill_process(Pid::from_child(&self.daemon), Signal::STOP).expect("stop bindfs");
        let stat = format!("/proc/{}/stat", self.daemon.id());
        // a thread that is at an answer ends it before it stops
        while !std::fs::read_to_string(&stat).expect("it lives").rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
            std::thread::yield_now();
        }
    }

    /// The end of a process one of whose threads may hang here, and that of the hang. One that has ended is a zombie for as long as the
    /// kernel waits for an answer that the daemon was already at when it was stopped: nobody can do anything about that.
    #[track_caller]
    pub fn end(&self, mut process: Child) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(60);
        let stat = format!("/proc/{}/stat", process.id());
        let zombie = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')));
        while process.try_wait().expect("look at it").is_none() && !zombie() {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.thaw();
        Outcome::of(process)
    }

    /// It answers again, also what was asked meanwhile.
    pub fn thaw(&self) {
        kill_process(Pid::from_child(&self.daemon), Signal::CONT).expect("continue bindfs");
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.daemon), Signal::CONT);
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
        // without a mount it ends by itself, unless somebody has a file open
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Whether a thread of `process` waits for a FUSE file system.
pub fn hangs(process: &Child) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.id())).expect("its threads");
    let waits = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("wchan")).is_ok_and(|at| at == "request_wait_answer");
    tasks.flatten().any(waits)
}
