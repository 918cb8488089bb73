//! Roles and tablespaces: `pg_dumpall --globals-only`.
//!
//! They are small and are read at once, because whether they can be had at all must be known before the backup says what it will hold.
//! A user that may not read `pg_authid` gets the roles without their passwords; one that may not even do that gets a warning.

use tokio_util::sync::CancellationToken;

use super::binaries::Binary;
use super::connect::Endpoint;
use super::dump::warnings;
use crate::component::Notes;
use crate::process::{Output, ProcessError};

/// The script, or `None` with a warning in `notes`.
///
/// # Errors
/// [`ProcessError::Cancelled`] only: a server that is in trouble will show it in the dumps that follow.
pub async fn globals(
    endpoint: &Endpoint,
    pg_dumpall: &Binary,
    notes: &Notes,
    cancel: &CancellationToken,
) -> Result<Option<Vec<u8>>, ProcessError> {
    let mut result = run(endpoint, pg_dumpall, &[], cancel).await;
    if let Err(error) = &result
        && error.stderr().is_some_and(|stderr| stderr.contains("pg_authid"))
    {
        result = run(endpoint, pg_dumpall, &["--no-role-passwords"], cancel).await;
        if result.is_ok() {
            notes.warn(format!("globals.sql holds no passwords of roles: `{}` may not read pg_authid", endpoint.user()));
        }
    }
    match result {
        Ok(output) => {
            for warning in warnings(&output.stderr) {
                notes.warn(format!("globals.sql: {warning}"));
            }
            Ok(Some(output.stdout))
        }
        Err(error @ ProcessError::Cancelled { .. }) => Err(error),
        Err(error) => {
            notes.warn(format!("the backup holds no roles and tablespaces: {error}"));
            Ok(None)
        }
    }
}

async fn run(endpoint: &Endpoint, pg_dumpall: &Binary, flags: &[&str], cancel: &CancellationToken) -> Result<Output, ProcessError> {
    pg_dumpall
        .command()
        .args(["--globals-only", "--no-password", "--quote-all-identifiers"])
        .args(flags)
        // Its default is `postgres`, which need not exist.
        .arg(format!("--database={}", endpoint.database_argument()))
        .envs(endpoint.child_env(pg_dumpall.major))
        .run(cancel)
        .await
}
