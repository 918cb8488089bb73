//! Restore drills: a backup is really restored, by the code of every other restore, into places that exist for that only; what came out is
//! compared with what was backed up, and all of it is removed again.
//!
//! | kind | goes to | where that cannot be |
//! |---|---|---|
//! | PostgreSQL | a server of our own, made from the programs that are installed here | databases beside those in service, never switched in |
//! | Redis | a server of our own, from `PATH` | a file, which is checked to its end: it says that nothing loaded it |
//! | directory | a directory of our own | nowhere: it could not be carried out |
//!
//! One component at a time, so that only one copy takes room.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::chain::{self, describe};
use crate::component::postgres::Contents;
use crate::component::{ComponentError, Destination, RestoreOptions, Restored, Restorer};
use crate::encryption::Identities;
use crate::manifest::{self, Kind, Manifest};
use crate::name::ComponentName;
use crate::pipeline::{Progress, UnpackError};
use crate::process::ProcessError;
use crate::restore::{self, Restore, RestoreError};
use crate::storage::Target;
use crate::verdict::Found;

mod place;
mod postgres;
mod redis;

use place::Place;

/// Why a throwaway place is not there.
#[derive(Debug, Error)]
pub enum DrillError {
    #[error("no room for {}: {}", ByteSize(*needed).display().iec(), rooms(found))]
    Space { needed: u64, found: Vec<(PathBuf, Option<u64>)> },
    #[error("loading it takes about {}, and {} of memory are free", ByteSize(*needed).display().iec(), ByteSize(*available).display().iec())]
    Memory { needed: u64, available: u64 },
    #[error("{action} {path}")]
    Place {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("no server of {what} is installed here")]
    NoServer { what: String },
    #[error("PostgreSQL refuses to run as root, and this root may not become another user (CAP_SETUID, CAP_SETGID, CAP_KILL)")]
    Root,
    #[error("start a server of {what}")]
    Start {
        what: String,
        #[source]
        source: ProcessError,
    },
    #[error("a server of {what} ended as soon as it was started")]
    Ended { what: String },
    #[error("a server of {what} did not come up within {seconds} s")]
    Slow { what: String, seconds: u64 },
    #[error("the drill was cancelled")]
    Cancelled,
}

fn rooms(found: &[(PathBuf, Option<u64>)]) -> String {
    let room = |(path, room): &(PathBuf, Option<u64>)| match room {
        Some(room) => format!("{} has {}", path.display(), ByteSize(*room).display().iec()),
        None => format!("{} cannot be used", path.display()),
    };
    format!("{} (TMPDIR names another place)", found.iter().map(room).collect::<Vec<_>>().join(", "))
}

/// One component of a drill.
pub struct Part {
    pub name: ComponentName,
    /// Of the component as it is configured here, if it is.
    pub configured: Option<Arc<dyn Restorer>>,
    /// One that knows no server or path but those that it is given.
    pub anywhere: Arc<dyn Restorer>,
}

/// How one component fared.
#[derive(Debug, Clone)]
pub struct Trial {
    pub name: ComponentName,
    pub outcome: Outcome,
    /// From the start of a server, if there was one, until all was removed.
    pub took: Duration,
    /// What was done and compared, in sentences.
    pub done: Vec<String>,
    pub warnings: Vec<String>,
}

/// What a drill of one component says about it. The texts are sentences that do not name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is what was backed up.
    Passed,
    /// As far as it was drilled, which says what was not.
    Incomplete(String),
    /// Stored bytes are not what was written.
    Damaged(String),
    /// What came out is not what was backed up.
    Differs(String),
    /// It could not be restored.
    Failed(String),
    /// The drill could not be carried out, which says nothing about the backup.
    Unable(String),
}

impl Outcome {
    /// One word for tables and answers.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Incomplete(_) => "incomplete",
            Self::Damaged(_) => "damaged",
            Self::Differs(_) => "differs",
            Self::Failed(_) => "failed",
            Self::Unable(_) => "unable",
        }
    }

    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Passed => None,
            Self::Incomplete(why) | Self::Damaged(why) | Self::Differs(why) | Self::Failed(why) | Self::Unable(why) => Some(why),
        }
    }
}

/// A drill of a backup in one target.
pub struct Drill {
    target: Target,
    manifest: Manifest,
    parts: Vec<(manifest::Component, Part)>,
    identities: Identities,
    progress: Progress,
}

impl Drill {
    /// Of the components `parts`, all of which the backup holds.
    ///
    /// # Errors
    /// [`RestoreError::NotInBackup`] and [`RestoreError::Lost`].
    pub fn new(
        target: &Target,
        manifest: Manifest,
        parts: Vec<Part>,
        identities: Identities,
        progress: Progress,
    ) -> Result<Self, RestoreError> {
        let parts = restore::chosen(&manifest, parts, |part| &part.name)?;
        Ok(Self { target: target.clone(), manifest, parts, identities, progress })
    }

    /// Carries it out. One component that fails does not keep the others from being tried.
    ///
    /// # Errors
    /// [`DrillError::Cancelled`] only, when all was removed.
    pub async fn run(&self, cancel: &CancellationToken) -> Result<Vec<Trial>, DrillError> {
        let mut trials = Vec::new();
        for (component, part) in &self.parts {
            let began = Instant::now();
            tracing::info!(component = %part.name, "drill begins");
            let mut notes = Restored::default();
            let outcome = match component.kind {
                Kind::Postgres => self.postgres(component, part, &mut notes, cancel).await,
                Kind::Redis => self.redis(component, part, &mut notes, cancel).await,
                Kind::Directory | Kind::Bucket => self.directory(component, part, &mut notes, cancel).await,
            };
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(_) if cancel.is_cancelled() => return Err(DrillError::Cancelled),
                Err(error) => Outcome::Unable(describe(&error)),
            };
            if cancel.is_cancelled() {
                return Err(DrillError::Cancelled);
            }
            let Restored { done, warnings } = notes;
            trials.push(Trial { name: part.name.clone(), outcome, took: began.elapsed(), done, warnings });
        }
        Ok(trials)
    }

    async fn postgres(
        &self,
        component: &manifest::Component,
        part: &Part,
        notes: &mut Restored,
        cancel: &CancellationToken,
    ) -> Result<Outcome, DrillError> {
        let contents = match Contents::of(component) {
            Ok(contents) => contents,
            Err(error) => return Ok(Outcome::Failed(describe(&error))),
        };
        let own = match postgres::Server::start(&contents, cancel).await {
            Ok(server) => {
                tracing::info!(component = %part.name, version = server.version, "a server of our own is up");
                let outcome = self.attempt(&part.anywhere, Destination::Throwaway(server.url()), notes, cancel).await;
                let version = server.version.clone();
                server.stop().await?;
                if !matches!(outcome, Outcome::Failed(_) | Outcome::Unable(_)) {
                    notes.done.insert(0, format!("restored to a PostgreSQL {version} server of its own"));
                    return Ok(outcome);
                }
                outcome
            }
            Err(DrillError::Cancelled) => return Err(DrillError::Cancelled),
            Err(error) => Outcome::Unable(describe(&error)),
        };
        // an extension or a locale may be missing here that the server in service has
        let Some(configured) = &part.configured else { return Ok(own) };
        let why = own.reason().unwrap_or_default();
        tracing::info!(component = %part.name, why, "no server of our own took it: beside the databases in service");
        match self.attempt(configured, Destination::Beside, notes, cancel).await {
            Outcome::Unable(reason) => Ok(Outcome::Unable(format!("{reason}; and on a server of its own: {why}"))),
            outcome => {
                notes.warnings.push(format!(
                    "loaded beside the databases in service, without roles and tablespaces, and not to a server of its own: {why}"
                ));
                Ok(outcome)
            }
        }
    }

    async fn redis(
        &self,
        component: &manifest::Component,
        part: &Part,
        notes: &mut Restored,
        cancel: &CancellationToken,
    ) -> Result<Outcome, DrillError> {
        let mut why = Vec::new();
        if let Err(error) = redis::fits_memory(component) {
            why.push(describe(&error));
        } else {
            for program in redis::programs() {
                match redis::Server::start(&program, component, cancel).await {
                    Ok(server) => {
                        let attempt = self.attempt(&part.anywhere, Destination::Throwaway(server.url()), notes, cancel).await;
                        server.stop().await?;
                        match attempt {
                            Outcome::Unable(reason) => why.push(reason),
                            settled => {
                                notes.done.insert(0, format!("restored to a server of its own ({})", program.display()));
                                return Ok(settled);
                            }
                        }
                    }
                    Err(DrillError::Cancelled) => return Err(DrillError::Cancelled),
                    Err(error) => why.push(describe(&error)),
                }
            }
            if why.is_empty() {
                why.push("neither redis-server nor valkey-server is on PATH".to_owned());
            }
        }
        let place = Place::make(redis::rdb_bytes(component), None).await?;
        let to = Destination::Throwaway(format!("file://{}", place.path().join("dump.rdb").display()));
        let checked = self.attempt(&part.anywhere, to, &mut Restored::default(), cancel).await;
        place.remove().await?;
        Ok(match checked {
            Outcome::Passed => {
                notes.done.push("the RDB was read and checked to its end".to_owned());
                Outcome::Incomplete(format!("no server loaded the RDB: {}", why.join("; ")))
            }
            other => other,
        })
    }

    async fn directory(
        &self,
        component: &manifest::Component,
        part: &Part,
        notes: &mut Restored,
        cancel: &CancellationToken,
    ) -> Result<Outcome, DrillError> {
        let needed = component.content().map(|artifact| artifact.raw_bytes).sum();
        let place = Place::make(needed, None).await?;
        let to = Destination::Throwaway(place.path().join("tree").display().to_string());
        let outcome = self.attempt(&part.anywhere, to, notes, cancel).await;
        place.remove().await?;
        Ok(outcome)
    }

    /// One restore, from its plan to its end.
    async fn attempt(&self, restorer: &Arc<dyn Restorer>, to: Destination, notes: &mut Restored, cancel: &CancellationToken) -> Outcome {
        let part = restore::Part { restorer: restorer.clone(), options: RestoreOptions { to, ..RestoreOptions::default() } };
        let restored = async {
            let restore = Restore::new(&self.target, self.manifest.clone(), vec![part], self.identities.clone(), self.progress.clone())?;
            restore.plan().await?;
            restore.execute(None, cancel).await
        };
        match restored.await {
            Ok(components) => {
                for (_, restored) in components {
                    notes.done.extend(restored.done);
                    notes.warnings.extend(restored.warnings);
                }
                Outcome::Passed
            }
            Err(error) => judge(&error),
        }
    }
}

/// What a drill says of the backup as a whole, to be recorded beside it. `whole`: every component of the job was in it, and drilled.
pub fn findings(trials: &[Trial], whole: bool, took: Duration) -> Vec<Found> {
    let any = |is: fn(&Outcome) -> bool| trials.iter().any(|trial| is(&trial.outcome));
    let mut found = Vec::new();
    if any(|o| matches!(o, Outcome::Damaged(_))) {
        found.push(Found::Damaged);
    }
    if any(|o| matches!(o, Outcome::Damaged(_) | Outcome::Differs(_) | Outcome::Failed(_))) {
        found.push(Found::Undrilled);
    } else if !whole || any(|o| matches!(o, Outcome::Unable(_))) {
        // what was not read says nothing
    } else if any(|o| matches!(o, Outcome::Incomplete(_))) {
        found.push(Found::Sound);
    } else {
        found.push(Found::Drilled { seconds: took.as_secs_f64().ceil() as u64 });
    }
    found
}

fn judge(error: &RestoreError) -> Outcome {
    let why = cause(error);
    match chain::find::<UnpackError>(error) {
        Some(unpack) if unpack.is_damage() => return Outcome::Damaged(describe(unpack)),
        Some(unpack) => return Outcome::Unable(describe(unpack)),
        None => {}
    }
    if matches!(chain::find::<ComponentError>(error), Some(ComponentError::Differs(_))) {
        return Outcome::Differs(why);
    }
    match error {
        RestoreError::Failed { .. } | RestoreError::NotUndone { .. } => Outcome::Failed(why),
        _ => Outcome::Unable(why),
    }
}

/// What went wrong, without what a restore says of what is in service: a drill leaves that alone anyway.
fn cause(error: &RestoreError) -> String {
    match error {
        RestoreError::Refused { source, .. } | RestoreError::Failed { source, .. } => describe(source),
        error => describe(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trials(outcomes: &[Outcome]) -> Vec<Trial> {
        let trial = |outcome: &Outcome| Trial {
            name: "a".parse().expect("a name"),
            outcome: outcome.clone(),
            took: Duration::ZERO,
            done: Vec::new(),
            warnings: Vec::new(),
        };
        outcomes.iter().map(trial).collect()
    }

    #[test]
    fn only_a_whole_drill_counts_as_one_and_only_what_was_read_is_judged() {
        let why = || "why".to_owned();
        let (incomplete, unable) = (Outcome::Incomplete(why()), Outcome::Unable(why()));
        let (damaged, differs, failed) = (Outcome::Damaged(why()), Outcome::Differs(why()), Outcome::Failed(why()));
        let passed = Outcome::Passed;
        let drilled = Found::Drilled { seconds: 2 };
        for (outcomes, whole, expected) in [
            (vec![&passed, &passed], true, vec![drilled]),
            (vec![&passed], false, vec![]),
            (vec![&passed, &incomplete], true, vec![Found::Sound]),
            (vec![&passed, &unable], true, vec![]),
            (vec![&incomplete, &unable], true, vec![]),
            (vec![&passed, &differs], true, vec![Found::Undrilled]),
            (vec![&failed, &unable], false, vec![Found::Undrilled]),
            (vec![&damaged, &passed], false, vec![Found::Damaged, Found::Undrilled]),
        ] {
            let outcomes: Vec<Outcome> = outcomes.into_iter().cloned().collect();
            assert_eq!(findings(&trials(&outcomes), whole, Duration::from_millis(1200)), expected, "{outcomes:?}");
        }
    }
}
