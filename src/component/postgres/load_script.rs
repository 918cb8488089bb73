//! Loads a dump that is plain SQL: psql runs it, in one transaction, after what does not fit here was left out on its way.

use tokio_util::sync::CancellationToken;

use super::PostgresError;
use super::connect::Endpoint;
use super::contents::DatabaseContents;
use super::load::{Load, Loader, PIPE, set};
use super::plain::{self, Filter, Fit, LeftOut, PlainError};
use super::restore_error::RestoreError;
use crate::component::ArtifactOpener;

impl Loader {
    /// Has psql run the plain SQL of `contents` in the empty database `into`, in one transaction. What was left out.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn run_script(
        &self,
        endpoint: &Endpoint,
        into: &str,
        contents: &DatabaseContents,
        open: &ArtifactOpener,
        fit: Fit,
        cancel: &CancellationToken,
    ) -> Result<LeftOut, PostgresError> {
        if !self.binary.restricts() {
            return Err(RestoreError::Unrestricted { psql: self.binary.version.clone(), path: contents.main.path.to_string() }.into());
        }
        let load = Load { loader: self, endpoint: endpoint.with_database(into), contents, open, cancel };
        let mut script = load.stream(&contents.main).await?;
        let mut env = load.endpoint.child_env(self.binary.major);
        set(&mut env, &self.workload.options());
        // its answers to SELECT setval(…) interest nobody, and more than a few are an error for whoever runs it
        let options =
            ["--no-psqlrc", "--no-password", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction", "--output=/dev/null", "--file=-"];
        let command = self.binary.command().args(options).envs(env.iter().map(|(key, value)| (key, value)));
        let (mut sink, pipe) = tokio::io::duplex(PIPE);
        let mut filter = Filter::new(fit);
        let outcome = {
            let mut fed = std::pin::pin!(command.feed(pipe, cancel));
            let mut pumped = std::pin::pin!(plain::pump(&mut script, &mut sink, &mut filter));
            tokio::select! {
                biased;
                ended = &mut fed => load.loaded(ended),
                pumped = &mut pumped => match pumped {
                    Ok(()) | Err(PlainError::Write(_)) => load.loaded(fed.await),
                    // psql is killed: what it has got is not the whole, and must not be committed
                    Err(source) => Err(RestoreError::Plain { path: contents.main.path.to_string(), source }.into()),
                },
            }
        };
        match outcome {
            Ok(()) => Ok(filter.left_out),
            Err(PostgresError::Cancelled) => Err(PostgresError::Cancelled),
            // damage may be why, and only the end of the stream tells
            Err(error) => match tokio::io::copy(&mut script, &mut tokio::io::sink()).await {
                Ok(_) => Err(error),
                Err(source) => Err(RestoreError::Read { path: contents.main.path.to_string(), source }.into()),
            },
        }
    }
}
