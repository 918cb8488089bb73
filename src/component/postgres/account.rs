//! The fingerprint of a database while it is dumped: what the server says in the dump's snapshot, and what flowed by.
//!
//! In this order: sequences, before and after `pg_dump` reads them, since their values belong to no snapshot; the rest beside the dump. The dump's end
//! waits for it, since until then the snapshot is held, but not for long. What cannot be told is left out, and said; that a dump lacks rows
//! which the server has counted is an error.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::fingerprint::{Database, Fingerprint, LONGEST_ROW, LargeObjects, Table, hex};
use super::snapshot::Snapshot;
use super::tap::{self, Held};
use super::witness::{self, why};
use super::{PostgresError, lines};
use crate::component::{Detail, Notes};

/// How much longer than the dump the counting may take. It reads less than `pg_dump` does, which began at the same time.
const GRACE: Duration = Duration::from_secs(120);

/// The fingerprint of a component, while its databases are dumped.
#[derive(Debug)]
pub struct Accounts {
    detail: Detail,
    notes: Notes,
    found: Mutex<Fingerprint>,
}

impl Accounts {
    /// An empty one; `detail` is `Full` or `Counts`.
    pub fn new(detail: Detail, roles: Vec<String>, notes: Notes) -> Self {
        Self { detail, notes, found: Mutex::new(Fingerprint { roles, ..Fingerprint::default() }) }
    }

    pub fn detail(&self) -> Detail {
        self.detail
    }

    fn add(&self, name: &str, database: Database) {
        if let Some(first) = database.left_out.first() {
            let more = database.left_out.len() - 1;
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            self.notes.warn(format!("database `{name}` could not be fingerprinted in full: {first}{more}"));
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.databases.insert(name.to_owned(), database);
        self.notes.fingerprint(json!(*found));
    }
}

/// What the server said.
#[derive(Debug, Default)]
struct Said {
    database: Database,
    tables: Vec<witness::Table>,
    /// By oid.
    counts: BTreeMap<u32, u64>,
}

/// What is known of a database before its dump begins.
#[derive(Debug)]
pub struct Begun(Database);

/// In the session that holds the snapshot, before `pg_dump` starts.
pub async fn begin(snapshot: &Snapshot) -> Begun {
    let client = snapshot.exporter();
    let mut database = Database::default();
    let asked = async {
        witness::prepare(client).await?;
        (database.server, database.session) = witness::session(client).await?;
        let (sequences, hidden) = witness::sequences(client).await?;
        database.sequences = sequences;
        database.left_out.extend(hidden.iter().map(|name| format!("{name}: this user may not read the sequence")));
        Ok(())
    };
    let asked: Result<(), tokio_postgres::Error> = asked.await;
    if let Err(error) = asked {
        database.left_out.push(format!("where the sequences stand: {}", why(&error)));
    }
    Begun(database)
}

/// The account of one dump, while it runs. Dropping it ends the counting.
#[derive(Debug)]
pub struct Account {
    accounts: Arc<Accounts>,
    database: String,
    tapped: Option<tap::Shared>,
    task: JoinHandle<Said>,
}

impl Drop for Account {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Account {
    /// Goes on beside the dump. `tapped`: what flows by, unless rows are only counted.
    pub fn start(accounts: Arc<Accounts>, begun: Begun, snapshot: Arc<Snapshot>, tapped: Option<tap::Shared>) -> Self {
        let database = snapshot.database().to_owned();
        let task = tokio::spawn(async move { ask(snapshot.exporter(), begun.0).await });
        Self { accounts, database, tapped, task }
    }

    /// To be called when all archives have ended. `false`: the session that holds the snapshot is still busy.
    ///
    /// # Errors
    /// [`PostgresError::Lacks`].
    pub async fn settle(mut self) -> Result<bool, PostgresError> {
        let Ok(Ok(said)) = tokio::time::timeout(GRACE, &mut self.task).await else {
            let seconds = GRACE.as_secs();
            let text =
                format!("database `{}` could not be fingerprinted: its rows were not counted {seconds} s after its dump", self.database);
            self.accounts.notes.warn(text);
            return Ok(false);
        };
        let held = self.tapped.as_ref().map(|held| std::mem::take(&mut *held.lock().unwrap_or_else(PoisonError::into_inner)));
        let database = merge(said, held).map_err(|what| PostgresError::Lacks { database: self.database.clone(), what })?;
        self.accounts.add(&self.database, database);
        Ok(true)
    }
}

async fn ask(client: &Client, database: Database) -> Said {
    let mut said = Said { database, ..Said::default() };
    let mut left_out = Vec::new();
    let mut fault = |what: &str, error: tokio_postgres::Error| left_out.push(format!("{what}: {}", why(&error)));
    // once more, after pg_dump has read them: one that was set back, or is gone, says nothing
    match witness::sequences(client).await {
        Ok((again, _)) => said.database.sequences.retain(|name, then| again.get(name).is_some_and(|now| !now.is_behind(then))),
        Err(error) => {
            said.database.sequences.clear();
            fault("where the sequences stand", error);
        }
    }
    match witness::schema(client, said.database.server).await {
        Ok(schema) => said.database.schema = schema,
        Err(error) => fault("the schema", error),
    }
    match witness::large_objects(client).await {
        Ok(count) => said.database.large_objects = Some(LargeObjects { count, hash: None }),
        Err(error) => fault("large objects", error),
    }
    match witness::tables(client, said.database.server).await {
        Ok(tables) => said.tables = tables,
        Err(error) => fault("tables", error),
    }
    match witness::count(client, &said.tables).await {
        Ok(counts) => {
            let names: BTreeMap<u32, &str> = said.tables.iter().map(|t| (t.oid, t.name.as_str())).collect();
            for (oid, count) in counts {
                match count {
                    Ok(rows) => drop(said.counts.insert(oid, rows)),
                    Err(error) => fault(names.get(&oid).copied().unwrap_or("a table"), error),
                }
            }
        }
        Err(error) => fault("rows", error),
    }
    said.database.left_out.extend(left_out);
    said
}

/// Puts both accounts together; an error says what the dump lacks, or has too much.
fn merge(said: Said, held: Option<Held>) -> Result<Database, String> {
    let Said { mut database, tables, counts } = said;
    let held = held.filter(|held| match held.broken {
        None => true,
        Some(why) => {
            database.left_out.push(format!("rows are counted and not hashed, since the archive of pg_dump was not understood: {why}"));
            false
        }
    });
    for table in tables {
        let counted = counts.get(&table.oid).copied();
        let sum = held.as_ref().map(|held| held.rows.get(&table.oid));
        let (rows, sum) = match (sum, counted) {
            // an extension's own tables may be left out for reasons of pg_dump's
            (Some(None), _) if table.member => continue,
            (Some(None), None | Some(0)) => continue,
            (Some(None), Some(rows)) => return Err(format!("table {} with {rows} rows is not in it", table.name)),
            (Some(Some(sum)), Some(rows)) if sum.rows != rows => {
                return Err(format!("table {} has {} rows in it, and the server counted {rows}", table.name, sum.rows));
            }
            (Some(Some(sum)), _) => (sum.rows, Some(*sum)),
            (None, Some(rows)) => (rows, None),
            (None, None) => continue,
        };
        if let Some(root) = table.root {
            let tree = database.tables.entry(root).or_default();
            tree.rows += rows;
            tree.tree = true;
        } else {
            let row = of(&table.name, rows, sum, table.columns, &mut database.left_out);
            database.tables.insert(table.name, row);
        }
    }
    if let (Some(held), Some(objects)) = (held, &mut database.large_objects) {
        if held.large_objects != objects.count {
            return Err(format!("it has {} large objects, and the server counted {}", held.large_objects, objects.count));
        }
        objects.hash = Some(hex(held.large_object_hash));
    }
    Ok(database)
}

fn of(name: &str, rows: u64, sum: Option<lines::Sum>, columns: Vec<String>, left_out: &mut Vec<String>) -> Table {
    match sum {
        Some(sum) if sum.longest > LONGEST_ROW => {
            left_out.push(format!("{name} has rows longer than {} MiB: they are counted and not hashed", LONGEST_ROW >> 20));
            Table { rows, ..Table::default() }
        }
        Some(sum) => Table { rows, hash: Some(hex(sum.hash)), columns, tree: false },
        None => Table { rows, ..Table::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(oid: u32, member: bool, root: Option<&str>) -> witness::Table {
        witness::Table {
            oid,
            name: format!("\"public\".\"t{oid}\""),
            columns: vec!["a".into()],
            root: root.map(str::to_owned),
            member,
            filter: String::new(),
            pages: 1,
            money: false,
            unsteady: false,
        }
    }

    fn said(tables: Vec<witness::Table>, counts: &[(u32, u64)]) -> Said {
        let database = Database { large_objects: Some(LargeObjects { count: 1, hash: None }), ..Database::default() };
        Said { database, tables, counts: counts.iter().copied().collect() }
    }

    fn held(rows: &[(u32, u64)], large_objects: u64) -> Held {
        let sum = |rows| lines::Sum { rows, hash: 5, longest: 10 };
        Held { rows: rows.iter().map(|(oid, rows)| (*oid, sum(*rows))).collect(), large_objects, ..Held::default() }
    }

    fn lacks(counts: &[(u32, u64)], rows: &[(u32, u64)], large_objects: u64) -> String {
        merge(said(vec![table(1, false, None)], counts), Some(held(rows, large_objects))).expect_err("it lacks something")
    }

    #[test]
    fn a_dump_that_lacks_what_the_server_counted_is_an_error() {
        assert!(lacks(&[(1, 3)], &[(1, 2)], 1).contains("has 2 rows in it, and the server counted 3"));
        assert!(lacks(&[(1, 3)], &[(1, 4)], 1).contains("has 4 rows in it, and the server counted 3"));
        assert!(lacks(&[(1, 3)], &[], 1).contains("with 3 rows is not in it"));
        assert!(lacks(&[(1, 3)], &[(1, 3)], 0).contains("0 large objects, and the server counted 1"));
    }

    #[test]
    fn both_accounts_stand_together() {
        let tables = vec![table(1, false, None), table(2, true, None), table(3, false, Some("r")), table(4, false, Some("r"))];
        let counts = [(1, 3), (2, 9), (3, 1), (4, 2)];
        let database = merge(said(tables.clone(), &counts), Some(held(&[(1, 3), (3, 1), (4, 2)], 1))).expect("they agree");
        let rows: Vec<_> = database.tables.iter().map(|(name, t)| (name.as_str(), t.rows, t.hash.is_some(), t.tree)).collect();
        assert_eq!(rows, [("\"public\".\"t1\"", 3, true, false), ("r", 3, false, true)]);
        assert!(database.large_objects.as_ref().is_some_and(|o| o.hash.is_some()));
        // counted only
        let database = merge(said(tables, &counts), None).expect("counted");
        assert_eq!((database.tables.len(), database.tables["\"public\".\"t1\""].hash.as_ref()), (3, None));
        assert_eq!(database.left_out, Vec::<String>::new());
    }

    #[test]
    fn what_could_not_be_told_is_said_and_no_error() {
        let broken = Held { broken: Some("why"), ..held(&[(1, 2)], 0) };
        let database = merge(said(vec![table(1, false, None)], &[(1, 3)]), Some(broken)).expect("counted");
        assert!(database.tables["\"public\".\"t1\""].hash.is_none() && database.left_out[0].contains("why"));
        let mut long = held(&[(1, 3)], 1);
        long.rows.get_mut(&1).expect("there").longest = LONGEST_ROW + 1;
        let database = merge(said(vec![table(1, false, None)], &[(1, 3)]), Some(long)).expect("counted");
        assert!(database.tables["\"public\".\"t1\""].hash.is_none() && database.left_out.len() == 1);
        // not even counted: the rows that flowed by are what there is
        let database = merge(said(vec![table(1, false, None)], &[]), Some(held(&[(1, 3)], 1))).expect("told");
        assert_eq!(database.tables["\"public\".\"t1\""].rows, 3);
        assert_eq!(merge(said(vec![table(1, false, None)], &[]), None).expect("none").tables.len(), 0);
    }
}
