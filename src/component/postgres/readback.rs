//! Reads back what a restore made of a database, as its dump was read when it flowed by, and compares (see [`super::fingerprint`]).
//!
//! Rows come from the new database by COPY, with the columns in the order in which they were dumped and the settings that `pg_dump` has, over
//! several sessions; a large table is shared out by ranges of its blocks.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{TryStreamExt, pin_mut};
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::connect::Endpoint;
use super::fingerprint::{Comparison, Database, LargeObjects, Scope, Session, Table, hex};
use super::lines::{Lines, Object, Sum};
use super::sql::{ident, literal};
use super::witness::{self, is_forbidden, why};
use super::{PostgresError, query};
use crate::component::Detail;

/// Blocks of a table that one query reads; 64 MiB.
const PIECE: i64 = 8192;

/// The first major that finds a range of blocks without reading all others.
const RANGES: u32 = 14;

/// Large objects that are read at once, and bytes of each.
const OBJECTS: usize = 32;
const OBJECT_BYTES: usize = 256 << 10;

/// As `pg_dump` prepares its session (`setup_connection` of `pg_dump.c`), and as our dumps are started.
const SESSION: &str = "SET search_path = ''; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 3; \
     SET quote_all_identifiers = on; SET TimeZone = 'UTC'; SET synchronize_seqscans = off; SET row_security = off; \
     SET statement_timeout = 0; SET lock_timeout = '30s'; SET idle_in_transaction_session_timeout = 0; \
     SET default_transaction_read_only = on; SET client_min_messages = warning";

/// How a database is to be compared.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// What is asked for here; the fingerprint may hold less.
    pub detail: Detail,
    pub scope: Scope,
    /// At least 1.
    pub sessions: usize,
}

/// Compares the new `database` with what it was when it was backed up.
///
/// # Errors
/// Those of connecting and querying; that something differs is none, see [`Comparison::differences`].
pub async fn compare(
    endpoint: &Endpoint,
    database: &str,
    then: &Database,
    how: Reading,
    cancel: &CancellationToken,
) -> Result<Comparison, PostgresError> {
    let endpoint = endpoint.with_database(database);
    let read = async { Ok(then.compare(&read(&endpoint, then, how).await?, how.scope)) };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(PostgresError::Cancelled),
        compared = read => compared,
    }
}

async fn read(endpoint: &Endpoint, then: &Database, how: Reading) -> Result<Database, PostgresError> {
    let client = endpoint.connect(None).await?;
    let fault = query("read the restored database back");
    let begin = "SET statement_timeout = 0; SET lock_timeout = '30s'; SET idle_in_transaction_session_timeout = 0; \
         BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    client.batch_execute(begin).await.map_err(&fault)?;
    witness::prepare(&client).await.map_err(&fault)?;
    let (server, session) = witness::session(&client).await.map_err(&fault)?;
    let mut now = Database { server, session, ..Database::default() };
    if !how.scope.some_tables {
        now.schema = witness::schema(&client, server).await.map_err(&fault)?;
        let (sequences, hidden) = witness::sequences(&client).await.map_err(&fault)?;
        now.sequences = sequences;
        now.left_out.extend(hidden.iter().map(|name| format!("{name}: this user may not read the sequence")));
        if let Some(objects) = &then.large_objects {
            now.large_objects = Some(large_objects(&client, objects, how.detail, &mut now.left_out).await.map_err(&fault)?);
        }
    }
    let found = witness::tables(&client, server).await.map_err(&fault)?;
    let monetary = now.session.lc_monetary == then.session.lc_monetary || can_set_monetary(&client, &then.session).await;
    let (mut hashed, mut counted) = (Vec::new(), Vec::new());
    for table in found {
        let Some(before) = then.tables.get(&table.name) else { continue };
        let mut hash = before.hash.is_some() && how.detail == Detail::Full;
        if hash && now.session.encoding != then.session.encoding {
            hash = false;
            now.left_out.push(format!("{} was only counted: the encoding is another one", table.name));
        }
        if hash && table.money && !monetary {
            hash = false;
            let locale = &then.session.lc_monetary;
            now.left_out.push(format!("{} was only counted: the server does not know the locale {locale:?} of its money", table.name));
        }
        if hash && table.unsteady && server != then.server {
            hash = false;
            now.left_out.push(format!("{} was only counted: majors write its values in different words", table.name));
        }
        if hash { hashed.push(table) } else { counted.push(table) }
    }
    let names: BTreeMap<u32, &str> = counted.iter().map(|t| (t.oid, t.name.as_str())).collect();
    for (oid, count) in witness::count(&client, &counted).await.map_err(&fault)? {
        let name = names.get(&oid).copied().unwrap_or_default();
        match count {
            Ok(rows) => drop(now.tables.insert(name.to_owned(), Table { rows, ..Table::default() })),
            Err(error) if is_forbidden(&error) => now.left_out.push(format!("{name}: {}", why(&error))),
            Err(error) => return Err(fault(error)),
        }
    }
    // names in a manifest may be anything: only those that the server knows are put into a query
    for name in witness::roots(&client).await.map_err(&fault)?.iter().filter(|name| then.tables.get(*name).is_some_and(|t| t.tree)) {
        match witness::count_tree(&client, name).await {
            Ok(rows) => drop(now.tables.insert(name.clone(), Table { rows, tree: true, ..Table::default() })),
            Err(error) if is_forbidden(&error) => now.left_out.push(format!("{name}: {}", why(&error))),
            Err(error) => return Err(fault(error)),
        }
    }
    drop(client);
    let monetary = if monetary { then.session.lc_monetary.as_str() } else { now.session.lc_monetary.as_str() }.to_owned();
    hash_all(endpoint, then, hashed, how.sessions, &monetary, &mut now).await?;
    Ok(now)
}

async fn can_set_monetary(client: &Client, session: &Session) -> bool {
    let set = format!("SAVEPOINT m; SET LOCAL lc_monetary = {}", literal(&session.lc_monetary));
    let can = client.batch_execute(&set).await.is_ok();
    client.batch_execute("ROLLBACK TO SAVEPOINT m; RELEASE SAVEPOINT m").await.is_ok() && can
}

/// A part of a table that one query reads.
struct Piece {
    table: usize,
    sql: String,
}

/// The pieces of all tables, the largest tables first.
fn pieces(then: &Database, tables: &[witness::Table], server: u32) -> Vec<Piece> {
    let mut order: Vec<usize> = (0..tables.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(tables[*at].pages));
    let mut pieces = Vec::new();
    for at in order {
        let table = &tables[at];
        let columns = then.tables.get(&table.name).map(|t| t.columns.iter().map(|c| ident(c)).collect::<Vec<_>>().join(", "));
        let columns = columns.unwrap_or_default();
        let split = server >= RANGES && table.filter.is_empty();
        let starts: Vec<i64> = if split { (0..table.pages.max(1)).step_by(usize::try_from(PIECE).unwrap_or(1)).collect() } else { vec![0] };
        for (n, start) in starts.iter().enumerate() {
            let range = match starts.get(n + 1) {
                Some(end) => format!("WHERE ctid >= '({start},0)' AND ctid < '({end},0)'"),
                None if n > 0 => format!("WHERE ctid >= '({start},0)'"),
                None => String::new(),
            };
            let encoding = literal(&then.session.encoding);
            let sql = format!("COPY (SELECT {columns} FROM {}{range}) TO STDOUT WITH (ENCODING {encoding})", table.source());
            pieces.push(Piece { table: at, sql });
        }
    }
    pieces
}

/// Hashes the rows of `tables` into `now`; `monetary` is the locale of money.
async fn hash_all(
    endpoint: &Endpoint,
    then: &Database,
    tables: Vec<witness::Table>,
    sessions: usize,
    monetary: &str,
    now: &mut Database,
) -> Result<(), PostgresError> {
    let fault = query("read the rows of the restored database back");
    let pieces = pieces(then, &tables, now.server);
    let sessions = sessions.clamp(1, pieces.len().max(1));
    let queue = Arc::new(Mutex::new(pieces.into_iter()));
    let session = format!("{SESSION}; SET bytea_output = {}; SET lc_monetary = {}", literal(&then.session.bytea_output), literal(monetary));
    let mut readers = JoinSet::new();
    for _ in 0..sessions {
        let client = endpoint.connect(None).await?;
        client.batch_execute(&session).await.map_err(&fault)?;
        let queue = Arc::clone(&queue);
        readers.spawn(async move {
            let mut sums = Vec::new();
            let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            while let Some(piece) = next() {
                let sum = hash(&client, &piece.sql).await;
                if sum.is_err() && client.is_closed() {
                    return Err(sum.err());
                }
                sums.push((piece.table, sum));
            }
            Ok(sums)
        });
    }
    let mut totals: BTreeMap<usize, Sum> = BTreeMap::new();
    let mut unread = HashSet::new();
    while let Some(read) = readers.join_next().await {
        let sums = match read {
            Ok(Ok(sums)) => sums,
            Ok(Err(Some(error))) => return Err(fault(error)),
            Ok(Err(None)) | Err(_) => return Err(PostgresError::Cancelled),
        };
        for (table, sum) in sums {
            match sum {
                Ok(sum) => *totals.entry(table).or_default() += sum,
                Err(error) if is_forbidden(&error) => {
                    if unread.insert(table) {
                        now.left_out.push(format!("{}: {}", tables[table].name, why(&error)));
                    }
                }
                Err(error) => return Err(fault(error)),
            }
        }
    }
    for (table, sum) in totals.into_iter().filter(|(table, _)| !unread.contains(table)) {
        let read = Table { rows: sum.rows, hash: Some(hex(sum.hash)), ..Table::default() };
        now.tables.insert(tables[table].name.clone(), read);
    }
    Ok(())
}

async fn hash(client: &Client, sql: &str) -> Result<Sum, tokio_postgres::Error> {
    let rows = client.copy_out(sql).await?;
    pin_mut!(rows);
    let mut lines = Lines::default();
    while let Some(bytes) = rows.try_next().await? {
        lines.feed(&bytes);
    }
    Ok(lines.finish())
}

/// Counts the large objects, and hashes them if `then` has a hash.
async fn large_objects(
    client: &Client,
    then: &LargeObjects,
    detail: Detail,
    left_out: &mut Vec<String>,
) -> Result<LargeObjects, tokio_postgres::Error> {
    let count = witness::large_objects(client).await?;
    let mut now = LargeObjects { count, hash: None };
    if then.hash.is_none() || detail != Detail::Full || count != then.count {
        return Ok(now);
    }
    client.batch_execute("SAVEPOINT objects").await?;
    match hash_objects(client).await {
        Ok(hash) => now.hash = Some(hex(hash)),
        Err(error) if is_forbidden(&error) => left_out.push(format!("large objects were only counted: {}", why(&error))),
        Err(error) => return Err(error),
    }
    client.batch_execute("ROLLBACK TO SAVEPOINT objects; RELEASE SAVEPOINT objects").await?;
    Ok(now)
}

async fn hash_objects(client: &Client) -> Result<u128, tokio_postgres::Error> {
    let next = format!("SELECT oid FROM pg_largeobject_metadata WHERE oid > $1 ORDER BY oid LIMIT {OBJECTS}");
    let read = format!("SELECT oid, lo_get(oid, $2, {OBJECT_BYTES}) FROM unnest($1::oid[]) oid");
    let (next, read) = (client.prepare(&next).await?, client.prepare(&read).await?);
    let (mut last, mut sum) = (0_u32, 0_u128);
    loop {
        let oids: Vec<u32> = client.query(&next, &[&last]).await?.iter().map(|row| row.get(0)).collect();
        let Some(end) = oids.last() else { return Ok(sum) };
        last = *end;
        let mut open: BTreeMap<u32, Object> = oids.iter().map(|oid| (*oid, Object::new(*oid))).collect();
        let mut offset = 0_i64;
        while !open.is_empty() {
            let wanted: Vec<u32> = open.keys().copied().collect();
            for row in client.query(&read, &[&wanted, &offset]).await? {
                let (oid, bytes): (u32, &[u8]) = (row.get(0), row.get(1));
                if let Some(object) = open.get_mut(&oid) {
                    object.feed(bytes);
                }
                if bytes.len() < OBJECT_BYTES
                    && let Some(object) = open.remove(&oid)
                {
                    sum = sum.wrapping_add(object.finish());
                }
            }
            offset += i64::try_from(OBJECT_BYTES).unwrap_or(i64::MAX);
        }
    }
}
