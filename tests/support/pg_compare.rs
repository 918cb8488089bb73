//! Says whether two PostgreSQL databases hold the same, independently of the program: with psql and pg_dump's schema alone.

use std::collections::BTreeMap;

use super::Postgres;
use super::process::run;

/// Everything that a restore must bring back, as names and values that can be told apart line by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<String, String>);

/// Output that depends on a session's settings is made the same everywhere.
const SESSION: &str =
    "SET search_path = pg_catalog; SET extra_float_digits = 3; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres';
    SET TimeZone = 'UTC'; SET bytea_output = 'hex'; SET row_security = off; SET lc_monetary = 'C'; SET xmloption = content;";

/// One query for each table: rows, and two sums of hashes of each row, its columns sorted by name (inheritance reorders columns). Sums,
/// since with XOR two equal rows would cancel each other.
const TABLES: &str = r#"
SELECT format(
    'SELECT %L, count(*), coalesce(sum(hashtextextended(%s, 1)::numeric), 0), coalesce(sum(hashtextextended(%s, 2)::numeric), 0) FROM %s %I.%I;',
    'table ' || n.nspname || '.' || c.relname, row.text, row.text, CASE c.relkind WHEN 'm' THEN '' ELSE 'ONLY' END, n.nspname, c.relname)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT format('ROW(%s)::text', string_agg(format('%I', a.attname), ', ' ORDER BY a.attname COLLATE "C")) AS text
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
) AS row
WHERE (c.relkind = 'r' OR c.relkind = 'm' AND c.relispopulated) AND c.relpersistence <> 't'
  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
ORDER BY 1;"#;

const SEQUENCES: &str = r#"
SELECT format('SELECT %L, last_value, is_called FROM %I.%I;', 'sequence ' || n.nspname || '.' || c.relname, n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname NOT LIKE 'pg\_%' ORDER BY 1;"#;

const LARGE_OBJECTS: &str =
    "SELECT 'large object ' || oid, pg_get_userbyid(lomowner), lomacl, md5(lo_get(oid)) FROM pg_largeobject_metadata;";

/// `%DB%` is the database's name as a literal.
const DATABASE: &str = r"
SELECT 'database owner', pg_get_userbyid(datdba) FROM pg_database WHERE datname = %DB%;
SELECT 'database locale', pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider FROM pg_database WHERE datname = %DB%;
SELECT 'database connection limit', datconnlimit, datallowconn, datistemplate FROM pg_database WHERE datname = %DB%;
SELECT 'database acl', (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(datacl) a) FROM pg_database WHERE datname = %DB%;
SELECT 'database comment', shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %DB%;
SELECT 'database setting ' || coalesce(r.rolname, '*'), (SELECT string_agg(c, ' ' ORDER BY c) FROM unnest(s.setconfig) c)
FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE d.datname = %DB%;
SELECT 'database label ' || provider, label FROM pg_shseclabel s JOIN pg_database d ON d.oid = s.objoid WHERE d.datname = %DB%;";

const ROLES: &str = r"
SELECT 'role ' || rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit,
    rolvaliduntil, rolpassword, shobj_description(oid, 'pg_authid') FROM pg_authid WHERE rolname NOT LIKE 'pg\_%';
SELECT 'member ' || m.rolname || ' of ' || r.rolname || ' by ' || g.rolname, a.admin_option FROM pg_auth_members a
    JOIN pg_roles m ON m.oid = a.member JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles g ON g.oid = a.grantor;
SELECT 'role setting ' || r.rolname, (SELECT string_agg(c, ' ' ORDER BY c) FROM unnest(s.setconfig) c)
    FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole WHERE s.setdatabase = 0;
SELECT 'tablespace ' || spcname, pg_get_userbyid(spcowner), spcacl, spcoptions FROM pg_tablespace WHERE spcname NOT LIKE 'pg\_%';";

impl Fingerprint {
    /// Of a database, with the settings that a rename would leave behind; roles are apart, in [`Self::roles`].
    pub fn of(server: &Postgres, database: &str) -> Self {
        let mut facts = BTreeMap::new();
        // psql: each row of the answer is run as a statement of its own, in the same transaction
        let generated = |query: &str| format!("{}\n\\gexec\n", query.trim().trim_end_matches(';'));
        let script = [
            "BEGIN ISOLATION LEVEL REPEATABLE READ;".to_owned(),
            SESSION.to_owned(),
            generated(TABLES),
            generated(SEQUENCES),
            LARGE_OBJECTS.to_owned(),
            DATABASE.replace("%DB%", &format!("'{}'", database.replace('\'', "''"))),
            "COMMIT;".to_owned(),
        ]
        .join("\n");
        add(&mut facts, &server.psql_in(database, &script));
        facts.insert("schema".to_owned(), schema(server, database));
        Self(facts)
    }

    /// Of the roles and tablespaces of a server.
    pub fn roles(server: &Postgres) -> Self {
        let mut facts = BTreeMap::new();
        add(&mut facts, &server.psql(ROLES));
        Self(facts)
    }

    /// How many tables it covers.
    pub fn tables(&self) -> usize {
        self.0.keys().filter(|key| key.starts_with("table ")).count()
    }

    /// The value of one fact: `table public.t` gives `rows|sum|sum`.
    pub fn fact(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// What differs, a line each; empty when nothing does.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        differences(&self.0, &other.0)
    }
}

/// # Panics
/// If they differ, naming everything that does.
#[track_caller]
pub fn assert_same_database(before: &Fingerprint, after: &Fingerprint) {
    let found = before.differences(after);
    assert!(found.is_empty(), "the databases differ:\n{}", found.join("\n"));
}

/// What differs between two sets of facts, a line each.
pub fn differences(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let mut found = Vec::new();
    for key in keys {
        match (before.get(key), after.get(key)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) if a.contains('\n') || b.contains('\n') => {
                let (a, b): (Vec<_>, Vec<_>) = (a.lines().collect(), b.lines().collect());
                found.extend(a.iter().filter(|line| !b.contains(line)).map(|line| format!("{key}: lost {line}")));
                found.extend(b.iter().filter(|line| !a.contains(line)).map(|line| format!("{key}: new {line}")));
                if found.last().is_none_or(|line| !line.starts_with(key)) {
                    found.push(format!("{key}: the same lines in another order or number"));
                }
            }
            (a, b) => found.push(format!("{key}: {} -> {}", a.map_or("absent", |a| a), b.map_or("absent", |b| b))),
        }
    }
    found
}

fn add(facts: &mut BTreeMap<String, String>, rows: &str) {
    for row in rows.lines().filter(|row| !row.is_empty()) {
        let (key, value) = row.split_once('|').unwrap_or((row, ""));
        facts.insert(key.to_owned(), value.to_owned());
    }
}

/// As SQL, without what differs from one run of pg_dump to the next.
fn schema(server: &Postgres, database: &str) -> String {
    let mut dump = server.client("pg_dump", database);
    dump.args(["--schema-only", "--no-password", "--quote-all-identifiers"]);
    let text = String::from_utf8(run(&mut dump)).expect("a dump in UTF-8");
    let steady = |line: &&str| !["\\restrict ", "\\unrestrict ", "-- Dumped "].iter().any(|start| line.starts_with(start));
    sort_inherited_columns(text.lines().filter(steady).collect()).join("\n")
}

/// A dump does not keep the order of an inheriting table's columns where it differs from its parents'; PostgreSQL's own tests of dump
/// and restore look away there, too (`AdjustDump.pm`).
fn sort_inherited_columns(mut lines: Vec<&str>) -> Vec<&str> {
    for end in 1..lines.len() {
        if !(lines[end].starts_with("INHERITS (") && lines[end - 1] == ")") {
            continue;
        }
        let Some(start) = lines[..end].iter().rposition(|line| line.starts_with("CREATE ")) else { continue };
        let columns = &mut lines[start + 1..end - 1];
        for column in columns.iter_mut() {
            *column = column.trim_end_matches(',');
        }
        columns.sort_unstable();
    }
    lines
}
