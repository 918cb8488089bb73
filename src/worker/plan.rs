//! A job as the worker plans it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::{info, warn};

use crate::name::JobName;
use crate::schedule::{Errand, Schedule};

/// What the worker knows of a job.
#[derive(Debug, Clone)]
pub struct PlannedJob {
    pub name: JobName,
    /// `None`: only by hand.
    pub schedule: Option<Schedule>,
    /// It copies what others have made: what its targets hold says nothing of how its last run went.
    pub copies: bool,
    /// It also runs after each run of these, and once at start where it has something to do.
    pub follows: Vec<JobName>,
    /// When its newest complete backup is restored for a trial.
    pub drill: Option<Schedule>,
    /// Whether a slot that passed while no worker lived is run once, at start.
    pub catch_up: bool,
    /// A run begins a random while, shorter than this, after its slot.
    pub jitter: Duration,
    /// How long a run may take, for telling when one is overdue. To cut it is the [`Runner`]'s business, which knows what is worth keeping.
    pub timeout: Option<Duration>,
}

/// What is done by a schedule.
pub fn scheduled(jobs: &[PlannedJob]) -> impl Iterator<Item = (JobName, Errand, Schedule)> {
    jobs.iter().flat_map(|plan| {
        let schedules = [(Errand::Backup, &plan.schedule), (Errand::Drill, &plan.drill)];
        schedules.into_iter().filter_map(|(errand, schedule)| Some((plan.name.clone(), errand, schedule.clone()?)))
    })
}

fn names(jobs: &[JobName]) -> String {
    jobs.iter().map(JobName::as_str).collect::<Vec<_>>().join(", ")
}

/// Tells when each job runs next, so that a wrong zone is seen before the night.
pub fn announce(jobs: &[PlannedJob], now: DateTime<Utc>) {
    let next = |schedule: &Schedule| schedule.next_n(now, 3).into_iter().map(|at| schedule.show(at)).collect::<Vec<_>>().join(", ");
    for plan in jobs {
        match &plan.schedule {
            Some(schedule) => info!(job = %plan.name, schedule = schedule.text(), "next runs: {}", next(schedule)),
            None if !plan.follows.is_empty() => info!(job = %plan.name, "runs after each run of {}", names(&plan.follows)),
            None => info!(job = %plan.name, "no schedule: runs only by hand"),
        }
        if let Some(drill) = &plan.drill {
            info!(job = %plan.name, drill = drill.text(), "next drills: {}", next(drill));
        }
    }
    if jobs.iter().all(|plan| plan.schedule.is_none()) {
        warn!("no job has a schedule: this worker will not run anything");
    }
}
