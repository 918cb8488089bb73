//! What the worker knows about each job, and the rules for "overdue" and "failing". Pure: takes `now`.
//!
//! **Overdue**: a slot has passed by more than the grace (the job's `timeout`, or an hour without one, plus its jitter), and neither a
//! complete backup was begun since that slot nor is one being made for it. A job without any backup counts from the worker's start.
//! **Failing**: the last run failed or was incomplete, and no complete backup was begun since (of a job that copies, only a run of its own tells); or the targets cannot be asked; or the last
//! drill failed, or could not be carried out.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;

use super::plan::PlannedJob;
use super::runner::{DrillOutcome, RunOutcome};
use crate::name::JobName;
use crate::schedule::Errand;

/// How late the run of a job without `timeout` may be.
pub const GRACE: TimeDelta = TimeDelta::hours(1);

/// All jobs of the worker.
#[derive(Debug)]
pub struct Board {
    started: DateTime<Utc>,
    stopping: bool,
    jobs: BTreeMap<JobName, JobState>,
}

/// One job.
#[derive(Debug)]
struct JobState {
    plan: PlannedJob,
    /// No longer configured; kept while its last run goes on.
    removed: bool,
    running: Option<Running>,
    /// Slots that came while the job was busy: of a backup, and of a drill.
    waiting: [Option<DateTime<Utc>>; 2],
    last: Option<LastRun>,
    last_drill: Option<LastDrill>,
    last_complete: Option<DateTime<Utc>>,
    /// Why the targets could not say when the last complete backup was made.
    unreadable: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    errand: Errand,
    slot: DateTime<Utc>,
    began: DateTime<Utc>,
}

/// What becomes of a slot that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    Begins,
    /// Until what the job is busy with has ended.
    Waits,
    /// The same goes on still.
    LeftOut,
}

#[derive(Debug, Clone)]
struct LastDrill {
    began: DateTime<Utc>,
    ended: DateTime<Utc>,
    outcome: DrillOutcome,
}

#[derive(Debug, Clone)]
struct LastRun {
    began: DateTime<Utc>,
    ended: DateTime<Utc>,
    outcome: RunOutcome,
}

/// The answer of `/healthz` and `/readyz`.
#[derive(Debug, Serialize)]
pub struct Report {
    pub ready: bool,
    /// Why not, a sentence a job.
    pub reasons: Vec<String>,
    pub jobs: Vec<JobReport>,
}

/// One job in a [`Report`]; times are RFC 3339 in UTC.
#[derive(Debug, Serialize)]
pub struct JobReport {
    pub name: JobName,
    pub running: bool,
    pub last_outcome: Option<&'static str>,
    pub last_reason: Option<String>,
    /// When the last run of this worker began and ended.
    pub last_run: Option<String>,
    pub last_run_ended: Option<String>,
    /// When the newest complete backup was begun, by whomever.
    pub last_complete: Option<String>,
    pub next: Option<String>,
    pub drilling: bool,
    /// When the last drill of this worker began, and what came of it.
    pub last_drill: Option<String>,
    pub last_drill_outcome: Option<&'static str>,
    pub last_drill_reason: Option<String>,
    pub last_drill_seconds: Option<i64>,
    pub next_drill: Option<String>,
    pub overdue: bool,
    pub failing: bool,
}

impl Board {
    pub fn new(jobs: Vec<PlannedJob>, now: DateTime<Utc>) -> Self {
        let mut board = Self { started: now, stopping: false, jobs: BTreeMap::new() };
        board.replace(jobs);
        board
    }

    /// Takes another configuration; what is known of a job that stays is kept.
    pub fn replace(&mut self, jobs: Vec<PlannedJob>) {
        for state in self.jobs.values_mut() {
            state.removed = true;
        }
        for plan in jobs {
            match self.jobs.get_mut(&plan.name) {
                Some(state) => (state.plan, state.removed) = (plan, false),
                None => {
                    let state = JobState {
                        plan,
                        removed: false,
                        running: None,
                        waiting: [None; 2],
                        last: None,
                        last_drill: None,
                        last_complete: None,
                        unreadable: None,
                    };
                    self.jobs.insert(state.plan.name.clone(), state);
                }
            }
        }
        self.forget_removed();
    }

    /// The configured job of that name.
    pub fn plan(&self, job: &JobName) -> Option<&PlannedJob> {
        self.jobs.get(job).filter(|state| !state.removed).map(|state| &state.plan)
    }

    /// The jobs that are backed up or drilled now.
    pub fn running(&self) -> Vec<&JobName> {
        self.jobs.iter().filter(|(_, state)| state.running.is_some()).map(|(name, _)| name).collect()
    }

    pub fn last_complete(&self, job: &JobName) -> Option<DateTime<Utc>> {
        self.jobs.get(job).and_then(|state| state.last_complete)
    }

    /// Takes the slot of an errand: one goes on at a time per job. A backup is worth more than a drill, but half a drill is worth nothing:
    /// each waits for the other. A job that follows others has something new to do each time that one of them ends.
    pub fn claim(&mut self, job: &JobName, errand: Errand, slot: DateTime<Utc>, now: DateTime<Utc>) -> Claim {
        let Some(state) = self.jobs.get_mut(job) else { return Claim::LeftOut };
        match &state.running {
            None => {
                state.running = Some(Running { errand, slot, began: now });
                Claim::Begins
            }
            Some(running) if running.errand == errand && state.plan.follows.is_empty() => Claim::LeftOut,
            Some(_) => {
                state.waiting[place(errand)] = Some(slot);
                Claim::Waits
            }
        }
    }

    /// The jobs that run after each run of `job`.
    pub fn followers(&self, job: &JobName) -> Vec<JobName> {
        let follows = |state: &&JobState| !state.removed && state.plan.follows.contains(job);
        self.jobs.values().filter(follows).map(|state| state.plan.name.clone()).collect()
    }

    /// What waits for a job that was busy until now; a backup comes first.
    pub fn next_waiting(&mut self, job: &JobName) -> Option<(Errand, DateTime<Utc>)> {
        let state = self.jobs.get_mut(job).filter(|state| !state.removed && state.running.is_none())?;
        let mut take = |errand| state.waiting[place(errand)].take().map(|slot| (errand, slot));
        take(Errand::Backup).or_else(|| take(Errand::Drill))
    }

    pub fn drilled(&mut self, job: &JobName, outcome: DrillOutcome, now: DateTime<Utc>) {
        if let Some(state) = self.jobs.get_mut(job) {
            let began = state.running.take().map_or(now, |run| run.began);
            if outcome.is_answer() {
                state.last_drill = Some(LastDrill { began, ended: now, outcome });
            }
        }
        self.forget_removed();
    }

    pub fn ended(&mut self, job: &JobName, outcome: RunOutcome, now: DateTime<Utc>) {
        if let Some(state) = self.jobs.get_mut(job) {
            let began = state.running.take().map_or(now, |run| run.began);
            if outcome == RunOutcome::Complete {
                state.last_complete = state.last_complete.max(Some(began));
                state.unreadable = None;
            }
            // that another copies says nothing of what has failed before
            if !(state.plan.copies && outcome == RunOutcome::Busy && state.failing().is_some()) {
                state.last = Some(LastRun { began, ended: now, outcome });
            }
        }
        self.forget_removed();
    }

    /// What the targets say about the newest complete backup.
    pub fn asked(&mut self, job: &JobName, answer: Result<Option<DateTime<Utc>>, String>) {
        if let Some(state) = self.jobs.get_mut(job) {
            match answer {
                Ok(at) => (state.last_complete, state.unreadable) = (state.last_complete.max(at), None),
                Err(reason) => state.unreadable = Some(reason),
            }
        }
    }

    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// The jobs about which the targets should be asked again, since a backup made by hand may have mended them.
    pub fn doubtful(&self, now: DateTime<Utc>) -> Vec<JobName> {
        let doubtful = |state: &JobState| !state.removed && (state.failing().is_some() || state.overdue(self.started, now).is_some());
        self.jobs.iter().filter(|(_, state)| doubtful(state)).map(|(name, _)| name.clone()).collect()
    }

    pub fn report(&self, now: DateTime<Utc>) -> Report {
        let mut reasons = Vec::new();
        if self.stopping {
            reasons.push("the worker is stopping".to_owned());
        }
        let mut jobs = Vec::new();
        for (name, state) in self.jobs.iter().filter(|(_, state)| !state.removed) {
            let (overdue, failing) = (state.overdue(self.started, now), state.failing());
            let (drill, alarm) = (state.last_drill.as_ref(), state.alarm());
            jobs.push(JobReport {
                name: name.clone(),
                running: state.is_at(Errand::Backup),
                last_outcome: state.last.as_ref().map(|last| last.outcome.word()),
                last_reason: state.last.as_ref().and_then(|last| last.outcome.reason()).map(str::to_owned),
                last_run: state.last.as_ref().map(|last| stamp(last.began)),
                last_run_ended: state.last.as_ref().map(|last| stamp(last.ended)),
                last_complete: state.last_complete.map(stamp),
                next: state.plan.schedule.as_ref().and_then(|s| s.next_after(now)).map(stamp),
                drilling: state.is_at(Errand::Drill),
                last_drill: drill.map(|last| stamp(last.began)),
                last_drill_outcome: drill.map(|last| last.outcome.word()),
                last_drill_reason: drill.and_then(|last| last.outcome.reason()).map(str::to_owned),
                last_drill_seconds: drill.map(|last| (last.ended - last.began).num_seconds()),
                next_drill: state.plan.drill.as_ref().and_then(|s| s.next_after(now)).map(stamp),
                overdue: overdue.is_some(),
                failing: failing.is_some() || alarm.is_some(),
            });
            reasons.extend([failing, alarm, overdue].into_iter().flatten().map(|why| format!("job `{name}`: {why}")));
        }
        Report { ready: reasons.is_empty(), reasons, jobs }
    }

    fn forget_removed(&mut self) {
        self.jobs.retain(|_, state| !state.removed || state.running.is_some());
    }
}

fn place(errand: Errand) -> usize {
    match errand {
        Errand::Backup => 0,
        Errand::Drill => 1,
    }
}

impl JobState {
    fn is_at(&self, errand: Errand) -> bool {
        self.running.is_some_and(|running| running.errand == errand)
    }

    /// What the last drill wants somebody to look at.
    fn alarm(&self) -> Option<String> {
        let last = self.last_drill.as_ref().filter(|last| last.outcome.is_alarming())?;
        let what = if matches!(last.outcome, DrillOutcome::Failed(_)) { "failed" } else { "could not be carried out" };
        Some(format!("the last drill {what}: {}", last.outcome.reason()?))
    }

    fn overdue(&self, started: DateTime<Utc>, now: DateTime<Utc>) -> Option<String> {
        let schedule = self.plan.schedule.as_ref()?;
        let grace = self.plan.timeout.map_or(GRACE, delta) + delta(self.plan.jitter);
        let since = self
            .last_complete
            .unwrap_or(started)
            .max(self.running.filter(|run| run.errand == Errand::Backup).map_or(DateTime::<Utc>::MIN_UTC, |run| run.slot));
        let slot = schedule.last_slot_between(since, now.checked_sub_signed(grace)?)?;
        Some(format!("overdue, no complete backup since its slot of {}", stamp(slot)))
    }

    fn failing(&self) -> Option<String> {
        let stands = |last: &&LastRun| self.plan.copies || self.last_complete.is_none_or(|complete| complete < last.began);
        let last = self.last.as_ref().filter(stands);
        let failed = last.and_then(|last| Some(format!("the last run is {}: {}", last.outcome.word(), last.outcome.reason()?)));
        failed.or_else(|| self.unreadable.as_ref().map(|why| format!("its last backup cannot be found out: {why}")))
    }
}

fn delta(duration: Duration) -> TimeDelta {
    // a duration too long for chrono is longer than any slot is old
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX / 4)
}

fn stamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
