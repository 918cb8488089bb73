//! Which process holds something: one that was killed can be told from one that lives, on the machine where it ran.
//!
//! A process is named by the boot of its machine, its PID namespace (containers of one machine have the same numbers in different ones), its
//! number and when it was started: proc(5) `sys/kernel/random/boot_id`, `PID/ns/pid`, and field 22 of `PID/stat`. The time since boot is the
//! same for all of them, but in a time namespace of their own (time_namespaces(7)).

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, fs};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A process, on whichever machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    boot: String,
    /// `pid:[4026531836]`.
    namespace: String,
    pid: i32,
    /// Clock ticks since the machine was started.
    started: u64,
    /// `time:[4026531834]`; nothing on a kernel without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock: Option<String>,
}

impl Owner {
    /// This process; `None` where /proc does not tell.
    pub(super) fn this() -> Option<Self> {
        let pid = i32::try_from(std::process::id()).ok()?;
        Some(Self { boot: boot()?, namespace: namespace()?, pid, started: started(pid)?, clock: clock() })
    }

    /// Whether the time since boot is the same for that process and for `other`.
    pub(super) fn shares_clock(&self, other: &Self) -> bool {
        self.boot == other.boot && self.clock == other.clock
    }

    /// Whether that process is known to be no more. One of another machine or container is not known.
    pub(super) fn is_dead(&self) -> bool {
        if boot().as_ref() != Some(&self.boot) || namespace().as_ref() != Some(&self.namespace) {
            return false;
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        match test_kill_process(pid) {
            Err(Errno::SRCH) => true,
            // it may be hidden from us, or another that was given the same number
            _ => started(self.pid).is_some_and(|started| started != self.started) || is_zombie(self.pid),
        }
    }
}

/// Who a holder is, and its time.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) owner: Option<Owner>,
    uptime: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Machine {
    /// This process on this machine.
    pub(super) fn this() -> Self {
        Self { owner: Owner::this(), uptime: Arc::new(since_boot) }
    }

    /// Since boot; the time in which the machine slept counts, and no step of its clock does.
    pub(super) fn uptime(&self) -> Duration {
        (self.uptime)()
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// Runs while the machine is suspended, and never jumps.
pub(super) fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    Duration::new(seconds, nanoseconds)
}

fn boot() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

fn namespace() -> Option<String> {
    Some(fs::read_link("/proc/self/ns/pid").ok()?.to_string_lossy().into_owned())
}

fn clock() -> Option<String> {
    Some(fs::read_link("/proc/self/ns/time").ok()?.to_string_lossy().into_owned())
}

fn started(pid: i32) -> Option<u64> {
    field(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, 22)?.parse().ok()
}

/// One that ended and was not waited for yet does nothing any more.
fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| matches!(field(&stat, 3), Some("Z" | "X")))
}

/// Field `number` of a line of `stat`, from 3 on. The second, the program's name in parentheses, may hold anything.
fn field(stat: &str, number: usize) -> Option<&str> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)
}

#[cfg(test)]
impl Owner {
    /// A process of a machine that is not this one.
    pub(super) fn of_model(boot: &str, pid: i32) -> Self {
        Self { boot: boot.to_owned(), namespace: "pid:[1]".to_owned(), pid, started: 1, clock: None }
    }
}

#[cfg(test)]
impl Machine {
    pub(super) fn of_model(owner: Owner, uptime: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { owner: Some(owner), uptime: Arc::new(uptime) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 10 11";
        assert_eq!(field(stat, 3), Some("S"));
        assert_eq!(field(stat, 22), Some("98765"));
        assert_eq!(field("nothing", 3), None);
    }

    #[test]
    fn a_process_that_ended_is_dead_and_this_one_is_not() {
        let this = Owner::this().expect("proc is mounted");
        assert!(!this.is_dead());
        let mut child = std::process::Command::new("true").spawn().expect("start a process");
        let pid = i32::try_from(child.id()).expect("a number");
        child.wait().expect("it ends");
        assert!(Owner { pid, ..this.clone() }.is_dead());
        // the same number, given to another process
        assert!(Owner { started: this.started - 1, ..this.clone() }.is_dead());
        // elsewhere the same number means nothing
        assert!(!Owner { pid, boot: "another".into(), ..this.clone() }.is_dead());
        assert!(!Owner { pid, namespace: "pid:[1]".into(), ..this }.is_dead());
    }
}
