//! How many bytes have gone through, once a second, on a terminal only.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::args::Global;
use super::output;
use crate::pipeline;

/// Shows until it is dropped.
pub(super) struct Progress(Option<AbortHandle>);

impl Progress {
    pub(super) fn show(global: &Global, verb: &'static str, progress: pipeline::Progress) -> Self {
        if global.no_progress || global.quiet || !output::stderr_is_terminal() {
            return Self(None);
        }
        let began = Instant::now();
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            loop {
                ticks.tick().await;
                let bytes = progress.0.load(Ordering::Relaxed);
                output::status(&format!("{verb} {} in {} s", output::size(bytes), began.elapsed().as_secs()));
            }
        });
        Self(Some(task.abort_handle()))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
            output::status("");
        }
    }
}
