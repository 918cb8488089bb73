//! A PostgreSQL server as a source: its globals, then each database as an archive of its own.
//!
//! A snapshot is of one database, and it is taken when that database's turn has come: the archives of a server with several databases
//! are each consistent in themselves, and not with one another.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use super::account::Accounts;
use super::binaries::{Binary, TRANSACTION_TIMEOUT, Tool};
use super::connect::Endpoint;
use super::dump::Dump;
use super::facts::{self, DatabaseFacts, Databases, Split};
use super::group::Group;
use super::server::{self, Database, Server};
use super::snapshot::Patience;
use super::streams::Sizes;
use super::{Jobs, PostgresError, PostgresOptions, dumpall, helper, query, witness};
use crate::component::{Artifact, ByteStream, ComponentError, Detail, Notes, RunContext, Source};
use crate::manifest::{Facts, Format, Kind};
use crate::name::{ComponentName, file_stem};

/// All databases but templates and closed ones.
pub(super) const ALL: &str = "*";

/// Databases that belong to a provider of managed servers and that no customer may enter: not a loss.
const OF_PROVIDERS: &[&str] = &["rdsadmin", "cloudsqladmin", "azure_maintenance", "azure_sys"];

/// `[postgres.NAME]`, to be backed up.
#[derive(Debug)]
pub struct PostgresSource {
    options: PostgresOptions,
    /// What is dumped is to be a replica.
    replica: bool,
    patience: Patience,
}

impl PostgresSource {
    pub fn new(options: PostgresOptions) -> Self {
        Self { replica: options.replica.is_some(), options: options.dumped_from(), patience: Patience::default() }
    }

    /// Other waits for locks than half a minute, three times.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Connects, and finds out everything that can be known before a dump.
    async fn survey(&self) -> Result<Survey, PostgresError> {
        let endpoint = Endpoint::from_options(&self.options)?;
        let (endpoint, client) = self.connect(&endpoint).await?;
        server::refuse_pooler(&endpoint, &client).await?;
        let server = Server::ask(&client).await?;
        let pg_dump = Tool::PgDump.find(server.major()).await?;
        if server.major() < TRANSACTION_TIMEOUT && pg_dump.major >= TRANSACTION_TIMEOUT {
            return Err(PostgresError::Unrestorable { server: server.major(), client: pg_dump.major });
        }
        let wanted = match self.options.databases.as_slice() {
            [] => vec![endpoint.database().to_owned()],
            names => names.to_vec(),
        };
        let Selection { databases, mut skipped } = select(&wanted, server::databases(&client).await?)?;
        if server.in_recovery {
            skipped.extend(server::standstill(&client).await?);
        } else if self.replica {
            skipped.push(
                "`replica_host` is no replica: it was promoted, or stands alone, and then the backup may hold nothing of what is written now"
                    .to_owned(),
            );
        }
        let roles = if self.options.globals { witness::roles(&client).await.map_err(query("list the roles"))? } else { Vec::new() };
        Ok(Survey { endpoint, server, pg_dump, databases, roles, skipped })
    }

    /// About how many bytes each archive of the endpoint's database but the main one will hold. A database that cannot be entered fails
    /// when its turn comes.
    async fn shares(&self, endpoint: &Endpoint, stems: &[String]) -> Vec<u64> {
        if self.options.jobs == Jobs::default() {
            return Vec::new();
        }
        let asked = async { Sizes::ask(&endpoint.connect(None).await?).await.map_err(query("ask for the sizes of the tables")) };
        let sizes = match asked.await {
            Ok(sizes) => sizes,
            Err(error) => {
                tracing::debug!(%error, database = endpoint.database(), "not split");
                return Vec::new();
            }
        };
        let archives = sizes.archives(self.options.jobs, std::thread::available_parallelism().map_or(1, usize::from));
        let stem = file_stem(endpoint.database());
        // a database that is called like one of our archives keeps its file
        if (1..archives).any(|at| stems.contains(&data_stem(&stem, at))) {
            return Vec::new();
        }
        sizes.pack(archives).iter().map(|share| share.iter().map(|table| table.bytes).sum()).collect()
    }

    /// Connects to the endpoint's database. Where none was configured, its name is a guess (the user's), so that a server whose
    /// `databases` are listed may also be entered through one of them, or through those that nearly every server has.
    async fn connect(&self, endpoint: &Endpoint) -> Result<(Endpoint, Client), PostgresError> {
        let mut result = endpoint.settle(None).await;
        let named = self.options.databases.iter().map(String::as_str).filter(|name| *name != ALL);
        let entrances = if self.options.databases.is_empty() { Vec::new() } else { named.chain(["postgres", "template1"]).collect() };
        for entrance in entrances {
            match &result {
                Err(PostgresError::Connect { source, .. }) if source.code() == Some(&SqlState::UNDEFINED_DATABASE) => {}
                _ => break,
            }
            result = endpoint.with_database(entrance).settle(None).await;
        }
        result
    }
}

/// What is known of a server before a dump.
struct Survey {
    /// Of the host that answered; its database is the one we entered through.
    endpoint: Endpoint,
    server: Server,
    pg_dump: Binary,
    databases: Databases,
    /// Names; empty unless globals are wanted.
    roles: Vec<String>,
    /// Sentences.
    skipped: Vec<String>,
}

impl Survey {
    fn facts(&self) -> Facts {
        let mut facts = Facts::new();
        let mut fact = |key: &str, value: Value| facts.insert(key.to_owned(), value);
        fact(facts::SERVER_VERSION, json!(self.server.version));
        fact(facts::SERVER_VERSION_NUM, json!(self.server.version_num));
        fact(facts::CLIENT_VERSION, json!(self.pg_dump.version));
        fact(facts::IN_RECOVERY, json!(self.server.in_recovery));
        fact(facts::DATABASES, json!(self.databases));
        facts
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Selection {
    databases: Databases,
    skipped: Vec<String>,
}

/// Which databases to dump. One that was asked for by name and is missing is an error, as is, with `*`, one that cannot be entered: it
/// fails when its turn comes, because to leave it out would be to lose it.
fn select(wanted: &[String], existing: BTreeMap<String, Database>) -> Result<Selection, PostgresError> {
    let missing: Vec<_> = wanted.iter().filter(|name| *name != ALL && !existing.contains_key(*name)).cloned().collect();
    if !missing.is_empty() {
        return Err(PostgresError::NoDatabase { names: missing });
    }
    let all = wanted.iter().any(|name| name == ALL);
    let mut selection = Selection { databases: BTreeMap::new(), skipped: Vec::new() };
    for (name, database) in existing {
        let named = wanted.contains(&name);
        if all && !named && helper::Role::of(&name).is_some() {
            selection.skipped.push(format!("database `{name}` is left out: it belongs to a restore that is under way or was interrupted"));
        } else if all && !named && !database.allows_connections && !database.facts.is_template {
            selection.skipped.push(format!("database `{name}` is left out: it allows no connections"));
        } else if named || (all && database.allows_connections && !database.facts.is_template) {
            // DROP DATABASE that was interrupted; the server lets nobody in (PostgreSQL's `DATCONNLIMIT_INVALID_DB`).
            let broken = database.facts.connection_limit == Some(-2);
            let foreign = !database.may_connect && OF_PROVIDERS.contains(&name.as_str());
            if !named && (broken || foreign) {
                let why = if broken { "the server has marked it invalid" } else { "it belongs to the server's provider" };
                selection.skipped.push(format!("database `{name}` is left out: {why}"));
            } else {
                selection.databases.insert(name, database.facts);
            }
        }
    }
    Ok(selection)
}

#[async_trait]
impl Source for PostgresSource {
    fn name(&self) -> &ComponentName {
        &self.options.name
    }

    fn kind(&self) -> Kind {
        Kind::Postgres
    }

    async fn check(&self) -> Result<Facts, ComponentError> {
        let survey = self.survey().await?;
        let mut hints = survey.skipped.clone();
        for name in survey.databases.keys() {
            let client = survey.endpoint.connect(Some(name)).await?;
            hints.extend(server::obstacles(&client, name, survey.server.sees_all_rows).await?);
        }
        if self.options.globals {
            let cancel = CancellationToken::new();
            let notes = Notes::default();
            let pg_dumpall = Tool::PgDumpall.find(survey.server.major()).await?;
            dumpall::globals(&survey.endpoint, &pg_dumpall, &notes, &cancel).await.map_err(PostgresError::from)?;
            hints.extend(notes.take().1);
        }
        let mut facts = survey.facts();
        facts.insert(facts::HINTS.to_owned(), json!(hints));
        Ok(facts)
    }

    async fn open(&self, run: &RunContext) -> Result<Vec<Artifact>, ComponentError> {
        let survey = self.survey().await?;
        for (key, value) in survey.facts() {
            run.notes.fact(&key, value);
        }
        for sentence in &survey.skipped {
            run.notes.warn(sentence);
        }
        let mut artifacts = Vec::new();
        if self.options.globals {
            artifacts.push(globals(survey.endpoint.clone(), survey.server.major(), run.clone()));
        }
        let accounts = (self.options.fingerprint != Detail::Off)
            .then(|| Arc::new(Accounts::new(self.options.fingerprint, survey.roles, run.notes.clone())));
        let job = Arc::new(Job {
            accounts,
            endpoint: survey.endpoint,
            pg_dump: survey.pg_dump,
            patience: self.patience.within(run.stall),
            run: run.clone(),
            databases: std::sync::Mutex::new(survey.databases.clone()),
        });
        let stems: Vec<String> = survey.databases.keys().map(|name| file_stem(name)).collect();
        for (name, facts) in survey.databases {
            let shares = self.shares(&job.endpoint.with_database(&name), &stems).await;
            artifacts.extend(dump(&job, name, &facts, shares));
        }
        Ok(artifacts)
    }
}

/// About how many bytes roles and tablespaces take: a thousand of them.
const GLOBALS: u64 = 256 << 10;

/// Read while the first database is dumped: asking for them takes a moment in which its rows can flow already.
fn globals(endpoint: Endpoint, major: u32, run: RunContext) -> Artifact {
    let script = async move {
        let pg_dumpall = match Tool::PgDumpall.find(major).await {
            Ok(pg_dumpall) => pg_dumpall,
            Err(error) => {
                let why = format!("the backup holds no roles and tablespaces: {error}");
                run.notes.warn(why.as_str());
                return Err(ComponentError::Absent(why));
            }
        };
        match dumpall::globals(&endpoint, &pg_dumpall, &run.notes, &run.cancel).await {
            Ok(Some(script)) => Ok(Box::new(Cursor::new(script)) as ByteStream),
            Ok(None) => Err(ComponentError::Absent("no roles and tablespaces".to_owned())),
            Err(_) => Err(ComponentError::Cancelled),
        }
    };
    Artifact { file: "globals.sql".to_owned(), format: Format::PgGlobals, database: None, estimate: Some(GLOBALS), open: Box::pin(script) }
}

/// What the dumps of one run have in common.
struct Job {
    accounts: Option<Arc<Accounts>>,
    endpoint: Endpoint,
    pg_dump: Binary,
    patience: Patience,
    run: RunContext,
    /// As they stand in the facts; each dump adds what it learns.
    databases: std::sync::Mutex<Databases>,
}

fn data_stem(stem: &str, at: usize) -> String {
    format!("{stem}.data-{at}")
}

/// The archives of one database, the main one first; `shares` are the sizes of the others.
fn dump(job: &Arc<Job>, database: String, facts: &DatabaseFacts, shares: Vec<u64>) -> Vec<Artifact> {
    let stem = file_stem(&database);
    let rest = facts.size_bytes.map(|size| size.saturating_sub(shares.iter().sum()));
    let files: Vec<String> = (1..=shares.len()).map(|at| format!("{}.dump", data_stem(&stem, at))).collect();
    let group = Arc::new(Group {
        endpoint: job.endpoint.with_database(&database),
        pg_dump: job.pg_dump.clone(),
        patience: job.patience,
        notes: job.run.notes.clone(),
        cancel: job.run.cancel.clone(),
        accounts: job.accounts.clone(),
        archives: 1 + shares.len(),
        state: Mutex::default(),
    });
    let main = (format!("{stem}.dump"), rest);
    let all = std::iter::once(main).chain(files.iter().cloned().zip(shares.into_iter().map(Some)));
    let artifact = |(at, (file, estimate))| {
        let (job, group, database, files) = (Arc::clone(job), Arc::clone(&group), database.clone(), files.clone());
        Artifact {
            file,
            format: Format::PgCustom,
            database: Some(database.clone()),
            estimate,
            open: Box::pin(async move {
                let (dump, tables) = group.take(at).await?;
                if let Some(tables) = tables {
                    let split = files.into_iter().zip(tables).map(|(archive, tables)| Split { archive, tables }).collect();
                    job.began(&database, &dump, split);
                }
                Ok(Box::new(dump) as ByteStream)
            }),
        }
    };
    all.enumerate().map(artifact).collect()
}

impl Job {
    /// Adds to the facts what is known once a dump has begun.
    fn began(&self, database: &str, dump: &Dump, split: Vec<Split>) {
        let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(facts) = databases.get_mut(database) {
            facts.snapshot = Some(dump.taken);
            facts.archive_version.clone_from(&dump.archive_version);
            facts.split = split;
        }
        self.run.notes.fact(facts::DATABASES, json!(*databases));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(allows_connections: bool, is_template: bool, connection_limit: i32, may_connect: bool) -> Database {
        let facts = DatabaseFacts { is_template, connection_limit: Some(connection_limit), ..DatabaseFacts::default() };
        Database { facts, allows_connections, may_connect }
    }

    fn existing() -> BTreeMap<String, Database> {
        [
            ("app", database(true, false, -1, true)),
            ("closed", database(false, false, -1, true)),
            ("app_backstay_new_0123abcd", database(true, false, -1, true)),
            ("half-dropped", database(true, false, -2, true)),
            ("private", database(true, false, -1, false)),
            ("rdsadmin", database(true, false, -1, false)),
            ("template1", database(true, true, -1, true)),
        ]
        .into_iter()
        .map(|(name, database)| (name.to_owned(), database))
        .collect()
    }

    fn check(wanted: &[&str], expected: &[&str]) {
        let wanted: Vec<_> = wanted.iter().map(|w| (*w).to_owned()).collect();
        let selection = select(&wanted, existing()).expect("all exist");
        assert_eq!(selection.databases.keys().collect::<Vec<_>>(), expected, "{wanted:?}");
    }

    #[test]
    fn a_star_takes_all_that_a_customer_can_have_and_never_drops_one_in_silence() {
        check(&["*"], &["app", "private"]);
        check(&["*", "template1"], &["app", "private", "template1"]);
        check(&["rdsadmin"], &["rdsadmin"]);
        let selection = select(&["*".to_owned()], existing()).expect("all exist");
        assert_eq!(selection.skipped.len(), 4, "{:?}", selection.skipped);
    }

    #[test]
    fn every_missing_database_is_named() {
        let wanted = ["app", "x", "y"].map(str::to_owned);
        let error = select(&wanted, existing()).expect_err("two are missing");
        assert_eq!(error.to_string(), "the server has no database `x`, `y`");
    }
}
