//! Turns the schedules of many jobs into triggers. The only user of tokio-cron-scheduler.
//!
//! The crate gives the heartbeat (it looks every 500 ms) and the tasks; what is due is decided here. Left alone it freezes a zone's offset
//! when a job is created, stops when the clock steps back, and loses activations beyond the size of its channels. So it gets a
//! storage of our own ([`Table`]), which names only jobs that are due by our [`Clock`], and a job stays due until its trigger lies in the
//! receiver's queue: an activation that the crate loses is made again at the next heartbeat, one that it makes twice finds nothing due.

use std::collections::HashMap;
use std::future::ready;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use thiserror::Error;
use tokio::sync::{RwLock, mpsc};
use tokio_cron_scheduler::job::job_data::{JobAndNextTick, JobStoredData, JobType};
use tokio_cron_scheduler::store::{DataStore, InitStore};
use tokio_cron_scheduler::{
    Context, JobCode, JobScheduler, JobSchedulerError, JobToRunAsync, MetaDataStorage, PinnedGetFuture, SimpleNotificationCode,
    SimpleNotificationStore, ToCode,
};
use uuid::Uuid;

use super::Schedule;
use crate::clock::Clock;
use crate::name::JobName;

/// A clock that steps back by less than this is taken as a correction, and slots that already fired are not repeated; after a bigger
/// step everything is computed anew from the new time.
const SMALL_STEP: TimeDelta = TimeDelta::minutes(1);

/// Places in the crate's channels, at least; it needs several a job when all jobs fire at once.
const MIN_CHANNEL: usize = 256;

/// What is done for a job at a slot; each has a schedule of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Errand {
    Backup,
    Drill,
}

/// A job's slot has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    pub job: JobName,
    pub errand: Errand,
    /// The newest slot that has come; older ones that were slept through are left out.
    pub slot: DateTime<Utc>,
}

/// Why the timetable cannot run.
#[derive(Debug, Error)]
pub enum TimetableError {
    #[error("start the scheduler")]
    Start(#[source] JobSchedulerError),
}

/// A running timetable. Dropped without [`Timetable::stop`] it keeps ticking until the runtime ends.
pub struct Timetable {
    table: Table,
    scheduler: JobScheduler,
}

impl std::fmt::Debug for Timetable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timetable").finish_non_exhaustive()
    }
}

impl Timetable {
    /// Starts it; slots after now come out of the receiver, each within a second.
    ///
    /// # Errors
    /// [`TimetableError::Start`], when the crate's tasks do not start.
    pub async fn start(
        jobs: impl IntoIterator<Item = (JobName, Errand, Schedule)>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, mpsc::Receiver<Trigger>), TimetableError> {
        let jobs: Vec<_> = jobs.into_iter().collect();
        let places = (4 * jobs.len()).max(MIN_CHANNEL);
        Self::start_with(jobs, clock, places).await
    }

    async fn start_with(
        jobs: Vec<(JobName, Errand, Schedule)>,
        clock: Arc<dyn Clock>,
        places: usize,
    ) -> Result<(Self, mpsc::Receiver<Trigger>), TimetableError> {
        let (triggers, receiver) = mpsc::channel(places);
        let table = Table { state: Arc::new(Mutex::new(State { seen: clock.now(), rows: HashMap::new() })), clock, triggers };
        table.replace(jobs);
        let scheduler = JobScheduler::new_with_storage_and_code(
            Box::new(table.clone()),
            Box::new(SimpleNotificationStore::default()),
            Box::new(table.clone()),
            Box::new(SimpleNotificationCode::default()),
            places,
        )
        .await
        .map_err(TimetableError::Start)?;
        scheduler.start().await.map_err(TimetableError::Start)?;
        Ok((Self { table, scheduler }, receiver))
    }

    /// Takes other jobs from now on. A job that keeps its schedule keeps its next slot, even if that has just come.
    pub fn replace(&self, jobs: impl IntoIterator<Item = (JobName, Errand, Schedule)>) {
        self.table.replace(jobs);
    }

    /// When the backup of `job` fires next.
    pub fn next(&self, job: &JobName) -> Option<DateTime<Utc>> {
        self.table.lock().rows.values().find(|row| row.job == *job && row.errand == Errand::Backup).map(|row| row.due)
    }

    /// No trigger is made after this.
    pub async fn stop(mut self) {
        self.table.lock().rows.clear();
        if let Err(error) = self.scheduler.shutdown().await {
            tracing::debug!(%error, "the scheduler did not take its shutdown");
        }
    }
}

/// The jobs and when each is due: the crate's storage of metadata and of code at once. Clones share.
#[derive(Clone)]
struct Table {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
    triggers: mpsc::Sender<Trigger>,
}

struct State {
    /// The clock at the last look, to notice a step back.
    seen: DateTime<Utc>,
    rows: HashMap<Uuid, Row>,
}

struct Row {
    job: JobName,
    errand: Errand,
    schedule: Schedule,
    due: DateTime<Utc>,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, jobs: impl IntoIterator<Item = (JobName, Errand, Schedule)>) {
        let now = self.clock.now();
        let mut state = self.lock();
        let old: HashMap<(JobName, Errand), Row> = state.rows.drain().map(|(_, row)| ((row.job.clone(), row.errand), row)).collect();
        for (job, errand, schedule) in jobs {
            let kept = old.get(&(job.clone(), errand)).filter(|row| row.schedule == schedule).map(|row| row.due);
            // a schedule without a next slot was refused when it was parsed
            let Some(due) = kept.or_else(|| schedule.next_after(now)) else { continue };
            state.rows.insert(Uuid::new_v4(), Row { job, errand, schedule, due });
        }
    }

    /// The jobs whose slot has come.
    fn due(&self) -> Vec<Uuid> {
        let now = self.clock.now();
        let mut state = self.lock();
        if now < state.seen - SMALL_STEP {
            tracing::warn!(from = %state.seen, to = %now, "the clock stepped back: the next runs are computed anew");
            for row in state.rows.values_mut() {
                row.due = row.schedule.next_after(now).unwrap_or(row.due);
            }
        }
        state.seen = now;
        state.rows.iter().filter(|(_, row)| row.due <= now).map(|(id, _)| *id).collect()
    }

    /// Sends the trigger of a job whose slot has come. With a full queue the job stays due, until the next heartbeat.
    fn fire(&self, id: Uuid) {
        let now = self.clock.now();
        let mut state = self.lock();
        let Some(row) = state.rows.get_mut(&id).filter(|row| row.due <= now) else { return };
        let slot = row.schedule.previous_slot(now).unwrap_or(row.due);
        if self.triggers.try_send(Trigger { job: row.job.clone(), errand: row.errand, slot }).is_ok() {
            row.due = row.schedule.next_after(now).unwrap_or(DateTime::<Utc>::MAX_UTC);
        }
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, JobSchedulerError>> + Send>>;

fn answer<T: Send + 'static>(value: T) -> Answer<T> {
    Box::pin(ready(Ok(value)))
}

impl MetaDataStorage for Table {
    fn list_next_ticks(&mut self) -> Answer<Vec<JobAndNextTick>> {
        // The crate compares next_tick with its own clock; 1 (0 means "delete me") is past by any clock.
        let tick = |id: Uuid| JobAndNextTick { id: Some(id.into()), job_type: JobType::Cron.into(), next_tick: 1, last_tick: None };
        answer(self.due().into_iter().map(tick).collect())
    }

    /// The crate's idea of the next tick knows no zone: [`Table::fire`] has set ours.
    fn set_next_and_last_tick(&mut self, _: Uuid, _: Option<DateTime<Utc>>, _: Option<DateTime<Utc>>) -> Answer<()> {
        answer(())
    }

    fn time_till_next_job(&mut self) -> Answer<Option<std::time::Duration>> {
        let now = self.clock.now();
        answer(self.lock().rows.values().map(|row| (row.due - now).to_std().unwrap_or_default()).min())
    }
}

impl DataStore<JobStoredData> for Table {
    fn get(&mut self, id: Uuid) -> Answer<Option<JobStoredData>> {
        answer(Some(JobStoredData {
            id: Some(id.into()),
            last_updated: None,
            last_tick: None,
            next_tick: 1,
            job_type: JobType::Cron.into(),
            count: 0,
            extra: Vec::new(),
            ran: false,
            stopped: false,
            job: None,
            time_offset_seconds: 0,
        }))
    }

    /// Jobs come through [`Timetable::start`] and [`Timetable::replace`] only.
    fn add_or_update(&mut self, _: JobStoredData) -> Answer<()> {
        Box::pin(ready(Err(JobSchedulerError::CantAdd)))
    }

    fn delete(&mut self, id: Uuid) -> Answer<()> {
        self.lock().rows.remove(&id);
        answer(())
    }
}

impl InitStore for Table {
    fn init(&mut self) -> Answer<()> {
        answer(())
    }

    fn inited(&mut self) -> Answer<bool> {
        answer(true)
    }
}

impl ToCode<Box<JobToRunAsync>> for Table {
    fn init(&mut self, _: &Context) -> Answer<()> {
        answer(())
    }

    fn get(&mut self, _: Uuid) -> PinnedGetFuture<Box<JobToRunAsync>> {
        let table = self.clone();
        // The crate calls this closure under its locks, where a panic would end its runner: it only makes the future.
        let code: Box<JobToRunAsync> = Box::new(move |id, _| {
            let table = table.clone();
            Box::pin(async move { table.fire(id) })
        });
        answer(Some(Arc::new(RwLock::new(code))))
    }
}

impl JobCode for Table {}

#[cfg(test)]
mod steps;
#[cfg(test)]
mod tests;
