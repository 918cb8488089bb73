//! What the server itself says that a database holds: asked in the dump's snapshot, and of what a restore made of it.
//!
//! Everything goes over one session, within its transaction. For a dump that is the session which holds the snapshot: it has the locks on
//! all tables already, so that nobody who waits for one can stand in the way. A query that fails costs its answer and nothing else.

use std::collections::BTreeMap;

use futures_util::{TryStreamExt, pin_mut};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};
use xxhash_rust::xxh3::xxh3_128;

use super::fingerprint::{Objects, Sequence, Session, hex};
use super::sql::ident;

/// Tables that one query counts, unless they are large.
const BATCH: usize = 50;

/// Blocks from which on a table is counted by a query of its own.
const LARGE: i64 = 1000;

/// One full scan on one core, which no stale index can mislead; definitions in the same words everywhere; and a session that is left alone
/// ends. Each where the server has it: `client_connection_check_interval` is of PostgreSQL 14.
const SETTINGS: &str = "SELECT pg_catalog.set_config(s.name, w.value, true) FROM (VALUES ('search_path', ''), ('row_security', 'off'), \
     ('enable_indexscan', 'off'), ('enable_indexonlyscan', 'off'), ('enable_bitmapscan', 'off'), ('jit', 'off'), \
     ('max_parallel_workers_per_gather', '0'), ('client_connection_check_interval', '10s'), ('quote_all_identifiers', 'off'), \
     ('DateStyle', 'ISO, YMD'), ('IntervalStyle', 'postgres'), ('TimeZone', 'UTC'), ('extra_float_digits', '3')) AS w(name, value) \
     JOIN pg_catalog.pg_settings s ON s.name OPERATOR(pg_catalog.=) w.name";

/// A table whose rows a dump holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub oid: u32,
    /// Quoted, with its schema.
    pub name: String,
    /// Names of the columns that a dump holds, in their order.
    pub columns: Vec<String>,
    /// The partitioned table that a restore loads in its place, by quoted name.
    pub root: Option<String>,
    /// It belongs to an extension.
    pub member: bool,
    /// Which rows are dumped: `WHERE …`, of an extension's own table; or empty.
    pub filter: String,
    /// Blocks.
    pub pages: i64,
    /// It has values whose text depends on a locale: of type money.
    pub money: bool,
    /// It has values whose text is not the same in every major: of type "char" or jsonpath.
    pub unsteady: bool,
}

impl Table {
    /// `ONLY "s"."t" WHERE …`
    pub fn source(&self) -> String {
        format!("ONLY {} {}", self.name, self.filter)
    }
}

/// Runs `work` such that a failure within it leaves the transaction as it was.
async fn guarded<T>(client: &Client, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, tokio_postgres::Error> {
    client.batch_execute("SAVEPOINT backstay").await?;
    let result = work.await;
    // back in either case: locks on what was looked at are given up
    client.batch_execute("ROLLBACK TO SAVEPOINT backstay; RELEASE SAVEPOINT backstay").await?;
    result
}

/// Why a query failed, in the server's words.
pub fn why(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned())
}

/// Whether this user may not look.
pub fn is_forbidden(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
}

/// For everything that follows in this transaction.
///
/// # Errors
/// The server's.
pub async fn prepare(client: &Client) -> Result<(), tokio_postgres::Error> {
    client.query(SETTINGS, &[]).await.map(|_| ())
}

/// Major version of the server, and how its sessions write values.
///
/// # Errors
/// The server's.
pub async fn session(client: &Client) -> Result<(u32, Session), tokio_postgres::Error> {
    let sql = "SELECT pg_catalog.current_setting('server_version_num')::int4, pg_catalog.pg_encoding_to_char(encoding)::text, \
         pg_catalog.current_setting('bytea_output'), pg_catalog.current_setting('lc_monetary') \
         FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()";
    let row = client.query_one(sql, &[]).await?;
    let major = u32::try_from(row.get::<_, i32>(0) / 10_000).unwrap_or(0);
    Ok((major, Session { encoding: row.get(1), bytea_output: row.get(2), lc_monetary: row.get(3) }))
}

/// Names of the roles that are not PostgreSQL's own.
///
/// # Errors
/// The server's.
pub async fn roles(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let sql = "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname !~ '^pg_' ORDER BY 1";
    Ok(client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// `major` decides which columns the catalogs have.
fn tables_sql(major: u32) -> String {
    let computed = if major >= 12 { "AND a.attgenerated = ''" } else { "" };
    // pg_dump loads through the root what hash partitioning by an enum may distribute otherwise (`forcePartitionRootLoad` of `pg_dump.c`)
    let root = if major >= 12 {
        "SELECT ARRAY[rn.nspname::text, r.relname::text] \
         FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace \
         WHERE c.relispartition AND r.oid = pg_partition_root(c.oid) AND EXISTS (\
            SELECT FROM pg_partition_ancestors(c.oid) a(relid) JOIN pg_partitioned_table p ON p.partrelid = a.relid \
            WHERE p.partstrat = 'h' AND (SELECT o.oid FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod \
                WHERE o.opcname = 'enum_ops' AND o.opcnamespace = 'pg_catalog'::regnamespace AND m.amname = 'hash') = ANY (p.partclass))"
    } else {
        "SELECT NULL::text[]"
    };
    // the column's type, or what its array, domain or composite type is made of; one step is enough for all but the strangest
    let of_type = |types: &str| {
        format!(
            "EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
                AND (t.oid IN ({types}) OR t.typelem IN ({types}) OR t.typbasetype IN ({types}) \
                    OR EXISTS (SELECT FROM pg_attribute f WHERE f.attrelid = t.typrelid AND f.attnum > 0 AND f.atttypid IN ({types}))))"
        )
    };
    format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, \
            ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped {computed} \
                ORDER BY a.attnum), \
            ({root}), COALESCE(e.member, false), COALESCE(e.filter, ''), pg_relation_size(c.oid) / current_setting('block_size')::int8, {}, {} \
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
        LEFT JOIN LATERAL (SELECT true AS member, c.oid = ANY (x.extconfig) AS configured, \
                (SELECT k.filter FROM ROWS FROM (unnest(x.extconfig), unnest(x.extcondition)) AS k(id, filter) WHERE k.id = c.oid) AS filter \
            FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid \
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0 \
                AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' LIMIT 1) e ON true \
        WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND c.oid >= 16384 AND n.nspname <> 'information_schema' \
            AND n.nspname !~ '^pg_' AND NOT (c.relpersistence = 'u' AND pg_is_in_recovery()) \
            AND (e.member IS NULL OR e.configured)",
        of_type("790"),
        of_type("18, 4072")
    )
}

/// The tables whose rows are dumped, that is leaf tables: those of extensions only where the extension says so, those that are unlogged
/// not by a standby.
///
/// # Errors
/// The server's.
pub async fn tables(client: &Client, major: u32) -> Result<Vec<Table>, tokio_postgres::Error> {
    let table = |row: &Row| Table {
        oid: row.get(0),
        name: format!("{}.{}", ident(row.get(1)), ident(row.get(2))),
        columns: row.get(3),
        root: match row.get::<_, Option<Vec<String>>>(4).as_deref() {
            Some([schema, name]) => Some(format!("{}.{}", ident(schema), ident(name))),
            _ => None,
        },
        member: row.get(5),
        filter: row.get(6),
        pages: row.get(7),
        money: row.get(8),
        unsteady: row.get(9),
    };
    guarded(client, async { Ok(client.query(&tables_sql(major), &[]).await?.iter().map(table).collect()) }).await
}

/// Counts the rows of each; an error is of one table.
///
/// # Errors
/// When the session is lost.
pub async fn count<'a>(
    client: &Client,
    tables: impl IntoIterator<Item = &'a Table>,
) -> Result<BTreeMap<u32, Result<u64, tokio_postgres::Error>>, tokio_postgres::Error> {
    let (large, small): (Vec<&Table>, Vec<&Table>) = tables.into_iter().partition(|t| t.pages >= LARGE);
    let mut counts = BTreeMap::new();
    for batch in small.chunks(BATCH).chain(large.chunks(1)) {
        match count_all(client, batch).await {
            Ok(rows) => counts.extend(rows.into_iter().map(|(oid, rows)| (oid, Ok(rows)))),
            Err(error) if client.is_closed() => return Err(error),
            Err(error) if batch.len() == 1 => drop(counts.insert(batch[0].oid, Err(error))),
            Err(_) => {
                for table in batch {
                    match count_all(client, &[table]).await {
                        Ok(rows) => counts.extend(rows.into_iter().map(|(oid, rows)| (oid, Ok(rows)))),
                        Err(error) if client.is_closed() => return Err(error),
                        Err(error) => drop(counts.insert(table.oid, Err(error))),
                    }
                }
            }
        }
    }
    Ok(counts)
}

async fn count_all(client: &Client, tables: &[&Table]) -> Result<Vec<(u32, u64)>, tokio_postgres::Error> {
    let one = |table: &&Table| format!("SELECT {}::oid, count(*) FROM {}", table.oid, table.source());
    let sql = tables.iter().map(one).collect::<Vec<_>>().join(" UNION ALL ");
    let rows = guarded(client, client.query(&sql, &[])).await?;
    Ok(rows.iter().map(|row| (row.get(0), u64::try_from(row.get::<_, i64>(1)).unwrap_or(0))).collect())
}

/// The partitioned tables, quoted, with their schemas.
///
/// # Errors
/// The server's.
pub async fn roots(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'p' AND NOT c.relispartition";
    let rows = guarded(client, client.query(sql, &[])).await?;
    Ok(rows.iter().map(|row| format!("{}.{}", ident(row.get(0)), ident(row.get(1)))).collect())
}

/// Counts the rows of one of [`roots`] in all its partitions.
///
/// # Errors
/// The server's.
pub async fn count_tree(client: &Client, table: &str) -> Result<u64, tokio_postgres::Error> {
    let row = guarded(client, client.query_one(&format!("SELECT count(*) FROM {table}"), &[])).await?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// Where the sequences stand, without those of extensions; those that this user may not read are in the second value.
///
/// # Errors
/// The server's.
pub async fn sequences(client: &Client) -> Result<(BTreeMap<String, Sequence>, Vec<String>), tokio_postgres::Error> {
    let sql = "SELECT n.nspname::text, c.relname::text, s.seqincrement, s.seqcycle, has_sequence_privilege(c.oid, 'SELECT') \
        FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.relpersistence <> 't' AND c.oid >= 16384 AND n.nspname !~ '^pg_' \
            AND NOT (c.relpersistence = 'u' AND pg_is_in_recovery()) \
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";
    guarded(client, async {
        let rows = client.query(sql, &[]).await?;
        let name = |row: &Row| format!("{}.{}", ident(row.get(0)), ident(row.get(1)));
        let (readable, hidden): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.get(4));
        let mut found = BTreeMap::new();
        for batch in readable.chunks(BATCH) {
            let one = |(at, row): (usize, &&Row)| format!("SELECT {at}, last_value, is_called FROM {}", name(row));
            let sql = batch.iter().enumerate().map(one).collect::<Vec<_>>().join(" UNION ALL ");
            for state in client.query(&sql, &[]).await? {
                let Some(row) = usize::try_from(state.get::<_, i32>(0)).ok().and_then(|at| batch.get(at)) else { continue };
                let sequence = Sequence { last_value: state.get(1), is_called: state.get(2), increment: row.get(2), cycle: row.get(3) };
                found.insert(name(row), sequence);
            }
        }
        Ok((found, hidden.into_iter().map(name).collect()))
    })
    .await
}

/// How many large objects there are.
///
/// # Errors
/// The server's.
pub async fn large_objects(client: &Client) -> Result<u64, tokio_postgres::Error> {
    let row = guarded(client, client.query_one("SELECT count(*) FROM pg_catalog.pg_largeobject_metadata", &[])).await?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// The objects of the schema by kind, without those of extensions and of the system.
///
/// # Errors
/// The server's.
pub async fn schema(client: &Client, major: u32) -> Result<BTreeMap<String, Objects>, tokio_postgres::Error> {
    #[derive(Clone, Copy, Default)]
    struct Sums(u64, u128, u128);
    let mut kinds: BTreeMap<String, Sums> = KINDS.iter().map(|kind| ((*kind).to_owned(), Sums::default())).collect();
    guarded(client, async {
        for query in schema_sql(major) {
            let rows = client.query_raw::<_, &str, _>(&query, []).await?;
            pin_mut!(rows);
            while let Some(row) = rows.try_next().await? {
                let (kind, name, definition): (&str, &str, Option<&str>) = (row.get(0), row.get(1), row.get(2));
                let whole = format!("{name}\0{}", definition.unwrap_or_default());
                let sums = kinds.entry(kind.to_owned()).or_default();
                sums.0 += 1;
                sums.1 = sums.1.wrapping_add(xxh3_128(name.as_bytes()));
                sums.2 = sums.2.wrapping_add(xxh3_128(whole.as_bytes()));
            }
        }
        Ok(())
    })
    .await?;
    let objects = |Sums(count, names, definitions)| Objects { count, names: hex(names), definitions: hex(definitions) };
    Ok(kinds.into_iter().map(|(kind, sums)| (kind, objects(sums))).collect())
}

/// What `schema` looks at; each is there even where there is none.
const KINDS: &[&str] = &[
    "schemas",
    "extensions",
    "tables",
    "columns",
    "views",
    "indexes",
    "constraints",
    "triggers",
    "rules",
    "policies",
    "functions",
    "types",
    "event triggers",
    "statistics objects",
];

/// Each gives rows of kind, identity, definition.
fn schema_sql(major: u32) -> Vec<String> {
    // what is not an extension's, and not the system's
    let own = |class: &str, oid: &str| {
        format!(
            "{oid} >= 16384 AND NOT EXISTS (SELECT FROM pg_depend own WHERE own.classid = '{class}'::regclass AND own.objid = {oid} \
             AND own.objsubid = 0 AND own.deptype = 'e')"
        )
    };
    let here = "n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'";
    let relation = "quote_ident(n.nspname) || '.' || quote_ident(c.relname)";
    let of = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace";
    let class = own("pg_class", "c.oid");
    let generated = if major >= 12 { "a.attgenerated::text" } else { "''" };
    let kind = if major >= 11 { "p.prokind::text" } else { "CASE WHEN p.proisagg THEN 'a' ELSE 'f' END" };
    let statistics = if major >= 14 { "pg_get_statisticsobjdef(s.oid)" } else { "NULL" };
    vec![
        format!("SELECT 'schemas', n.nspname::text, NULL::text FROM pg_namespace n WHERE {here} AND {}", own("pg_namespace", "n.oid")),
        "SELECT 'extensions', extname::text, NULL::text FROM pg_extension WHERE oid >= 16384".to_owned(),
        format!(
            "SELECT 'tables', {relation}, concat_ws(' ', c.relkind, c.relpersistence, pg_get_partkeydef(c.oid), \
                pg_get_expr(c.relpartbound, c.oid), c.relrowsecurity, c.relforcerowsecurity, \
                (SELECT string_agg(i.inhparent::regclass::text, ',' ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = c.oid)) \
             {of} WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND {here} AND {class}"
        ),
        format!(
            "SELECT 'columns', {relation} || '.' || quote_ident(a.attname), concat_ws(' ', format_type(a.atttypid, a.atttypmod), \
                a.attnotnull, a.attidentity, {generated}, pg_get_expr(d.adbin, d.adrelid), \
                (SELECT quote_ident(cn.nspname) || '.' || quote_ident(k.collname) FROM pg_collation k \
                    JOIN pg_namespace cn ON cn.oid = k.collnamespace WHERE k.oid = a.attcollation)) \
             {of} JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
             LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum \
             WHERE c.relkind IN ('r', 'p', 'f', 'c') AND c.relpersistence <> 't' AND {here} AND {class}"
        ),
        format!(
            "SELECT 'views', {relation}, concat(c.relkind, ' ', pg_get_viewdef(c.oid)) \
             {of} WHERE c.relkind IN ('v', 'm') AND {here} AND {class}"
        ),
        // pg_dump leaves out those that a failed CREATE INDEX CONCURRENTLY left
        format!(
            "SELECT 'indexes', {relation}, pg_get_indexdef(c.oid) {of} JOIN pg_index i ON i.indexrelid = c.oid \
             JOIN pg_class t ON t.oid = i.indrelid WHERE c.relpersistence <> 't' AND t.relkind IN ('r', 'p', 'm') \
             AND (i.indisvalid OR c.relkind = 'I') AND i.indisready AND {here} AND {}",
            own("pg_class", "i.indrelid")
        ),
        // NOT NULL stands in the columns; what partitions get from a foreign key has names that are made up anew
        format!(
            "SELECT 'constraints', COALESCE({relation}, quote_ident(tn.nspname) || '.' || quote_ident(t.typname)) || ' ' \
                || quote_ident(k.conname), pg_get_constraintdef(k.oid) || k.convalidated \
             FROM pg_constraint k LEFT JOIN pg_class c ON c.oid = k.conrelid LEFT JOIN pg_type t ON t.oid = k.contypid \
             JOIN pg_namespace n ON n.oid = k.connamespace LEFT JOIN pg_namespace tn ON tn.oid = t.typnamespace \
             WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND COALESCE(c.relpersistence, 'p') <> 't' \
             AND NOT (k.contype = 'f' AND {}) AND {here} AND {} AND (c.oid IS NULL OR {class}) AND (t.oid IS NULL OR {})",
            if major >= 11 { "k.conparentid <> 0" } else { "false" },
            own("pg_constraint", "k.oid"),
            own("pg_type", "t.oid")
        ),
        format!(
            "SELECT 'triggers', {relation} || ' ' || quote_ident(t.tgname), pg_get_triggerdef(t.oid) || t.tgenabled::text \
             {of} JOIN pg_trigger t ON t.tgrelid = c.oid WHERE NOT t.tgisinternal AND {here} AND {class} AND {}",
            own("pg_trigger", "t.oid")
        ),
        format!(
            "SELECT 'rules', {relation} || ' ' || quote_ident(r.rulename), pg_get_ruledef(r.oid) || r.ev_enabled::text \
             {of} JOIN pg_rewrite r ON r.ev_class = c.oid WHERE r.rulename <> '_RETURN' AND {here} AND {class} AND {}",
            own("pg_rewrite", "r.oid")
        ),
        format!(
            "SELECT 'policies', {relation} || ' ' || quote_ident(p.polname), concat_ws(' ', p.polcmd, p.polpermissive, \
                pg_get_expr(p.polqual, p.polrelid), '/', pg_get_expr(p.polwithcheck, p.polrelid)) \
             {of} JOIN pg_policy p ON p.polrelid = c.oid WHERE {here} AND {class}"
        ),
        format!(
            "SELECT 'functions', quote_ident(n.nspname) || '.' || quote_ident(p.proname) || '(' \
                || pg_get_function_identity_arguments(p.oid) || ')', \
                CASE WHEN {kind} = 'a' THEN 'aggregate' ELSE pg_get_functiondef(p.oid) END \
             FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {here} AND {} \
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')",
            own("pg_proc", "p.oid")
        ),
        // neither arrays nor what a table or a range brings along
        format!(
            "SELECT 'types', quote_ident(n.nspname) || '.' || quote_ident(t.typname), concat_ws(' ', t.typtype, t.typnotnull, \
                CASE WHEN t.typbasetype <> 0 THEN format_type(t.typbasetype, t.typtypmod) END, t.typdefault, \
                (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), \
                (SELECT format_type(r.rngsubtype, NULL) FROM pg_range r WHERE r.rngtypid = t.oid)) \
             FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid \
             WHERE t.typtype IN ('b', 'c', 'd', 'e', 'r') AND (t.typrelid = 0 OR c.relkind = 'c') \
             AND NOT EXISTS (SELECT FROM pg_type of WHERE of.typarray = t.oid) AND {here} AND {}",
            own("pg_type", "t.oid")
        ),
        format!(
            "SELECT 'event triggers', e.evtname::text, concat_ws(' ', e.evtevent, e.evtenabled, e.evtfoid::regproc, e.evttags) \
             FROM pg_event_trigger e WHERE {}",
            own("pg_event_trigger", "e.oid")
        ),
        format!(
            "SELECT 'statistics objects', quote_ident(n.nspname) || '.' || quote_ident(s.stxname), {statistics} \
             FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE {here} AND {}",
            own("pg_statistic_ext", "s.oid")
        ),
    ]
}
