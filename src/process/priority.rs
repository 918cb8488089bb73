//! How much this process, and every child that it starts from then on, gives way to others.
//!
//! On Linux both priorities belong to a thread and are inherited by the threads and processes that it starts. So they are set while there is
//! only one thread: before the async runtime.

use std::process::{Command, Stdio};

use rustix::process::{getpid, getpriority_process, setpriority_process};

/// The default changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Priority {
    /// 0 to 19. A process that is nicer already stays so: to take more again needs a privilege.
    pub nice: u8,
    pub io: IoPriority,
}

/// Class of disk accesses, as of ioprio_set(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoPriority {
    #[default]
    Unchanged,
    /// The lowest level of the usual class.
    BestEffort,
    Idle,
}

impl Priority {
    /// Sets both for the calling thread. What cannot be set is a sentence: a backup at the usual priority is better than none.
    pub fn apply(self) -> Vec<String> {
        let mut trouble = Vec::new();
        let nice = i32::from(self.nice);
        if getpriority_process(None).unwrap_or(0) < nice
            && let Err(error) = setpriority_process(None, nice)
        {
            trouble.push(format!("`worker.nice` = {nice} cannot be set: {error}. A service manager may forbid it, and set it itself"));
        }
        let class = match self.io {
            IoPriority::Unchanged => return trouble,
            IoPriority::BestEffort => ["-c", "2", "-n", "7"].as_slice(),
            IoPriority::Idle => &["-c", "3"],
        };
        if let Err(why) = ionice(class) {
            trouble.push(format!("`worker.ionice` cannot be set: {why}. A service manager may forbid it, and set it itself"));
        }
        trouble
    }
}

/// By the tool: the system call has no safe wrapper in any crate that is kept. Options as both util-linux and busybox know them.
fn ionice(class: &[&str]) -> Result<(), String> {
    let pid = getpid().as_raw_nonzero().to_string();
    let mut command = Command::new("ionice");
    command.args(class).args(["-p", &pid]).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("run `ionice` (of util-linux): {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`ionice` said: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
