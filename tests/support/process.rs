//! Server processes that end with the test, however it ends.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// How long a server may take to answer. Long, since the machine may be busy; it is no measurement.
pub const START: Duration = Duration::from_secs(60);

/// A server process in a process group of its own.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    stop: Signal,
}

impl Process {
    /// Starts `command` with its output in `log`. `stop` is the signal that ends it at once.
    pub fn spawn(name: &str, mut command: Command, log: &Path, stop: Signal) -> Self {
        let file = File::create(log).expect("create a server's log");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("dup")).stderr(file).process_group(0);
        let child = spawn_from_lasting_thread(command).unwrap_or_else(|e| panic!("start {name}: {e}"));
        Self { child, name: name.to_owned(), log: log.to_owned(), stop }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until `ready` says so.
    ///
    /// # Panics
    /// If the process ends before, or after [`START`].
    pub fn wait_until(&mut self, mut ready: impl FnMut() -> bool) {
        let deadline = Instant::now() + START;
        while !ready() {
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("{} ended at its start ({status}):\n{}", self.name, self.log());
            }
            assert!(Instant::now() < deadline, "{} does not answer after {START:?}:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap_or_else(|e| panic!("signal {}: {e}", self.name));
    }

    /// Ends the process and whatever is left of its group, and waits for it.
    pub fn stop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        let pid = Pid::from_child(&self.child);
        // a stopped one (SIGSTOP) would not hear the rest
        let _ = rustix::process::kill_process_group(pid, Signal::CONT);
        let _ = rustix::process::kill_process(pid, self.stop);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The first child of the process whose command line holds `text`; waits for it.
pub fn child_of(parent: u32, text: &str) -> u32 {
    let deadline = Instant::now() + START;
    loop {
        for task in std::fs::read_dir(format!("/proc/{parent}/task")).expect("it runs").flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let runs = |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(text));
            if let Some(pid) = children.split_whitespace().find(runs) {
                return pid.parse().expect("a number");
            }
        }
        assert!(Instant::now() < deadline, "{text} does not run");
        std::thread::yield_now();
    }
}

/// Makes `program` die with this process, even when that is killed.
pub fn bound_to_test(command: Command, signal: &str) -> Command {
    let mut bound = Command::new("setpriv");
    let program = command.get_program().to_owned();
    if program == "setpriv" {
        bound.arg(format!("--pdeathsig={signal}")).args(command.get_args());
    } else {
        bound.arg(format!("--pdeathsig={signal}")).arg("--").arg(program).args(command.get_args());
    }
    if let Some(folder) = command.get_current_dir() {
        bound.current_dir(folder);
    }
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(key, value),
            None => bound.env_remove(key),
        };
    }
    bound
}

/// The signal on the parent's death comes when the *thread* that spawned ends, so one thread that never ends spawns all.
fn spawn_from_lasting_thread(command: Command) -> std::io::Result<Child> {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (answer, result) = mpsc::channel();
    spawner.lock().expect("the spawner's lock").send((command, answer)).expect("the spawner lives");
    result.recv().expect("the spawner answers")
}

/// Runs a command to its end and returns its standard output.
///
/// # Panics
/// If it fails, with what it said.
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = output(command);
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Runs a command to its end, whatever that is.
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}
