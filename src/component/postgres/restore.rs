//! The restorer: refuses or plans, then loads every database of a backup beside what is in service.

use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::adopt::{self, Record};
use super::alive::while_it_moves;
use super::apply;
use super::binaries::{self, Binary, Tool};
use super::connect::Endpoint;
use super::contents::{Contents, DatabaseContents};
use super::destination::Place;
use super::globals::Object;
use super::helper::{Role, Suffix};
use super::inspect::{self, Server};
use super::load::Loader;
use super::plain::Fit;
use super::plan::Known;
use super::proof::Proof;
use super::restore_error::RestoreError;
use super::selection::Selection;
use super::server::{databases, refuse_pooler};
use super::source::ALL;
use super::staged::{Helper, StagedPostgres};
use super::surroundings::Surroundings;
use super::swap::Replaced;
use super::workload::Workload;
use super::{PostgresError, PostgresOptions, analyze, query, recreate, swap, tables};
use crate::component::{
    ArtifactOpener, ComponentError, Destination, Intent, Left, Plan, RestoreOptions, Restorer, RunContext, Staged, StoredComponent,
};
use crate::manifest;
use crate::name::{ComponentName, RestoreId};

/// How long a server may keep one waiting, unless a job says.
const STALL: Duration = Duration::from_secs(600);

/// Restores a PostgreSQL component.
#[derive(Debug, Clone)]
pub struct PostgresRestorer {
    options: PostgresOptions,
    patience: Duration,
}

/// A restore that nothing known speaks against.
struct Prepared {
    contents: Contents,
    place: Place,
    /// Of the one server that answered.
    endpoint: Endpoint,
    client: Client,
    server: Server,
    binary: Binary,
    /// Some tables only.
    selection: Option<Selection>,
}

impl PostgresRestorer {
    pub fn new(options: PostgresOptions) -> Self {
        Self { options, patience: swap::PATIENCE }
    }

    /// How long sessions that are in the way are ended, in place of a minute.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// What is restored, and where to.
    fn chosen(&self, part: &manifest::Component, options: &RestoreOptions) -> Result<(Contents, Place), ComponentError> {
        let mut contents = Contents::chosen(part, options)?;
        if let Some(plain) = contents.plain() {
            plain.name = match self.options.databases.as_slice() {
                [name] if name != ALL => name.clone(),
                _ => Endpoint::from_options(&self.options)?.database().to_owned(),
            };
        }
        let place = Place::chosen(options, &self.options, &contents.names())?;
        Ok((contents, place))
    }

    async fn prepare(&self, part: &StoredComponent, options: &RestoreOptions) -> Result<Prepared, ComponentError> {
        let (mut contents, place) = self.chosen(&part.component, options)?;
        let replaces = options.to != Destination::Beside;
        let targets: Vec<&str> = contents.databases.iter().filter(|_| replaces).map(|d| place.name(&d.name)).collect();
        let (endpoint, client) = inspect::connect(&place.endpoint, &targets).await?;
        refuse_pooler(&endpoint, &client).await?;
        let server = inspect::inspect(&client, endpoint.to_string()).await?;
        server.allow(&targets, contents.server).map_err(PostgresError::from)?;
        let binary = if let Some(plain) = contents.plain() {
            if !options.tables.is_empty() {
                let (path, why) = (plain.main.path.to_string(), "it is plain SQL".to_owned());
                return Err(PostgresError::from(RestoreError::Unselectable { path, why }).into());
            }
            // nobody has recorded what the database was: it keeps what it is
            let facts = databases(&client).await?.remove(place.name(&plain.name)).map(|found| found.facts);
            plain.facts = facts.unwrap_or_default();
            Tool::Psql.find(server.host.major).await?
        } else {
            binaries::find_restore(contents.dump.unwrap_or(server.host.major), server.host.major).await?
        };
        let selection = match options.tables.as_slice() {
            [] => None,
            wanted => Some(tables::select(&contents, &place, &server, &part.open, wanted).await?),
        };
        Ok(Prepared { contents, place, endpoint, client, server, binary, selection })
    }
}

#[async_trait]
impl Restorer for PostgresRestorer {
    fn name(&self) -> &ComponentName {
        &self.options.name
    }

    async fn plan(&self, part: &StoredComponent, options: &RestoreOptions) -> Result<Plan, ComponentError> {
        let Prepared { contents, place, client, server, binary, selection, .. } = self.prepare(part, options).await?;
        let names: Vec<&str> = contents.databases.iter().map(|d| place.name(&d.name)).collect();
        let surroundings = Surroundings::ask(&client, &names).await?;
        let known = Known { contents: &contents, place: &place, server: &server, binary: &binary, surroundings: &surroundings };
        if let Some(selection) = &selection {
            return Ok(Plan { steps: known.table_steps(selection), facts: known.facts(), replaces: false });
        }
        known.enough_room().map_err(PostgresError::from)?;
        let replaces = names.iter().any(|name| server.database(name).is_some());
        Ok(Plan { steps: known.steps(options), facts: known.facts(), replaces })
    }

    async fn intent(&self, part: &manifest::Component, options: &RestoreOptions, id: RestoreId) -> Result<Intent, ComponentError> {
        let (contents, place) = self.chosen(part, options)?;
        let targets: Vec<&str> = contents.names().into_iter().map(|name| place.name(name)).collect();
        let (endpoint, client) = inspect::connect(&place.endpoint, &targets).await?;
        Ok(Record::intent(&targets, id, adopt::cluster(&client).await).to_intent(&endpoint))
    }

    async fn adopt(&self, left: &Left) -> Result<Box<dyn Staged>, ComponentError> {
        // a look at catalogs, and as much patience with what the dead one has sent
        let limit = left.stall.unwrap_or(STALL) + self.patience;
        let adopted = tokio::time::timeout(limit, adopt::adopt(left, &self.options, self.patience)).await;
        let silent = |_| PostgresError::from(RestoreError::Silent { server: format!("component `{}`", self.options.name), after: limit });
        Ok(Box::new(adopted.map_err(silent)??))
    }

    async fn stage(&self, part: &StoredComponent, options: &RestoreOptions, run: &RunContext) -> Result<Box<dyn Staged>, ComponentError> {
        let Prepared { contents, place, endpoint, mut client, mut server, binary, selection } = self.prepare(part, options).await?;
        let mut proof = Proof::read(part, self.options.fingerprint, options).await?;
        if let Some(selection) = &selection {
            proof.only(&selection.tables);
        }
        let mut staged = StagedPostgres::new(endpoint, options.keep_old, self.patience);
        staged.beside = options.to == Destination::Beside;
        staged.stall = run.stall;
        staged.cluster = adopt::cluster(&client).await;
        staged.fresh = selection.is_some();
        let suffix = Suffix::from(run.id);
        let helpers = contents.databases.iter().enumerate().map(|(at, d)| suffix.helper(place.name(&d.name), Role::New, at));
        let (watched, helpers) = (staged.endpoint.clone(), helpers.collect::<Vec<_>>());
        let built = async {
            let mut flags = Vec::new();
            if options.no_owner {
                flags.extend(["--no-owner", "--no-privileges", "--no-tablespaces"]);
            } else {
                globals(&contents, part, &options.to, &mut client, &mut server, &mut staged, &mut flags, &run.cancel).await?;
                let missing = proof.missing_roles(&server.host.roles);
                if !missing.is_empty() && options.to != Destination::Beside {
                    staged.warn([format!("roles of the server that was backed up are missing here: {}", missing.join(", "))]);
                }
            }
            if let Some(selection) = &selection {
                let (more, warning) = tables::flags(selection, &server);
                flags.extend(more);
                staged.warn(warning);
            }
            let workload = Workload::ask(&client).await?.with_sessions(options.jobs);
            // Loading takes long; an idle connection may not survive it.
            drop(client);
            let loader = Loader { binary, flags, workload, selection };
            for (at, database) in contents.databases.iter().enumerate() {
                let name = place.name(&database.name);
                stage_one(database, name, (suffix, at), &loader, &server, &part.open, &proof, &mut staged, &run.cancel).await?;
            }
            Ok(())
        };
        let built = while_it_moves(&watched, &helpers, run.stall, built).await;
        match built {
            Ok(()) => Ok(Box::new(staged)),
            Err(error) => {
                let error = match error {
                    PostgresError::Cancelled => ComponentError::Cancelled,
                    PostgresError::Differs(what) => ComponentError::Differs(what),
                    error => error.into(),
                };
                let Err(left) = staged.remove_in_time().await else { return Err(error) };
                tracing::error!(error = %left, "a failed restore could not be cleaned up");
                Err(ComponentError::LeftBehind { left: format!("database {}", helpers.join(", ")), source: Box::new(error) })
            }
        }
    }
}

/// Creates missing roles and tablespaces, as far as `to` allows, and chooses the flags of `pg_restore` after what is missing still.
#[expect(clippy::too_many_arguments, reason = "all that a restore has gathered, none of which belongs together elsewhere")]
async fn globals(
    contents: &Contents,
    part: &StoredComponent,
    to: &Destination,
    client: &mut Client,
    server: &mut Server,
    staged: &mut StagedPostgres,
    flags: &mut Vec<&'static str>,
    cancel: &CancellationToken,
) -> Result<(), PostgresError> {
    let applied = &mut staged.globals;
    if let Some(artifact) = &contents.globals {
        let mut globals = apply::read_globals(artifact, &part.open, &server.present(), cancel).await?;
        match to {
            Destination::Configured | Destination::Into(_) => {}
            // a tablespace is a directory, which lies outside of any server
            Destination::Throwaway(_) => applied.leave_out(&mut globals.tablespaces),
            Destination::Beside => {
                applied.leave_out(&mut globals.roles);
                applied.leave_out(&mut globals.tablespaces);
            }
        }
        applied.warnings.extend(globals.warnings.iter().cloned());
        apply::apply(client, &globals, applied).await?;
        inspect::reread_globals(client, &mut server.host).await?;
        for object in &applied.created {
            staged.done.push(format!("{object} was created"));
        }
        if !globals.kept.is_empty() {
            let kept: Vec<_> = globals.kept.iter().map(ToString::to_string).collect();
            staged.done.push(format!("left as they are: {}", kept.join(", ")));
        }
    }
    let roles_missing = applied.failed.iter().any(|o| matches!(o, Object::Role(_)));
    if applied.failed.iter().any(|o| matches!(o, Object::Tablespace(_))) {
        flags.push("--no-tablespaces");
        applied.warnings.push("a tablespace is missing: tables and indexes go to the default one of their database".into());
    }
    if *to == Destination::Beside && roles_missing && server.host.superuser {
        flags.extend(["--no-owner", "--no-privileges"]);
        applied.warnings.push("a role is missing: no owners and privileges were restored".into());
    }
    if !server.host.superuser {
        flags.push("--no-owner");
        applied.warnings.push(format!("\"{}\" is no superuser and owns everything that was restored", server.host.user));
        if roles_missing {
            flags.push("--no-privileges");
            applied.warnings.push("a role is missing: no privileges on tables and the like were restored".into());
        }
    }
    applied.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(())
}

/// Creates the helper database for `name`, loads it, dresses it as recorded, closes it.
#[expect(clippy::too_many_arguments, reason = "all that a restore has gathered, none of which belongs together elsewhere")]
async fn stage_one(
    database: &DatabaseContents,
    name: &str,
    (suffix, at): (Suffix, usize),
    loader: &Loader,
    server: &Server,
    open: &ArtifactOpener,
    proof: &Proof,
    staged: &mut StagedPostgres,
    cancel: &CancellationToken,
) -> Result<(), PostgresError> {
    if cancel.is_cancelled() {
        return Err(PostgresError::Cancelled);
    }
    let facts = &database.facts;
    let (new, old) = (suffix.helper(name, Role::New, at), suffix.helper(name, Role::Old, at));
    let endpoint = staged.endpoint.clone();
    let (_, client) = inspect::connect(&endpoint, &[name, &new]).await?;
    let creation = recreate::create(&new, name, facts, &server.host);
    staged.warn(creation.warnings);
    staged.helpers.push(Helper { name: new.clone(), oid: None });
    client.batch_execute(&creation.sql).await.map_err(query(&format!("create a database for \"{name}\"")))?;
    let oid = swap::oid_of(&client, &new).await?;
    let new_oid = oid.ok_or_else(|| RestoreError::Moved(new.clone()))?;
    if let Some(helper) = staged.helpers.last_mut() {
        helper.oid = oid;
    }
    drop(client);
    tracing::info!(database = name, helper = new, "loading a database");
    if database.is_plain() {
        let fit = Fit::new(&server.host, loader.flags.contains(&"--no-owner"));
        let left_out = loader.run_script(&endpoint, &new, database, open, fit, cancel).await?;
        staged.warn(left_out.sentences(name));
    } else {
        loader.load(&endpoint, &new, database, open, cancel).await?;
    }
    proof.compare(&endpoint, (&database.name, name, &new), loader.workload.sessions, staged, cancel).await?;
    analyze(&endpoint, &new, name, loader.workload, staged, cancel).await?;
    if let Some(selection) = &loader.selection {
        staged.done.extend(tables::report(&endpoint, &new, (&database.name, name), selection, cancel).await?);
    }

    let (_, client) = inspect::connect(&endpoint, &[name, &new]).await?;
    let (statements, warnings) = recreate::dress(&new, name, facts, &creation.owner, &server.host);
    staged.warn(warnings);
    for statement in statements {
        match client.batch_execute(&statement.sql).await {
            Ok(()) => {}
            Err(error) if client.is_closed() => return Err(query(&statement.doing)(error)),
            Err(error) => {
                let why = error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned());
                staged.warn([format!("could not {}: {why}", statement.doing)]);
            }
        }
    }
    // Nobody should find it, and a session in it would be in the way of its rename.
    let close = format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false", super::sql::ident(&new));
    client.batch_execute(&close).await.map_err(query("close a loaded database"))?;
    staged.pairs.push(swap::Pair {
        name: name.to_owned(),
        new,
        new_oid,
        old,
        facts: facts.clone(),
        replaced: server.database(name).map(Replaced::of),
    });
    Ok(())
}

/// Says what was restored disabled, and gives the planner its statistics.
async fn analyze(
    endpoint: &Endpoint,
    new: &str,
    name: &str,
    workload: Workload,
    staged: &mut StagedPostgres,
    cancel: &CancellationToken,
) -> Result<(), PostgresError> {
    let inside = inspect::connect_to(endpoint, new).await?;
    let subscriptions = "SELECT s.subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid \
         WHERE d.datname = current_database() ORDER BY 1";
    for row in inside.query(subscriptions, &[]).await.map_err(query("list the restored subscriptions"))? {
        let subscription: String = row.get(0);
        staged.warn([format!("subscription \"{subscription}\" of database \"{name}\" was restored disabled, without its slot")]);
    }
    drop(inside);
    let said = tokio::select! {
        () = cancel.cancelled() => return Err(PostgresError::Cancelled),
        said = analyze::analyze(endpoint, new, workload.sessions) => said?,
    };
    staged.warn(said.iter().map(|why| format!("database \"{name}\" was restored but could not be analyzed: {why}")));
    Ok(())
}
