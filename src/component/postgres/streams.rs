//! Into how many archives a database is dumped, and which tables go into which (pure); and that the archives are what was asked for.
//!
//! One archive has everything but the rows of some big tables (`<database>.dump`); the others have these rows and nothing else
//! (`<database>.data-N.dump`). Only ordinary tables are split off: `pg_dump --table` of a partitioned parent dumps nothing and succeeds.
//! Those of extensions stay: whether, and which of, their rows are dumped is the extension's matter.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::archive::Head;
use super::sql::ident;
use super::{Jobs, PostgresError};

/// Most archives of a database: each is a stream with a part of at least 8 MiB in memory, and other components have streams too.
pub const MOST: usize = 6;

/// Databases that are smaller, in bytes, are dumped in seconds anyway.
const SMALL_DATABASE: u64 = 512 << 20;

/// Tables that are smaller, in bytes, are not split off.
const SMALL_TABLE: u64 = 1 << 20;

/// Most tables that are split off: each is an argument of `pg_dump`.
const MOST_TABLES: usize = 400;

/// A table that can be split off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub schema: String,
    pub name: String,
    /// `pg_table_size`.
    pub bytes: u64,
}

impl Table {
    /// As `pg_dump --table` takes it for this table alone: in double quotes nothing is a wildcard (`processSQLNamePattern` of
    /// PostgreSQL's `fe_utils/string_utils.c`).
    pub fn pattern(&self) -> String {
        format!("{}.{}", ident(&self.schema), ident(&self.name))
    }
}

/// The big tables of a database, and what the others take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The largest first.
    pub tables: Vec<Table>,
    /// Bytes of all that stays in the main archive.
    pub rest: u64,
}

/// Names go to `pg_dump` in UTF-8, and are compared with the server's in its own encoding: with another one, only ASCII is safe.
const TABLES: &str = "SELECT n.nspname::text, c.relname::text, COALESCE(pg_catalog.pg_table_size(c.oid), 0),
        c.relkind = 'r' AND NOT n.nspname ~ '^pg_' AND n.nspname <> 'information_schema'
        AND (c.relpersistence = 'p' OR NOT pg_catalog.pg_is_in_recovery())
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.deptype = 'e'
            AND (e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid
                OR e.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND e.objid = n.oid))
        AND (pg_catalog.getdatabaseencoding() = 'UTF8'
            OR pg_catalog.octet_length(pg_catalog.convert_to(n.nspname || c.relname, 'UTF8')) = pg_catalog.length(n.nspname || c.relname))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.oid >= 16384
    ORDER BY 3 DESC, 1, 2";

impl Sizes {
    /// Asks the server, in whatever transaction `client` is.
    pub async fn ask(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let mut sizes = Self::default();
        for row in client.query(TABLES, &[]).await? {
            let bytes = u64::try_from(row.get::<_, i64>(2)).unwrap_or(0);
            if row.get(3) && bytes >= SMALL_TABLE && sizes.tables.len() < MOST_TABLES {
                sizes.tables.push(Table { schema: row.get(0), name: row.get(1), bytes });
            } else {
                sizes.rest += bytes;
            }
        }
        Ok(sizes)
    }

    /// How many archives, of which one is the main one.
    pub fn archives(&self, jobs: Jobs, cores: usize) -> usize {
        let most = (self.tables.len() + 1).min(MOST);
        match jobs {
            Jobs::Number(number) => usize::try_from(number.get()).unwrap_or(MOST).min(most),
            Jobs::Auto => {
                let total = self.rest + self.tables.iter().map(|t| t.bytes).sum::<u64>();
                let largest = self.tables.iter().map(|t| t.bytes).max().unwrap_or(total).max(1);
                if total < SMALL_DATABASE {
                    return 1;
                }
                // the largest table is one stream: more than the whole over that, rounded, would wait for it
                let useful = usize::try_from((total + largest / 2) / largest).unwrap_or(MOST);
                useful.min(cores).min(most).max(1)
            }
        }
    }

    /// The tables of each archive but the main one, such that all are of about one size: the largest table first, each to what has least.
    pub fn pack(self, archives: usize) -> Vec<Vec<Table>> {
        let mut loads = vec![0; archives.max(1)];
        let mut shares = vec![Vec::new(); archives.max(1)];
        loads[0] = self.rest;
        for table in self.tables {
            let least = (0..loads.len()).min_by_key(|at| loads[*at]).unwrap_or(0);
            loads[least] += table.bytes;
            shares[least].push(table);
        }
        shares.split_off(1)
    }
}

/// That the rows of every table are in the one archive where they should be. Were they in none, they would be lost; in two, doubled.
///
/// # Errors
/// [`PostgresError::Split`] names a table.
pub fn check<'a>(database: &str, main: &Head, shares: impl IntoIterator<Item = (&'a [Table], &'a Head)>) -> Result<(), PostgresError> {
    let rows = |head: &Head| -> BTreeSet<(String, String)> {
        let data = head.entries.iter().filter(|e| e.kind == "TABLE DATA");
        data.map(|e| (e.namespace.clone().unwrap_or_default(), e.tag.clone())).collect()
    };
    let main = rows(main);
    for (tables, head) in shares {
        let wanted: BTreeSet<_> = tables.iter().map(|t| (t.schema.clone(), t.name.clone())).collect();
        let found = rows(head);
        if let Some((schema, name)) = wanted.symmetric_difference(&found).chain(wanted.intersection(&main)).next() {
            let table = format!("{}.{}", ident(schema), ident(name));
            return Err(PostgresError::Split { database: database.to_owned(), table });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::component::postgres::archive::{Entry, Section};

    fn sizes(rest_mib: u64, tables_mib: &[u64]) -> Sizes {
        let table = |(at, mib): (usize, &u64)| Table { schema: "s".into(), name: format!("t{at}"), bytes: mib << 20 };
        Sizes { tables: tables_mib.iter().enumerate().map(table).collect(), rest: rest_mib << 20 }
    }

    #[test]
    fn more_streams_only_where_they_gain_something() {
        let auto = |rest, tables: &[u64], cores| sizes(rest, tables).archives(Jobs::Auto, cores);
        assert_eq!(auto(100, &[100, 100], 8), 1, "a small database");
        assert_eq!(auto(1000, &[9000], 8), 1, "one table holds most of it");
        assert_eq!(auto(5000, &[5000], 8), 2);
        assert_eq!(auto(1000, &[1000; 20], 8), MOST);
        assert_eq!(auto(1000, &[1000; 20], 2), 2);
        assert_eq!(auto(1000, &[1000; 20], 1), 1);
        assert_eq!(auto(100_000, &[], 8), 1, "nothing can be split off");
    }

    #[test]
    fn a_number_is_kept_as_far_as_there_are_tables_and_memory() {
        let number = |n, tables: &[u64]| sizes(1, tables).archives(Jobs::Number(NonZeroU32::new(n).expect("not 0")), 1);
        assert_eq!(number(1, &[10; 9]), 1);
        assert_eq!(number(3, &[10; 9]), 3);
        assert_eq!(number(3, &[10]), 2);
        assert_eq!(number(3, &[]), 1);
        assert_eq!(number(100, &[10; 9]), MOST);
    }

    #[test]
    fn archives_are_of_about_one_size_and_no_table_is_lost() {
        let names = |shares: &[Vec<Table>]| -> Vec<Vec<String>> {
            shares.iter().map(|share| share.iter().map(|t| t.name.clone()).collect()).collect()
        };
        assert_eq!(names(&sizes(3, &[9, 5, 4]).pack(3)), [vec!["t0"], vec!["t1"]], "4 goes to the main one, which had 3");
        assert_eq!(names(&sizes(100, &[9, 5, 4]).pack(2)), [vec!["t0", "t1", "t2"]]);
        assert_eq!(names(&sizes(0, &[9]).pack(3)), [vec![], Vec::<&str>::new()], "an archive may have nothing");
        assert!(sizes(1, &[9]).pack(1).is_empty());
    }

    fn head(tables: &[&str]) -> Head {
        let entry = |(at, table): (usize, &&str)| Entry {
            id: i32::try_from(at).expect("few") + 1,
            oid: 0,
            tag: (*table).to_owned(),
            kind: "TABLE DATA".into(),
            section: Section::Data,
            namespace: Some("s".into()),
            has_data: true,
            ..Entry::default()
        };
        let entries = tables.iter().enumerate().map(entry).collect();
        Head { minor: 14, compressed: false, server: None, dump: None, entries, lossy: false, raw: Vec::new() }
    }

    #[test]
    fn rows_that_are_in_no_archive_or_in_two_are_found() {
        let check = |main: &[&str], piece: &[&str]| {
            let (tables, piece) = (sizes(0, &[1, 1]).tables, head(piece));
            check("app", &head(main), [(tables.as_slice(), &piece)]).map_err(|e| e.to_string())
        };
        assert_eq!(check(&["t2"], &["t0", "t1"]), Ok(()));
        for (main, piece, table) in [(&["t2", "t1"][..], &["t0", "t1"][..], "t1"), (&[], &["t0"], "t1"), (&[], &["t0", "t1", "t3"], "t3")] {
            let error = check(main, piece).expect_err("they do not fit together");
            assert!(error.contains(table), "{error}");
        }
    }

    #[test]
    fn a_pattern_means_one_table_whatever_its_name() {
        let table = Table { schema: "We \"ird".into(), name: "a*?[b].$c".into(), bytes: 0 };
        assert_eq!(table.pattern(), "\"We \"\"ird\".\"a*?[b].$c\"");
    }
}
