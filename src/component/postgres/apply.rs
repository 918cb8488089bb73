//! Brings the roles and tablespaces of a backup to a server, and takes them back.

use std::collections::HashSet;

use tokio::io::AsyncReadExt;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::globals::{self, Does, Globals, Object, Step};
use super::restore_error::RestoreError;
use super::{PostgresError, query, script};
use crate::component::ArtifactOpener;
use crate::manifest::Artifact;

/// Most bytes of a `globals.sql`: 100,000 roles take about 30 MB.
const MAX_GLOBALS: u64 = 64 << 20;

/// What a backup's globals say for a server that has `present`.
///
/// # Errors
/// [`RestoreError::Read`], [`RestoreError::Script`], [`RestoreError::TooLarge`].
pub async fn read_globals(
    artifact: &Artifact,
    open: &ArtifactOpener,
    present: &globals::Present,
    cancel: &CancellationToken,
) -> Result<Globals, PostgresError> {
    let path = || artifact.path.to_string();
    let mut script = Vec::new();
    let read = async {
        let stream = open(artifact).await.map_err(|source| RestoreError::Open { path: path(), source })?;
        // Its end is read too: only there is it verified.
        stream.take(MAX_GLOBALS + 1).read_to_end(&mut script).await.map_err(|source| RestoreError::Read { path: path(), source })
    };
    let length = tokio::select! {
        () = cancel.cancelled() => return Err(PostgresError::Cancelled),
        read = read => read?,
    };
    if length as u64 > MAX_GLOBALS {
        return Err(RestoreError::TooLarge { path: path(), limit: MAX_GLOBALS }.into());
    }
    let statements = script::statements(&script).map_err(|source| RestoreError::Script { path: path(), source })?;
    Ok(globals::decide(&statements, present))
}

/// What was made of a [`Globals`], and how to take it back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// In the order of their creation.
    pub created: Vec<Object>,
    /// Roles and tablespaces that are missing still.
    pub failed: HashSet<Object>,
    /// Takes back what was granted to what was created.
    pub undo: Vec<String>,
    pub warnings: Vec<String>,
}

/// Creates what is missing. What the server refuses is a warning: the user may have no right to it, or a location may not exist here.
/// `applied` is right at any moment, also after an error.
///
/// # Errors
/// [`PostgresError::Query`] when the connection is lost.
pub async fn apply(client: &mut Client, globals: &Globals, applied: &mut Applied) -> Result<(), PostgresError> {
    const DOING: &str = "create the missing roles";
    let mut done = Vec::new();
    let mut transaction = client.transaction().await.map_err(query(DOING))?;
    for step in &globals.roles {
        if applied.failed.contains(&step.needs) {
            continue;
        }
        let mut outcome = Ok(());
        for sql in std::iter::once(&step.sql).chain(&step.otherwise) {
            let savepoint = transaction.savepoint("step").await.map_err(query(DOING))?;
            outcome = match savepoint.execute(sql.as_str(), &[]).await {
                Ok(_) => savepoint.commit().await,
                Err(error) => {
                    savepoint.rollback().await.map_err(query(DOING))?;
                    Err(error)
                }
            };
            if outcome.is_ok() {
                break;
            }
        }
        match outcome {
            Ok(()) => done.push(step),
            Err(error) => applied.failed_step(step, &error),
        }
    }
    transaction.commit().await.map_err(query(DOING))?;
    done.iter().for_each(|step| applied.did(step));
    for step in &globals.tablespaces {
        if applied.failed.contains(&step.needs) {
            continue;
        }
        match client.execute(step.sql.as_str(), &[]).await {
            Ok(_) => applied.did(step),
            Err(error) if client.is_closed() => return Err(query("create the missing tablespaces")(error)),
            Err(error) => applied.failed_step(step, &error),
        }
    }
    Ok(())
}

impl Applied {
    /// Creates nothing of `steps`; what they would have created is missing then.
    pub fn leave_out(&mut self, steps: &mut Vec<Step>) {
        for step in steps.drain(..).filter(|step| step.does == Does::Create) {
            self.warnings.push(format!("{} is missing here, and was not created for the drill", step.needs));
            self.failed.insert(step.needs);
        }
    }

    fn did(&mut self, step: &Step) {
        match step.does {
            Does::Create => self.created.push(step.needs.clone()),
            Does::Attributes { login_without_password: true } => {
                self.warnings.push(format!("{} has no password in the backup: set one before it can log in with one", step.needs));
            }
            _ => {}
        }
        self.undo.extend(step.undo.clone());
    }

    /// The server's message names what it is about; the statement itself may hold a password.
    fn failed_step(&mut self, step: &Step, error: &tokio_postgres::Error) {
        let why = error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned());
        self.warnings.push(format!("could not {} {}: {why}", step.does.action(), step.needs));
        if step.does == Does::Create {
            self.failed.insert(step.needs.clone());
        }
    }

    /// Drops what was created. What somebody uses meanwhile stays, and is returned.
    pub async fn take_back(&mut self, client: &Client) -> Vec<Object> {
        for sql in self.undo.drain(..).rev() {
            if let Err(error) = client.execute(sql.as_str(), &[]).await {
                tracing::debug!(%error, "take a privilege back");
            }
        }
        let mut left = Vec::new();
        for object in self.created.drain(..).rev() {
            let name = super::sql::ident(object.name());
            let sql = match object {
                Object::Role(_) => format!("DROP ROLE IF EXISTS {name}"),
                Object::Tablespace(_) => format!("DROP TABLESPACE IF EXISTS {name}"),
            };
            if let Err(error) = client.execute(sql.as_str(), &[]).await {
                tracing::warn!(%object, %error, "created for the restore, and not dropped again");
                left.push(object);
            }
        }
        left
    }
}
