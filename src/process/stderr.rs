//! What a child says on stderr, of which the end is kept.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;

/// Bytes of stderr that are kept: its end, where the reason stands.
pub(super) const STDERR_TAIL: usize = 8 << 10;

/// The end of what a child wrote to stderr; whole lines, at most 8 KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stderr {
    pub lines: Vec<String>,
}

impl Stderr {
    pub fn contains(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }
}

impl fmt::Display for Stderr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("; "))
    }
}

/// The last [`STDERR_TAIL`] bytes of a stream.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: VecDeque<u8>,
    cut: bool,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let surplus = self.bytes.len().saturating_sub(STDERR_TAIL);
        self.bytes.drain(..surplus);
        self.cut |= surplus > 0;
    }

    pub(super) fn to_stderr(&self) -> Stderr {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = match text.split_once('\n') {
            Some((_, whole)) if self.cut => whole,
            _ => &text,
        };
        Stderr { lines: text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect() }
    }
}

/// Reads `stderr` to its end, so that the child never waits for room in the pipe.
pub(super) async fn keep_tail(mut stderr: ChildStderr, tail: Arc<Mutex<Tail>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        tail.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer[..read]);
    }
}
